"""Options, markers, order, and the fixtures that engine and browser tests share.

``engine``, ``small_image`` and ``stack`` last for the whole session and are made on first use, so
``pytest tests/unit`` starts nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.lab import CommandFailed, Lab, LabError
from tests.stack import Stack

HERE = Path(__file__).parent
_NEEDS_ROOT = "needs root for an engine in a network namespace: run `sudo make test`"

#: Seconds for one test without its fixtures; a hanging test must not use up the session's time.
_ENGINE_TEST_S = 240


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("jhswarmd")
    group.addoption(
        "--lab-dir",
        type=Path,
        default=os.environ.get("JHSWARMD_LAB_DIR") or None,
        metavar="DIR",
        help="keep the lab engine's images in DIR between runs (also JHSWARMD_LAB_DIR)",
    )
    group.addoption(
        "--screenshots",
        type=Path,
        metavar="DIR",
        help="take the pictures of the documentation into DIR",
    )
    group.addoption(
        "--soak-s",
        type=float,
        default=60,
        metavar="S",
        help="seconds for which tests/soak has users, faults and losses meet at random",
    )
    group.addoption(
        "--soak-seed", type=int, metavar="N", help="repeat the choices of an earlier soak"
    )


#: Files of tests/engine whose tests share the deployed stack.
STACK_FILES = {
    "test_accounts.py",
    "test_conf_d.py",
    "test_hygiene.py",
    "test_prepull.py",
    "test_rotation.py",
    "test_stack.py",
}


def pytest_configure(config: pytest.Config) -> None:
    # How long an example may take depends on what else the machine does.
    hypothesis.settings.register_profile("suite", deadline=None)
    hypothesis.settings.load_profile("suite")
    config.addinivalue_line(
        "markers", "destructive: takes the shared stack down or apart; runs after all others"
    )
    # docker-py does not close a unix socket that it could not connect.
    unix_socket = r"unclosed <socket\.socket fd=\d+, family=(1|AddressFamily\.AF_UNIX),"
    config.addinivalue_line("filterwarnings", f"ignore:{unix_socket}:ResourceWarning")
    # The default ends the process at once and leaves the lab behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        parts = item.path.relative_to(HERE).parts if item.path.is_relative_to(HERE) else ("",)
        if parts[0] in ("engine", "cluster", "browser", "soak"):
            item.add_marker("engine" if parts[0] == "soak" else parts[0])
            has_timeout = item.get_closest_marker("timeout")
            if config.pluginmanager.hasplugin("timeout") and not has_timeout:
                item.add_marker(pytest.mark.timeout(_ENGINE_TEST_S, func_only=True))
        has_stack = "stack" in getattr(item, "fixturenames", ())
        if has_stack and group_of(item.nodeid) not in ("stack", "unit"):
            raise pytest.UsageError(f"{item.nodeid}: see STACK_FILES in tests/conftest.py")
    items.sort(key=_rank)  # stable: the order within a file stays


def group_of(nodeid: str) -> str:
    """What runs in one worker when there are several: who shares an engine, a stack, a cluster.

    The groups take about as long as each other: two workers are enough.
    """
    folder, _, rest = nodeid.removeprefix("tests/").partition("/")
    is_stacks = folder == "engine" and rest.partition("::")[0] in STACK_FILES
    return "stack" if is_stacks or folder == "browser" else folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each group to one worker.

    Not by '--dist loadgroup', whose groups pytest 9.2 overlooks (pytest-xdist 3.8): both workers
    then have an engine and a stack each, and tests are in no order.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


def _rank(item: pytest.Item) -> int:
    """Cheap tests first, those that share a stack together, those that end it last."""
    fixtures = getattr(item, "fixturenames", ())
    if item.get_closest_marker("destructive"):
        return 4
    if "stack" in fixtures:
        return 3
    if "cluster" in fixtures:
        return 2
    return 1 if "engine" in fixtures else 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Iterator[None]:
    report = yield
    # The fixture of this very test, which may be a cluster of its own.
    lab = getattr(item, "funcargs", {}).get("engine")
    if report.failed and lab and lab.directory.exists():  # it may be closed by now
        report.sections.append(("services of the lab", lab.describe()))
    return report


@pytest.fixture(autouse=True)
def _no_connections_in_unit_tests(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not request.path.is_relative_to(HERE / "unit"):
        return

    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family == socket.AF_UNIX and str(address).startswith(tempfile.gettempdir()):
            return connect(self, address)  # the test's own server
        raise AssertionError(f"a unit test connects to {address!r}: move it to tests/engine")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A real engine in swarm mode, in a network namespace of its own (tests/lab.py)."""
    if os.geteuid() != 0:
        pytest.skip(_NEEDS_ROOT)
    lab = Lab(keep_dir=request.config.getoption("--lab-dir"))
    try:
        lab.start()
    except LabError as exc:
        pytest.fail(f"no lab: {exc}", pytrace=False)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def small_image(engine: Lab) -> str:
    """Name of a small image in the lab that stands in for a notebook (``Lab.small_image``)."""
    return engine.small_image()


@pytest.fixture(scope="session")
def stack(engine: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The deployment, brought up by the real command line; one for all tests.

    A test that takes it down is marked ``destructive`` and brings it up again if it needs to.
    """
    stack = Stack(engine, tmp_path_factory.mktemp("env"))
    try:
        stack.up()
    except CommandFailed as exc:
        pytest.fail(f"no stack: {exc}", pytrace=False)
    yield stack
    stack.down()
