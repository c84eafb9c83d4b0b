"""The quick start on fresh machines of Debian releases with newer engines and Pythons."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from requests.adapters import HTTPAdapter

from tests.kit.lab import LabError
from tests.kit.machine import Machine
from tests.kit.stack import Stack, Visitor

_UP_S = 1200
_UNIT_S = 1200
#: Commands that change nothing, and whose exit code may tell of the published password.
_COMMANDS = ("status", "status --json", "doctor --env local", "rotate all --dry-run")


class _Site:
    """What ``Visitor`` needs to know of a deployment, here with a certificate for localhost."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.url = f"https://{machine.address}"
        self._pem = directory / "shown.pem"
        self._pem.write_text(ssl.get_server_certificate((machine.address, 443), timeout=30))

    def session(self) -> requests.Session:
        class ForLocalhost(HTTPAdapter):
            def init_poolmanager(self, *args: Any, **kw: Any) -> Any:
                return super().init_poolmanager(*args, **kw, assert_hostname="localhost")

        session = requests.Session()
        session.trust_env = False
        session.verify = str(self._pem)
        session.mount("https://", ForLocalhost())
        return session


@pytest.fixture(scope="module", params=["trixie", "forky"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    machine = Machine(request.param)
    try:
        machine.start()
    except LabError as exc:
        pytest.fail(f"no machine: {exc}", pytrace=False)
    yield machine
    machine.close()


@pytest.mark.timeout(3600, func_only=True)
def test_quick_start_gives_a_hub_again_and_again_and_no_command_complains(
    machine: Machine, tmp_path: Path
) -> None:
    for _ in range(2):
        machine.shell("make up", timeout_s=_UP_S)
        site = cast(Stack, _Site(machine, tmp_path))
        with Visitor(site, "testuser", "testpassword") as visitor:
            visitor.start_server()
            visitor.stop_server()
        complaints = {
            command: machine.shell(f".venv/bin/jhswarmd {command}", check=False).stderr
            for command in _COMMANDS
        }
        assert complaints == dict.fromkeys(_COMMANDS, "")
        machine.shell("make down", timeout_s=300)


@pytest.mark.timeout(_UNIT_S, func_only=True)
def test_unit_tests_pass_on_the_releases_own_python(machine: Machine) -> None:
    machine.shell("make unit", timeout_s=_UNIT_S)
