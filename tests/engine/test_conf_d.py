"""A site's own files in ``conf.d``, on a real engine: tried out by ``up``, and what they do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from jhswarmd import assets, labels
from tests.kit.lab import Lab
from tests.kit.stack import UP_S, Stack
from tests.kit.wait import wait_until

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


#: Works: users without an account, a service that ends at once, a hook that asks for too much.
GOOD = """
import sys
c.JupyterHub.load_groups = {"physics": {"users": ["alice", "no-account"]}}
c.JupyterHub.load_roles = [{"name": "helpers", "scopes": ["list:users"], "users": ["nobody-yet"]}]
c.JupyterHub.services = [
    {"name": "ends", "url": "http://hub:9009", "command": [sys.executable, "-c", "exit(3)"]}
]
c.DockerSpawner.name_template = "{prefix}-{username}-{servername}"
async def hook(spawner):
    if spawner.user.name == "bob":
        spawner.extra_host_config = {"shm_size": "1g"}
c.Spawner.pre_spawn_hook = hook
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the project, whose conf.d is a test's own."""
    for name in ("jhswarmd", "hub_config", "dockerfiles", "locks", "env"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(assets.ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(assets.STACK_FILE, tmp_path)
    return tmp_path


def up(
    engine: Lab, stack: Stack, checkout: Path, files: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Deploy ``checkout`` with these files in its conf.d."""
    for name, text in files.items():
        (checkout / "hub_config" / "conf.d" / name).write_text(text)
    return engine.run(
        [sys.executable, "-m", "jhswarmd", "up", "--env", stack.profile],
        check=False,
        timeout_s=UP_S,
        env={"PYTHONPATH": str(checkout), "JHSWARMD_ENV_DIR": str(stack.env_dir)},
        cwd=checkout,
    )


def test_up_names_all_that_cannot_work_and_touches_nothing(
    engine: Lab, stack: Stack, checkout: Path
) -> None:
    before = [each["Version"] for each in engine.client.api.services()]
    result = up(engine, stack, checkout, FILES)
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


@pytest.fixture
def as_before(stack: Stack) -> Iterator[None]:
    """Deploy what the other tests expect afterwards."""
    yield
    stack.up()


@pytest.mark.usefixtures("as_before")
def test_a_hub_with_such_files_stays_up(engine: Lab, stack: Stack, checkout: Path) -> None:
    result = up(engine, stack, checkout, {"10-good.py": GOOD})
    assert result.returncode == 0, result.stderr
    hub = stack.container("hub")  # not those before it, whose logs say what earlier tests did

    def log() -> str:
        return str(hub.logs().decode(errors="replace"))

    wait_until(lambda: "The service ends does not run" in log(), 30)
    assert "Traceback" not in log()
    with stack.login("alice") as alice:
        assert "physics" in alice.request("GET", "/hub/api/user").json()["groups"]
        alice.start_server()
        assert stack.notebook("alice").name == f"{stack.name}-alice"
        alice.stop_server()
    with stack.login("bob") as bob:
        bob.request("POST", "/hub/api/users/bob/server")
        wait_until(lambda: not bob.server(), 30)
    assert "c.SwarmSpawner.extra_host_config cannot be used" in log()
    assert stack.container("hub").id == hub.id
