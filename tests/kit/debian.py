"""Root file systems of Debian releases, made from the package mirror and kept between runs.

A root is made once for each release and list of packages, by whoever needs it first, in half a
minute; the others wait. It is read-only for everybody: a lab mounts it, a machine copies it. To get
newer packages remove ``ROOTS``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOTS = Path("/var/tmp/jhswarmd-roots")
#: Engines that the product is tested with, by the Debian release that ships them.
RELEASES = {"bookworm": "20.10", "trixie": "26.1", "forky": "28.5"}

#: The engine and what it calls. Mount points come with them, see ``_finish``.
ENGINE_PACKAGES = (
    "docker.io",
    "iptables",
    "tini",
    "base-files",
    "dash",
    "coreutils",
    "mount",
    "util-linux",
)
_MAKE_S = 600
#: What the packages' scripts would have made; nothing else of theirs is needed to run an engine.
_FINISH = r"""
set -eu
cd "$1"
for program in usr/sbin/*-nft usr/sbin/*-nft-save usr/sbin/*-nft-restore; do
    name=$(basename "$program" | sed s/-nft//)
    ln -sf "$(basename "$program")" "usr/sbin/$name"
done
mkdir -p dev proc sys run tmp root mnt opt etc/docker etc/ssl/certs var/tmp
rm -rf var/run  # a directory until the package is configured
ln -s /run var/run
: > etc/resolv.conf
printf '127.0.0.1 localhost\n' > etc/hosts
printf 'root:x:0:0:root:/root:/bin/sh\n' > etc/passwd
printf 'root:x:0:\ndocker:x:999:\n' > etc/group
"""


class RootError(Exception):
    """A root cannot be made here; says why."""


def engine_root(release: str) -> Path:
    """Return a directory that holds a release's engine; unpacked, not installed. Read-only.

    Raises RootError.
    """
    return _root(release, ENGINE_PACKAGES, "extract", _FINISH)


def machine_root(release: str, packages: Sequence[str]) -> Path:
    """Return a directory that holds a release with these packages installed. Read-only.

    Raises RootError.
    """
    return _root(release, packages, "minbase", "")


def client_plugins() -> Path:
    """Return a directory with buildx for the machine's own ``docker`` command. Read-only.

    That of the first Debian release that has it: its libc is old enough. Raises RootError.
    """
    return _root("trixie", ("docker-buildx",), "extract", "") / "usr/libexec/docker/cli-plugins"


def mirror() -> str:
    """Return the address of the Debian mirror that this machine itself installs from.

    Raises RootError.
    """
    found = _mirrors()
    if not found:  # apt has no lists yet to tell by
        with apt():
            _call(["apt-get", "-qq", "update"])
        found = _mirrors()
    if not found:
        raise RootError("this machine installs nothing from a mirror of Debian")
    return found[0]


def _mirrors() -> list[str]:
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)"]
    argv += ["Created-By: Packages", "Origin: Debian"]
    out = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    # Those of updates and of security are for one release alone.
    return [line.split("|")[0] for line in out.splitlines() if "-" not in line.split("|")[1]]


@contextmanager
def apt() -> Iterator[None]:
    """Wait for the suite's other workers to be done with apt: it refuses to work twice at once."""
    with _locked(Path("/var/tmp/jhswarmd-apt.lock")):
        yield


def _root(release: str, packages: Sequence[str], variant: str, finish: str) -> Path:
    if release not in RELEASES:
        raise RootError(f"{release} is not one of the Debian releases {', '.join(RELEASES)}")
    key = "\0".join((release, variant, finish, *packages))
    root = ROOTS / f"{release}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if root.exists():
        return root
    ROOTS.mkdir(parents=True, exist_ok=True)
    with _locked(ROOTS / f"{root.name}.lock"):
        if not root.exists():  # another process may have made it meanwhile
            _make(root, release, packages, variant, finish)
    return root


def _make(root: Path, release: str, packages: Sequence[str], variant: str, finish: str) -> None:
    # Under another name until it is complete: a run that is killed leaves nothing that looks so.
    made = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=ROOTS))
    argv = ["mmdebstrap", "--quiet", f"--variant={variant}", f"--include={','.join(packages)}"]
    # The release in preparation: a mirror's copy may be older than its own date of expiry.
    argv += ['--aptopt=Acquire::Check-Valid-Until "false"']
    argv += ["--dpkgopt=path-exclude=/usr/share/doc/*"]
    argv += ["--dpkgopt=path-exclude=/usr/share/man/*"]
    # An older release may not have the newer one's keys; the mirror is this machine's own.
    argv += [release, str(made), f"deb [trusted=yes] {mirror()} {release} main"]
    try:
        _call(argv)
        if finish:
            _call(["sh", "-c", finish, "sh", str(made)])
        made.chmod(0o755)
        made.rename(root)
    finally:
        if made.exists():
            shutil.rmtree(made, ignore_errors=True)


def _call(argv: Sequence[str]) -> None:
    result = subprocess.run(
        argv, capture_output=True, text=True, timeout=_MAKE_S, check=False, env=_environ()
    )
    if result.returncode:
        tail = "\n".join(result.stderr.splitlines()[-40:])
        raise RootError(f"{shlex.join(argv[:2])} ... failed:\n{tail}")


def _environ() -> dict[str, str]:
    return {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
