"""The address that browsers use when a TLS proxy of the site stands in front."""

from types import SimpleNamespace

import pytest
import requests
from pydantic import ValidationError

from jhswarmd.commands import up
from jhswarmd.settings.settings import PublishMode, Settings

PUBLIC = {"public_url": "https://hub.example.org"}
GITHUB = {
    "authenticator_type": "github",
    "oauth_client_id": "x",
    "authenticator_allowed_users": "ann",
}


@pytest.mark.parametrize(
    ("keys", "url"),
    [
        ({"host": "a.example"}, "https://a.example"),
        ({"host": "a.example", "https_port": 8443}, "https://a.example:8443"),
        ({"https_port": 8443, **PUBLIC}, "https://hub.example.org"),
        ({"public_url": "https://hub.example.org/"}, "https://hub.example.org"),
        ({"public_url": "https://hub.example.org:443"}, "https://hub.example.org"),
        ({"public_url": "https://hub.example.org:444"}, "https://hub.example.org:444"),
        ({"public_url": "https://HUB.example.org"}, "https://hub.example.org"),
        ({"public_url": "HTTPS://hub.example.org"}, "https://hub.example.org"),
    ],
)
def test_browsers_are_sent_to_the_public_url_and_never_to_an_inner_port(keys, url):
    settings = Settings(**keys, **GITHUB)
    assert settings.url == url
    assert settings.callback_url == f"{url}/hub/oauth_callback"


@pytest.mark.parametrize(
    "value",
    [
        "http://hub.example.org",
        "hub.example.org",
        "https://hub.example.org/jupyter",
        "https://hub.example.org?x",
        "https://ann:secret@hub.example.org",
        "https://hub.example.org:99999",
        "https://",
        "https://hub..example.org",
        "https://hub.example.org:",
    ],
)
def test_a_public_url_is_a_scheme_and_a_name_alone(value):
    with pytest.raises(ValidationError, match="must be https://NAME") as caught:
        Settings(public_url=value)
    assert "secret" not in str(caught.value.errors(include_input=False))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"trusted_proxies": "10.0.0.1"}, "needs PUBLIC_URL"),
        ({**PUBLIC, "trusted_proxies": "10.0.0.1", "publish_mode": "ingress"}, "PUBLISH_MODE=host"),
        ({**PUBLIC, "trusted_proxies": "0.0.0.0/0"}, "half the world"),
        ({**PUBLIC, "trusted_proxies": "nginx"}, "nginx"),
        ({**PUBLIC, "trusted_proxies": "10.0.0.1/8"}, "host bits"),
        ({**PUBLIC, "trusted_proxies": "proxy.example"}, "IPv4 addresses or networks, such as"),
        ({**PUBLIC, "trusted_proxies": "fd00::1"}, "IPv4 addresses or networks, such as"),
        ({"max_header_size": "1M"}, "65536"),
        ({**PUBLIC, **GITHUB, "oauth_callback_url": "https://localhost/hub/oauth_callback"}, "PUB"),
    ],
)
def test_what_cannot_work_in_front_is_refused(keys, words):
    with pytest.raises(ValidationError, match=words):
        Settings(**keys)


def test_whose_headers_are_believed_must_be_seen_so_ports_are_published_on_the_host():
    settings = Settings(**PUBLIC, trusted_proxies="10.0.0.1")
    assert up.resolve_publish_mode(settings) is PublishMode.host


def test_the_hub_of_this_machine_is_never_asked_through_a_proxy(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    used = []

    def send(self, request, **kw):
        used.append(kw["proxies"])
        return SimpleNamespace(
            raise_for_status=lambda: None, history=(), is_redirect=False, content=b"", headers={}
        )

    monkeypatch.setattr(requests.Session, "send", send)
    assert up._wait_answer("https://127.0.0.1:443") == "https://127.0.0.1:443/hub/health"
    assert [dict(each) for each in used] == [{}]
