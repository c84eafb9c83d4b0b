"""A Docker Engine of the suite's own, in namespaces of its own, beside whatever else runs here.

Guarantees:

- The engine shares no network, process table, socket, store, identity or configuration with an
  engine of the host, and neither do programs started by ``Lab.run``: there
  ``/var/run/docker.sock``, ``localhost:5000`` and port 443 are the lab's.
- The engine is the host's, or that of a Debian release (``release``), which then runs in that
  release's root file system (tests/kit/debian.py) with the same paths of sockets, store and
  files in /var/tmp and /tmp. Programs started by ``Lab.run`` are the host's in both cases.
- The host reaches what the lab publishes at ``Lab.address``; the lab reaches the outside, so
  that builds find their package mirrors.
- ``close`` removes all of it, also after a start that failed half-way. When the suite is killed
  hard the kernel ends every process of the lab, and the next lab removes the rest.

The first process of the lab is its init: the namespaces live exactly as long as it does, and every
other process of the lab, containers included, ends with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests
from docker.models.services import Service, ServiceCollection

from tests.kit import debian
from tests.kit.debian import apt
from tests.kit.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
NAME_PREFIX = "jhswarmd-lab-"
_VETH_PREFIX = "jhl"
SMALL_IMAGE = "jhswarmd-lab/small:1"

#: Not /tmp, which is often in memory: an engine's store needs a real disk.
_WORK_ROOT = Path("/var/tmp")
#: Ranges that hardly anybody routes: benchmarks (RFC 2544), then corners of the private ones.
#: None of them is used by the stack's overlays (10.128.0.0/15) or the engine's pools (10.0.0.0/16).
_RANGES = ("198.18.0.0/15", "10.213.0.0/16", "192.168.213.0/24")
_ENGINE_START_S = 60
_ENGINE_STOP_S = 40
_CALL_S = 60
_FIRST_HEARTBEAT_S = 8.0
_LOG_LINES = 40
_LINE_LENGTH = 300

_PACKAGES = {
    "dockerd": "docker.io",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mmdebstrap": "mmdebstrap",
}

# Runs as the lab's init. A shell cannot: it reaps no adopted children (containers' shims).
_INIT = """
import os, signal, subprocess, sys
name, resolv_conf, resolv_target = sys.argv[1:]
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
def call(*argv):
    subprocess.run(argv, check=True)
call("hostname", name)
for directory in ("/run", "/etc/docker"):  # sockets; the engine's identity and configuration
    call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory)
os.makedirs("/run/lock", exist_ok=True)
os.makedirs(os.path.dirname(resolv_target), exist_ok=True)
open(resolv_target, "a").close()
call("mount", "--bind", resolv_conf, resolv_target)
call("ip", "link", "set", "lo", "up")
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # adopted children are reaped by the kernel
print("ready", flush=True)
while True:
    signal.pause()
"""

# Enters a release's root and becomes its engine. With pivot_root: from a root entered by chroot the
# engine cannot run programs in containers, health checks among them. The root is shared, so that
# nothing is written to it.
_ENTER_ROOT = """
set -eu
root=$1; shift
mount --make-rprivate /
mount --bind -o ro "$root" "$root"
for directory in dev proc sys run tmp var/tmp etc/docker etc/ssl/certs; do
    mount --rbind "/$directory" "$root/$directory"
done
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
for directory in opt var/lib; do  # containerd and Swarm make directories there
    mount -t tmpfs tmpfs "$root/$directory"
