"""The engine on this machine: found, or installed and started; put into swarm mode.

A running engine is used as it is, an existing swarm too: neither is restarted, configured or left.
An engine of ours is a plain ``dockerd`` on the standard socket, so that every ``docker`` command
just works. It outlives the shell that started it; log and record are in a state directory.

Every step looks first, so that an interrupted run is finished by the next one.
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
#: Seconds between a node's signs of life in a swarm that we make; after three without one Swarm
#: ends the node's tasks, notebooks among them. With its own 5 s an engine that stood still for 30 s
#: did so in two tries of five (measured), and so did machines that were only busy. This outlasts
#: two minutes.
HEARTBEAT_S = 45
ADVERTISE_VARIABLE = "JHSWARMD_ADVERTISE_ADDR"

#: Seconds the engine has for one answer.
CALL_TIMEOUT_S = 60
#: Seconds a new engine has to answer.
START_S = 60.0
#: Seconds an engine has to stop: it gives its containers ten, and some more where there are many.
STOP_S = 90.0

_POLL_S = 0.1
_SYSTEMD = Path("/run/systemd/system")
_IPVS = Path("/proc/net/ip_vs")
_VXLAN = Path("/sys/module/vxlan")
#: Where Debian has dockerd and modprobe; missing in the PATH of a root made by plain ``su``.
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


def connect() -> docker.DockerClient:
    """Return a client of the engine that DOCKER_HOST names, else of the standard socket.

    Raises JhswarmdError if none answers. Changes nothing.
    """
    try:
        client = docker.from_env(timeout=CALL_TIMEOUT_S)
        client.ping()
    except (DockerException, requests.RequestException, OSError) as exc:
        named = os.environ.get("DOCKER_HOST", "")
        if named:
            remedy = "Start that engine, or unset DOCKER_HOST to use the one of this machine."
        elif "Permission denied" in str(exc):
            remedy = "Run this as root, or as a member of the group 'docker'."
        else:
            remedy = "Start it ('systemctl start docker'), or run 'make up' as root: it does."
        raise JhswarmdError(
            f"No Docker Engine answers{f' at {named}' if named else ''}",
            why=str(exc),
            remedy=remedy,
        ) from exc
    return client


def ensure_engine(progress: Progress) -> docker.DockerClient:
    """Return a client of an engine that answers, installing and starting one where none does.

    Raises JhswarmdError, also where that would take root.
    """
    with progress.step("Docker Engine") as step:
        try:
            client = connect()
        except JhswarmdError:
            # An engine that somebody named is theirs to start.
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
    """Stop the engine that ``ensure_engine`` started; any other one is left alone.

    Raises JhswarmdError if it does not end.
    """
    state = _State.default()
    pid = state.read_alive()
    if pid is None:
        state.record.unlink(missing_ok=True)
        progress.note("No engine that 'jhswarmd up' started is running; any other one is not ours.")
        return
    with progress.step("Stopping the Docker Engine") as step:
        os.kill(pid, signal.SIGTERM)
        if not _wait(lambda: state.read_alive() is None, STOP_S, step, "containers are stopping"):
            raise JhswarmdError(
                "The Docker Engine does not stop",
                output=state.read_log_tail(),
                remedy=f"Its process is {pid}, its log {state.log}. Run this again, or end it with "
                f"'kill -9 {pid}'.",
            )
        state.record.unlink(missing_ok=True)


def ensure_swarm(client: docker.DockerClient, progress: Progress) -> None:
    """See that the engine is a manager of a swarm; one that exists is used as it is.

    Raises JhswarmdError.
    """
    with progress.step("Swarm") as step, engine_errors("asking for the swarm"):
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
            # Another run at the same time was faster.
            if not client.info()["Swarm"].get("ControlAvailable"):
                raise JhswarmdError(
                    "The engine cannot be put into swarm mode",
                    why=str(exc.explanation),
                    remedy=compatibility.FIREWALL_REMEDY
                    if "nftables" in str(exc.explanation)
                    else f"Name the address that other nodes reach this one at: "
                    f"{ADVERTISE_VARIABLE}=ADDRESS.",
                ) from exc
        step.done(f"made, this node is at {address}")


def require_manager(client: docker.DockerClient) -> None:
    """Raise JhswarmdError unless this engine is a manager of a swarm. Changes nothing."""
    with engine_errors("asking for the swarm"):
        swarm = client.info()["Swarm"]
    state = swarm.get("LocalNodeState", "")
    if state == "active" and swarm.get("ControlAvailable"):
        return
    if state == "inactive":
        raise JhswarmdError(
            "This machine is in no swarm",
            why="there is no deployment without one",
            remedy="Run this on a manager of the deployment's swarm, or make a deployment here: "
            "'make up'.",
        )
    raise _unusable_swarm(state, swarm)


def advertise_address() -> str:
    """Return the address at which other nodes will reach this one.

    That of the default route's interface: a swarm keeps the address it was made with, and one made
    with 127.0.0.1 could never take in a second node. Without a route there is nobody to reach.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: the kernel only chooses the source address. The target is an
            # address for documentation (RFC 5737).
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def has_ipvs() -> bool:
    """Tell whether this machine's kernel has IPVS: virtual addresses and the mesh need it.

    The engine loads it at need, so that it may be absent from the list of modules and still be
    had: hence the attempt.
    """
    if _IPVS.exists():
        return True
    modprobe = _which("modprobe")
    if modprobe is None:
        return False
    subprocess.run([modprobe, "--quiet", "ip_vs"], capture_output=True, check=False)
    return _IPVS.exists()


