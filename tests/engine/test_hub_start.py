"""The hub's start while servers run that do not answer."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyterhub.httpclient import JupyterHubHTTPClient
from jupyterhub_idle_culler import cull_idle
from traitlets.config import Config

from jhswarmd.hub.proxy import RotatingProxy
from tests.kit.hub_start_kit import SECRETS, ProxyApi, StartingHub, silent_listener
from tests.kit.wait import wait_until

#: One more than the connections that this site leaves JupyterHub's client. What is promised is
#: JHSWARMD_SILENT_SERVERS=500, with the hub listening within 20 s.
SILENT = int(os.environ.get("JHSWARMD_SILENT_SERVERS", "5"))
#: For a busy machine.
START_S = 90.0


@pytest.fixture
def proxy() -> Iterator[ProxyApi]:
    with ProxyApi() as made:
        yield made


@pytest.fixture
def port() -> Iterator[int]:
    with silent_listener() as made:
        yield made


@pytest.fixture
def hub(tmp_path: Path, proxy: ProxyApi) -> Iterator[StartingHub]:
    made = StartingHub(tmp_path, proxy.url)
    try:
        yield made
    finally:
        made.end()
        print(made.log()[-20000:])


def test_silent_servers_are_ready_and_routed_and_stopped_by_nobody_but_people(
    hub: StartingHub, proxy: ProxyApi, port: int
) -> None:
    names = [f"user{number:03}" for number in range(SILENT)]
    hub.fill(dict.fromkeys(names), port)
    begun_at = time.monotonic()
    hub.start()
    hub.wait_listening(START_S)
    print(f"listens after {time.monotonic() - begun_at:.1f} s with {SILENT} silent servers")
    wait_until(lambda: hub.request("GET", "/users/user000")["servers"][""]["ready"], 30)
    assert set(hub.servers().values()) == {True}
    routes = {f"/user/{name}" for name in names}
    wait_until(lambda: routes <= set(proxy.routes), START_S, what="everybody has a route")

    # A proxy that was restarted has no routes; the daemon then asks the hub for a check.
    proxy.routes.clear()
    hub.request("POST", "/proxy")
    assert routes <= set(proxy.routes)

    # Once it was asked in vain nothing is done about it.
    wait_until(lambda: "is running and does not answer" in hub.log(), 60)
    silent = hub.request("GET", "/jhswarmd/silent", SECRETS["daemon_token"])
    assert set(silent["servers"]) <= set(names)
    assert silent["servers"]
    assert len(hub.servers()) == min(SILENT, 200)
    assert hub.removed() == []

    # Its user, an administrator, and the idle culler can stop it.
    token = hub.request("POST", "/users/user000/tokens")["token"]
    hub.request("DELETE", "/users/user000/server", token)
    wait_until(lambda: "user000" not in hub.servers(), 30)
    hub.request("DELETE", "/users/user001/server")
    wait_until(lambda: "user001" not in hub.servers(), 30)
    assert sorted(hub.removed()) == names[:2]
    culler = logging.getLogger("culler")
    asyncio.run(cull_idle(f"{hub.url}/api", SECRETS["culler_token"], 60, culler, api_page_size=200))
    wait_until(lambda: hub.servers() == {}, 30 + SILENT)
    assert sorted(hub.removed()) == names
    assert not [route for route in proxy.routes if route.startswith("/user/")]


def test_only_what_the_engine_says_has_ended_is_forgotten(
    hub: StartingHub, proxy: ProxyApi, port: int
) -> None:
    hub.fill({"ended": 1, "runs": None, "unknown": "unknown"}, port)
    hub.start()
    hub.wait_listening(START_S)
    wait_until(lambda: hub.servers() == {"runs": True, "unknown": True}, 30)
    assert hub.removed() == ["ended"]
    wait_until(lambda: {"/user/runs", "/user/unknown"} <= set(proxy.routes), 30)
    assert "/user/ended" not in proxy.routes


def test_the_proxy_is_reached_while_silent_servers_hold_all_connections(
    proxy: ProxyApi, port: int
) -> None:
    async def ask() -> None:
        options = {"connector_options": {"limit": 1}}
        JupyterHubHTTPClient.clear_instance()
        client = JupyterHubHTTPClient.instance(config=Config(JupyterHubHTTPClient=options))
        asking = asyncio.ensure_future(client.fetch(f"http://127.0.0.1:{port}/api"))
        try:
            await asyncio.sleep(0)
            hub_side = RotatingProxy(api_url=proxy.url, auth_token="x", should_start=False)
            await asyncio.wait_for(hub_side.get_all_routes(), 20)
            assert not asking.done()
        finally:
            asking.cancel()
            await client.close()

    asyncio.run(ask())


def test_a_proxy_that_accepts_and_never_answers_is_given_up_in_time(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jhswarmd.hub.proxy.REQUEST_WITHIN_S", 0.1)
    monkeypatch.setattr("jhswarmd.hub.proxy.RETRY_WITHIN_S", 0.5)

    async def ask() -> None:
        url = f"http://127.0.0.1:{port}"
        hub_side = RotatingProxy(api_url=url, auth_token="x", should_start=False)
        with pytest.raises(TimeoutError, match="the proxy does not answer"):
            await hub_side.get_all_routes()

    asyncio.run(ask())
