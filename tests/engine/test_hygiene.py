"""No secret shows: not in what the engine shows, not in logs, not in what the stack tells."""

from __future__ import annotations

import pytest

from tests.kit.hygiene_kit import layers_with, secret_words, shown_in
from tests.kit.lab import Lab
from tests.kit.stack import USERS, LoginRefused, Stack

MISTYPED = "a canary that somebody mistyped"


def test_no_secret_shows_anywhere(engine: Lab, stack: Stack) -> None:
    with stack.login("testuser") as testuser:
        testuser.ensure_server()
    words = secret_words(stack)
    kinds = {kind for kind, _ in words}
    assert {"users", "cookie_secret", "proxy_auth_token", "crypt_key", "tls_key"} <= kinds
    assert min(len(word) for _, word in words) >= 8
    assert shown_in(engine, stack, words) == set()


@pytest.mark.destructive
def test_no_secret_shows_at_debug_level_after_logins_starts_and_rotations(
    engine: Lab, stack: Stack
) -> None:
    stack.write_keys(LOG_LEVEL="DEBUG")
    try:
        stack.up()
        words = secret_words(stack) | {("mistyped", MISTYPED)}
        with pytest.raises(LoginRefused):
            stack.login("alice", MISTYPED)
        stack.cli("users", "add", "ida", input="Canary: of ida's\n")
        words.add(("added", "Canary: of ida's"))
        with stack.login("alice") as alice:
            alice.start_server()
            stack.cli("rotate", "all", timeout_s=300)
            alice.stop_server()
        stack.cli("rotate", "tls", timeout_s=300)
        words |= secret_words(stack)
        assert "DEBUG" in stack.log("jhswarmd")
        assert shown_in(engine, stack, words) == set()
        # That one is published, and in our own sources.
        hidden = {word for _, word in words} - {USERS["testuser"]}
        assert layers_with(engine, hidden) == []
    finally:
        stack.cli("users", "remove", "ida", check=False)
        stack.write_keys()
        stack.up()
