"""What the benchmark's hubs load: the project's own configuration, then this.

Runs inside a hub's process. All hubs are alike but for their spawner.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from typing import Any, ClassVar

from docker.types import Mount
from jupyterhub.proxy import Proxy
from jupyterhub.spawner import Spawner
from tornado import web

#: Name and token of the service under which the benchmark asks.
SERVICE = "bench"
TOKEN_ENV = "BENCH_TOKEN"
#: Seconds for which the hub lets a request wait for the end of a start or a stop: its answer then
#: is the moment itself, and nobody has to poll.
ANSWER_WITHIN_S = 150
#: JupyterHub's default.
HTTP_TIMEOUT_S = 30
_LOOK_EVERY_S = 0.005


class LagHandler(web.RequestHandler):
    """``GET /hub/api/bench/lag``: for how long the hub's loop did one thing and nothing else.

    In seconds, since the last time it was asked; the first request begins to watch. ``late_s``: by
    how much a timer was late at most, for whatever reason, a busy machine and many short steps in a
    row included. ``step_s``: the longest single step of the loop, which is what code blocks by
    itself: waiting for disk or network is in it; waiting for a processor, which the kernel tells,
    and Python's garbage collection are not.
    """

    _watcher: ClassVar[asyncio.Task[None] | None] = None
    _late_s: ClassVar[float] = 0.0
    _step_s: ClassVar[float] = 0.0
    _collected_s: ClassVar[float] = 0.0

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asleep_at = loop.time()
            await asyncio.sleep(_LOOK_EVERY_S)
            late_s = loop.time() - asleep_at - _LOOK_EVERY_S
            LagHandler._late_s = max(LagHandler._late_s, late_s)

    @staticmethod
    def _time_steps() -> None:
        # The loop has no hook for it.
        run = asyncio.Handle._run
        schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

        def passed_s() -> float:
            """Seconds, those left out in which this thread could have run and did not."""
            # On a processor, ready and waiting for one (both in ns), and times run (proc(5)).
            waited_ns = int(os.pread(schedstat, 100, 0).split()[1])
            return time.perf_counter() - waited_ns / 1e9

        def own_s() -> float:
            return passed_s() - LagHandler._collected_s

        def timed(handle: asyncio.Handle) -> None:
            begun_s = own_s()
            run(handle)
            LagHandler._step_s = max(LagHandler._step_s, own_s() - begun_s)

        loops = threading.get_ident()

        def collect(phase: str, info: dict[str, int]) -> None:
            if threading.get_ident() == loops:
                sign = -1 if phase == "start" else 1
                LagHandler._collected_s += sign * passed_s()

        gc.callbacks.append(collect)
        asyncio.Handle._run = timed  # type: ignore[method-assign,assignment]

    def get(self) -> None:
        """Write the seconds."""
        if LagHandler._watcher is None:
            LagHandler._watcher = asyncio.ensure_future(self._watch())
            self._time_steps()
        self.write({"late_s": LagHandler._late_s, "step_s": LagHandler._step_s})
        LagHandler._late_s = LagHandler._step_s = 0.0


class MemoryProxy(Proxy):  # type: ignore[misc]  # untyped
    """A proxy that takes no time: routes are not what is measured."""

    should_start = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._routes: dict[str, dict[str, Any]] = {}

    async def add_route(self, routespec: str, target: str, data: Any) -> None:
        """Keep the route."""
        self._routes[routespec] = {"routespec": routespec, "target": target, "data": data}

    async def delete_route(self, routespec: str) -> None:
        """Forget the route."""
        self._routes.pop(routespec, None)

    async def get_all_routes(self) -> dict[str, dict[str, Any]]:
        """Return what was kept."""
        return self._routes


class IdleSpawner(Spawner):  # type: ignore[misc]  # untyped
    """Starts nothing: one small server, in the hub's own network, answers for everybody."""

    async def start(self) -> tuple[str, int]:
        """Return where the small server listens."""
        return "127.0.0.1", 8888

    async def poll(self) -> None:
        """Say that it runs."""

    async def stop(self, now: bool = False) -> None:
        """Do nothing."""


def configure(c: Any, *, spawner: str, address: str, network: str) -> None:
    """Add to the project's configuration. ``spawner`` is ours, stock or idle."""
    c.JupyterHub.proxy_class = MemoryProxy
    c.JupyterHub.extra_handlers.append((r"/api/bench/lag", LagHandler, {}))
    c.JupyterHub.authenticator_class = "dummy"
    c.DummyAuthenticator.allow_all = True
    c.JupyterHub.hub_connect_ip = address
    c.JupyterHub.tornado_settings = {
        "slow_spawn_timeout": ANSWER_WITHIN_S,
        "slow_stop_timeout": ANSWER_WITHIN_S,
    }
    c.JupyterHub.services.append({"name": SERVICE, "api_token": os.environ[TOKEN_ENV]})
    c.JupyterHub.load_roles.append(
        {"name": SERVICE, "services": [SERVICE], "scopes": ["admin:users", "admin:servers"]}
    )
    c.SwarmSpawner.network_name = network
    c.SwarmSpawner.http_timeout = HTTP_TIMEOUT_S
    if spawner == "idle":
        c.JupyterHub.spawner_class = IdleSpawner
        # A hub that finds thousands of servers running asks them all at once.
        c.Spawner.http_timeout = 600
    elif spawner == "stock":
        _make_stock(c)


def _make_stock(c: Any) -> None:
    """Let stock SwarmSpawner do the same work as ours, as far as its options go."""
    c.JupyterHub.spawner_class = "dockerspawner.SwarmSpawner"
    # The same reason as ours has: a virtual address needs IPVS.
    c.SwarmSpawner.extra_endpoint_spec = {"mode": "dnsrr"}
    c.SwarmSpawner.pre_spawn_hook = _mount_volumes


def _mount_volumes(spawner: Any) -> None:
    """Mount named volumes; stock's own option takes their names for directories of the node."""
    mounts = [
        Mount(target=target, source=source.format(username=spawner.user.name))
        for source, target in spawner.volumes.items()
    ]
    spawner.volumes = {}
    spawner.extra_container_spec = {"mounts": mounts}
