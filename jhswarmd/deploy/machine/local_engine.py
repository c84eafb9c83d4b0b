"""The engine on this machine: find it, or install and start it, and put it into swarm mode.

A running engine is used as it is, and so is an existing swarm: jhswarmd never restarts, configures
or leaves it. An engine started by us is a plain ``dockerd`` on the standard socket, so that every
``docker`` command just works. It outlives the shell that started it; its log and record are in a
state directory.

Every step checks first, so that the next run completes an interrupted one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import docker
import requests
from docker.errors import APIError, DockerException

from jhswarmd.deploy.machine import host
from jhswarmd.deploy.progress import Progress, Step
from jhswarmd.engine import compatibility
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import JhswarmdError

STATE_DIR_VARIABLE = "JHSWARMD_STATE_DIR"
DEFAULT_STATE_DIR = "/var/lib/jhswarmd"
#: Seconds between a node's heartbeats in a swarm that we create; after three missed ones, Swarm
#: ends the node's tasks, including notebooks. With Swarm's default of 5 s that happened in two of
#: five tries with an engine paused for 30 s (measured), and on machines that were only busy. This
#: value tolerates two minutes.
HEARTBEAT_S = 45
ADVERTISE_VARIABLE = "JHSWARMD_ADVERTISE_ADDR"

#: Timeout of a request to the engine, in seconds.
CALL_TIMEOUT_S = 60
#: Seconds for a new engine to answer.
START_TIMEOUT_S = 60.0
#: Seconds for an engine to stop: it gives its containers ten, and more if there are many.
STOP_TIMEOUT_S = 90.0

_POLL_S = 0.1
_SYSTEMD = Path("/run/systemd/system")
_IPVS = Path("/proc/net/ip_vs")
_VXLAN = Path("/sys/module/vxlan")
#: Debian's directories of dockerd and modprobe; missing in root's PATH after a plain ``su``.
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


def connect() -> docker.DockerClient:
    """Return a client of the engine at DOCKER_HOST, else at the standard socket.

    Raises JhswarmdError if none answers. Changes nothing.
    """
    try:
        client = docker.from_env(timeout=CALL_TIMEOUT_S)
        client.ping()
    except (DockerException, requests.RequestException, OSError) as exc:
        named = os.environ.get("DOCKER_HOST", "")
        if named:
            remedy = "Start that engine, or unset DOCKER_HOST to use this machine's engine."
        elif "Permission denied" in str(exc):
            remedy = "Run this as root, or as a member of the group 'docker'."
        else:
            remedy = "Start it ('systemctl start docker'), or let 'make up' start it, as root."
        raise JhswarmdError(
            f"No Docker Engine answers{f' at {named}' if named else ''}",
            why=str(exc),
            remedy=remedy,
        ) from exc
    return client


def ensure_engine(progress: Progress) -> docker.DockerClient:
    """Return a client of a running engine, installing and starting one if necessary.

    Raises JhswarmdError, also if that would require root.
    """
    with progress.step("Docker Engine") as step:
        try:
            client = connect()
        except JhswarmdError:
            # An engine named by DOCKER_HOST is not ours to start.
            if os.environ.get("DOCKER_HOST") or not host.is_root():
                raise
            step.done("none answers")
        else:
            step.done(f"{_version(client)} answers")
            return client
    _install(progress)
    with progress.step("Starting the Docker Engine") as step:
        client = _start(step)
        step.done(_version(client))
    return client


def stop_engine(progress: Progress) -> None:
    """Stop the engine that ``ensure_engine`` started; ignore any other one.

    Raises JhswarmdError if it does not end.
    """
    state = _State.default()
    pid = state.read_alive()
    if pid is None:
        state.record.unlink(missing_ok=True)
        progress.note(
            "No engine started by 'jhswarmd up' is running; other engines are not stopped."
        )
        return
    with progress.step("Stopping the Docker Engine") as step:
        os.kill(pid, signal.SIGTERM)
        if not _wait(
            lambda: state.read_alive() is None, STOP_TIMEOUT_S, step, "containers are stopping"
        ):
            raise JhswarmdError(
                "The Docker Engine does not stop",
                output=state.read_log_tail(),
                remedy=f"Its process is {pid}, its log is {state.log}. Run this again, or end it "
                f"with 'kill -9 {pid}'.",
            )
        state.record.unlink(missing_ok=True)


def ensure_swarm(client: docker.DockerClient, progress: Progress) -> None:
    """Ensure that the engine is a manager of a swarm; an existing swarm is used as it is.

    Raises JhswarmdError.
    """
    with progress.step("Swarm") as step, engine_errors("inspect the swarm"):
        swarm = client.info()["Swarm"]
        state = swarm.get("LocalNodeState", "")
        if state == "active" and swarm.get("ControlAvailable"):
            step.done(f"already a manager, {swarm.get('Nodes', 1)} node(s)")
            return
        if state != "inactive":
            raise _unusable_swarm(state, swarm)
        address = os.environ.get(ADVERTISE_VARIABLE) or advertise_address()
        try:
            client.swarm.init(
                advertise_addr=address, dispatcher_heartbeat_period=HEARTBEAT_S * 10**9
            )
        except APIError as exc:
            # A concurrent run was faster.
            if not client.info()["Swarm"].get("ControlAvailable"):
                raise JhswarmdError(
                    "The engine cannot be put into swarm mode",
                    why=str(exc.explanation),
                    remedy=compatibility.FIREWALL_REMEDY
                    if "nftables" in str(exc.explanation)
                    else f"Set the address at which other nodes reach this one: "
                    f"{ADVERTISE_VARIABLE}=ADDRESS.",
                ) from exc
        step.done(f"created, this node is at {address}")


def require_manager(client: docker.DockerClient) -> None:
    """Raise JhswarmdError unless this engine is a manager of a swarm. Changes nothing."""
    with engine_errors("inspect the swarm"):
        swarm = client.info()["Swarm"]
    state = swarm.get("LocalNodeState", "")
    if state == "active" and swarm.get("ControlAvailable"):
        return
    if state == "inactive":
        raise JhswarmdError(
            "This machine is not in a swarm",
            why="a deployment needs one",
            remedy="Run this on a manager of the deployment's swarm, or deploy here: 'make up'.",
        )
    raise _unusable_swarm(state, swarm)


def advertise_address() -> str:
    """Return the address at which other nodes will reach this one.

    This is the address of the default route's interface: a swarm keeps its initial address, and
    with 127.0.0.1 no second node could ever join. Without a route there is no other node.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: the kernel only chooses the source address. The target is a
            # documentation address (RFC 5737).
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def has_ipvs() -> bool:
    """Return whether this machine's kernel has IPVS, which virtual addresses and the mesh need.

    The engine loads it on demand, so it may be available without being listed: hence the attempt.
    """
    if _IPVS.exists():
        return True
    modprobe = _which("modprobe")
    if modprobe is None:
        return False
    subprocess.run([modprobe, "--quiet", "ip_vs"], capture_output=True, check=False)
    return _IPVS.exists()


