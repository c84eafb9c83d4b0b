"""Proxies of the site: builds, the hub's requests to providers, and notebooks go through them."""

import asyncio
import os

import pytest
import requests
from pydantic import ValidationError
from tornado.httpclient import HTTPClientError, HTTPRequest

from jhswarmd.commands import up
from jhswarmd.hub.oauth import ProxiedClient
from jhswarmd.settings.settings import Settings
from tests.unit.deploy.test_stack_file import rendered

PROXY = "http://proxy.example:3128"


def test_without_proxies_no_key_is_set():
    assert Settings().proxy_environment == {}
    assert "NO_PROXY" not in rendered(Settings())["services"]["hub"]["environment"]


def test_the_stack_itself_is_never_reached_through_a_proxy():
    settings = Settings(https_proxy=PROXY, no_proxy=".example.org, 192.0.2.0/24", host="hub.a")
    found = settings.proxy_environment
    assert found["HTTPS_PROXY"] == found["https_proxy"] == PROXY
    assert "HTTP_PROXY" not in found
    spared = found["NO_PROXY"].split(",")
    assert {"localhost", "127.0.0.1", "hub", "proxy", "jhswarmd", "hub.a"} <= {*spared}
    assert {"10.128.0.0/16", "10.129.0.0/24", ".example.org", "192.0.2.0/24"} <= {*spared}


def test_hub_and_daemon_get_them_and_read_back_the_same_settings():
    settings = Settings(http_proxy=PROXY, https_proxy=PROXY, no_proxy="a.example")
    environment = rendered(settings)["services"]["hub"]["environment"]
    again = Settings.from_environ(environment)
    assert again.proxy_environment == settings.proxy_environment
    assert environment["http_proxy"] == PROXY


@pytest.mark.parametrize(
    "value", ["proxy.example:0", "ftp://proxy.example", "http://", "http://proxy.example/path?x"]
)
def test_a_proxy_is_an_address(value):
    with pytest.raises(ValidationError, match="address of a proxy"):
        Settings(https_proxy=value)


def test_a_login_in_a_proxys_address_is_refused_and_not_repeated():
    with pytest.raises(ValidationError) as caught:
        Settings(https_proxy="http://ann:river-otter@proxy.example:3128")
    (error,) = caught.value.errors(include_input=False)
    assert "everybody could read" in error["msg"]
    assert "river-otter" not in str(error)


def test_downloads_of_up_go_through_the_profiles_proxies(monkeypatch):
    for key in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(key, "http://other.example:1")
    up._use_proxies(Settings(https_proxy=PROXY))
    assert os.environ["HTTPS_PROXY"] == os.environ["https_proxy"] == PROXY
    assert "localhost" in os.environ["no_proxy"]


def answer(status, body=b"{}"):
    made = requests.Response()
    made.status_code, made._content = status, body
    made.headers["X-Of"] = "provider"
    return made


def fetch(monkeypatch, sent):
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    used = []

    def send(self, request, **kw):
        used.append((request.method, request.url, request.body, kw["proxies"].get("https")))
        if isinstance(sent, Exception):
            raise sent
        return sent

    monkeypatch.setattr(requests.Session, "send", send)
    request = HTTPRequest("https://github.example/token", method="POST", body="code=1")
    return asyncio.run(ProxiedClient().fetch(request)), used


def test_a_provider_is_reached_through_the_proxy(monkeypatch):
    response, used = fetch(monkeypatch, answer(200, b'{"login": "ann"}'))
    assert response.body == b'{"login": "ann"}'
    assert response.headers["X-Of"] == "provider"
    assert used == [("POST", "https://github.example/token", b"code=1", PROXY)]


@pytest.mark.parametrize(
    ("sent", "code"), [(answer(403), 403), (requests.ConnectTimeout("token=secret"), 599)]
)
def test_errors_are_the_same_as_without_a_proxy(monkeypatch, sent, code):
    with pytest.raises(HTTPClientError) as caught:
        fetch(monkeypatch, sent)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)
