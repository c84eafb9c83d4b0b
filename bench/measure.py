"""What is measured. The contenders take turns, so that a busy moment hits all of them alike."""

from __future__ import annotations

import contextlib
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from docker.errors import NotFound
from docker.types import ContainerSpec, EndpointSpec, Placement, TaskTemplate

from bench.contenders import Bare, Contender, Hub, spec_of_ours
from bench.figures import BARE, OURS, STOCK, Figure, Target
from bench.site import PATIENCE_S, HubProcess, Site, StartFailed, notebook_labels
from jhswarmd import labels
from tests.kit.wait import wait_until

#: Told what is being done; the number is of steps done since the last call.
Report = Callable[[str, int], None]

#: Turns of restarts: stock's that fail take the hub's whole http_timeout.
RESTARTS = 2
#: Seconds in which the engine tidies up after a server is gone.
_SETTLE_S = 0.3
_LOOK_EVERY_S = 0.005
#: Users of an idle hub that are made with one request.
_BATCH = 100
NOWHERE = ["node.labels.bench==nowhere"]


@contextlib.contextmanager
def timed(figure: Figure, contender: str) -> Iterator[None]:
    """Add the seconds that the block takes, or a failure if it raises StartFailed."""
    begun_at = time.perf_counter()
    try:
        yield
    except StartFailed:
        figure.add_failure(contender)
        raise
    figure.add(contender, time.perf_counter() - begun_at)


@contextlib.contextmanager
def contenders(site: Site, report: Report) -> Iterator[list[Contender]]:
    """Start the hubs and warm everybody up: image, client connections, imports."""
    with contextlib.ExitStack() as stack:
        hubs = []
        for spawner in (STOCK, OURS):
            report(f"hub with the spawner: {spawner}", 0)
            process = HubProcess(site, spawner)
            stack.callback(process.close)
            process.start()
            hubs.append(Hub(process))
        stock, ours = hubs
        report("warming up", 0)
        bare = Bare(site, spec_of_ours(site, ours))
        for contender in (bare, stock):
            users = contender.new_users(1)
            contender.start(users)
            contender.stop(users)
            site.wait_empty()
        yield [bare, stock, ours]


def spawn(site: Site, turns: Sequence[Contender], rounds: int, report: Report) -> list[Figure]:
    """One server at a time: until ready, until gone, and from a stop to ready again."""
    ready = Figure("spawn", "one start, until ready", Target(ratio=1.3))
    gone = Figure("stop", "one stop, until nothing of it is left")
    bounce = Figure("bounce", "stop and start at once, until ready")
    again = Figure("again", "the same server again, after its stop, until ready")
    for number in range(rounds):
        for contender in turns:
            report(f"spawn {number + 1}/{rounds}: {contender.name}", 1)
            users = contender.new_users(1)
            with timed(ready, contender.name):
                contender.start(users)
            with timed(gone, contender.name):
                contender.stop(users)
                site.wait_empty()
            time.sleep(_SETTLE_S)
    for number in range(RESTARTS):
        for contender in turns:
            report(f"restart {number + 1}/{RESTARTS}: {contender.name}", 1)
            _restart(site, contender, bounce, again)
    return [ready, gone, bounce, again]


def _restart(site: Site, contender: Contender, bounce: Figure, again: Figure) -> None:
    users = contender.new_users(1)
    contender.start(users)
    begun_at = time.perf_counter()
    contender.stop(users)
    if contender.name == BARE:
        site.wait_empty()  # as ours does
    contender.start(users)
    seconds = time.perf_counter() - begun_at
    # A hub may have asked the old notebook, which answers while it is going down.
    if contender.name == BARE or site.is_newest_asked():
        bounce.add(contender.name, seconds)
    else:
        bounce.add_failure(contender.name)
    contender.stop(users)
    site.wait_empty()
    time.sleep(_SETTLE_S)
    try:
        with timed(again, contender.name):
            contender.start(users)
    except StartFailed:
        site.remove_services()
    else:
        contender.stop(users)
        site.wait_empty()