done
cd "$root"
pivot_root . mnt
exec chroot . /bin/sh -c 'umount -l /mnt; exec "$@"' sh "$@"
"""

# Answers every request, the way a notebook server answers its hub, and stops at once when told.
_SMALL_SERVER = '''#!/usr/bin/python3
"""A stand-in for a notebook server: one page for every path."""
import http.server, json, os, signal, sys, urllib.parse

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({"version": "0", "path": self.path, "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-JupyterHub-Version", os.environ.get("JUPYTERHUB_VERSION", ""))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    do_HEAD = do_POST = do_GET

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
url = urllib.parse.urlsplit(os.environ.get("JUPYTERHUB_SERVICE_URL", ""))
port = int(sys.argv[1]) if sys.argv[1:] and sys.argv[1].isdigit() else url.port or 8888
print("listening on", port, flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
'''


class LabError(Exception):
    """The lab cannot be built here. Says why, and what to do about it."""


class CommandFailed(AssertionError):
    """A program in the lab ended with an error; shows what it wrote."""

    def __init__(self, result: subprocess.CompletedProcess[str]) -> None:
        self.result = result
        super().__init__(
            f"{shlex.join(map(str, result.args))} ended with {result.returncode}\n"
            f"--- stdout\n{_tail(result.stdout)}\n--- stderr\n{_tail(result.stderr)}"
        )


class Lab:
    """One engine in swarm mode, with a network, a process table and a store of its own.

    ``keep_dir`` keeps the engine's images there for the next lab; all else in the engine is removed
    before use. ``release`` names the Debian release whose engine runs, None is the host's;
    ``has_containerd_store`` lets the engine keep its images in containerd (from 23 on). Use it as a
    context manager, or call ``start`` and ``close``.
    """

    #: Seconds between a node's signs of life; after three of them without one Swarm ends its tasks.
    #: The engine's own 5 s end every notebook of a lab whose machine is too busy for a moment.
    heartbeat_s = 60

    def __init__(
        self,
        *,
        keep_dir: Path | None = None,
        swarm: bool = True,
        release: str | None = None,
        has_containerd_store: bool = False,
    ) -> None:
        self._keep_dir = keep_dir
        self._swarm = swarm
        self.release = release
        self.has_containerd_store = has_containerd_store
        self._engine_root: Path | None = None
        self._undo = contextlib.ExitStack()
        self._holder: subprocess.Popen[str] | None = None
        self._init_pid = 0
        self._dockerd: subprocess.Popen[bytes] | None = None
        self._dockerd_pid = 0
        self._started_at = 0.0
        self.name = ""
        self.directory = Path()
        self.address = ""
        """Where the host reaches what the lab publishes."""
        self.gateway = ""
        """Where the lab reaches the host: an address that no other lab reaches it by."""
        self.data_root = Path()
        """The engine's store."""
        self.client: docker.DockerClient = None

    def __enter__(self) -> Lab:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def socket(self) -> str:
        """Path of the engine's socket, valid on the host and in the lab."""
        return str(self.directory / "docker.sock")

    @property
    def base_url(self) -> str:
        """The engine's address as DOCKER_HOST spells it."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Build the lab. Raises LabError; what was built until then is removed."""
        try:
            self._start()
        except BaseException:  # also Ctrl-C
            self.close()
            raise

    def _start(self) -> None:
        self._prepare()
        if self.release:
            try:
                self._engine_root = debian.engine_root(self.release)
            except debian.RootError as exc:
                raise LabError(str(exc)) from exc
        self._make_directory()
        self._start_init()
        self._connect()
        self._make_data_root()
        self.start_engine()
        if self._keep_dir:
            self._empty_engine()
        if self._swarm:
            self._undo.callback(_quietly, self._leave_swarm)
            self.client.swarm.init(
                advertise_addr=self.address,
                listen_addr=self.address,
                dispatcher_heartbeat_period=self.heartbeat_s * 10**9,
            )
        self._started_at = time.monotonic()

    def close(self) -> None:
        """Remove the lab. Safe to call at any time, and twice."""
        self.resume()
        self._undo.close()

    # --- building blocks, in the order of use ---

    @staticmethod
    def _prepare() -> None:
        if os.geteuid() != 0:
            raise LabError("a network namespace needs root: run the tests as root")
        install_missing(_PACKAGES)
        install_missing({"docker": "docker-cli"})  # part of docker.io until Debian 12
        remove_leftovers()

    def _make_directory(self) -> None:
        # Locked under another name first: a directory of ours without a lock is a dead lab's.
        hidden = Path(tempfile.mkdtemp(prefix=".jhswarmd-", dir=_WORK_ROOT))
        lock = (hidden / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.name = NAME_PREFIX + secrets.token_hex(4)
        self.directory = _WORK_ROOT / self.name
        hidden.rename(self.directory)
        self._undo.callback(lock.close)
        self._undo.callback(_remove_tree, self.directory)
        (self.directory / "docker-config").mkdir()
        # Made-up ones: the engine only counts them, and tells a container which it has.
        config: dict[str, Any] = {
            "node-generic-resources": ["NVIDIA-GPU=GPU-1", "NVIDIA-GPU=GPU-2"]
        }
        if self.has_containerd_store:
            config["features"] = {"containerd-snapshotter": True}
        (self.directory / "daemon.json").write_text(json.dumps(config))
        (self.directory / "resolv.conf").write_text(_reachable_resolv_conf())

    def _start_init(self) -> None:
        self._make_mount_point(Path("/etc/docker"))
        argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--ipc"]
        argv += ["--pid", "--fork", "--kill-child", "--mount-proc"]
        argv += [sys.executable, "-I", "-S", "-c", _INIT, self.name]
        argv += [str(self.directory / "resolv.conf"), str(Path("/etc/resolv.conf").resolve())]
        log = self.directory / "init.log"
        with log.open("w") as stderr:
            self._holder = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # Ctrl-C is for us; we stop them in order
            )
        self._undo.callback(_remove_cgroups, self.name)
        self._undo.callback(self._end_namespaces)
        assert self._holder.stdout
        if self._holder.stdout.readline().strip() != "ready":
            raise LabError(
                "cannot make namespaces here (this needs root of a machine, not of a container): "
                + log.read_text()
            )
        (self._init_pid,) = children_of(self._holder.pid)

    def _make_mount_point(self, directory: Path) -> None:
        """See that a directory of the host exists, and leave it as it was found."""
        if not directory.exists():
            directory.mkdir()
            self._undo.callback(_remove_if_empty, directory)

    def _end_namespaces(self) -> None:
        assert self._holder
        # The kernel ends whatever else lives in the lab before init is gone for its parent.
        if self._init_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init_pid, signal.SIGKILL)
        else:
            self._holder.kill()
        self._holder.wait(_ENGINE_STOP_S)
        assert self._holder.stdout
        self._holder.stdout.close()

    def _connect(self) -> None:
        assert self._holder
        token = self.name.removeprefix(NAME_PREFIX)
        outer, inner = f"{_VETH_PREFIX}{token}h", f"{_VETH_PREFIX}{token}n"
        network = _free_network()
        self.gateway, self.address = (str(host) for host in network.hosts())
        self._undo.callback(_quietly, lambda: _host("ip", "link", "del", outer))
        _host("ip", "link", "add", outer, "type", "veth", "peer", inner, "netns", self._holder.pid)
        _host("ip", "address", "add", f"{self.gateway}/{network.prefixlen}", "dev", outer)
        _host("ip", "link", "set", outer, "up")
        _host(
            *self._enter(),
            "ip",
            "address",
            "add",
            f"{self.address}/{network.prefixlen}",
            "dev",
            inner,
        )
        _host(*self._enter(), "ip", "link", "set", inner, "up")
        _host(*self._enter(), "ip", "route", "add", "default", "via", self.gateway)
        self._undo.callback(_restore_forwarding, _enable_forwarding())
        self._undo.callback(_remove_rules, self.name)
        # The host's FORWARD policy is DROP once an engine has run on it.
        _add_rule(self.name, "filter", "FORWARD", "-i", outer, "-j", "ACCEPT")
        _add_rule(self.name, "filter", "FORWARD", "-o", outer, "-j", "ACCEPT")
        _add_rule(
            self.name,
            "nat",
            "POSTROUTING",
            "-s",
            str(network),
            "!",
            "-o",
            outer,
            "-j",
            "MASQUERADE",
        )

    def reach(self, other: Lab) -> None:
        """Let this lab and another talk to each other from and to their own addresses."""
        for source, target in ((self, other), (other, self)):
            # Before the rule that masquerades what leaves a lab, which is in place already.
            _add_rule(
                self.name,
                "nat",
                "POSTROUTING",
                "-s",
                source.address,
                "-d",
                target.address,
                "-j",
                "ACCEPT",
            )

    def _make_data_root(self) -> None:
        if self._keep_dir is None:
            self.data_root = self.directory / "data"
            return
        self._keep_dir.mkdir(parents=True, exist_ok=True)
        lock = (self._keep_dir / "lock").open("w")
        self._undo.callback(lock.close)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(f"{self._keep_dir} is in use by another lab") from None
        self.data_root = self._keep_dir.resolve() / "data"

    # --- the engine as a process ---

    def start_engine(self) -> None:
        """Start the engine and wait until it answers."""
        argv = ["dockerd", "--config-file", str(self.directory / "daemon.json")]
        argv += ["--data-root", str(self.data_root), "--exec-root", "/run/docker"]
        argv += ["--pidfile", "/run/docker.pid", "--cgroup-parent", f"/{self.name}"]
        argv += ["-H", self.base_url, "-H", "unix:///run/docker.sock"]
        with (self.directory / "dockerd.log").open("ab") as log:
            self._dockerd = subprocess.Popen(
                [*self._enter(), *self._enter_root(), *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ({}),
                start_new_session=True,
            )
        if self.client is None:  # the first start
            self._undo.callback(self.stop_engine)
        self._wait_for_engine()
        driver = self.client.info()["Driver"]
        if driver not in ("overlay2", "overlayfs"):
            raise LabError(
                f"the engine's store in {self.data_root} would be {driver}, not overlay2: "
                "name a directory on a real disk with --lab-dir"
            )
        if self.has_containerd_store and driver != "overlayfs":
            raise LabError("this engine cannot keep its images in containerd: it is too old")

    def _wait_for_engine(self) -> None:
        def listens() -> bool:
            assert self._dockerd
            if self._dockerd.poll() is not None:
                raise LabError(f"the lab's engine did not start:\n{self._dockerd_log()}")
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(self.socket) == 0

        try:
            wait_until(listens, _ENGINE_START_S, what="the engine listens")
            if self.client is None:  # the constructor already asks the engine for its version
                self.client = docker.DockerClient(base_url=self.base_url, timeout=_CALL_S)
                self._undo.callback(self.client.close)
            self.client.ping()  # an engine that listens may still be busy starting
        except (AssertionError, docker.errors.DockerException, requests.RequestException) as exc:
            raise LabError(f"{exc}\n{self._dockerd_log()}") from exc
        assert self._dockerd
        (self._dockerd_pid,) = children_of(self._dockerd.pid)

    def _dockerd_log(self) -> str:
        return _tail((self.directory / "dockerd.log").read_text())

    def stop_engine(self, *, kill: bool = False) -> None:
        """Stop the engine and wait for its end; ``kill`` gives it no time to stop anything."""
        if self._dockerd is None:
            return
        if self._dockerd.poll() is None:
            pids = [self._dockerd_pid] if self._dockerd_pid else children_of(self._dockerd.pid)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
            try:
                self._dockerd.wait(_ENGINE_STOP_S)
            except subprocess.TimeoutExpired:
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                self._dockerd.wait(_ENGINE_STOP_S)
        self._dockerd = None
        self._dockerd_pid = 0

    def pause(self) -> None:
        """Make the engine silent: calls hang, containers go on."""
        # Swarm takes its heartbeat from the second one on; the first comes after its own 5.5 s at
        # most. Until then a pause would end all tasks.
        time.sleep(max(0.0, self._started_at + _FIRST_HEARTBEAT_S - time.monotonic()))
        os.kill(self._dockerd_pid, signal.SIGSTOP)

    def resume(self) -> None:
        """End ``pause``; harmless when there was none."""
        # nsenter stops itself along with the engine it has started.
        for pid in (self._dockerd.pid if self._dockerd else 0, self._dockerd_pid):
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the engine for a block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def _empty_engine(self) -> None:
        """Remove all but the images: every lab starts alike."""
        self._leave_swarm()
        for container in self.client.containers.list(all=True, ignore_removed=True):
            container.remove(force=True, v=True)
        for volume in self.client.volumes.list():
            volume.remove(force=True)
        self.client.networks.prune()

    def _leave_swarm(self) -> None:
        if self._dockerd and self.client.info()["Swarm"]["LocalNodeState"] != "inactive":
            self.client.swarm.leave(force=True)

    def join(self, manager: Lab, token: str) -> None:
        """Become a node of another lab's swarm, which must be within ``reach``."""
        self._undo.callback(_quietly, self._leave_swarm)
        self.client.swarm.join(
            remote_addrs=[manager.address],
            join_token=token,
            advertise_addr=self.address,
            listen_addr=self.address,
        )

    # --- programs in the lab ---

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        check: bool = True,
        timeout_s: float = 120,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the lab, with DOCKER_HOST set and this project importable.

        Raises CommandFailed when it ends with an error and ``check`` is set, and AssertionError
        when it takes longer than ``timeout_s``; it is ended then.
        """
        process = subprocess.Popen(
            [*self._enter(), "env", "-C", cwd, *argv],
            stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environ(env or {}),
            start_new_session=True,
        )
        with process:
            try:
                out, err = process.communicate(input, timeout_s)
            except BaseException as exc:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                if not isinstance(exc, subprocess.TimeoutExpired):
                    raise
                raise AssertionError(
                    f"{shlex.join(map(str, argv))} took more than {timeout_s:g} s\n"
                    f"--- stdout\n{_tail(out)}\n--- stderr\n{_tail(err)}"
                ) from None
        result = subprocess.CompletedProcess(list(argv), process.returncode, out, err)
        if check and result.returncode:
            raise CommandFailed(result)
        return result

    def popen(
        self,
        argv: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str] | None = None,
        **kw: Any,
    ) -> subprocess.Popen[Any]:
        """Start a program in the lab as ``run`` does; it ends with the lab at the latest."""
        # A shell that runs the tests in the background has made them ignore SIGINT, and programs
        # inherit that.
        return subprocess.Popen(
            [*self._enter(), "env", "--default-signal=INT", "-C", ROOT, *argv],
            env=self._environ(env or {}),
            start_new_session=True,
            **kw,
        )

    def end(self, process: subprocess.Popen[Any], how: signal.Signals = signal.SIGTERM) -> None:
        """End what ``popen`` has started, and wait for it; ``returncode`` is the program's."""
        with process:  # closes its pipes
            # Not the process itself: that is nsenter, which would be gone before its child.
            for pid in _descendants(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self._init_pid), "-m", "-u", "-i", "-n", "-p"]

    def _enter_root(self) -> list[str]:
        """Return what goes before the engine's command line, so that it is the release's."""
        if self._engine_root is None:
            return []
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"  # the host's may name directories of its own
        enter = ["sh", "-c", _ENTER_ROOT, "sh", str(self._engine_root), "env", path]
        return ["unshare", "--mount", *enter]

    def _environ(self, extra: Mapping[str, str]) -> dict[str, str]:
        environ = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("DOCKER_", "JHSWARMD_", "COV_CORE_", "PYTEST_"))
        }
        paths = [str(ROOT), *filter(None, [environ.get("PYTHONPATH")])]
        environ.update(
            DOCKER_HOST=self.base_url,
            DOCKER_CONFIG=str(self.directory / "docker-config"),
            PYTHONPATH=os.pathsep.join(paths),
            NO_COLOR="1",
            TERM="dumb",
            COLUMNS="200",
        )
        environ.update(extra)
        return environ

    # --- what tests put into it and look at ---

    def small_image(self) -> str:
        """Return the name of a small image whose command stands in for a notebook server.

        It holds Python, and answers every request on port 8888 (or the argument, or the port of
        JUPYTERHUB_SERVICE_URL). Made once for each store.
        """
        with contextlib.suppress(docker.errors.ImageNotFound):
            self.client.images.get(SMALL_IMAGE)
            return SMALL_IMAGE
        server = self.directory / "small-server"
        server.write_text(_SMALL_SERVER)
        server.chmod(0o755)
        tar = self.directory / "small.tar"
        # Unpacked, not installed: five times as fast, and enough to run Python.
        argv = ["mmdebstrap", "--quiet", "--variant=extract"]
        argv += ["--include=python3-minimal,libpython3-stdlib,dash,coreutils"]
        argv += ["--dpkgopt=path-exclude=/usr/share/doc/*"]
        argv += ["--extract-hook=mkdir -p $1/usr/local/bin $1/root $1/home $1/var/tmp"]
        argv += ["--extract-hook=echo root:x:0:0:root:/root:/bin/sh > $1/etc/passwd"]
        argv += [f"--extract-hook=copy-in {server} /usr/local/bin", _codename(), str(tar)]
        self.run(argv, timeout_s=300)
        changes = [
            'CMD ["small-server"]',
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]
        name, tag = SMALL_IMAGE.split(":")
        self.client.api.import_image_from_file(str(tar), repository=name, tag=tag, changes=changes)
        tar.unlink()
        self.client.images.get(SMALL_IMAGE)
        return SMALL_IMAGE

    def _complaints(self) -> Iterator[str]:
        """Return what the engine itself has complained of last."""
        lines = (self.directory / "dockerd.log").read_text(errors="replace").splitlines()
        bad = [line for line in lines if "level=info" not in line and "level=debug" not in line]
        yield "engine"
        yield from (f"    | {line[:_LINE_LENGTH]}" for line in bad[-_LOG_LINES:])

    def describe(self) -> str:
        """Return services, tasks and the last log lines, for the report of a failed test."""
        client = None
        try:
            client = docker.DockerClient(base_url=self.base_url, timeout=10)
            return "\n".join([*_describe(client), *self._complaints()])
        except (docker.errors.DockerException, requests.RequestException) as exc:
            return f"the lab's engine does not answer: {exc}"
        finally:
            if client:
                client.close()


