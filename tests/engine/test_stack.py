"""What a deployed stack promises, one promise a test; those that take it apart come last."""

from __future__ import annotations

import itertools
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
import requests
from docker.errors import NotFound
from docker.models.containers import Container
from docker.models.services import Service

from jhswarmd import assets, labels
from jhswarmd.deploy import stack as stacks
from jhswarmd.deploy.progress import Progress
from jhswarmd.errors import JhswarmdError
from jhswarmd.reconcile.orphans import WINDOW_S
from tests.engine.conftest import CreateService
from tests.kit.lab import Lab
from tests.kit.stack import USERS, LoginRefused, Stack, Visitor, write_profile, write_users
from tests.kit.wait import wait_until

_DOWN = (requests.RequestException, OSError)
CreateOrphan = Callable[..., Service]
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@pytest.fixture
def testuser(stack: Stack) -> Iterator[Visitor]:
    """testuser, logged in, with a server that runs."""
    with stack.login("testuser") as visitor:
        visitor.ensure_server()
        yield visitor


@pytest.fixture
def create_like_notebook(
    stack: Stack, testuser: Visitor, small_image: str, create_service: CreateService
) -> CreateOrphan:
    """Create services with the labels of testuser's notebook; the caller changes some."""
    numbers = itertools.count()
    notebook_labels = stack.notebook("testuser").attrs["Spec"]["Labels"]

    def create(options: Mapping[str, Any] = NO_OPTIONS, /, **changes: str | None) -> Service:
        merged = {**notebook_labels, labels.SPAWN: "made-by-hand", **_spelled(changes)}
        return create_service(
            small_image,
            name=f"by-hand-{next(numbers)}",
            labels={key: value for key, value in merged.items() if value is not None},
            **options,
        )

    return create


def _spelled(changes: dict[str, str | None]) -> dict[str, str | None]:
    return {f"jhswarmd.{key}": value for key, value in changes.items()}


def _exists(service: Service) -> bool:
    try:
        service.reload()
    except NotFound:
        return False
    return True


#: One more than a few in a minute is held for the rest of it, and earlier tests removed some.
GONE_WITHIN_S = WINDOW_S + 60


def _wait_gone(service: Service, timeout_s: float = GONE_WITHIN_S) -> float:
    """Return the seconds until the engine says that the service does not exist."""
    started = time.monotonic()
    wait_until(lambda: not _exists(service), timeout_s, what=f"{service.name} is gone")
    return time.monotonic() - started


def _wait_full_pass(stack: Stack) -> None:
    """Return when the daemon has made a full pass that began after this call."""

    def last_pass() -> float:
        return float(stack.daemon()["servers"]["last_pass_at_s"] or 0)

    # The time of a pass is that of its end: the second one from now began after this call.
    for _ in range(2):
        seen = last_pass()
        # Its own interval grows with what a pass costs, on a busy machine to more than a minute.
        stack.cli("reconcile", "--once")
        wait_until(lambda seen=seen: last_pass() > seen, 60, what="a full pass of the daemon")


# --- services and logins ---


@pytest.mark.parametrize("role", ["hub", "proxy", "jhswarmd"])
def test_service_runs_with_its_labels(stack: Stack, role: str) -> None:
    spec = stack.service(role).attrs["Spec"]
    assert spec["Labels"][labels.STACK_NAMESPACE] == stack.name
    assert spec["Labels"][labels.STACK] == stack.name
    assert spec["Labels"][labels.ROLE] == role
    assert stack.container(role).attrs["State"]["Health"]["Status"] == "healthy"


def test_up_told_the_address_and_no_password(stack: Stack) -> None:
    assert stack.first_up
    told = stack.first_up.stdout + stack.first_up.stderr
    assert stack.url in told
    assert f"port 443 answers at {stack.lab.address}" in told
    assert "jhswarmd users passwd testuser" in told
    assert [user for user, password in USERS.items() if password in told] == []


@pytest.mark.every_engine
def test_status_is_healthy(stack: Stack) -> None:
    def is_healthy() -> bool:
        result = stack.cli("status", check=False)
        return (result.returncode, "is healthy" in result.stdout) == (0, True)

    # The daemon may still wait for its next attempt to reach a hub that has just started.
    wait_until(is_healthy, 60, what="status is healthy")


