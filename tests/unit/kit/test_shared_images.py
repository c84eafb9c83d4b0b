"""Images that one engine of a run has built reach the others, and no run leaves any."""

from __future__ import annotations

import fcntl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.kit import shared_images
from tests.kit.shared_images import SharedImages


class FakeLab:
    """Keeps what it was told to run."""

    def __init__(self, *tags: str) -> None:
        self.ran: list[list[str]] = []
        images = [SimpleNamespace(tags=[tag]) for tag in tags]
        self.client = SimpleNamespace(images=SimpleNamespace(list=lambda: images))

    def run(self, argv: list[Any], **_: Any) -> None:
        self.ran.append([str(word) for word in argv])
        if "save" in argv:
            Path(argv[argv.index("--output") + 1]).write_text("images")


@pytest.fixture(autouse=True)
def _work_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_images, "_WORK_ROOT", tmp_path)


def test_first_engine_saves_ours_and_the_next_loads_them(tmp_path: Path) -> None:
    images = SharedImages.make()
    first, second = FakeLab("localhost:5000/jhswarmd/hub:1", "somebody/else:1"), FakeLab()
    images.load_into(second)
    assert second.ran == []
    with images.made_by(first):
        pass
    with images.made_by(first):
        pass
    (saved,) = first.ran
    assert saved[:2] == ["docker", "save"]
    assert saved[-1] == "localhost:5000/jhswarmd/hub:1"
    SharedImages(images.directory).load_into(second)
    assert second.ran[0][:2] == ["docker", "load"]
    images.remove()
    assert list(tmp_path.iterdir()) == []


def test_failed_build_leaves_no_images_for_others() -> None:
    images, lab = SharedImages.make(), FakeLab()
    with pytest.raises(ZeroDivisionError), images.made_by(lab):
        raise ZeroDivisionError
    images.load_into(lab)
    assert lab.ran == []
    images.remove()


def test_what_a_killed_run_left_is_removed_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    left = tmp_path / "jhswarmd-images-left"
    left.mkdir()
    (left / "owner").touch()
    in_use = SharedImages.make()
    assert not left.exists()
    other = SharedImages.make()
    assert in_use.directory.exists()
    with (in_use.directory / "owner").open() as owner, pytest.raises(BlockingIOError):
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    in_use.remove()
    other.remove()