def has_vxlan() -> bool:
    """Tell whether this machine's kernel has VXLAN, or a module for it: overlays are made of it."""
    modprobe = _which("modprobe")
    if _VXLAN.exists() or modprobe is None:
        return _VXLAN.exists()
    look = [modprobe, "--dry-run", "--quiet", "vxlan"]
    return subprocess.run(look, capture_output=True, check=False).returncode == 0


# -- an engine of ours ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _State:
    """The folder that knows about an engine of ours."""

    folder: Path

    @classmethod
    def default(cls) -> _State:
        return cls(Path(os.environ.get(STATE_DIR_VARIABLE) or DEFAULT_STATE_DIR))

    @property
    def log(self) -> Path:
        return self.folder / "dockerd.log"

    @property
    def record(self) -> Path:
        """Holds ``PID STARTED``: by both a process is known, for numbers are used again."""
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
    """Return when a dockerd was started, in the kernel's ticks; empty for any other process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # PID (NAME) STATE ...: the name may hold anything, so count from its end.
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    is_ended = fields[0] in "ZX"
    return fields[19] if name == "dockerd" and not is_ended else ""


def _install(progress: Progress) -> None:
    lacking = []
    if _which("dockerd") is None:
        lacking.append("docker.io")
    if _which("iptables") is None:
        lacking.append("iptables")
    if lacking:
        host.apt_install(lacking, progress, what_for="A Docker Engine")
    if _which("docker") is None:
        # Debian 13 and later: the command is a package of its own.
        host.apt_install(["docker-cli"], progress, what_for="The docker command")


def _start(step: Step) -> docker.DockerClient:
    found: list[docker.DockerClient] = []

    def answers() -> bool:
        with contextlib.suppress(JhswarmdError):
            found.append(connect())
        return bool(found)

    state = _State.default()
    # Installing the package started it, or an interrupted run did.
    if answers():
        return found[0]
    is_ours = not _SYSTEMD.is_dir()
    if is_ours and state.read_alive() is None:
        _run_dockerd(state)
    elif not is_ours:
        host.run_shown(
            ["systemctl", "start", "docker"],
            step,
            remedy="'journalctl -u docker' tells why the engine does not start.",
        )
    log = str(state.log) if is_ours else "journalctl -u docker"

    def is_over() -> bool:
        return answers() or (is_ours and state.read_alive() is None)

    if not _wait(is_over, START_S, step, f"log: {log}") or not found:
        raise JhswarmdError(
            "The Docker Engine does not start",
            output=state.read_log_tail(),
            remedy=f"Its log tells why: {log}",
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
            # It looks for iptables, containerd and runc.
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"},
            # A session of its own: no hang-up and no Ctrl-C of the terminal reaches it.
            start_new_session=True,
        )
    state.write(process.pid)


def _wait(is_over: Callable[[], bool], limit_s: float, step: Step, detail: str) -> bool:
    """Poll until ``is_over``; return whether it came true in time."""
    deadline = time.monotonic() + limit_s
    while not is_over():
        if time.monotonic() > deadline:
            return False
        step.update(detail)
        time.sleep(_POLL_S)
    return True


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=_SYSTEM_PATH)


def _version(client: docker.DockerClient) -> str:
    with engine_errors("asking for the engine's version"):
        return f"version {client.info()['ServerVersion']}"


def _unusable_swarm(state: str, swarm: dict[str, object]) -> JhswarmdError:
    if state == "active":
        return JhswarmdError(
            "This node is a worker of its swarm",
            why="a worker knows nothing of services",
            remedy="Run this on a manager ('docker node ls' there lists them), or make this node "
            "one: 'docker node promote' on a manager.",
        )
    remedy = {
        "locked": "Unlock it: 'docker swarm unlock'.",
        "pending": "It is joining a swarm: run this again when it has.",
    }.get(state, "See 'docker info'; a swarm is never left on its own account.")
    return JhswarmdError(
        f"This node's swarm is in the state '{state}'",
        why=str(swarm.get("Error") or ""),
        remedy=remedy,
    )