def test_doctor_finds_all_well_but_the_published_password_and_says_when_the_certificate_ends(
    stack: Stack,
) -> None:
    result = stack.cli("doctor", "--env", stack.profile, check=False)
    assert result.returncode == 1
    bad = [line for line in result.stdout.splitlines() if line.startswith("!!")]
    # The tests of rotation made hub and daemon end, and took secrets away, in the last minutes.
    bad = [line for line in bad if not re.search(r"and has ended|, corrected .* ago", line)]
    assert len(bad) == 1, result.stdout
    assert "jhswarmd users passwd testuser" in bad[0]
    assert f"port 443 answers at {stack.lab.address}" in bad[0]
    for words in (
        "swarm: this node is a manager",
        "ports: those of the profile 'lab' are free, or its own",
        "subnets: those of the profile 'lab' are free, or its own",
        "registry: serves the 2 images to this engine",
        "clocks: of 1 nodes with tasks agree",
        "certificate: expires in 39",
        f"accounts: {stack.env_dir}/lab/user_list.txt has 4 plain-text passwords",
        "images: 1 for notebooks on 1 nodes",
    ):
        assert f"ok {words}" in result.stdout, result.stdout


def test_certificate_is_for_the_host_of_the_profile(stack: Stack) -> None:
    with stack.session() as session:  # trusts that certificate alone, and checks the name
        assert session.get(f"{stack.url}/hub/login", timeout=30).ok


def test_http_is_redirected_to_https(engine: Lab, stack: Stack) -> None:
    answer = requests.get(
        f"http://{engine.address}/hub/login?next=%2Fhub%2Fhome", allow_redirects=False, timeout=30
    )
    assert 300 < answer.status_code < 400
    target = answer.headers["Location"].replace(":443/", "/")
    assert target == f"{stack.url}/hub/login?next=%2Fhub%2Fhome"


@pytest.mark.every_engine
@pytest.mark.parametrize("user", USERS)
def test_account_of_the_list_logs_in(stack: Stack, user: str) -> None:
    with stack.login(user) as visitor:
        assert visitor.request("GET", "/hub/api/user").json()["name"] == user


@pytest.mark.parametrize(
    ("user", "password"),
    [
        pytest.param("testuser", "wrong", id="wrong password"),
        pytest.param("testuser", "", id="empty password"),
        pytest.param("dora", USERS["dora"][:-1], id="the longest password cut off"),
        pytest.param("dora", USERS["dora"] + "0", id="the longest password and more"),
        pytest.param("root", "", id="system account without a password"),
        pytest.param("root", "root", id="system account"),
        pytest.param("nobody", "*", id="system account whose password is locked"),
        pytest.param("stranger", "testpassword", id="no such account"),
    ],
)
def test_login_is_refused(stack: Stack, user: str, password: str) -> None:
    with pytest.raises(LoginRefused, match="Invalid username or password"):
        stack.login(user, password)


def test_log_tells_of_a_new_account(stack: Stack) -> None:
    assert "Adding user testuser" in stack.log("hub") + stack.log("jhswarmd")


# --- refused before anything is touched ---


def _inventory(lab: Lab) -> dict[str, Any]:
    """Everything that a deployment could change, with the versions of services."""
    api = lab.client.api
    return {
        "services": sorted((each["ID"], each["Version"]["Index"]) for each in api.services()),
        "secrets": sorted(each["ID"] for each in api.secrets()),
        "configs": sorted(each["ID"] for each in api.configs()),
        "networks": sorted(each["Id"] for each in api.networks()),
        "volumes": sorted(each["Name"] for each in api.volumes()["Volumes"] or ()),
        "labels": [each["Spec"]["Labels"] for each in api.nodes()],
    }