def many(
    site: Site, turns: Sequence[Contender], sizes: Sequence[int], rounds: int, report: Report
) -> list[Figure]:
    """Many servers at once: until the last one is ready, and how long a hub's loop is blocked."""
    lag = Figure("lag", f"a timer of the hub's loop is late while {max(sizes)} start, at most")
    step = Figure(
        "step",
        f"the longest step of the hub's loop while {max(sizes)} start",
        Target(worst_s=0.05),
    )
    figures = [
        Figure(f"many-{size}", f"{size} starts at once, until all are ready", Target(ratio=1.1))
        for size in sizes
    ]
    for number in range(rounds):
        for size, figure in zip(sizes, figures, strict=True):
            for contender in turns:
                report(f"{size} at once, {number + 1}/{rounds}: {contender.name}", 1)
                users = contender.new_users(size)
                contender.read_lag()
                try:
                    with timed(figure, contender.name):
                        contender.start(users)
                except StartFailed:
                    site.remove_services()
                    continue
                found = contender.read_lag()
                if found is not None and size == max(sizes):
                    lag.add(contender.name, found["late_s"])
                    step.add(contender.name, found["step_s"])
                contender.stop(users)
                site.wait_empty()
                time.sleep(_SETTLE_S)
    return [*figures, lag, step]


def orphans(site: Site, tracked: int, tries: int, report: Report) -> list[Figure]:
    """A service that no server of the hub stands for: from its create's answer to its end."""
    figure = Figure(
        "orphan",
        f"an orphan among {tracked:,} servers, until it is gone",
        Target(median_s=0.25, worst_s=1.0),
    )
    with contextlib.ExitStack() as stack:
        report("hub with a spawner that starts nothing", 0)
        hub = HubProcess(site, "idle")
        stack.callback(hub.close)
        hub.start()
        hub_id = hub.hub_id()
        users = [f"user{number:05d}" for number in range(tracked)]
        _start_idle(hub, users, report)
        report(f"{tracked:,} services", 0)
        stack.callback(site.remove_services)

        def create(user: str) -> None:
            _create_idle(site, notebook_labels(hub, hub_id, user), user)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(create, users))
        create_hub_service(site, hub)
        with hub.daemon():
            report("the daemon's first pass", 0)
            wait_gone(site, create_orphan(site, hub, hub_id))
            for number in range(tries):
                report(f"orphan {number + 1}/{tries}", 1)
                time.sleep(random.uniform(0.1, 0.5))
                service_id = _create_idle(site, {}, "bare")
                with timed(figure, BARE):
                    site.api.remove_service(service_id)
                    wait_gone(site, service_id)
                service_id = create_orphan(site, hub, hub_id)
                with timed(figure, OURS):
                    wait_gone(site, service_id)
    return [figure]


def _start_idle(hub: HubProcess, users: Sequence[str], report: Report) -> None:
    """Make the hub count a running server for each user."""
    for first in range(0, len(users), _BATCH):
        batch = users[first : first + _BATCH]
        report(f"servers {first + 1:,} to {first + len(batch):,} of {len(users):,}", 0)
        hub.add_users(list(batch))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(hub.start_server, batch))


def _create_idle(site: Site, marks: Mapping[str, str], name: str) -> str:
    """Create a service that no node may run: a real service without a container."""
    task = TaskTemplate(
        ContainerSpec(site.image, labels=dict(marks)), placement=Placement(constraints=NOWHERE)
    )
    created = site.api.create_service(
        task,
        name=f"bench-{name}-{secrets.token_hex(4)}",
        labels=dict(marks),
        endpoint_spec=EndpointSpec(mode="dnsrr"),
    )
    return str(created["ID"])


def create_orphan(site: Site, hub: HubProcess, hub_id: str) -> str:
    user = f"nobody{secrets.token_hex(4)}"
    return _create_idle(site, notebook_labels(hub, hub_id, user), user)


def create_hub_service(site: Site, hub: HubProcess) -> None:
    """Make the daemon active: it acts where the stack's hub is placed."""
    name = labels.service_name(hub.stack, "hub")
    site.keep(site.api.create_service(TaskTemplate(ContainerSpec(site.image)), name=name)["ID"])

    def runs() -> bool:
        tasks = site.api.tasks(filters={"service": name})
        return any(task["Status"]["State"] == "running" for task in tasks)

    wait_until(runs, PATIENCE_S, what="the service that stands for the hub")


def wait_gone(site: Site, service_id: str) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        try:
            site.api.inspect_service(service_id)
        except NotFound:
            return
        time.sleep(_LOOK_EVERY_S)
    raise StartFailed(f"service {service_id} is still there")
