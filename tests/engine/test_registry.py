"""Our registry and what is deployed from it: nobody in a notebook decides what runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests

from jhswarmd import labels
from jhswarmd.deploy.images import registry as registries
from jhswarmd.engine.client import Engine
from jhswarmd.engine.registry_auth import Login
from jhswarmd.errors import EngineUnavailable
from tests.kit.lab import Lab
from tests.kit.stack import Stack, Visitor
from tests.kit.wait import wait_until

REGISTRY = "localhost:5000"
PINNED = re.compile(r"localhost:5000/jhswarmd/[a-z]+:[0-9a-f]+@sha256:[0-9a-f]{64}")
#: Asks the registry as somebody in a notebook would, and prints each status.
ATTACK = """
import sys, urllib.request, urllib.error
base, repository, tag, digest = sys.argv[1:]
kind = "application/vnd.docker.distribution.manifest.v2+json"
for method, path, body in [
    ("GET", "/v2/", None),
    ("GET", "/v2/_catalog", None),
    ("GET", f"/v2/{repository}/manifests/{tag}", None),
    ("GET", f"/v2/{repository}/manifests/{digest}", None),
    ("POST", f"/v2/{repository}/blobs/uploads/", b""),
    ("PUT", f"/v2/{repository}/manifests/{tag}", b"{}"),
    ("DELETE", f"/v2/{repository}/manifests/{digest}", None),
]:
    request = urllib.request.Request(base + path, body, {"Content-Type": kind}, method=method)
    try:
        print(method, urllib.request.urlopen(request, timeout=10).status)
    except urllib.error.HTTPError as error:
        print(method, error.code)
"""


@pytest.fixture
def testuser(stack: Stack) -> Iterator[Visitor]:
    with stack.login("testuser") as visitor:
        visitor.ensure_server()
        yield visitor


def image_of(stack: Stack, user: str) -> str:
    """Return the id of the image that the user's notebook was made from."""
    (container,) = stack.containers(stack.notebook(user))
    return str(container.attrs["Image"])


def login_of(stack: Stack) -> Login:
    login = registries.known_login(stack.lab.client, REGISTRY)
    assert login
    return login


def notebook_image(stack: Stack) -> str:
    spec = stack.notebooks()[0].attrs["Spec"]["TaskTemplate"]["ContainerSpec"]
    return str(spec["Image"])


def push_over(stack: Stack, image: str, tag: str, login: Login | None = None) -> None:
    """Push another image under a tag, as whoever can write to the registry would."""
    stack.lab.client.images.get(image).tag(tag)
    repository, _, name = tag.rpartition(":")
    given = {"username": login.username, "password": login.password} if login else None
    lines = list(
        stack.lab.client.api.push(repository, name, stream=True, decode=True, auth_config=given)
    )
    assert not [line for line in lines if "error" in line], lines


def test_what_runs_is_named_by_digest_and_rendered_so(stack: Stack, testuser: Visitor) -> None:
    deployed = [
        stack.service(role).attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
        for role in labels.ROLES
    ]
    for image in (*deployed, notebook_image(stack)):
        assert PINNED.fullmatch(image)
    rendered = stack.cli("render", "--env", stack.profile).stdout
    assert all(image in rendered for image in deployed)


def test_nobody_in_a_notebook_can_read_write_or_delete_in_the_registry(
    stack: Stack, testuser: Visitor
) -> None:
    name, _, digest = notebook_image(stack).partition("@")
    repository, _, tag = name.partition("/")[2].rpartition(":")
    (container,) = stack.containers(stack.notebook("testuser"))
    base = f"http://{stack.lab.address}:5000"
    answer = container.exec_run(["python3", "-c", ATTACK, base, repository, tag, digest])
    lines = answer.output.decode().split("\n")
    assert [line for line in lines if line] == [
        f"{method} 401" for method in ("GET", "GET", "GET", "GET", "POST", "PUT", "DELETE")
    ]


def test_not_even_the_login_deletes(stack: Stack, testuser: Visitor) -> None:
    name, _, digest = notebook_image(stack).partition("@")
    repository = name.partition("/")[2].rpartition(":")[0]
    login = login_of(stack)
    with requests.Session() as session:
        session.trust_env = False
        session.auth = (login.username, login.password)
        url = f"http://{stack.lab.address}:5000/v2/{repository}/manifests/{digest}"
        assert session.get(url, timeout=30).ok
        assert session.delete(url, timeout=30).status_code == 405