def has_vxlan() -> bool:
    """Return whether this machine's kernel has VXLAN, or a module for it; overlays need it."""
    modprobe = _which("modprobe")
    if _VXLAN.exists() or modprobe is None:
        return _VXLAN.exists()
    command = [modprobe, "--dry-run", "--quiet", "vxlan"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


# -- our own engine -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _State:
    """The state directory of our own engine."""

    folder: Path

    @classmethod
    def default(cls) -> _State:
        return cls(Path(os.environ.get(STATE_DIR_VARIABLE) or DEFAULT_STATE_DIR))

    @property
    def log(self) -> Path:
        return self.folder / "dockerd.log"

    @property
    def record(self) -> Path:
        """Holds ``PID STARTED``: both identify a process, because process ids are reused."""
        return self.folder / "dockerd.pid"

    def write(self, pid: int) -> None:
        partial = self.record.with_suffix(".new")
        partial.write_text(f"{pid} {_started(pid)}\n")
        partial.replace(self.record)

    def read_alive(self) -> int | None:
        """Return the process id of our engine, if it is running."""
        try:
            pid, started = self.record.read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if started == _started(int(pid)) else None

    def read_log_tail(self) -> list[str]:
        try:
            return self.log.read_text(errors="replace").splitlines()[-host.TAIL_LINES :]
        except OSError:
            return []


def _started(pid: int) -> str:
    """Return a dockerd's start time in kernel ticks; empty for any other process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # PID (NAME) STATE ...: the name may contain anything, so count from its end.
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    is_ended = fields[0] in "ZX"
    return fields[19] if name == "dockerd" and not is_ended else ""


def _install(progress: Progress) -> None:
    missing = []
    if _which("dockerd") is None:
        missing.append("docker.io")
    if _which("iptables") is None:
        missing.append("iptables")
    if missing:
        host.apt_install(missing, progress, what_for="A Docker Engine")
    if _which("docker") is None:
        # Debian 13 and later: the command is in a separate package.
        host.apt_install(["docker-cli"], progress, what_for="The docker command")


def _start(step: Step) -> docker.DockerClient:
    found: list[docker.DockerClient] = []

    def answers() -> bool:
        with contextlib.suppress(JhswarmdError):
            found.append(connect())
        return bool(found)

    state = _State.default()
    # The package installation or an interrupted run has started it.
    if answers():
        return found[0]
    is_ours = not _SYSTEMD.is_dir()
    if is_ours and state.read_alive() is None:
        _run_dockerd(state)
    elif not is_ours:
        host.run_shown(
            ["systemctl", "start", "docker"],
            step,
            remedy="'journalctl -u docker' shows why the engine does not start.",
        )
    log = str(state.log) if is_ours else "journalctl -u docker"

    def is_finished() -> bool:
        return answers() or (is_ours and state.read_alive() is None)

    if not _wait(is_finished, START_TIMEOUT_S, step, f"log: {log}") or not found:
        raise JhswarmdError(
            "The Docker Engine does not start",
            output=state.read_log_tail(),
            remedy=f"Its log shows why: {log}",
        )
    return found[0]


def _run_dockerd(state: _State) -> None:
    """Start dockerd so that it outlives this process, its terminal and its shell."""
    state.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if state.log.exists():
        state.log.replace(state.log.with_suffix(".log.1"))
    dockerd = _which("dockerd")
    assert dockerd is not None
    with state.log.open("wb") as log:
        process = subprocess.Popen(
            [dockerd],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            # dockerd needs iptables, containerd and runc in its PATH.
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"},
            # A new session: neither hang-up nor Ctrl-C of the terminal reaches it.
            start_new_session=True,
        )
    state.write(process.pid)


def _wait(is_finished: Callable[[], bool], timeout_s: float, step: Step, detail: str) -> bool:
    """Poll until ``is_finished``; return whether it became true in time."""
    deadline = time.monotonic() + timeout_s
    while not is_finished():
        if time.monotonic() > deadline:
            return False
        step.update(detail)
        time.sleep(_POLL_S)
    return True


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=_SYSTEM_PATH)


def _version(client: docker.DockerClient) -> str:
    with engine_errors("read the engine's version"):
        return f"version {client.info()['ServerVersion']}"


def _unusable_swarm(state: str, swarm: dict[str, object]) -> JhswarmdError:
    if state == "active":
        return JhswarmdError(
            "This node is a worker of its swarm",
            why="a worker cannot access services",
            remedy="Run this on a manager ('docker node ls' there lists them), or promote this "
            "node: 'docker node promote' on a manager.",
        )
    remedy = {
        "locked": "Unlock it: 'docker swarm unlock'.",
        "pending": "It is joining a swarm: run this again afterwards.",
    }.get(state, "See 'docker info'; jhswarmd never leaves a swarm by itself.")
    return JhswarmdError(
        f"This node's swarm is in the state '{state}'",
        why=str(swarm.get("Error") or ""),
        remedy=remedy,
    )
