"""Who is measured: the bare engine, and hubs with a spawner. All of them start the same service."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from bench.figures import BARE
from bench.site import PATIENCE_S, BenchError, HubProcess, Site
from jhswarmd import labels

#: Pause between two looks at the bare engine: what it costs is the engine's time too.
_LOOK_EVERY_S = 0.01
_LOOK_AT_MANY_EVERY_S = 0.05


class Contender(Protocol):
    """Starts and stops notebook servers. Every name is used once, unless the measure is of that."""

    name: str

    def new_users(self, count: int) -> list[str]:
        """Make users who have never had a server; not measured."""

    def start(self, users: Sequence[str]) -> None:
        """Start a server for each at once; return when all are ready. Raises StartFailed."""

    def stop(self, users: Sequence[str]) -> None:
        """Stop their servers at once; return when that is done as far as the contender says."""

    def read_lag(self) -> dict[str, float] | None:
        """Return the longest blocks of the hub's loop since the last call; None: no hub."""


def _names(prefix: str) -> Iterator[str]:
    return (f"{prefix}{number:04d}" for number in itertools.count())


class Hub:
    """A hub with a spawner: from the request to start a server to the hub's answer 'ready'."""

    def __init__(self, hub: HubProcess) -> None:
        self.name = hub.spawner
        self.hub = hub
        self._names = _names("user")

    def new_users(self, count: int) -> list[str]:
        """Make users in the hub's database."""
        names = list(itertools.islice(self._names, count))
        self.hub.add_users(names)
        return names

    def start(self, users: Sequence[str]) -> None:
        """Ask for all servers at once."""
        _at_once(self.hub.start_server, users)

    def stop(self, users: Sequence[str]) -> None:
        """Ask for all to be stopped at once."""
        _at_once(self.hub.stop_server, users)

    def read_lag(self) -> dict[str, float]:
        """Ask the hub."""
        return self.hub.read_lag()


class Bare:
    """The engine alone: from the request to create a service to its task's state 'running'.

    ``spec`` is that of a service which our spawner made.
    """

    name = BARE

    def __init__(self, site: Site, spec: dict[str, Any]) -> None:
        self._api = site.api
        self._spec = spec
        self._names = _names("bare")
        self._ids: dict[str, str] = {}

    def new_users(self, count: int) -> list[str]:
        """Return new names."""
        return list(itertools.islice(self._names, count))

    def start(self, users: Sequence[str]) -> None:
        """Create all services at once, and wait for all tasks."""
        self._ids.update(zip(users, _at_once(self._create, users), strict=True))
        wanted = {self._ids[user] for user in users}
        give_up_at = time.monotonic() + PATIENCE_S
        while not wanted <= self._running(wanted):
            if time.monotonic() > give_up_at:
                raise BenchError("the bare engine's services do not run")
            time.sleep(_LOOK_EVERY_S if len(wanted) == 1 else _LOOK_AT_MANY_EVERY_S)

    def _create(self, user: str) -> str:
        spec = copy.deepcopy(self._spec)
        spec["Labels"][labels.USER] = user
        container = spec["TaskTemplate"]["ContainerSpec"]
        container["Labels"][labels.USER] = user
        for mount in container["Mounts"]:
            mount["Source"] = f"bench-bare-{user}"
        created = self._api.create_service(
            spec["TaskTemplate"],
            name=f"bench-bare-{user}",
            labels=spec["Labels"],
            endpoint_spec=spec["EndpointSpec"],
        )
        return str(created["ID"])

    def _running(self, wanted: Collection[str]) -> set[str]:
        filters = {"service": next(iter(wanted))} if len(wanted) == 1 else {}
        tasks = self._api.tasks(filters=filters)
        ours = [task for task in tasks if task["ServiceID"] in wanted]
        bad = [task for task in ours if task["Status"]["State"] in ("failed", "rejected")]
        if bad:
            raise BenchError(f"the bare engine's task failed: {bad[0]['Status']}")
        return {task["ServiceID"] for task in ours if task["Status"]["State"] == "running"}

    def read_lag(self) -> None:
        """Say that there is no hub."""

    def stop(self, users: Sequence[str]) -> None:
        """Remove the services."""
        _at_once(lambda user: self._api.remove_service(self._ids.pop(user)), users)


def spec_of_ours(site: Site, ours: Contender) -> dict[str, Any]:
    """Let our spawner start a server, and return the service that it made."""
    users = ours.new_users(1)
    ours.start(users)
    (service,) = site.api.services(filters={"label": f"{labels.ROLE}={labels.ROLE_NOTEBOOK}"})
    ours.stop(users)
    site.wait_empty()
    spec: dict[str, Any] = service["Spec"]
    return spec


def _at_once(call: Any, users: Sequence[str]) -> list[Any]:
    """Call for every user at the same time; return the answers in their order."""
    if len(users) == 1:
        return [call(users[0])]
    with ThreadPoolExecutor(len(users)) as pool:
        return list(pool.map(call, users))
