"""Prometheus' own tool reads the alert rules, and what the daemon tells."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from jhswarmd import metrics
from tests.kit.lab import ROOT, apt, install_missing

FOLDER = ROOT / "docs" / "monitoring"


@pytest.fixture(scope="module")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of promtool, of the machine or out of Debian's package.

    The package is only unpacked: installed, it would start a Prometheus.
    """
    if found := shutil.which("promtool"):
        return found
    install_missing({"dpkg-deb": "dpkg"})
    directory = tmp_path_factory.mktemp("prometheus")
    with apt():
        for argv in (
            ["apt-get", "-qq", "update"],
            ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "prometheus"],
        ):
            subprocess.run(argv, cwd=directory, check=True, timeout=120)
    (package,) = directory.glob("*.deb")
    unpack = ["dpkg-deb", "--extract", package, directory / "root"]
    subprocess.run(unpack, check=True, timeout=120)
    return str(directory / "root" / "usr" / "bin" / "promtool")


def _run(promtool: str, *args: str, cwd: Path = FOLDER, text: str = "") -> str:
    """Run promtool, and return what it wrote. Raises AssertionError when it found something."""
    result = subprocess.run(
        [promtool, *args], cwd=cwd, input=text, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_alert_rules_are_valid(promtool: str) -> None:
    assert "SUCCESS" in _run(promtool, "check", "rules", "alerts.yml")


def test_alerts_are_raised_when_they_should_and_only_then(promtool: str) -> None:
    assert "SUCCESS" in _run(promtool, "test", "rules", "alerts_test.yml")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sum(jhswarmd_duty) == 0", "sum(jhswarmd_duty) < 0"),
        ("> 300", "> 30000"),
        ("max(jhswarmd_orphans_held) > 0", "max(jhswarmd_orphans_held) > 9"),
        ("[10m])) > 0.1", "[10m])) > 10"),
    ],
)
def test_a_rule_that_is_wrong_would_be_found(
    promtool: str, tmp_path: Path, right: str, wrong: str
) -> None:
    rules = (FOLDER / "alerts.yml").read_text()
    assert right in rules
    (tmp_path / "alerts.yml").write_text(rules.replace(right, wrong))
    shutil.copy(FOLDER / "alerts_test.yml", tmp_path)
    with pytest.raises(AssertionError, match="FAILED"):
        _run(promtool, "test", "rules", "alerts_test.yml", cwd=tmp_path)


def test_prometheus_has_nothing_to_say_against_the_names_of_metrics(promtool: str) -> None:
    text = generate_latest(metrics.REGISTRY).decode()
    assert "jhswarmd_duty" in text
    assert _run(promtool, "check", "metrics", text=text) == ""