def test_faults_of_a_profile_are_named_together_and_nothing_is_deployed(
    engine: Lab, stack: Stack
) -> None:
    path = write_profile(
        stack.env_dir,
        "faulty",
        AUTHENTICATOR_TYPE="pam",
        HTTPS_PORT="many",
        COLOUR="blue",
        STACK_NAME="faulty",
    )
    before = _inventory(engine)
    result = stack.cli("up", "--env", "faulty", check=False)
    assert result.returncode == 2
    assert f"{path}:2: HTTPS_PORT" in result.stderr
    assert f"{path}:3: unknown key COLOUR" in result.stderr
    missing = re.escape(str(stack.env_dir / "faulty" / "user_list.txt"))
    assert re.search(rf"{re.escape(str(path))}:1: .*{missing}", result.stderr), result.stderr
    assert _inventory(engine) == before


def test_second_deployment_with_the_same_subnets_is_refused_before_anything_is_deployed(
    engine: Lab, stack: Stack
) -> None:
    ports = {"HTTPS_PORT": 8443, "HTTP_PORT": 8080}
    write_profile(stack.env_dir, "second", STACK_NAME="second", **ports)
    write_users(stack.env_dir, "second")
    before = _inventory(engine)
    result = stack.cli("up", "--env", "second", check=False)
    assert result.returncode == 1
    assert "CONTROL_SUBNET=10.129.0.0/24 cannot be used" in result.stderr
    assert "jupyterhub_control" in result.stderr
    assert _inventory(engine) == before


def test_notebooks_over_what_this_machine_reaches_are_refused_or_warned_of(
    engine: Lab, stack: Stack
) -> None:
    write_profile(
        stack.env_dir,
        "lan",
        STACK_NAME="lan",
        HTTPS_PORT=8443,
        HTTP_PORT=8080,
        CONTROL_SUBNET="10.131.0.0/24",
        NOTEBOOKS_SUBNET="10.130.0.0/16",
    )
    write_users(stack.env_dir, "lan")
    before = _inventory(engine)
    engine.run(["ip", "link", "add", "lan0", "type", "bridge"])
    try:
        engine.run(["ip", "link", "set", "lan0", "up"])
        engine.run(["ip", "route", "add", "10.130.4.0/24", "dev", "lan0", "table", "77"])
        engine.run(["ip", "route", "add", "10.128.4.0/24", "dev", "lan0"])
        refused = stack.cli("up", "--env", "lan", check=False)
        warned = stack.cli("doctor", "--env", stack.profile, check=False)
    finally:
        engine.run(["ip", "link", "delete", "lan0"])
    assert refused.returncode == 1
    assert "NOTEBOOKS_SUBNET=10.130.0.0/16 cannot be used" in refused.stderr
    assert "10.130.4.0/24 through lan0" in refused.stderr
    assert _inventory(engine) == before
    assert "!! subnets: NOTEBOOKS_SUBNET=10.128.0.0/16" in warned.stdout
    assert "10.128.4.0/24 through lan0" in warned.stdout


def test_port_in_use_is_said_before_anything_is_deployed(engine: Lab, stack: Stack) -> None:
    write_profile(
        stack.env_dir,
        "crowded",
        STACK_NAME="crowded",
        HTTPS_PORT=8443,
        HTTP_PORT=8080,
        CONTROL_SUBNET="10.131.0.0/24",
        NOTEBOOKS_SUBNET="10.130.0.0/16",
    )
    write_users(stack.env_dir, "crowded")
    server = engine.popen([sys.executable, "-m", "http.server", "8443"])
    try:
        probe = ["sh", "-c", "ss -ltn | grep -q :8443"]
        wait_until(lambda: engine.run(probe, check=False).returncode == 0, 30, what="listener")
        before = _inventory(engine)
        result = stack.cli("up", "--env", "crowded", check=False)
    finally:
        engine.end(server)
    assert result.returncode != 0
    assert "8443" in result.stderr
    assert "in use" in result.stderr
    assert _inventory(engine) == before


@pytest.mark.every_engine
def test_second_up_is_fast_and_changes_nothing(engine: Lab, stack: Stack) -> None:
    def containers() -> list[str]:
        return sorted(each.id for each in engine.client.containers.list(ignore_removed=True))

    def specs() -> list[dict[str, Any]]:
        return [each["Spec"] for each in engine.client.api.services()]

    # Whatever changed a service last may have let the engine add the image's platforms, which the
    # command line leaves out again.
    stack.up()
    before = (_kept_of(stack), specs(), containers())
    took_s = stack.up()
    assert (_kept_of(stack), specs(), containers()) == before
    # Three seconds alone; here the other worker builds and starts notebooks beside it.
    assert took_s < 40


