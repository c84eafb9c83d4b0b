"""A site's own files in ``conf.d``, on a real engine: tried out by ``up``, and what they do."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from jhswarmd import assets, labels
from tests.lab import Lab
from tests.stack import UP_S, Stack

FILES = {
    "10-older.py": """
c.JupyterHub.spawner_class = "dockerspawner.SwarmSpawner"
c.JupyterHub.hub_port = 8080
c.JupyterHub.services = [{"name": "cull-idle", "command": ["python3", "cull.py"]}]
c.SwarmSpawner.placement = ["node.role == worker"]
c.DockerSpawner.hub_ip_connect = "site-hub"
c.SwarmSpawner.network_name = "swarm_jupyterhub-net"
""",
    "20-broken.py": "import nativeauthenticator\n",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the project, whose conf.d is a test's own."""
    for name in ("jhswarmd", "hub_config", "dockerfiles", "locks", "env"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(assets.ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(assets.STACK_FILE, tmp_path)
    return tmp_path


def test_up_names_all_that_cannot_work_and_touches_nothing(
    engine: Lab, stack: Stack, checkout: Path
) -> None:
    for name, text in FILES.items():
        (checkout / "hub_config" / "conf.d" / name).write_text(text)
    before = [each["Version"] for each in engine.client.api.services()]
    result = engine.run(
        [sys.executable, "-m", "jhswarmd", "up", "--env", stack.profile],
        check=False,
        timeout_s=UP_S,
        env={"PYTHONPATH": str(checkout), "JHSWARMD_ENV_DIR": str(stack.env_dir)},
        cwd=checkout,
    )
    assert result.returncode == 1, result.stderr
    for words in (
        "10-older.py, line 2: c.JupyterHub.spawner_class = 'dockerspawner.SwarmSpawner' cannot",
        "10-older.py, line 3: c.JupyterHub.hub_port = 8080 cannot work here",
        "10-older.py, line 4: the service 'cull-idle'",
        "10-older.py, line 5: c.SwarmSpawner.placement is an option of an older spawner",
        "warning hub_config/conf.d/10-older.py, line 6: c.DockerSpawner.hub_ip_connect",
        "c.SwarmSpawner.network_name = 'swarm_jupyterhub-net' cannot work here",
        "20-broken.py, line 1: ModuleNotFoundError: No module named 'nativeauthenticator'",
        "Nothing was deployed",
    ):
        assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert [each["Version"] for each in engine.client.api.services()] == before
    mark = {"label": labels.REHEARSAL}
    assert engine.client.containers.list(all=True, filters=mark) == []
