"""Imports point one way; pyproject.toml says which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_imports_keep_the_rules() -> None:
    pytest.importorskip("importlinter", reason="needs import-linter: make lint")
    # A process of its own: it silences every logger that exists.
    argv = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    root = Path(__file__).parents[2]
    result = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