# --- notebooks ---


def test_another_profile_does_not_replace_a_running_deployment_without_a_yes(
    engine: Lab, stack: Stack
) -> None:
    shutil.copytree(assets.ENV / "local", stack.env_dir / "local", dirs_exist_ok=True)
    stack.up()  # whatever earlier tests have left
    before = _inventory(engine)
    result = stack.cli("up", "--env", "local", check=False)
    assert result.returncode == 2
    assert f"has the profile '{stack.profile}', not 'local'" in result.stderr
    assert f"HOST: {stack.lab.address} -> (default)" in result.stderr
    assert re.search("accounts removed: .*alice", result.stderr)
    assert "accounts whose password is set from the profile's list: testuser" in result.stderr
    assert _inventory(engine) == before
    # What plain 'make up' does. Swarm counts a deployment that changes nothing as one.
    hub = stack.container("hub").id
    stack.cli("up", "--env-if-new", "local")
    assert {**_inventory(engine), "services": before["services"]} == before
    assert stack.container("hub").id == hub
    assert stack.status()["profile"] == stack.profile


def test_login_gives_one_service_with_all_labels(stack: Stack, testuser: Visitor) -> None:
    spec = stack.notebook("testuser").attrs["Spec"]
    given = spec["Labels"]
    assert given[labels.HUB]
    assert given[labels.SPAWN]
    assert given == labels.notebook_labels(
        stack=stack.name,
        hub_id=given[labels.HUB],
        user="testuser",
        server="",
        spawn_id=given[labels.SPAWN],
        count=given[labels.COUNT],
    )
    assert spec["TaskTemplate"]["ContainerSpec"]["Labels"] == given
    assert spec["TaskTemplate"]["RestartPolicy"]["Condition"] == "none"


@pytest.mark.every_engine
def test_server_stops_and_starts_five_times_in_a_row(stack: Stack, testuser: Visitor) -> None:
    seen = set()
    for _ in range(5):
        testuser.stop_server()
        assert stack.notebooks("testuser") == []
        testuser.start_server()
        seen.add(stack.notebook("testuser").id)
    assert len(seen) == 5


@pytest.mark.every_engine
@pytest.mark.parametrize("end", ["service removed", "container killed"])
def test_vanished_notebook_is_seen_by_the_hub_long_before_its_next_poll(
    stack: Stack, testuser: Visitor, end: str
) -> None:
    notebook = stack.notebook("testuser")
    if end == "service removed":
        notebook.remove()
    else:
        stack.containers(notebook)[0].kill()
    # The hub polls each server every 30 s.
    wait_until(lambda: testuser.server() is None, 5, what="the hub has seen it")
    wait_until(lambda: not stack.notebooks("testuser"), 10, what="nothing is left")


def test_users_share_no_service_and_do_not_reach_each_other(
    stack: Stack, testuser: Visitor
) -> None:
    with stack.login("alice") as alice:
        alice.ensure_server()
        assert stack.notebook("alice").name != stack.notebook("testuser").name
        assert alice.request("GET", "/hub/api/user").json()["name"] == "alice"
        with pytest.raises(requests.HTTPError, match="403"):
            alice.request("GET", "/user/testuser/api/contents")
        alice.stop_server()


# Who answers counts, and not that somebody does: what is not here may be elsewhere.
_ASK = """
import sys, urllib.request
for address in sys.argv[1:]:
    try:
        answer = urllib.request.urlopen(f"http://{address}:9108/health", timeout=3)
        print(address, answer.read().decode())
    except Exception:
        pass
"""


def test_the_daemon_answers_the_control_network_and_no_notebook(
    stack: Stack, testuser: Visitor
) -> None:
    daemon = stack.container("jhswarmd")
    control = daemon.attrs["NetworkSettings"]["Networks"][f"{stack.name}_control"]["IPAddress"]
    listing = daemon.exec_run(["hostname", "-I"]).output.decode()
    addresses = sorted({control, *listing.split()})

    def reached_from(container: Container) -> list[str]:
        answer = container.exec_run(["python3", "-c", _ASK, *addresses])
        assert answer.exit_code == 0, answer.output
        lines = answer.output.decode().splitlines()
        return [line.split()[0] for line in lines if line.endswith("alive")]

    assert reached_from(stack.container("hub")) == [control]
    (notebook,) = stack.containers(stack.notebook("testuser"))
    assert reached_from(notebook) == []


