"""What a great number of servers costs the daemon: full passes, orphans among them, memory, idling.

The services are those that our spawner makes, but for a constraint that no node meets: a real
control plane without containers.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from bench import fill, hubside
from bench.contenders import Hub, spec_of_ours
from bench.figures import BARE, OURS, Figure, Target
from bench.measure import NOWHERE, Report, create_hub_service, create_orphan, timed, wait_gone
from bench.site import HubProcess, Site, notebook_labels
from jhswarmd import labels
from jhswarmd.hub_client import PAGE_SIZE

#: Seconds for which the daemon is left alone to see what it costs idle.
IDLE_S = 120
#: Seconds in which its first passes settle.
_SETTLE_S = 15
_TICKS = os.sysconf("SC_CLK_TCK")


def passes(
    site: Site, tracked: int, rounds: int, orphans: int, report: Report
) -> tuple[list[Figure], list[str]]:
    """Measure with ``tracked`` servers; returns figures, and facts in words."""
    full = Figure(
        "pass", f"a full pass over {tracked:,} servers; bare: both listings", Target(ratio=1.3)
    )
    gone = Figure(
        "orphan-large",
        f"an orphan among {tracked:,} servers, until it is gone",
        Target(median_s=0.5, worst_s=2.0),
    )
    facts: list[str] = []
    with contextlib.ExitStack() as stack:
        report("a service as our spawner makes it", 0)
        spec = _spec(site)
        report(f"a hub with {tracked:,} servers", 0)
        hub = HubProcess(site, "idle")
        stack.callback(hub.close)
        hub.start(fill=tracked)
        hub_id = hub.hub_id()
        report(f"{tracked:,} services", 0)
        stack.callback(site.remove_services)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: _create(site, hub, hub_id, spec, number), range(tracked)))
        create_hub_service(site, hub)
        for number in range(rounds):
            report(f"full pass {number + 1}/{rounds}", 1)
            with timed(full, BARE):
                _list_services(site, hub)
                _list_users(site, hub)
            full.add(OURS, _pass_in_a_process(site, hub))
        with hub.daemon() as process:
            report("the daemon's first pass", 0)
            wait_gone(site, create_orphan(site, hub, hub_id))
            time.sleep(_SETTLE_S)
            for number in range(orphans):
                report(f"orphan {number + 1}/{orphans}", 1)
                time.sleep(random.uniform(0.1, 0.5))
                service_id = create_orphan(site, hub, hub_id)
                with timed(gone, OURS):
                    wait_gone(site, service_id)
            report(f"idle for {IDLE_S} s", 0)
            facts += _watch_idle(_program(process.pid), _program(hub.pid))
    return [full, gone], facts


def _spec(site: Site) -> dict[str, Any]:
    ours = HubProcess(site, "ours")
    try:
        ours.start()
        return spec_of_ours(site, Hub(ours))
    finally:
        ours.close()


def _create(site: Site, hub: HubProcess, hub_id: str, like: dict[str, Any], number: int) -> None:
    spec = copy.deepcopy(like)
    user = fill.name_of(number)
    marks = {**spec["Labels"], **notebook_labels(hub, hub_id, user)}
    spec["TaskTemplate"]["ContainerSpec"]["Labels"] = marks
    spec["TaskTemplate"]["Placement"] = {"Constraints": NOWHERE}
    site.api.create_service(
        spec["TaskTemplate"],
        name=f"bench-{user}",
        labels=marks,
        endpoint_spec=spec["EndpointSpec"],
    )


def _list_services(site: Site, hub: HubProcess) -> None:
    """Read the listing that a full pass needs, and make nothing of it."""
    wanted = [f"{labels.STACK}={hub.stack}", f"{labels.ROLE}={labels.ROLE_NOTEBOOK}"]
    answer = site.api.get(
        f"{site.api.base_url}/v{site.api.api_version}/services",
        params={"filters": json.dumps({"label": wanted})},
    )
    answer.raise_for_status()


def _list_users(site: Site, hub: HubProcess) -> None:
    headers = {
        "Authorization": f"token {site.secrets['daemon_token']}",
        "Accept": "application/jupyterhub-pagination+json",
    }
    offset: int | None = 0
    with requests.Session() as session:
        session.trust_env = False
        while offset is not None:
            page = session.get(
                f"{hub.url}/api/users",
                params={"offset": offset, "limit": PAGE_SIZE},
                headers=headers,
                timeout=hubside.ANSWER_WITHIN_S,
            )
            page.raise_for_status()
            following = page.json()["_pagination"]["next"]
            offset = following["offset"] if following else None


def _pass_in_a_process(site: Site, hub: HubProcess) -> float:
    """Return the seconds of one full pass, in a process of its own, as the daemon is."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.one_pass", hub.url + "/api", hub.stack],
        input=site.secrets["daemon_token"],
        env={**os.environ, "DOCKER_HOST": site.lab.base_url},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def _watch_idle(daemon: int, hub: int) -> list[str]:
    before = {pid: _cpu_s(pid) for pid in (daemon, hub)}
    begun_at = time.monotonic()
    time.sleep(IDLE_S)
    took_s = time.monotonic() - begun_at
    share = {pid: 100 * (_cpu_s(pid) - before[pid]) / took_s for pid in (daemon, hub)}
    return [
        f"the daemon's memory: {_memory_mib(daemon, 'VmRSS')} MiB resident, "
        f"{_memory_mib(daemon, 'VmHWM')} MiB at most (target 250, aimed at 150)",
        f"idle for {took_s:.0f} s: the daemon {share[daemon]:.2f} % of a core (target 1), "
        f"the hub {share[hub]:.2f} %",
    ]


def _program(pid: int) -> int:
    """Return the program at the end of a chain of wrappers, each with one child."""
    while children := list(_children(pid)):
        pid = children[0]
    return pid


def _children(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, path.read_text().split())


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory_mib(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(key))
