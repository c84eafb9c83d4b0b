"""A fresh Debian machine of any release, for running the product as a stranger with it would.

It has the namespaces and the network of a lab (tests/kit/lab.py), and a root file system of its own
that holds what ``make up`` takes for granted: Python, make, git. It installs its engine itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.kit import debian
from tests.kit.lab import ROOT, CommandFailed, Lab, LabError, children_of

PACKAGES = (
    "ca-certificates",
    "python3",
    "git",
    "make",
    "iproute2",
    "procps",
    "mount",
    "util-linux",
)
CLONE = "/root/jhswarmd"
_CERTIFICATES = Path("/usr/local/share/ca-certificates")
_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_ENTER = """
set -eu
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
for directory in dev proc sys; do mount --rbind "/$directory" "$root/$directory"; done
for directory in run tmp; do mount -t tmpfs -o mode=1777 tmpfs "$root/$directory"; done
mkdir "$root/run/lock"
cd "$root"
pivot_root . mnt
exec chroot . /bin/sh -c 'umount -l /mnt; echo ready; exec sleep infinity'
"""
# The product makes a base of this release with it. A mirror's copy of the release in preparation
# may be older than its own date of expiry.
_MMDEBSTRAP = """#!/bin/sh
[ -x /usr/bin/mmdebstrap ] || {
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends mmdebstrap >/dev/null 2>&1
}
exec /usr/bin/mmdebstrap --aptopt='Acquire::Check-Valid-Until "false"' "$@"
"""


class Machine(Lab):
    """A machine of a Debian release with a copy of this tree in ``CLONE`` and no engine yet."""

    def __init__(self, release: str) -> None:
        super().__init__(swarm=False)
        self._of = release
        self._shell: subprocess.Popen[str] | None = None
        self._shell_pid = 0

    @property
    def root(self) -> Path:
        """The machine's root file system, as the host sees it."""
        return self.directory / "root"

    def _start(self) -> None:
        self._prepare()
        self._make_directory()
        self._start_init()
        self._connect()
        self._make_root()
        self._enter_machine()

    def _make_root(self) -> None:
        try:
            template = debian.machine_root(self._of, PACKAGES)
        except debian.RootError as exc:
            raise LabError(str(exc)) from exc
        subprocess.run(["cp", "-a", str(template), str(self.root)], check=True)
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        shutil.copy(self.directory / "resolv.conf", etc / "resolv.conf")
        # What this machine needs to reach package mirrors, that one needs too.
        if _CERTIFICATES.is_dir():
            target = self.root / _CERTIFICATES.relative_to("/")
            shutil.copytree(_CERTIFICATES, target, dirs_exist_ok=True)
        shutil.copy(_BUNDLE, self.root / _BUNDLE.relative_to("/"))
        for path in (Path("/etc/pip.conf"), Path("/root/.npmrc")):
            if path.exists():
                shutil.copy(path, self.root / path.relative_to("/"))
        (etc / "docker").mkdir(exist_ok=True)
        # Its containers end with the machine, and their control groups are removed with the lab's.
        (etc / "docker" / "daemon.json").write_text(json.dumps({"cgroup-parent": f"/{self.name}"}))
        wrapper = self.root / "usr/local/bin/mmdebstrap"
        wrapper.write_text(_MMDEBSTRAP)
        wrapper.chmod(0o755)
        clone = self.root / CLONE.removeprefix("/")
        clone.mkdir()
        script = 'git -C "$1" ls-files -z | tar -C "$1" --null -T - -c | tar -C "$2" -x'
        subprocess.run(["sh", "-c", script, "sh", str(ROOT), str(clone)], check=True)

    def _enter_machine(self) -> None:
        argv = ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(self.root)]
        self._shell = subprocess.Popen(
            [*super()._enter(), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._undo.callback(self._leave_machine)
        assert self._shell.stdout
        if self._shell.stdout.readline().strip() != "ready":
            raise LabError("the machine's root cannot be entered")
        (self._shell_pid,) = children_of(self._shell.pid)

    def _leave_machine(self) -> None:
        assert self._shell
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._shell_pid or self._shell.pid, signal.SIGKILL)
        self._shell.wait(30)
        assert self._shell.stdout
        self._shell.stdout.close()

    def shell(
        self, command: str, *, check: bool = True, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine's clone, as its root and with its own programs."""
        argv = ["nsenter", "-t", str(self._shell_pid), "-m", "-u", "-i", "-n", "-p"]
        argv += ["env", "-i", *(f"{key}={value}" for key, value in self._machine_environ().items())]
        argv += ["bash", "-c", f"cd {CLONE} && {command}"]
        result = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and result.returncode:
            raise CommandFailed(result)
        return result

    @staticmethod
    def _machine_environ() -> Mapping[str, str]:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        bundles = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
        environ = {"HOME": "/root", "TERM": "dumb", "LANG": "C.UTF-8", "PATH": path}
        return environ | dict.fromkeys(bundles, str(_BUNDLE))
