"""Programs that a deployment runs on the host, with their output shown and failures explained."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections import deque
from collections.abc import Sequence

from jhswarmd.deploy.progress import Progress, Step
from jhswarmd.errors import JhswarmdError

#: Lines of a failed program's output that are shown.
TAIL_LINES = 15


def is_root() -> bool:
    """Return whether this process may install packages and start an engine."""
    return os.geteuid() == 0


def os_release() -> dict[str, str]:
    """Return the system's os-release data; empty if there is none."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def has_apt() -> bool:
    """Return whether this is Debian or a derivative."""
    return shutil.which("apt-get") is not None


def run_shown(
    command: Sequence[str], step: Step, *, remedy: str, env: dict[str, str] | None = None
) -> None:
    """Run a program to its end, showing each line of its output as the step's latest detail.

    ``env`` is added to the environment. Raises JhswarmdError with the last lines and ``remedy``.
    """
    lines: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
        )
    except OSError as exc:
        raise JhswarmdError(f"{command[0]} cannot be run", why=str(exc), remedy=remedy) from exc
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            step.update(line)
    if process.returncode != 0:
        raise JhswarmdError(
            f"'{' '.join(command[:2])}' failed with exit code {process.returncode}",
            output=lines,
            remedy=remedy,
        )


def apt_update(step: Step) -> None:
    """Refresh the package lists."""
    run_shown(
        ["apt-get", "update"],
        step,
        remedy="Make 'apt-get update' work on this machine, then run this again.",
        env={"DEBIAN_FRONTEND": "noninteractive"},
    )


def apt_install(packages: Sequence[str], progress: Progress, *, what_for: str) -> None:
    """Install Debian packages. Raises JhswarmdError if that is not possible."""
    names = " ".join(packages)
    manually = f"Install {names} with this machine's package manager, then run this again."
    if not has_apt():
        raise JhswarmdError(
            f"{what_for} needs {names}", why="this machine has no apt-get", remedy=manually
        )
    if not is_root():
        raise JhswarmdError(
            f"{what_for} needs {names}",
            why="only root may install packages",
            remedy=f"Run this again as root, or first: sudo apt-get install {names}",
        )
    with progress.step(f"Installing {names}") as step:
        apt_update(step)
        run_shown(
            [
                "apt-get",
                "install",
                "--yes",
                "--no-install-recommends",
                # Wait for another running apt instead of failing immediately.
                "-o",
                "DPkg::Lock::Timeout=120",
                *packages,
            ],
            step,
            remedy=manually,
            env={"DEBIAN_FRONTEND": "noninteractive"},
        )
