"""Secrets of a deployed stack are replaced, and who works on it does not notice."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from subprocess import PIPE, STDOUT

import pytest
import requests
from docker.errors import APIError, NotFound

from jhswarmd import labels
from jhswarmd.credentials import generations, rotation, secret_mounts, tls
from jhswarmd.credentials.rotation import Point
from jhswarmd.engine.client import Engine
from tests.kit.stack import Kernel, Stack, Visitor
from tests.kit.wait import wait_until

ROTATED_S = 300
_DOWN = (requests.RequestException, OSError)


@pytest.fixture
def testuser(stack: Stack) -> Iterator[Visitor]:
    """testuser, logged in by cookie and token, with a server that runs."""
    with stack.login("testuser") as visitor:
        visitor.ensure_server()
        yield visitor


def rotate(stack: Stack, *args: str, check: bool = True) -> tuple[int, str]:
    """Run ``jhswarmd rotate``; returns code and output."""
    result = stack.cli("rotate", *args, timeout_s=ROTATED_S, check=check)
    return result.returncode, result.stdout + result.stderr


def generation(stack: Stack, unit: str) -> int:
    return int(stack.daemon()["rotation"]["units"][unit]["generation"])


def wait_settled(stack: Stack, least: Mapping[str, int]) -> None:
    """Return once everything works with these generations, or newer ones."""

    def is_settled() -> bool:
        told = stack.daemon()["rotation"]
        units = told["units"]
        return not told["doing"] and all(
            name in units
            and units[name]["generation"] >= number
            and all(unit["is_verified"] for unit in units.values())
            for name, number in least.items()
        )

    wait_until(is_settled, ROTATED_S, what=f"{least} work")


def targets(stack: Stack, role: str) -> dict[str, str]:
    """Return what a service mounts: target to the secret's name."""
    spec = stack.service(role).attrs["Spec"]["TaskTemplate"]["ContainerSpec"]
    return {each["File"]["Name"]: each["SecretName"] for each in spec["Secrets"]}


def is_logged_in(visitor: Visitor) -> bool:
    """Tell whether the browser's cookie alone opens the hub's home."""
    answer = visitor._session.get(
        f"{visitor.stack.url}/hub/home", allow_redirects=False, timeout=30
    )
    return answer.status_code == 200


def hub_tokens(stack: Stack) -> list[str]:
    """Return the tokens that daemon and idle culler use now, out of their container."""
    tokens = []
    for kind in rotation.CREDENTIALS["daemon"]:
        code, output = stack.container("jhswarmd").exec_run(["cat", f"/run/secrets/{kind}"])
        assert code == 0
        tokens.append(str(output.decode().strip()))
    return tokens


@contextlib.contextmanager
def paused_daemon(stack: Stack) -> Iterator[None]:
    """Keep the daemon from doing anything meanwhile."""
    container = stack.container("jhswarmd")
    container.pause()
    try:
        yield
    finally:
        container.unpause()


def answers(stack: Stack, tokens: Iterable[str]) -> list[int]:
    """Return what the hub answers to each of these tokens."""
    with stack.session() as session:
        return [
            session.get(
                f"{stack.url}/hub/api/user", headers={"Authorization": f"token {token}"}, timeout=30
            ).status_code
            for token in tokens
        ]


def test_what_up_deployed_is_shown_with_generation_age_and_result(stack: Stack) -> None:
    wait_settled(stack, {"cookie": 1})
    text = stack.cli("status", check=False).stdout
    for name in ("cookie", "proxy", "crypt", "daemon", "tls"):
        (line,) = [each for each in text.splitlines() if each.strip().startswith(f"{name} g")]
        assert "old" in line
        assert "in use" in line