def _describe(client: docker.DockerClient) -> Iterator[str]:
    for node in client.nodes.list():
        yield f"node {node.attrs['Description']['Hostname']}  {json.dumps(node.attrs['Status'])}"
    for service in sorted(client.services.list(), key=lambda each: each.name):
        yield f"service {service.name}  {json.dumps(service.attrs['Spec'].get('Labels', {}))}"
        tasks = sorted(service.tasks(), key=lambda task: task["CreatedAt"], reverse=True)
        for task in tasks[:5]:
            status = task["Status"]
            container = status.get("ContainerStatus") or {}
            yield "  task {} desired={} state={} since={} exit={} {}".format(
                task["ID"],
                task["DesiredState"],
                status["State"],
                status.get("Timestamp"),
                container.get("ExitCode"),
                status.get("Err", ""),
            )
        # What belongs to no stack (the registry) is rarely to blame and talkative.
        if "com.docker.stack.namespace" not in service.attrs["Spec"].get("Labels", {}):
            continue
        log = client.api.service_logs(
            service.id, stdout=True, stderr=True, tail=_LOG_LINES, is_tty=False
        )
        lines = b"".join(log).decode(errors="replace").splitlines()
        yield from (f"    | {line[:_LINE_LENGTH]}" for line in lines[-_LOG_LINES:])