# --- orphans ---


@pytest.mark.every_engine
def test_orphan_is_gone_within_a_second(create_like_notebook: CreateOrphan) -> None:
    orphan = create_like_notebook(user="somebody-else")
    print(f"seconds: {_wait_gone(orphan):.2f}")


def test_services_of_another_hub_and_of_nobody_stay(
    stack: Stack, create_like_notebook: CreateOrphan, small_image: str
) -> None:
    keys = ("hub", "user", "server", "spawn", "stack", "role")
    spared = [
        create_like_notebook(user="somebody-else", hub="another-hub"),
        create_like_notebook(user="somebody-else", hub=None),
        create_like_notebook(**dict.fromkeys(keys)),
    ]
    _wait_full_pass(stack)
    assert [each.name for each in spared if not _exists(each)] == []


def test_notebooks_that_the_hub_knows_stay(stack: Stack, testuser: Visitor) -> None:
    service = stack.notebook("testuser")
    _wait_full_pass(stack)
    assert stack.notebook("testuser").id == service.id
    testuser.request("GET", "/user/testuser/api/status")


def test_orphan_made_while_the_daemon_was_away_goes_when_it_is_back(
    stack: Stack, create_like_notebook: CreateOrphan
) -> None:
    stack.container("jhswarmd").kill()
    orphan = create_like_notebook(user="somebody-else")
    _wait_gone(orphan)


def test_suspicious_number_of_orphans_is_held_until_approved(
    stack: Stack, create_like_notebook: CreateOrphan
) -> None:
    orphans = [create_like_notebook(user=f"ghost-{number}") for number in range(6)]

    def held() -> list[str]:
        return list(stack.daemon()["servers"]["held"])

    names = wait_until(held, 30, what="orphans are held")
    _wait_full_pass(stack)
    left = [each for each in orphans if _exists(each)]
    assert len(left) >= 2
    assert set(names) <= {each.name for each in left} == set(held())
    stack.cli("orphans", "approve")
    for orphan in left:
        _wait_gone(orphan, 30)


def test_orphan_made_while_the_hub_was_away_goes_soon_after_its_first_answer(
    stack: Stack, create_like_notebook: CreateOrphan
) -> None:
    stack.container("hub").kill()
    orphan = create_like_notebook(user="somebody-else")
    stack.wait_healthy(120)
    print(f"seconds: {_wait_gone(orphan):.2f}")


def test_a_hundred_orphans_are_gone_soon_after_their_approval(
    stack: Stack, create_like_notebook: CreateOrphan
) -> None:
    nowhere = {"constraints": ["node.labels.nobody==has"]}
    orphans = [create_like_notebook(nowhere, user=f"ghost-{number}") for number in range(100)]

    def count_held() -> bool:
        held = stack.daemon()["servers"]["held"]
        return len(held) == sum(_exists(orphan) for orphan in orphans)

    wait_until(count_held, 60, what="what was not removed is held")
    started = time.monotonic()
    stack.cli("orphans", "approve")
    wait_until(lambda: not any(map(_exists, orphans)), 60, what="all of them are gone")
    print(f"seconds: {time.monotonic() - started:.2f}")


def test_what_is_younger_than_the_hubs_database_is_held_until_approved(
    stack: Stack, create_like_notebook: CreateOrphan
) -> None:
    count = stack.notebook("testuser").attrs["Spec"]["Labels"][labels.COUNT]
    start, _, number = count.partition(".")
    # As if an older copy of the database had been put back, from before this spawn.
    orphan = create_like_notebook(user="somebody-else", count=f"{start}.{int(number) + 1000}")

    def held() -> list[str]:
        return list(stack.daemon()["servers"]["held"])

    wait_until(lambda: held() == [orphan.name], 60, what="the orphan is held")
    _wait_full_pass(stack)
    assert _exists(orphan)
    stack.cli("orphans", "approve")
    _wait_gone(orphan, 30)
    _wait_gone(create_like_notebook(user="somebody-else"))  # one that is not younger is not held


