"""Imports point one way; pyproject.toml says which."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_imports_keep_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    cli = pytest.importorskip("importlinter.cli", reason="needs import-linter: make lint")
    config = Path(__file__).parents[2] / "pyproject.toml"
    exit_code = cli.lint_imports(config_filename=str(config), no_cache=True)
    assert exit_code == 0, capsys.readouterr().out
