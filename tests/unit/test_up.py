"""What `up` says of a profile before it touches anything."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from jhswarmd.deploy import up
from jhswarmd.deploy.profile import Profile
from jhswarmd.deploy.progress import Progress
from jhswarmd.hashing import hash_password
from jhswarmd.settings import Settings

HASHED = f"ann:{hash_password('a')}\n"
PUBLISHED = "testuser:testpassword\n"
GITHUB = {
    "authenticator_type": "github",
    "oauth_client_id": "x",
    "authenticator_allowed_users": "ann",
}


def told(users, name="mine", **keys):
    text = io.StringIO()
    profile = Profile(name, Settings(**keys), {"users": users.encode()}, Path("env") / name)
    up._warn_of_list(profile, Progress(Console(file=text, soft_wrap=True)))
    return text.getvalue()


@pytest.mark.parametrize(
    ("users", "name", "keys", "words"),
    [
        pytest.param(HASHED, "mine", {}, [], id="hashes"),
        pytest.param(HASHED + "bea:b\n", "mine", {}, ["plain text, 1 of them"], id="plain"),
        pytest.param(PUBLISHED, "mine", {}, ["published", "plain text"], id="published"),
        pytest.param(
            f"testuser:{hash_password('testpassword')}\n", "mine", {}, ["published"], id="its hash"
        ),
        pytest.param("testuser:own\n", "mine", {}, ["plain text"], id="its own password"),
        pytest.param(PUBLISHED, "local", {}, [], id="to try out"),
        pytest.param(
            PUBLISHED, "local", {"host": "hub.example"}, ["published", "plain text"], id="not local"
        ),
        pytest.param(PUBLISHED, "mine", GITHUB, [], id="not in use"),
    ],
)
def test_accounts_that_everybody_can_use_and_plain_passwords_are_warned_of(
    users, name, keys, words
):
    text = told(users, name, **keys)
    assert text.count("warning") == len(words)
    for word in words:
        assert word in text
    assert "testpassword" not in text