# --- parts that fail and come back ---


#: The daemon's own worker in the daemon's own container, with seconds instead of minutes to wait.
_REPAIR_NAMES = """
import sys, time
from jhswarmd.engine.client import Engine
from jhswarmd.reconcile import service_names

service_names.LOST_FOR_S = 2.0
worker = service_names.ServiceNames(Engine.connect(), sys.argv[1], lambda: True)
deadline = time.monotonic() + 90
while time.monotonic() < deadline:
    worker.reconcile()
    if worker.view.repaired_at_s and not worker.view.lost:
        break
    time.sleep(0.5)
print(sorted(worker.view.repaired_at_s), list(worker.view.lost))
"""


def test_a_name_that_the_engine_has_lost_is_named_and_repaired_by_one_update(
    stack: Stack, testuser: Visitor
) -> None:
    def updates() -> int:
        return int(stack.service("hub").attrs["Spec"]["TaskTemplate"].get("ForceUpdate") or 0)

    daemon, hub = stack.container("jhswarmd"), stack.container("hub")
    notebook = stack.containers(stack.notebook("testuser"))[0].id
    before = updates()
    wait_until(lambda: stack.daemon()["names"]["lost"] == [], 60)
    with testuser.start_kernel() as kernel:
        assert kernel.execute("x = 40; x") == "40"
        # The engine forgets the name with the address; Swarm, the task and its health check do not.
        network = f"{stack.name}_control"
        stack.lab.run(["docker", "network", "disconnect", "--force", network, hub.id])
        wait_until(lambda: stack.daemon()["names"]["lost"] == ["hub"], 90)
        assert "lost the name 'hub'" in stack.cli("status", check=False).stdout
        assert updates() == before
        result = daemon.exec_run(["python3", "-c", _REPAIR_NAMES, stack.name])
        assert result.output.decode().splitlines()[-1] == "['hub'] []"
        wait_until(lambda: stack.daemon()["names"]["lost"] == [], 90)
        stack.wait_healthy()
        assert stack.container("hub").id != hub.id
        assert updates() == before + 1
        assert kernel.execute("x + 2") == "42"
    assert stack.containers(stack.notebook("testuser"))[0].id == notebook


def test_killed_hub_costs_no_notebook_and_no_kernel(stack: Stack, testuser: Visitor) -> None:
    container = stack.containers(stack.notebook("testuser"))[0].id
    with testuser.start_kernel() as kernel:
        assert kernel.execute("x = 40; x") == "40"
        stack.container("hub").kill()
        assert kernel.execute("x + 1") == "41"  # the hub is down
        stack.wait_healthy()
        assert kernel.execute("x + 2") == "42"
        assert kernel.id in testuser.kernels()
    server = testuser.server()
    assert server
    assert server["ready"]
    assert stack.containers(stack.notebook("testuser"))[0].id == container


@pytest.mark.parametrize("role", ["proxy", "hub"])
def test_replaced_task_has_routes_and_fresh_logins_within_seconds(
    stack: Stack, testuser: Visitor, role: str
) -> None:
    replaced = stack.container(role).id
    stack.replace_task(role)

    def is_replaced() -> bool:
        found = stack.containers(stack.service(role))
        return len(found) == 1 and found[0].id != replaced

    wait_until(is_replaced, 60, what=f"a new task of {role}")
    started = time.monotonic()
    stack.wait_healthy(30)

    def notebook_answers() -> bool:
        return testuser.request("GET", "/user/testuser/api/status").ok

    wait_until(notebook_answers, 30, what="the route to the notebook", ignoring=_DOWN)
    with stack.login("bob") as bob:
        bob.start_server()
        took_s = time.monotonic() - started
        bob.stop_server()
    assert took_s < 45


def _replace_container(stack: Stack, role: str) -> None:
    """Kill a service's container, and return once the hub answers through another."""
    killed = stack.container(role)
    killed.kill()
    wait_until(lambda: stack.container(role).id != killed.id, 60, what=f"a new task of {role}")
    stack.wait_healthy()


