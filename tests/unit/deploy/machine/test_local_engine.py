"""An existing engine is used before one is installed, and only ours is ever stopped."""

import io
import os
import shutil
import signal
import subprocess
from types import SimpleNamespace

import docker.errors
import pytest
import requests
from rich.console import Console

from jhswarmd.deploy.machine import host, local_engine
from jhswarmd.deploy.progress import Progress
from jhswarmd.errors import JhswarmdError
from tests.kit.wait import wait_until


@pytest.fixture
def console():
    return io.StringIO()


@pytest.fixture
def progress(console):
    return Progress(Console(file=console, width=200))


@pytest.fixture(autouse=True)
def state_dir(monkeypatch, tmp_path):
    for name in ("DOCKER_HOST", local_engine.ADVERTISE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(local_engine.STATE_DIR_VARIABLE, str(tmp_path / "state"))
    monkeypatch.setattr(local_engine, "_SYSTEMD", tmp_path / "no-systemd")
    return tmp_path / "state"


class FakeEngine:
    def __init__(self, swarm=None):
        self.state = swarm or {"LocalNodeState": "inactive"}
        self.made_with = []
        self.error = None
        self.swarm = self

    def info(self):
        return {"Swarm": self.state, "ServerVersion": "20.10.24"}

    def init(self, advertise_addr, dispatcher_heartbeat_period):
        self.made_with.append((advertise_addr, dispatcher_heartbeat_period))
        self.state = {"LocalNodeState": "active", "ControlAvailable": True}
        if self.error:
            raise self.error


class FakeMachine:
    """An engine answers once it was started."""

    def __init__(self, monkeypatch, *, root=True, answers=False, programs=("dockerd", "iptables")):
        self.answers = answers
        self.programs = {*programs, "docker"}
        self.installed = []
        self.engine = FakeEngine()
        monkeypatch.setattr(host, "is_root", lambda: root)
        monkeypatch.setattr(local_engine, "connect", self.connect)
        monkeypatch.setattr(host, "apt_install", self.install)
        monkeypatch.setattr(
            local_engine, "_which", lambda name: f"/{name}" if name in self.programs else None
        )

    def connect(self):
        if not self.answers:
            raise JhswarmdError("No Docker Engine answers", remedy="start it")
        return self.engine

    def install(self, packages, _progress, *, what_for):
        assert what_for
        self.installed += packages
        self.programs |= {{"docker.io": "dockerd"}.get(name, name) for name in packages}


@pytest.fixture
def dockerd(tmp_path, state_dir):
    """A process named dockerd, which ends on a signal."""
    program = tmp_path / "dockerd"
    shutil.copy(shutil.which("sleep"), program)
    process = subprocess.Popen([program, "60"])
    state_dir.mkdir()
    yield process
    process.kill()
    process.wait()


# -- finding and starting ------------------------------------------------------------------------


def test_an_engine_that_answers_is_used_as_it_is(monkeypatch, progress, state_dir):
    machine = FakeMachine(monkeypatch, answers=True)
    assert local_engine.ensure_engine(progress) is machine.engine
    assert machine.installed == []
    assert not state_dir.exists()


def test_without_root_no_engine_is_installed(monkeypatch, progress):
    machine = FakeMachine(monkeypatch, root=False)
    with pytest.raises(JhswarmdError) as raised:
        local_engine.ensure_engine(progress)
    assert raised.value.remedy
    assert machine.installed == []


def test_an_engine_named_by_docker_host_is_never_replaced(monkeypatch, progress):
    machine = FakeMachine(monkeypatch)
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
    with pytest.raises(JhswarmdError):
        local_engine.ensure_engine(progress)
    assert machine.installed == []


@pytest.mark.parametrize(
    ("programs", "installed"),
    [
        ((), ["docker.io", "iptables"]),
        (("dockerd",), ["iptables"]),
        (("dockerd", "iptables"), []),
    ],
)
def test_only_missing_programs_are_installed(monkeypatch, progress, programs, installed):
    machine = FakeMachine(monkeypatch, programs=programs)
    monkeypatch.setattr(local_engine, "_start", lambda _step: machine.engine)
    local_engine.ensure_engine(progress)
    assert machine.installed == installed


def test_an_engine_started_by_its_package_is_not_started_again(monkeypatch, progress):
    machine = FakeMachine(monkeypatch)
    monkeypatch.setattr(
        local_engine, "_install", lambda _progress: setattr(machine, "answers", True)
    )
    monkeypatch.setattr(local_engine, "_run_dockerd", lambda _state: pytest.fail("started twice"))
    assert local_engine.ensure_engine(progress) is machine.engine


def test_a_service_manager_is_used_first(monkeypatch, progress, tmp_path):
    machine = FakeMachine(monkeypatch)
    monkeypatch.setattr(local_engine, "_SYSTEMD", tmp_path)
    ran = []

    def run(command, _step, *, remedy):
        assert remedy
        ran.append(command)
        machine.answers = True

    monkeypatch.setattr(host, "run_shown", run)
    assert local_engine.ensure_engine(progress) is machine.engine
    assert ran == [["systemctl", "start", "docker"]]


def test_our_own_engine_has_a_session_a_log_and_a_record(
    monkeypatch, progress, tmp_path, state_dir
):
    machine = FakeMachine(monkeypatch)
    # A copy, not a script: the kernel knows a script by its interpreter's name.
    program = tmp_path / "dockerd"
    shutil.copy(shutil.which("cat"), program)
    monkeypatch.setattr(local_engine, "_which", lambda _name: str(program))
    started = []
    popen = subprocess.Popen

    def start(command, **options):
        # Reads a pipe without a writer, and so lives until it is signalled.
        options["stdin"] = subprocess.PIPE
        started.append(popen(command, **options))
        machine.answers = True
        return started[0]

    monkeypatch.setattr(local_engine.subprocess, "Popen", start)
    assert local_engine.ensure_engine(progress) is machine.engine
    with started[0] as process:
        assert os.getsid(process.pid) == process.pid
        assert (state_dir / "dockerd.log").exists()
        assert local_engine._State(state_dir).read_alive() == process.pid
        process.kill()


def test_an_engine_that_exits_immediately_shows_the_end_of_its_log(
    monkeypatch, progress, tmp_path, state_dir
):
    FakeMachine(monkeypatch)
    program = tmp_path / "dockerd"
    program.write_text("#!/bin/sh\necho 'failed to start daemon: no iptables'\n")
    program.chmod(0o755)
    monkeypatch.setattr(local_engine, "_which", lambda _name: str(program))
    processes = []
    popen = subprocess.Popen

    def start(command, **options):
        processes.append(popen(command, **options))
        processes[0].wait()
        return processes[0]

    monkeypatch.setattr(local_engine.subprocess, "Popen", start)
    with pytest.raises(JhswarmdError) as raised:
        local_engine.ensure_engine(progress)
    assert "failed to start daemon: no iptables" in raised.value.output
    assert str(state_dir / "dockerd.log") in raised.value.remedy


@pytest.mark.parametrize(
    ("cause", "named", "remedy"),
    [
        ("Connection refused", "", "make up"),
        ("Permission denied", "", "group 'docker'"),
        ("Connection refused", "tcp://elsewhere:2375", "DOCKER_HOST"),
    ],
)
def test_an_engine_without_an_answer_is_an_error_with_a_remedy(monkeypatch, cause, named, remedy):
    def refuse(**_):
        raise docker.errors.DockerException(cause)

    monkeypatch.setattr(local_engine.docker, "from_env", refuse)
    if named:
        monkeypatch.setenv("DOCKER_HOST", named)
    with pytest.raises(JhswarmdError) as raised:
        local_engine.connect()
    assert remedy in raised.value.remedy
    assert cause in raised.value.why


# -- stopping ------------------------------------------------------------------------------------


def test_our_own_engine_is_stopped_and_its_record_removed(progress, dockerd, state_dir):
    state = local_engine._State(state_dir)
    state.write(dockerd.pid)
    local_engine.stop_engine(progress)
    assert dockerd.wait() == -signal.SIGTERM
    assert not state.record.exists()


def test_a_process_that_reuses_the_pid_of_our_engine_is_ignored(
    progress, console, dockerd, state_dir
):
    state = local_engine._State(state_dir)
    state.write(dockerd.pid)
    pid, started = state.record.read_text().split()
    state.record.write_text(f"{pid} {int(started) - 1}\n")
    local_engine.stop_engine(progress)
    assert dockerd.poll() is None
    assert "other engines are not stopped" in console.getvalue()


def test_a_process_that_is_not_a_dockerd_is_ignored(progress, state_dir):
    with subprocess.Popen(["sleep", "60"]) as process:
        state_dir.mkdir()
        state = local_engine._State(state_dir)
        state.write(process.pid)
        local_engine.stop_engine(progress)
        assert process.poll() is None
        process.kill()


def test_stopping_without_our_own_engine_says_so(progress, console):
    local_engine.stop_engine(progress)
    assert "other engines are not stopped" in console.getvalue()


def test_a_dead_child_is_not_alive(dockerd, state_dir):
    state = local_engine._State(state_dir)
    state.write(dockerd.pid)
    assert state.read_alive() == dockerd.pid
    dockerd.kill()  # without a wait: a zombie still has its pid
    wait_until(lambda: state.read_alive() is None, timeout_s=5)


# -- swarm ---------------------------------------------------------------------------------------


def test_a_manager_is_used_as_it_is(progress):
    engine = FakeEngine({"LocalNodeState": "active", "ControlAvailable": True, "Nodes": 3})
    local_engine.ensure_swarm(engine, progress)
    assert engine.made_with == []


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        ({"LocalNodeState": "active", "ControlAvailable": False}, "manager"),
        ({"LocalNodeState": "locked"}, "unlock"),
        ({"LocalNodeState": "pending"}, "again"),
        ({"LocalNodeState": "error", "Error": "certificate has expired"}, "docker info"),
    ],
)
def test_an_unusable_swarm_is_not_replaced(progress, state, remedy):
    engine = FakeEngine(state)
    with pytest.raises(JhswarmdError) as raised:
        local_engine.ensure_swarm(engine, progress)
    assert remedy in raised.value.remedy
    assert engine.made_with == []