class Services(ServiceCollection):
    """docker-py's services, but that one which is gone right after it was made is no error.

    ``create`` looks at what it has made, and the daemon may have removed an orphan by then.
    """

    def get(
        self, service_id: str | Mapping[str, str], insert_defaults: bool | None = None
    ) -> Service:
        """Return the service; one that was just made and is gone has an id and no name."""
        try:
            return super().get(service_id, insert_defaults)
        except docker.errors.NotFound:
            if isinstance(service_id, str):
                raise
            # 'create' hands over the engine's whole answer.
            return self.prepare_model({"ID": service_id["ID"], "Spec": {"Name": ""}})


def _missing(packages: Mapping[str, str]) -> list[str]:
    return sorted({package for program, package in packages.items() if not shutil.which(program)})


def install_missing(packages: Mapping[str, str]) -> None:
    """Install the Debian packages (values) whose programs (keys) are not there."""
    if not _missing(packages):
        return
    with apt():
        # Another worker may have installed them meanwhile.
        if wanted := _missing(packages):
            _install(wanted)


def _install(wanted: Sequence[str]) -> None:
    if not shutil.which("apt-get"):
        raise LabError(f"programs of these Debian packages are missing: {' '.join(wanted)}")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (
        ["apt-get", "-qq", "update"],
        ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *wanted],
    ):
        result = subprocess.run(argv, capture_output=True, text=True, env=environ, check=False)
        if result.returncode:
            raise LabError(f"{shlex.join(argv)} failed:\n{_tail(result.stdout + result.stderr)}")