def test_a_notebook_that_is_silent_while_hub_and_proxy_restart_keeps_its_kernel(
    stack: Stack, testuser: Visitor
) -> None:
    with testuser.start_kernel() as kernel:
        assert kernel.execute("x = 40; x") == "40"
    (notebook,) = stack.containers(stack.notebook("testuser"))
    notebook.pause()
    try:
        for role in ("hub", "proxy"):
            _replace_container(stack, role)

        def is_silent() -> bool:
            return "testuser" in stack.daemon()["servers"]["silent"]

        wait_until(is_silent, 60, what="the daemon knows that it does not answer")
        server = testuser.server()
        assert server
        assert server["ready"]
    finally:
        notebook.unpause()

    def has_kernel() -> bool:
        return kernel.id in testuser.kernels()

    wait_until(has_kernel, 60, what="the notebook and its kernel answer", ignoring=_DOWN)
    assert [each.id for each in stack.containers(stack.notebook("testuser"))] == [notebook.id]


# --- the whole stack goes and comes ---


def _left_of(stack: Stack) -> dict[str, list[str]]:
    """Return what there is of the stack beside volumes, secrets and the node's label."""
    api = stack.lab.client.api
    ours = {"label": f"{labels.STACK_NAMESPACE}={stack.name}"}
    left = {
        "services": [each["Spec"]["Name"] for each in api.services(filters=ours)],
        "containers": [each["Names"][0] for each in api.containers(all=True, filters=ours)],
        "networks": [each["Name"] for each in api.networks(filters=ours)],
        "configs": [each["Spec"]["Name"] for each in api.configs(filters=ours)],
        "secrets": [each["Spec"]["Name"] for each in api.secrets(filters=ours)],
    }
    return {kind: names for kind, names in left.items() if names}


def _kept_of(stack: Stack) -> dict[str, Any]:
    api = stack.lab.client.api
    return {
        "volumes": sorted(each["Name"] for each in api.volumes()["Volumes"] or ()),
        "secrets": sorted(each["ID"] for each in api.secrets()),
        "labels": [each["Spec"]["Labels"] for each in api.nodes()],
    }


@pytest.mark.destructive
def test_changed_list_names_bad_lines_by_number_and_the_good_ones_work(stack: Stack) -> None:
    stack.up()
    lines = ("no separator here", "root:must-not-get-in", "dave:a password of dave's")
    path = write_users(stack.env_dir, stack.profile, *lines)
    try:
        result = stack.cli("up", "--env", stack.profile, timeout_s=300)
        assert "line 8" in result.stdout + result.stderr
        assert "no separator here" not in result.stdout + result.stderr

        def dave_gets_in() -> bool:
            stack.login("dave", "a password of dave's").__exit__(None, None, None)
            return True

        wait_until(dave_gets_in, 60, what="dave's login", ignoring=(LoginRefused, *_DOWN))
        with pytest.raises(LoginRefused):
            stack.login("root", "must-not-get-in")

        def refused_lines() -> list[str]:
            refused = stack.daemon()["accounts"]["refused"]
            return [line.partition(":")[0] for line in refused]

        wait_until(lambda: refused_lines() == ["line 8", "line 9"], 60, what="both are refused")
        assert stack.cli("status", check=False).returncode == 1
        assert "must-not-get-in" not in stack.log("jhswarmd")
    finally:
        write_users(path.parents[1], stack.profile)
        stack.up()


@pytest.mark.every_engine
@pytest.mark.destructive
def test_plain_stack_rm_leaves_only_volumes_secrets_and_label(
    engine: Lab, stack: Stack, testuser: Visitor
) -> None:
    kept = _kept_of(stack)
    engine.run(["docker", "stack", "rm", stack.name])
    wait_until(lambda: not _left_of(stack), 60, what="nothing is left of the stack")
    assert stack.notebooks() == []
    assert _kept_of(stack) == kept