def test_a_new_swarm_advertises_the_configured_address(monkeypatch, progress):
    monkeypatch.setenv(local_engine.ADVERTISE_VARIABLE, "192.0.2.7")
    engine = FakeEngine()
    local_engine.ensure_swarm(engine, progress)
    assert engine.made_with == [("192.0.2.7", local_engine.HEARTBEAT_S * 10**9)]


def test_a_swarm_created_by_a_concurrent_run_is_used(monkeypatch, progress):
    monkeypatch.setenv(local_engine.ADVERTISE_VARIABLE, "192.0.2.7")
    engine = FakeEngine()
    response = requests.Response()
    response.status_code = 503
    engine.error = docker.errors.APIError("already part of a swarm", response=response)
    local_engine.ensure_swarm(engine, progress)


def test_an_engine_whose_firewall_backend_has_no_swarm_is_named(monkeypatch, progress):
    monkeypatch.setenv(local_engine.ADVERTISE_VARIABLE, "192.0.2.7")
    # What engines from 29.0 on answer (moby, daemon/config/config_linux.go).
    words = "--firewall-backend=nftables is incompatible with swarm mode"

    class Refusing(FakeEngine):
        def init(self, **_):
            raise docker.errors.APIError("failed", explanation=words)

    with pytest.raises(JhswarmdError) as raised:
        local_engine.ensure_swarm(Refusing(), progress)
    assert raised.value.why == words
    assert '"firewall-backend": "iptables"' in raised.value.remedy


def test_without_a_route_a_swarm_is_this_machines_alone(monkeypatch):
    class NoRoute:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def connect(self, _address):
            raise OSError("Network is unreachable")

    monkeypatch.setattr(local_engine.socket, "socket", lambda *_: NoRoute())
    assert local_engine.advertise_address() == "127.0.0.1"


def test_ipvs_is_loaded_before_it_counts_as_missing(monkeypatch, tmp_path):
    table = tmp_path / "ip_vs"
    monkeypatch.setattr(local_engine, "_IPVS", table)
    monkeypatch.setattr(local_engine, "_which", lambda _name: "/sbin/modprobe")
    monkeypatch.setattr(
        local_engine.subprocess, "run", lambda *_a, **_k: SimpleNamespace(returncode=1)
    )
    assert not local_engine.has_ipvs()
    monkeypatch.setattr(local_engine.subprocess, "run", lambda *_a, **_k: table.touch())
    assert local_engine.has_ipvs()