def test_dry_run_says_what_would_happen_and_changes_nothing(stack: Stack) -> None:
    before = generation(stack, "cookie")
    _, text = rotate(stack, "all", "--dry-run")
    assert f"cookie: generation {before + 1} replaces {before}" in text
    assert "logins stay valid" in text
    assert "all users log in again" in rotate(stack, "cookie", "--dry-run", "--revoke")[1]
    code, text = rotate(stack, "nosuch", check=False)
    assert (code, "cookie" in text) == (2, True)
    assert generation(stack, "cookie") == before


@pytest.mark.every_engine
def test_rotation_of_everything_costs_no_login_no_notebook_and_no_kernel(
    stack: Stack, testuser: Visitor
) -> None:
    service, former = stack.notebook("testuser"), hub_tokens(stack)
    assert answers(stack, former) == [200, 200]
    before = {name: generation(stack, name) for name in ("cookie", "proxy", "crypt", "daemon")}
    with testuser.start_kernel() as kernel:
        assert kernel.execute("x = 40; x") == "40"
        _, told = rotate(stack, "all")
        print(told)
    # The proxy was replaced, and every connection through it; browsers connect again.
    with Kernel(testuser, kernel.id) as again:
        assert again.execute("x + 2") == "42"
    assert kernel.id in testuser.kernels()
    assert stack.notebook("testuser").id == service.id
    assert stack.notebook("testuser").version == service.version
    assert is_logged_in(testuser)
    server = testuser.server()
    assert server
    assert server["ready"]
    for name, number in before.items():
        assert generation(stack, name) == number + 1
    hub, number = targets(stack, "hub"), before["cookie"]
    assert {f"cookie_secret_g{number}", f"cookie_secret_g{number + 1}"} <= hub.keys()
    newer = labels.secret_name(stack.name, "proxy_auth_token", before["proxy"] + 1)
    assert targets(stack, "proxy")["proxy_auth_token"] == newer
    # The former tokens of daemon and culler are none any more.
    current = hub_tokens(stack)
    assert not {*current} & {*former}
    assert answers(stack, current) == [200, 200]
    assert answers(stack, former) == [403, 403]
    assert stack.problems() == []
    for secret in (*former, *current):
        for role in labels.ROLES:
            assert secret not in stack.log(role)


def test_rotation_of_the_hubs_alone_keeps_open_channels_and_a_second_up_changes_nothing(
    stack: Stack, testuser: Visitor
) -> None:
    with testuser.start_kernel() as kernel:
        assert kernel.execute("x = 40; x") == "40"
        rotate(stack, "cookie")
        assert kernel.execute("x + 2") == "42"
        assert is_logged_in(testuser)
        before = {role: stack.container(role).id for role in labels.ROLES}
        mounts = {role: targets(stack, role) for role in labels.ROLES}
        stack.up()
        assert {role: stack.container(role).id for role in labels.ROLES} == before
        assert {role: targets(stack, role) for role in labels.ROLES} == mounts
        assert kernel.execute("x + 3") == "43"


def test_of_two_rotations_at_once_one_waits(stack: Stack) -> None:
    before = generation(stack, "crypt")
    argv = [sys.executable, "-m", "jhswarmd", "rotate", "crypt"]
    first = stack.lab.popen(argv)
    rotate(stack, "crypt")
    assert first.wait(ROTATED_S) == 0
    assert generation(stack, "crypt") == before + 2


def test_with_revoke_older_logins_end_and_notebooks_stay(stack: Stack, testuser: Visitor) -> None:
    service = stack.notebook("testuser")
    number = generation(stack, "cookie")
    assert is_logged_in(testuser)
    rotate(stack, "all", "--revoke")
    assert not is_logged_in(testuser)
    assert stack.notebook("testuser").id == service.id
    hub = targets(stack, "hub")
    assert [name for name in hub if name.startswith("cookie")] == [f"cookie_secret_g{number + 1}"]
    for kind in secret_mounts.NUMBERED:
        assert len([name for name in hub if name.startswith(kind)]) == 1
    with stack.login("testuser") as again:
        assert is_logged_in(again)
        server = again.server()
        assert server
        assert server["ready"]


