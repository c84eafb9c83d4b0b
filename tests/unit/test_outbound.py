"""Requests to this machine and its engine go past every proxy of the shell."""

import subprocess
import sys

import pytest
import requests

from jhswarmd import outbound
from jhswarmd.commands import up

#: Nothing listens there, so that a request through it fails.
DEAD = "http://127.0.0.1:9"


def test_up_asks_the_hub_past_the_proxy_of_the_shell(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, DEAD)
    proxies = []

    def send(self, request, **options):
        proxies.append(dict(options["proxies"]))
        answer = requests.Response()
        answer.status_code = 200
        return answer

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    assert up._wait_answer("https://127.0.0.1:8443") == "https://127.0.0.1:8443/hub/health"
    assert proxies == [{}]


@pytest.mark.parametrize(
    ("environ", "exempt"),
    [
        pytest.param({"HTTPS_PROXY": DEAD}, ["localhost", "127.0.0.1", "::1"], id="none exempt"),
        pytest.param({"all_proxy": DEAD, "no_proxy": "a.org"}, ["a.org", "localhost"], id="more"),
        pytest.param(
            {"http_proxy": DEAD, "DOCKER_HOST": "tcp://10.0.0.5:2375"}, ["10.0.0.5"], id="engine"
        ),
    ],
)
def test_this_machine_and_its_engine_are_exempt(environ, exempt):
    outbound.keep_local(environ)
    assert environ["NO_PROXY"] == environ["no_proxy"]
    assert set(exempt) <= set(environ["NO_PROXY"].split(","))


@pytest.mark.parametrize("environ", [{}, {"NO_PROXY": "a"}, {"HTTPS_PROXY": ""}])
def test_nothing_changes_without_a_proxy(environ):
    before = dict(environ)
    outbound.keep_local(environ)
    assert environ == before


def test_the_command_line_begins_with_that(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", DEAD)
    code = (
        "import os, sys\nfrom jhswarmd import cli\nsys.argv[1:] = ['--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\nprint(os.environ['NO_PROXY'])"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "127.0.0.1" in printed.splitlines()[-1]
