"""The product's images, built once in a run of the tests and handed to each of its engines."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.kit.lab import Lab

_PREFIX = "jhswarmd-images-"
#: Not /tmp, which is often in memory: it is most of a gigabyte.
_WORK_ROOT = Path("/var/tmp")
_COPY_S = 300


class SharedImages:
    """A directory in which the first engine leaves its images for the others.

    ``make`` it once for a run and ``remove`` it at the end; what a run that was killed has left is
    removed by the next. The run's other processes get at it by its path.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._archive = directory / "images.tar"

    @classmethod
    def make(cls) -> SharedImages:
        """Make an empty one; it lasts until ``remove`` or the end of this process."""
        _remove_leftovers()
        # Locked under another name first: one without a lock is a dead run's.
        hidden = Path(tempfile.mkdtemp(prefix=".jhswarmd-", dir=_WORK_ROOT))
        made = cls(_WORK_ROOT / f"{_PREFIX}{hidden.name.removeprefix('.jhswarmd-')}")
        made._owner = (hidden / "owner").open("w")
        fcntl.flock(made._owner, fcntl.LOCK_EX)
        hidden.rename(made.directory)
        return made

    def remove(self) -> None:
        """Remove it with all that it holds."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self._owner.close()

    @contextlib.contextmanager
    def made_by(self, lab: Lab) -> Iterator[None]:
        """Keep the images that the lab's engine has after the block, if there are none yet.

        Until then the run's other processes wait.
        """
        with self._locked():
            yield
            if not self._archive.exists():
                self._save(lab)

    def load_into(self, lab: Lab) -> None:
        """Give the images to the lab's engine, if there are any."""
        with self._locked():
            if self._archive.exists():
                argv = ["docker", "load", "--quiet", "--input", self._archive]
                lab.run(argv, timeout_s=_COPY_S)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _save(self, lab: Lab) -> None:
        tags = (tag for image in lab.client.images.list() for tag in image.tags)
        ours = sorted(tag for tag in tags if "jhswarmd" in tag)
        half = self._archive.with_suffix(".half")
        lab.run(["docker", "save", "--output", half, *ours], timeout_s=_COPY_S)
        half.rename(self._archive)


def _remove_leftovers() -> None:
    for directory in _WORK_ROOT.glob(_PREFIX + "*"):
        # In use, gone meanwhile, or another user's.
        with contextlib.suppress(OSError), (directory / "owner").open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
