"""A deployed stack for what is measured on one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Report
from tests.kit.lab import Lab
from tests.kit.stack import Stack


@contextlib.contextmanager
def deployed(lab: Lab, report: Report, users: str | None = None) -> Iterator[Stack]:
    """Have a stack up for a block; ``users`` takes the place of the test suite's list."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(lab, Path(folder))
        if users is not None:
            (Path(folder) / stack.profile / "user_list.txt").write_text(users)
        report("a deployed stack, images included", 0)
        stack.up()
        try:
            yield stack
        finally:
            stack.down()
