"""Forwards commands from standby daemons to the active one.

It goes over the control network, to the daemon on the hub's node, with the token that the daemons
already share, and is not passed on from there. Nothing here logs or repeats token or arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import requests

from jhswarmd import labels
from jhswarmd.api import control_socket, web_server
from jhswarmd.daemon.leader import Leader
from jhswarmd.engine.client import Engine
from jhswarmd.errors import DaemonBusy

#: Seconds to connect, and for an answer: less than the command line waits for this daemon's own.
TIMEOUT_S = (3.05, control_socket.TIMEOUT_S - 4)


class Forwarder:
    """Answers commands here while this instance has the leader, and asks the active one if not."""

    def __init__(
        self,
        engine: Engine,
        leader: Leader,
        stack: str,
        token: str,
        session: requests.Session | None = None,
    ) -> None:
        self._engine = engine
        self._leader = leader
        self._service = labels.service_name(stack, "jhswarmd")
        self._network = labels.network_name(stack, "control")
        self._session = session or requests.Session()
        # A proxy of the site must not come between.
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"token {token}"

    def wrap(
        self, handlers: Mapping[str, control_socket.Handler]
    ) -> dict[str, control_socket.Handler]:
        """Return the same commands, each answered by the active instance."""
        return {name: partial(self._answer, name, handler) for name, handler in handlers.items()}

    def _answer(
        self, command: str, handler: control_socket.Handler, arguments: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        if self._leader.is_active:
            return handler(arguments)
        node_id = self._leader.find_active()
        if node_id in (None, self._leader.find_own_node()):
            return handler(arguments)  # nobody has it yet, or this one is about to see that it has
        address = self._engine.read_task_address(self._service, str(node_id), self._network)
        if address is None:
            raise DaemonBusy(
                "No daemon runs on the hub's node",
                remedy=f"See 'docker service ps {self._service}'.",
            )
        return self._ask(address, {"command": command, "arguments": dict(arguments)})

    def _ask(self, address: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            response = self._session.post(
                f"http://{address}:{web_server.PORT}{web_server.COMMANDS}",
                data=json.dumps(request),
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
            if response.status_code != 200:
                raise self._failed(f"it answered {response.status_code}")
            answer = response.json()
        except requests.RequestException as exc:
            # Not its text: it may repeat the request's headers, and with them the token.
            raise self._failed(type(exc).__name__) from None
        result: Mapping[str, Any] = control_socket.result_of(answer)
        return result

    def _failed(self, why: str) -> DaemonBusy:
        return DaemonBusy(
            "The daemon on the hub's node gives no answer",
            why=why,
            remedy=f"See 'docker service ps {self._service}'; on the hub's node itself the command "
            "needs no other daemon.",
        )