def create_bad(stack: Stack, kind: str, content: bytes) -> int:
    """Create the next generation of a kind, with a content that does not work."""
    engine = Engine(stack.lab.client)
    held = [each for each in engine.list_secrets(stack.name) if each.kind == kind]
    number = 1 + max(each.generation for each in held)
    marks = generations.version_labels(stack.name, kind, number, "generated")
    engine.create_secret(labels.secret_name(stack.name, kind, number), content, marks)
    return number


def test_secret_with_which_the_hub_does_not_start_is_rolled_back_and_named(
    stack: Stack, testuser: Visitor
) -> None:
    wait_settled(stack, {})
    before = generation(stack, "cookie")
    proxy = stack.container("proxy").id
    number = create_bad(stack, "cookie_secret", b"a canary, and no hexadecimal")
    kill_at(stack, [Point.reject])

    def rolled_back() -> bool:
        unit = stack.daemon()["rotation"]["units"]["cookie"]
        return unit["generation"] == before and str(number) in unit["rejected"]

    # A daemon that has just started has not looked at the secrets yet.
    wait_until(rolled_back, ROTATED_S, what="it is rolled back", ignoring=(KeyError,))
    stack.wait_healthy(120)
    wait_until(lambda: is_logged_in(testuser), 60, what="the login", ignoring=_DOWN)
    result = stack.cli("status", check=False)
    assert result.returncode == 1
    assert "was rolled back" in result.stdout
    assert stack.container("proxy").id == proxy
    assert "canary" not in stack.log("hub") + stack.log("jhswarmd")
    rotate(stack, "cookie")
    assert generation(stack, "cookie") == number + 1
    assert stack.problems() == []


def test_older_secrets_that_an_old_stack_file_brings_back_are_put_right_and_named(
    stack: Stack, testuser: Visitor
) -> None:
    # The engine refuses a file with secrets that are gone: none of those that the hub may drop.
    rotate(stack, "cookie")
    rendered = stack.cli("render", "--env", stack.profile).stdout
    rotate(stack, "cookie")
    rotate(stack, "proxy")
    former = f"proxy_auth_token_g{generation(stack, 'proxy') - 1}"

    def mounted() -> dict[str, dict[str, str]]:
        found = {role: targets(stack, role) for role in labels.ROLES}
        # Whether the hub goes on to take the proxy's former token, which harms nothing, depends on
        # which of the two the old file led back first.
        found["hub"].pop(former, None)
        return found

    wanted = mounted()
    stack.lab.run(
        ["docker", "stack", "deploy", "--detach=true", "-c", "-", stack.name], input=rendered
    )

    def is_put_right() -> bool:
        return mounted() == wanted

    wait_until(is_put_right, ROTATED_S, what="the services mount the newest secrets")
    wait_settled(stack, {})
    stack.wait_healthy(120)
    assert is_logged_in(testuser)
    # The daemon that did it may have been replaced since.
    told = stack.cli("status", check=False).stdout
    assert "hub used older secrets or none, corrected" in told
    assert "A service used older secrets" in stack.log("jhswarmd")


def test_secret_that_somebody_took_from_the_hub_and_removed_is_made_anew_and_named(
    stack: Stack, testuser: Visitor
) -> None:
    wait_settled(stack, {})
    service = stack.notebook("testuser")
    held = list(Engine(stack.lab.client).list_secrets(stack.name))
    names = [each.name for each in held if each.kind == "cookie_secret"]
    mounted = [name for name in names if name in targets(stack, "hub").values()]
    options = [word for name in mounted for word in ("--secret-rm", name)]
    hub = labels.service_name(stack.name, "hub")
    with paused_daemon(stack):  # which would be quicker
        stack.lab.run(["docker", "service", "update", "--quiet", "--detach", *options, hub])
        stack.lab.run(["docker", "secret", "rm", *names])
    kill_at(stack, [Point.renew])
    wait_settled(stack, {"cookie": 1})
    stack.wait_healthy(120)
    assert stack.notebook("testuser").id == service.id
    assert "cookie: its secrets were removed" in stack.cli("status", check=False).stdout
    assert "Somebody removed secrets" in stack.log("jhswarmd")
    with stack.login("testuser") as again:
        assert is_logged_in(again)


