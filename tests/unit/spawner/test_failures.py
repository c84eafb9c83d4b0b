"""What a failed start tells, and what it must not tell."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyterhub.utils import format_exception

from jhswarmd.log_tail import LINE_LENGTH, LINES, last_lines, secrets_of
from jhswarmd.spawner.addresses import count_all, count_used
from jhswarmd.spawner.errors import StartFailed

# ---- what the hub makes of it -------------------------------------------------------------------


def make_failure(**changes: Any) -> StartFailed:
    return StartFailed(
        **{"message": "For you.", "reason": "r", "detail": "for the administrator", **changes}
    )


def test_the_user_is_shown_the_message_and_the_log_the_detail() -> None:
    failure = make_failure()
    assert format_exception(failure) == ("For you.", None)
    assert "for the administrator" in str(failure)
    assert "For you" not in str(failure)


def test_lines_of_a_log_are_shown_as_text_even_if_they_are_html() -> None:
    failure = make_failure(lines=("<script>", "b"))
    message, message_html = format_exception(failure)
    assert message == "For you.\n<script>\nb"
    assert message_html == "For you.<pre>&lt;script&gt;\nb</pre>"
    assert failure.message_html == message_html


# ---- the notebook's own log ---------------------------------------------------------------------


def test_the_last_lines_are_shown_without_empty_ones() -> None:
    text = "\n\n".join(str(number) for number in range(50)) + "\n"
    assert last_lines(text, ()) == tuple(str(number) for number in range(50 - LINES, 50))


@given(
    before=st.text(max_size=400), after=st.text(max_size=400), secret=st.text("abc123", min_size=6)
)
def test_no_secret_of_the_environment_is_in_a_line(before: str, after: str, secret: str) -> None:
    # What the mark itself says is no secret.
    lines = last_lines(before + secret + after, {secret})
    assert secret not in "\n".join(lines).replace("[hidden]", "")


@pytest.mark.parametrize(
    "line",
    [
        "http://127.0.0.1:8888/lab?token=0123456789abcdef&x=1",
        "Authorization: token 0123456789abcdef",
        "authorization: Bearer 0123456789abcdef",
        "password='0123456789abcdef'",
        '{"api_token": "0123456789abcdef"}',
        "SECRET = 0123456789abcdef",
        'c.OAuthenticator.client_secret = "with spaces 0123456789abcdef"',
        "c.CryptKeeper.keys = [b'0123456789abcdef0123456789abcdef']",
        "crypt_keys=['0123456789abcdef']",
        "could not connect to postgresql://hub:0123456789abcdef@db/hub",
        "the answer was 0123456789abcdef0123456789abcdef",
    ],
)
def test_what_looks_like_a_token_is_hidden_whosever_it_is(line: str) -> None:
    (shown,) = last_lines(line, ())
    assert "0123456789abcdef" not in shown
    assert "[hidden]" in shown


def test_ordinary_lines_stay_as_they_are() -> None:
    for line in (
        "[E 2026-01-01 SingleUserApp] ImportError: No module named 'tokenizer'",
        "localhost:5000/jupyterhub-hub@sha256:" + "0123abcd" * 8,
        "https://hub.example:8443/hub/login",
    ):
        assert last_lines(line, secrets_of({"JUPYTERHUB_API_TOKEN": "t" * 32})) == (line,)


def test_control_characters_are_dropped_and_long_lines_cut() -> None:
    assert last_lines("\x1b[31mred\x1b[0m\x07\tx\r\n" + "y" * 1000, ()) == (
        "red    x",
        "y" * LINE_LENGTH,
    )


def test_secrets_are_known_by_the_names_of_their_variables() -> None:
    environ = {
        "JUPYTERHUB_API_TOKEN": "one-token",
        "AWS_SECRET_ACCESS_KEY": "two-secret",
        "DB_PASSWORD": "three-password",
        "SSL_KEYFILE": "/path/of/a/file",
        "JUPYTERHUB_OAUTH_SCOPES": "access:servers",
        "PIN_TOKEN": "1",
        "JUPYTERHUB_USER": "ann-the-user",
    }
    assert secrets_of(environ) == {"one-token", "two-secret", "three-password"}


# ---- a full network -----------------------------------------------------------------------------

NETWORK = {
    "Id": "net",
    "Name": "lab_notebooks",
    "IPAM": {"Config": [{"Subnet": "10.77.0.0/29", "Gateway": "10.77.0.1"}]},
}


def make_task(address: str, *, node: str = "n1", state: str = "running") -> dict[str, Any]:
    attachment = {
        "Network": {"ID": "net"},
        "Addresses": [f"{address}/29"] if address else [],
    }
    return {"NodeID": node, "Status": {"State": state}, "NetworksAttachments": [attachment]}


def test_a_networks_own_addresses_are_not_to_be_had() -> None:
    assert count_all(NETWORK) == 5
    assert count_all({"IPAM": {"Config": None}}) == 0


@pytest.mark.parametrize(
    ("tasks", "services", "here", "used"),
    [
        pytest.param([], [], {}, 0, id="nothing"),
        pytest.param([make_task("10.77.0.2")], [], {}, 2, id="a task and its node"),
        pytest.param(
            [make_task("10.77.0.2"), make_task("10.77.0.3", node="n2")], [], {}, 4, id="two nodes"
        ),
        pytest.param([make_task("10.77.0.2", state="failed")], [], {}, 0, id="one that ended"),
        pytest.param([make_task("", state="new", node="")], [], {}, 0, id="one that waits"),
        pytest.param(
            [],
            [{"Endpoint": {"VirtualIPs": [{"NetworkID": "net", "Addr": "10.77.0.4/29"}]}}],
            {},
            1,
            id="a virtual address",
        ),
        pytest.param(
            [],
            [{"Endpoint": {"VirtualIPs": [{"NetworkID": "other", "Addr": "10.1.0.4/29"}]}}],
            {},
            0,
            id="one in another network",
        ),
        pytest.param(
            [make_task("10.77.0.2")],
            [],
            {
                "c1": {"IPv4Address": "10.77.0.2/29"},
                "c2": {"IPv4Address": "10.77.0.6/29"},
                "lb-lab_notebooks": {"IPv4Address": "10.77.0.3/29"},
            },
            3,
            id="what is on this node is counted once",
        ),
    ],
)
def test_every_user_of_an_address_counts(
    tasks: list[Any], services: list[Any], here: dict[str, Any], used: int
) -> None:
    assert count_used({**NETWORK, "Containers": here}, tasks, services) == used