@pytest.mark.destructive
def test_files_survive_down_and_up(stack: Stack) -> None:
    stack.up()
    with stack.login("testuser") as visitor:
        visitor.stop_server()
        visitor.start_server()
        visitor.write_file("kept-by-down.txt", "the same file")
    kept = _kept_of(stack)
    stack.down()
    # The engine clears ended containers away a moment after their service.
    wait_until(lambda: not _left_of(stack), 15, what="nothing is left of the stack")
    assert _kept_of(stack) == kept
    assert stack.cli("status", check=False).returncode == 2
    # Without its name: the profile is recorded.
    stack.cli("up", "--env-if-new", "local", timeout_s=300)
    with stack.login("testuser") as visitor:
        visitor.start_server()
        assert visitor.read_file("kept-by-down.txt") == "the same file"


@pytest.mark.destructive
def test_a_service_of_somebody_else_on_our_network_stays_with_it_and_down_completes(
    stack: Stack, small_image: str, create_service: CreateService
) -> None:
    stack.up()
    network = labels.network_name(stack.name, "control")
    prometheus = create_service(small_image, name="prometheus", networks=[network])
    wait_until(lambda: stack.containers(prometheus), 30, what="prometheus runs")
    (before,) = stack.containers(prometheus)
    told = stack.cli("down", "--env", stack.profile, timeout_s=240).stderr
    assert f"The network {network} is kept: it is used by the service prometheus" in told
    assert f"docker service update --network-rm {network} prometheus" in told
    assert _left_of(stack).keys() <= {"networks", "containers"}  # ended ones go a moment later
    assert _left_of(stack)["networks"] == [network]
    # Again, with nothing else left.
    assert "the service prometheus" in stack.cli("down", "--env", stack.profile).stderr
    assert "is down" in stack.cli("status", check=False).stderr
    stack.up()
    (after,) = stack.containers(prometheus)
    assert after.id == before.id
    probe = f"http://tasks.{labels.service_name(stack.name, 'jhswarmd')}:9108/health"
    code = f"import urllib.request as r; print(r.urlopen('{probe}', timeout=5).status)"
    answer = after.exec_run(["python3", "-c", code])
    assert answer.output.decode().strip() == "200"


@pytest.mark.destructive
def test_the_cause_of_a_hub_that_ends_again_and_again_is_its_own_last_words(
    engine: Lab, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.up()
    monkeypatch.setattr(stacks, "MAX_FAILURES", 2)
    hub = labels.service_name(stack.name, "hub")
    broken = ["--env-add", "RESYNC_INTERVAL_S=often", "--env-add", "ODD_TOKEN=not-to-be-shown"]
    engine.run(["docker", "service", "update", "--quiet", "--detach", *broken, hub])
    with pytest.raises(JhswarmdError) as caught, Progress().step("Waiting") as step:
        stacks.wait_healthy(engine.client, stack.name, step, 120)
    assert "(before: task: non-zero exit (1))" in caught.value.why
    assert any("often" in line for line in caught.value.output)
    told = stack.cli("status", check=False)
    assert told.returncode == 2
    assert "hub does not run (task: non-zero exit (1)" in told.stdout
    assert "often" in told.stdout
    assert "not-to-be-shown" not in told.stdout
    unknown = stack.cli("status", "--stack", "nope", check=False)
    assert unknown.returncode == 2
    assert f"There is no deployment 'nope' on this swarm: it has {stack.name}" in unknown.stderr
    stack.up()


@pytest.mark.destructive
def test_purge_takes_secrets_and_label_and_never_a_volume(stack: Stack) -> None:
    stack.up()
    volumes = _kept_of(stack)["volumes"]
    stack.cli("down", "--env", stack.profile, "--purge", "--yes", timeout_s=240)
    left = _kept_of(stack)
    assert left["volumes"] == volumes
    assert left["secrets"] == []
    assert stack.lab.client.api.configs() == []
    assert labels.hub_node_label(stack.name) not in left["labels"][0]


@pytest.mark.destructive
def test_interrupted_up_is_finished_by_the_next(engine: Lab, stack: Stack) -> None:
    stack.cli("down", "--env", stack.profile, "--purge", "--yes", check=False, timeout_s=240)
    process = stack.start_cli("up", "--env", stack.profile)
    for line in process.stdout:
        if "Secrets" in line:
            break
    engine.end(process, signal.SIGINT)
    assert process.returncode == 130
    stack.up()
    with stack.login("testuser") as visitor:
        visitor.start_server()