def test_certificate_of_the_profile_is_served_and_a_self_signed_one_when_its_files_are_gone(
    stack: Stack,
) -> None:
    def served() -> str:
        return stack.certificate().read_text().strip()

    folder = stack.env_dir / stack.profile / "ssl"
    folder.mkdir()
    certificate, key = tls.self_signed(stack.lab.address)
    (folder / "cert.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(key)
    try:
        rotate(stack, "tls", "--env", stack.profile)
        assert served() == certificate.decode().strip()
        code, told = rotate(stack, "tls", check=False)
        assert (code, "profile's own" in told) == (1, True)
    finally:
        shutil.rmtree(folder)
        rotate(stack, "tls", "--env", stack.profile)
    assert served() != certificate.decode().strip()
    assert stack.is_healthy()


#: How the daemon is killed at each point of a rotation. At some it ends by itself, too.
SIGNALS = {
    Point.begin: "SIGKILL",
    Point.lead_hub: "SIGTERM",
    Point.lead_proxy: "SIGKILL",
    Point.settle: "SIGKILL",
    Point.lead_daemon: "SIGKILL",
    Point.remove: "SIGINT",
    Point.reject: "SIGKILL",
    Point.renew: "SIGKILL",
}
#: Those that have a test of their own, because something must be wrong.
APART = (Point.reject, Point.renew)
#: A daemon may be past a point before it is killed; the next rotation comes by there again.
ROUNDS_MOST = 4


def kill_at(stack: Stack, left: list[Point]) -> None:
    """Kill the daemon when it comes to one of the points that are left, until none is."""
    since_s, killed = str(int(time.time())), set[str]()

    def find_daemon() -> str | None:
        found = stack.containers(stack.service("jhswarmd"))
        return next((each.id for each in found if each.id not in killed), None)

    while left:
        container_id = wait_until(find_daemon, 60, what="the daemon", ignoring=(NotFound,))
        follow = ["docker", "logs", "--follow", "--since", since_s, container_id]
        process = stack.lab.popen(follow, stdout=PIPE, stderr=STDOUT, text=True)
        for line in process.stdout or ():
            if at := [point for point in left if f"step={point.value} " in line]:
                # The engine may replace the daemon by itself meanwhile.
                with contextlib.suppress(NotFound, APIError):
                    stack.lab.client.api.kill(container_id, SIGNALS[at[0]])
                left.remove(at[0])
                break
        stack.lab.end(process)
        killed.add(container_id)


@pytest.mark.destructive  # status names a daemon that ends again and again, for minutes
@pytest.mark.timeout(600, func_only=True)
def test_daemon_that_is_killed_at_every_point_is_followed_by_one_that_goes_on(
    stack: Stack, testuser: Visitor
) -> None:
    wait_settled(stack, {})
    service = stack.notebook("testuser")
    before = {name: generation(stack, name) for name in ("cookie", "proxy", "crypt", "daemon")}
    left = [point for point in Point if point not in APART]
    threading.Thread(target=kill_at, args=(stack, left), daemon=True).start()
    rounds = 0
    while left and rounds < ROUNDS_MOST:
        rotate(stack, "all")
        rounds += 1
    assert left == []
    # Whoever asked asks again with the same id: there is one new generation, and no more. Of one
    # that is a pair half may have been made, which does not count.
    for name, number in before.items():
        most = 2 * rounds if name == "daemon" else rounds
        assert rounds <= generation(stack, name) - number <= most
    wait_settled(stack, {})
    assert is_logged_in(testuser)
    assert stack.notebook("testuser").id == service.id
    # The daemon may still wait for its next attempt to reach a hub that has just started.
    wait_until(lambda: stack.problems() == [], 60, what="status finds nothing but killed daemons")