def test_a_tag_that_is_moved_changes_nothing_for_the_next_start(
    stack: Stack, testuser: Visitor, small_image: str
) -> None:
    before = image_of(stack, "testuser")
    push_over(stack, small_image, notebook_image(stack).partition("@")[0], login_of(stack))
    assert stack.lab.client.images.get(small_image).id != before
    testuser.stop_server()
    testuser.start_server()
    assert image_of(stack, "testuser") == before


def test_the_password_shows_nowhere(stack: Stack) -> None:
    password = login_of(stack).password
    assert stack.first_up
    api = stack.lab.client.api
    shown = [stack.first_up.stdout, stack.first_up.stderr, str(api.services()), str(api.secrets())]
    shown += [str(api.inspect_container(each["Id"])) for each in api.containers()]
    shown += [stack.log(role) for role in labels.ROLES]
    shown.append(stack.cli("render", "--env", stack.profile).stdout)
    assert not [text for text in shown if password in text]


@pytest.mark.timeout(400, func_only=True)
def test_a_deployment_with_the_open_registry_and_tags_moves_and_its_notebooks_live(
    stack: Stack, engine: Lab, testuser: Visitor, small_image: str
) -> None:
    tag = notebook_image(stack).partition("@")[0]
    good = image_of(stack, "testuser")
    make_old(stack)
    assert any("by tag" in each for each in stack.status()["problems"])
    push_over(stack, small_image, tag)  # nobody asks for a login
    (kernel,) = stack.containers(stack.notebook("testuser"))

    stack.up()

    assert [each.id for each in stack.containers(stack.notebook("testuser"))] == [kernel.id]
    assert testuser.request("GET", "/user/testuser/api/status").ok
    assert requests.get(f"http://{engine.address}:5000/v2/", timeout=30).status_code == 401
    for role in labels.ROLES:
        spec = stack.service(role).attrs["Spec"]["TaskTemplate"]["ContainerSpec"]
        assert PINNED.fullmatch(spec["Image"])
    assert not [each for each in stack.status()["problems"] if "by tag" in each]
    testuser.stop_server()
    testuser.start_server()
    assert image_of(stack, "testuser") == good


#: Listens on port 5099 and says so: "silent" accepts and says nothing, "http" is a web server.
LISTENER = """
import http.server, socket, sys
if sys.argv[1] == "http":
    server = http.server.HTTPServer(("", 5099), http.server.BaseHTTPRequestHandler)
    print("listens", flush=True)
    server.serve_forever()
server = socket.create_server(("", 5099))
print("listens", flush=True)
held = []
while True:
    held.append(server.accept())
"""


@pytest.mark.parametrize(
    ("kind", "why"),
    [("silent", "does not speak HTTP"), ("http", "the listener is not a registry")],
)
def test_something_else_at_the_port_is_named_at_once_with_the_key(
    stack: Stack, kind: str, why: str
) -> None:
    listener = stack.lab.popen(
        [sys.executable, "-c", LISTENER, kind], stdout=subprocess.PIPE, text=True
    )
    try:
        assert listener.stdout.readline() == "listens\n"
        stack.write_keys(REGISTRY="localhost:5099")
        result = stack.cli("up", "--env", stack.profile, check=False, timeout_s=60)
    finally:
        stack.write_keys()
        stack.lab.end(listener)
    assert result.returncode == 1
    assert "The registry's port is taken: localhost:5099" in result.stderr
    assert why in result.stderr
    assert "REGISTRY=" in result.stderr


def make_old(stack: Stack) -> None:
    """Deploy as versions before the login did: an open registry, and tags."""
    rendered = stack.cli("render", "--env", stack.profile).stdout
    tags = re.sub(r"@sha256:[0-9a-f]{64}", "", rendered)
    command = ["docker", "stack", "deploy", "--resolve-image", "never", "-c", "-", stack.name]

    def change(spec: Mapping[str, Any]) -> Mapping[str, Any]:
        container = {**spec["TaskTemplate"]["ContainerSpec"], "Secrets": [], "Env": []}
        return {**spec, "TaskTemplate": {**spec["TaskTemplate"], "ContainerSpec": container}}

    def opened() -> bool:
        try:
            Engine(stack.lab.client).change_service(registries.SERVICE, change)
        except EngineUnavailable:
            return False
        return True

    wait_until(opened, 30, what="the registry's service is changed")
    down = (requests.RequestException,)
    wait_until(
        lambda: requests.get(f"http://{stack.lab.address}:5000/v2/", timeout=5).ok,
        60,
        what="the registry asks for no login",
        ignoring=down,
    )
    stack.lab.run(command, input=tags)
    stack.wait_healthy()
    wait_until(lambda: stack.status()["health"] != "down", 60, what="the older stack runs")
