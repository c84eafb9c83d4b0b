"""The lab keeps its promises: an engine apart from the host's, gone without a trace."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
import requests
from docker.types import EndpointSpec

from jhswarmd import labels
from tests.engine.conftest import CreateService
from tests.kit.cluster_lab import Cluster
from tests.kit.debian import RELEASES
from tests.kit.lab import CommandFailed, Lab, LabError, remove_leftovers
from tests.kit.wait import wait_until


def _traces(name: str) -> list[str]:
    """Whatever of a lab is still on the machine."""
    token = name.rpartition("-")[2]
    found = [str(path) for path in Path("/var/tmp").glob(f"*{name}*")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{name}")]
    for argv in (["iptables-save"], ["ip", "link"]):
        out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        found += [line for line in out.splitlines() if token in line]
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = cmdline.read_text()
        except OSError:
            continue
        if name in text:
            found.append(text.replace("\0", " "))
    return found


def test_engine_is_a_swarm_manager_of_its_own(engine: Lab) -> None:
    info = engine.client.info()
    assert info["Name"] == engine.name
    assert info["Swarm"]["LocalNodeState"] == "active"
    assert info["Swarm"]["ControlAvailable"]
    assert info["DockerRootDir"] != "/var/lib/docker"


def test_standard_socket_inside_is_the_labs_own(engine: Lab) -> None:
    standard = engine.run(
        ["docker", "-H", "unix:///var/run/docker.sock", "info", "-f", "{{.Name}}"]
    )
    default = engine.run(["docker", "info", "-f", "{{.Name}}"])
    assert standard.stdout.strip() == default.stdout.strip() == engine.name


def test_published_port_is_reachable_from_the_host(
    engine: Lab, small_image: str, create_service: CreateService
) -> None:
    port = {"Protocol": "tcp", "TargetPort": 8888, "PublishedPort": 8888, "PublishMode": "host"}
    endpoint = EndpointSpec(mode="dnsrr", ports=[port])
    create_service(small_image, name="lab-web", endpoint_spec=endpoint)
    url = f"http://{engine.address}:8888/any/path"
    unreachable = (requests.RequestException,)
    answer = wait_until(lambda: requests.get(url, timeout=5), 30, ignoring=unreachable)
    assert answer.json()["path"] == "/any/path"


def test_containers_resolve_names_and_reach_the_package_mirror(
    engine: Lab, small_image: str
) -> None:
    sources = engine.run(["sh", "-c", "apt-get indextargets --format '$(SITE)' | head -n 1"]).stdout
    script = """if True:
        import socket, sys, urllib.parse
        url = urllib.parse.urlsplit(sys.argv[1].strip())
        port = url.port or {"https": 443}.get(url.scheme, 80)
        socket.create_connection((url.hostname, port), 20).close()
    """
    engine.run(["docker", "run", "--rm", small_image, "python3", "-c", script, sources])


def test_failed_command_shows_what_it_wrote(engine: Lab) -> None:
    with pytest.raises(CommandFailed, match="some reason"):
        engine.run(["sh", "-c", "echo some reason >&2; exit 3"])


def test_hanging_command_is_ended_at_its_time_limit(engine: Lab) -> None:
    with pytest.raises(AssertionError, match="took more than"):
        engine.run(["sleep", "987654"], timeout_s=0.5)
    assert "987654" not in engine.run(["ps", "-eo", "args"]).stdout


def test_paused_engine_is_silent_and_resumes(engine: Lab) -> None:
    impatient = docker.DockerClient(base_url=engine.base_url, timeout=1)
    try:
        with engine.paused(), pytest.raises((docker.errors.DockerException, OSError)):
            impatient.ping()
        assert impatient.ping()
    finally:
        impatient.close()


def test_report_of_a_failed_test_tells_services_tasks_and_logs(
    engine: Lab, small_image: str, create_service: CreateService
) -> None:
    create_service(small_image, name="lab-told", labels={labels.STACK_NAMESPACE: "told"})
    wait_until(lambda: "listening on 8888" in engine.describe(), 30, what="log line")
    assert "service lab-told" in engine.describe()
    assert "state=running" in engine.describe()


def test_second_lab_lives_beside_the_first_and_leaves_no_trace(engine: Lab) -> None:
    with Lab() as other:
        assert other.address != engine.address
        assert other.client.info()["ID"] != engine.client.info()["ID"]
        remove_leftovers()  # must spare both
        assert other.client.ping()
        name = other.name
    assert _traces(name) == []
    assert engine.client.ping()


@pytest.mark.parametrize("has_containerd_store", [False, True], ids=["own store", "containerd"])
def test_newest_release_runs_services_on_its_engine_and_leaves_no_trace(
    engine: Lab, small_image: str, has_containerd_store: bool
) -> None:
    *_, (release, version) = RELEASES.items()
    tar = engine.directory / "saved.tar"
    engine.run(["docker", "save", "-o", tar, small_image])
    with Lab(release=release, has_containerd_store=has_containerd_store) as lab:
        name = lab.name
        info = lab.client.info()
        assert info["ServerVersion"].startswith(f"{version}.")
        assert info["Swarm"]["ControlAvailable"]
        assert (info["Driver"] == "overlayfs") is has_containerd_store
        standard = ["docker", "-H", "unix:///var/run/docker.sock", "info", "-f", "{{.Name}}"]
        assert lab.run(standard).stdout.strip() == name
        lab.run(["docker", "load", "-q", "-i", tar])
        service = lab.client.services.create(small_image, name="some")

        def containers() -> list[Any]:
            label = f"com.docker.swarm.service.id={service.id}"
            return lab.client.containers.list(filters={"label": label}, ignore_removed=True)

        (container,) = wait_until(containers, 30, what="the service's container")
        assert container.exec_run(["echo", "hello"]).output == b"hello\n"
        lab.stop_engine()
        lab.start_engine()
        assert lab.client.services.list()
    assert _traces(name) == []


def test_engine_that_has_no_containerd_store_is_said_to_have_none(engine: Lab) -> None:
    if int(engine.client.version()["Version"].partition(".")[0]) >= 23:
        pytest.skip("this engine has one")
    lab = Lab(has_containerd_store=True, swarm=False, release=engine.release)
    with pytest.raises(LabError, match="too old"):
        lab.start()
    assert _traces(lab.name) == []


def test_failed_start_leaves_no_trace(engine: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Lab) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Lab, "start_engine", interrupt)
    lab = Lab()
    with pytest.raises(KeyboardInterrupt):
        lab.start()
    assert _traces(lab.name) == []


@pytest.mark.parametrize("is_complete", [True, False], ids=["in use", "half made"])
def test_cluster_leaves_no_trace(
    engine: Lab, monkeypatch: pytest.MonkeyPatch, is_complete: bool
) -> None:
    def fail(self: Lab, manager: Lab, token: str) -> None:
        raise LabError("the network is cut")

    if not is_complete:
        monkeypatch.setattr(Lab, "join", fail)
    cluster = Cluster(engine, managers=1, workers=1)
    with contextlib.nullcontext() if is_complete else pytest.raises(LabError, match="is cut"):
        cluster.start()
    if is_complete:
        roles = [cluster.node(lab).attrs["Spec"]["Role"] for lab in cluster.nodes]
        assert roles == ["manager", "worker"]
        cluster.close()
    assert [line for lab in cluster.nodes for line in _traces(lab.name)] == []
    assert engine.client.ping()


def test_engine_stops_and_starts_with_its_swarm(engine: Lab) -> None:
    # A lab of its own: the session's engine may hold a stack.
    with Lab() as lab:
        node = lab.client.info()["Swarm"]["NodeID"]
        lab.stop_engine()
        with pytest.raises(requests.ConnectionError):
            lab.client.ping()
        lab.start_engine()
        assert lab.client.info()["Swarm"]["NodeID"] == node


def test_killed_suite_leaves_only_what_the_next_lab_removes(engine: Lab) -> None:
    script = (
        "import os, signal; from tests.kit.lab import Lab; lab = Lab(); lab.start();"
        "print(lab.name, lab.client.ping(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    argv = [sys.executable, "-c", script]
    root = Path(__file__).parents[2]
    out = subprocess.run(argv, capture_output=True, text=True, cwd=root, check=False).stdout
    name, answered = out.split()
    assert answered == "True"
    wait_until(lambda: not _listens(Path(f"/var/tmp/{name}/docker.sock")), 10)
    remove_leftovers()
    wait_until(lambda: not _traces(name), 10, what=f"{name} is gone")


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_kept_directory_cannot_be_used_twice(engine: Lab) -> None:
    keep_dir = engine.directory / "taken"
    with Lab(keep_dir=keep_dir, swarm=False), pytest.raises(LabError, match="in use"):
        Lab(keep_dir=keep_dir).start()


def test_kept_directory_brings_back_images_and_nothing_else(engine: Lab, small_image: str) -> None:
    tar = engine.directory / "saved.tar"
    engine.run(["docker", "save", "-o", tar, small_image])
    keep_dir = engine.directory / "kept"
    with Lab(keep_dir=keep_dir) as lab:
        lab.run(["docker", "load", "-q", "-i", tar])
        lab.client.volumes.create("some")
        lab.client.services.create(small_image, name="some")
    with Lab(keep_dir=keep_dir) as lab:
        assert lab.client.images.get(small_image)
        assert lab.client.services.list() == []
        assert lab.client.volumes.list() == []
