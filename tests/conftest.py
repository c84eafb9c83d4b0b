"""Options, markers, order, and the fixtures that engine and browser tests share.

``engine``, ``small_image`` and ``stack`` last for the whole session and are made on first use, so
``pytest tests/unit`` starts nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.kit import debian
from tests.kit.lab import CommandFailed, Lab, LabError
from tests.kit.shared_images import SharedImages
from tests.kit.stack import Stack

HERE = Path(__file__).parent
_NEEDS_ROOT = "needs root for an engine in a network namespace: run `sudo make test`"

#: Debian releases whose engines the tests marked ``every_engine`` run on beside the host's.
_OTHER_ENGINES = ("trixie", "forky")
_CONTAINERD_STORE = "+containerd"
_ENGINE_IN_ID = re.compile(rf"[\[-]({'|'.join(_OTHER_ENGINES)})[\]-]")
_IMAGES = pytest.StashKey[SharedImages]()

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
        "--engine",
        type=_engine_name,
        metavar=f"RELEASE[{_CONTAINERD_STORE}]",
        help="run all engine tests on the engine of this Debian release "
        f"({', '.join(debian.RELEASES)}) instead of the host's; with {_CONTAINERD_STORE}, on its "
        "containerd image store",
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


def _engine_name(text: str) -> str:
    if text.removesuffix(_CONTAINERD_STORE) not in debian.RELEASES:
        raise ValueError(f"no engine of {text} is known")
    return text


#: Files of tests/engine whose tests share the deployed stack.
STACK_FILES = {
    "test_accounts.py",
    "test_builders.py",
    "test_conf_d.py",
    "test_hygiene.py",
    "test_prepull.py",
    "test_proxy.py",
    "test_registry.py",
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
    config.addinivalue_line(
        "markers", "every_engine: runs on the host's engine and on those of newer Debian releases"
    )
    # The default ends the process at once and leaves the lab behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where the engines of this run leave their images."""
    stash = node.config.stash
    if _IMAGES not in stash:
        stash[_IMAGES] = SharedImages.make()
    node.workerinput["shared_images"] = str(stash[_IMAGES].directory)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _IMAGES in config.stash:
        config.stash[_IMAGES].remove()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_marked = metafunc.definition.get_closest_marker("every_engine")
    if is_marked and not metafunc.config.getoption("engine"):
        # Without a parameter as well, as all other tests have it: they share that engine.
        engines = [pytest.param(None, id=pytest.HIDDEN_PARAM), *_OTHER_ENGINES]
        metafunc.parametrize("engine", engines, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        parts = item.path.relative_to(HERE).parts if item.path.is_relative_to(HERE) else ("",)
        if parts[0] in ("engine", "cluster", "browser", "soak", "machines"):
            item.add_marker("engine" if parts[0] in ("soak", "machines") else parts[0])
            has_timeout = item.get_closest_marker("timeout")
            if config.pluginmanager.hasplugin("timeout") and not has_timeout:
                item.add_marker(pytest.mark.timeout(_ENGINE_TEST_S, func_only=True))
        has_stack = "stack" in getattr(item, "fixturenames", ())
        if has_stack and group_of(item.nodeid) not in ("stack", "unit", *_OTHER_ENGINES):
            raise pytest.UsageError(f"{item.nodeid}: see STACK_FILES in tests/conftest.py")
    items.sort(key=_rank)  # stable: the order within a file stays


def _other_engine(nodeid: str) -> str | None:
    """Return the release on whose engine a test runs; None for the host's, or for all tests'."""
    found = _ENGINE_IN_ID.search(nodeid) if nodeid.startswith("tests/engine/") else None
    return found[1] if found else None


def group_of(nodeid: str) -> str:
    """What runs in one worker when there are several: who shares an engine, a stack, a cluster.

    The groups take about as long as each other: two workers are enough.
    """
    if engine := _other_engine(nodeid):
        return engine
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


def _rank(item: pytest.Item) -> tuple[str, int]:
    """The host's engine first; there cheap tests first, and those that end the stack last."""
    return _other_engine(item.nodeid) or "", _rank_on_engine(item)


def _rank_on_engine(item: pytest.Item) -> int:
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
    # It may be closed by now. Unit tests give that name to engines of their own.
    if report.failed and isinstance(lab, Lab) and lab.directory.exists():
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
def shared_images(request: pytest.FixtureRequest) -> SharedImages:
    """Where the engines of this run find images that another of them has built."""
    workerinput = getattr(request.config, "workerinput", None)
    if workerinput:
        return SharedImages(Path(workerinput["shared_images"]))
    if _IMAGES not in request.config.stash:
        request.config.stash[_IMAGES] = SharedImages.make()
    return request.config.stash[_IMAGES]


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, shared_images: SharedImages) -> Iterator[Lab]:
    """A real engine in swarm mode, in a network namespace of its own (tests/kit/lab.py).

    The host's, or what ``--engine`` names; for tests marked ``every_engine`` others as well.
    """
    if os.geteuid() != 0:
        pytest.skip(_NEEDS_ROOT)
    name = getattr(request, "param", None) or request.config.getoption("--engine") or ""
    keep_dir = request.config.getoption("--lab-dir")
    if keep_dir and name:
        keep_dir /= name
    lab = Lab(
        keep_dir=keep_dir,
        release=name.removesuffix(_CONTAINERD_STORE) or None,
        has_containerd_store=name.endswith(_CONTAINERD_STORE),
    )
    try:
        lab.start()
    except LabError as exc:
        pytest.fail(f"no lab: {exc}", pytrace=False)
    if hasattr(request, "param") and name:
        shared_images.load_into(lab)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def small_image(engine: Lab) -> str:
    """Name of a small image in the lab that stands in for a notebook (``Lab.small_image``)."""
    return engine.small_image()


@pytest.fixture(scope="session")
def stack(
    engine: Lab,
    shared_images: SharedImages,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """The deployment, brought up by the real command line; one for all tests of an engine.

    A test that takes it down is marked ``destructive`` and brings it up again if it needs to.
    """
    stack = Stack(engine, tmp_path_factory.mktemp("env"))
    has_others = any(_other_engine(item.nodeid) for item in request.session.items)
    try:
        with shared_images.made_by(engine) if has_others else contextlib.nullcontext():
            stack.up()
    except CommandFailed as exc:
        pytest.fail(f"no stack: {exc}", pytrace=False)
    yield stack
    stack.down()