def remove_leftovers() -> None:
    """Remove what labs left whose process was killed: a directory nobody holds the lock of."""
    for directory in _WORK_ROOT.glob(NAME_PREFIX + "*"):
        try:
            with (directory / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_rules(directory.name)
                _remove_cgroups(directory.name)
                _remove_tree(directory)
        except (BlockingIOError, FileNotFoundError):
            continue


def _host(*argv: object) -> str:
    """Run a short command of the host and return what it printed."""
    words = [str(word) for word in argv]
    result = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    if result.returncode:
        raise LabError(f"{shlex.join(words)}: {(result.stderr or result.stdout).strip()}")
    return result.stdout


def _quietly(action: Callable[[], object]) -> None:
    """Do a step of the clean-up that the steps after it make superfluous."""
    with contextlib.suppress(LabError, docker.errors.DockerException, requests.RequestException):
        action()


def children_of(pid: int) -> list[int]:
    """Return the process ids of a process's children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _descendants(pid: int) -> list[int]:
    try:
        children = children_of(pid)
    except FileNotFoundError:
        return []
    return [each for child in children for each in (child, *_descendants(child))]


def _free_network() -> ipaddress.IPv4Network:
    """Choose a /30 in a range of which the host routes and owns nothing but other labs."""
    taken, others = [], []
    for route in json.loads(_host("ip", "-j", "-4", "route", "show", "table", "all")):
        if route["dst"] != "default":
            of_a_lab = str(route.get("dev", "")).startswith(_VETH_PREFIX)
            network = ipaddress.IPv4Network(route["dst"], strict=False)
            (others if of_a_lab else taken).append(network)
    for text in _RANGES:
        pool = ipaddress.IPv4Network(text)
        if any(pool.overlaps(network) for network in taken):
            continue
        start = int(pool.network_address)
        for _ in range(100):
            offset = random.randrange(pool.num_addresses // 4) * 4
            network = ipaddress.IPv4Network((start + offset, 30))
            if not any(network.overlaps(other) for other in others):
                return network
    raise LabError(
        f"the host has routes into all of {', '.join(_RANGES)}: no addresses for the lab"
    )


def _add_rule(name: str, table: str, chain: str, *rule: str) -> None:
    _host(
        "iptables", "-w", "-t", table, "-I", chain, "1", *rule, "-m", "comment", "--comment", name
    )


def _remove_rules(name: str) -> None:
    """Remove every rule of the host that carries the lab's name."""
    for table, chain in (("filter", "FORWARD"), ("nat", "POSTROUTING")):
        for line in _host("iptables", "-w", "-t", table, "-S", chain).splitlines():
            words = shlex.split(line)
            if words[0] == "-A" and name in words:
                _host("iptables", "-w", "-t", table, "-D", *words[1:])


def _enable_forwarding() -> bool:
    """Let the host forward packets; tell whether that changed it."""
    switch = Path("/proc/sys/net/ipv4/ip_forward")
    if switch.read_text().strip() == "1":
        return False
    switch.write_text("1")
    return True


def _restore_forwarding(changed: bool) -> None:
    # Whoever else has rules for forwarded packets by now (another lab, an engine) needs it on.
    rules = [
        line for line in _host("iptables", "-w", "-S", "FORWARD").splitlines() if line[:2] == "-A"
    ]
    if changed and not rules:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")


def _remove_cgroups(name: str) -> None:
    """Remove the empty control groups that the engine's containers were in."""
    for top in (*Path("/sys/fs/cgroup").glob(name), *Path("/sys/fs/cgroup").glob(f"*/{name}")):
        for directory, _, _ in os.walk(top, topdown=False):
            _remove_if_empty(Path(directory))


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()


def _remove_tree(directory: Path) -> None:
    subprocess.run(["rm", "-rf", "--one-file-system", str(directory)], check=False)


def _reachable_resolv_conf() -> str:
    """Return a resolv.conf that works from another network namespace."""
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if not path.exists():
            continue
        text = path.read_text()
        servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
        if servers and not any(server.startswith("127.") or server == "::1" for server in servers):
            return text
    raise LabError(
        "the host's DNS server is on its loopback address, which the lab cannot reach: "
        "name one in /etc/resolv.conf that is not"
    )


def _codename() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    release = dict(line.split("=", 1) for line in lines if "=" in line)
    if "VERSION_CODENAME" not in release:
        raise LabError("/etc/os-release names no release: small images need Debian or a derivative")
    return release["VERSION_CODENAME"].strip('"')


def _tail(text: str | None, lines: int = _LOG_LINES) -> str:
    return "\n".join((text or "").splitlines()[-lines:])


def free_port() -> int:
    """Return a TCP port of the host's loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
