"""Turns the engine's events into keys to look at.

It subscribes first and asks for full passes then, so that nothing is missed in between. Each
subscription is short (``SESSION_S``) and begins where the one before ended; a lost one is taken up
again with a jittered backoff. What an event says is never acted upon: it only wakes a key.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from jhswarmd import labels, metrics
from jhswarmd.engine.client import Engine, Event
from jhswarmd.errors import EngineError

log = logging.getLogger(__name__)

#: Seconds that one subscription lasts. Service events are known to stop with the stream open
#: (moby#36834), so none is trusted for longer.
SESSION_S = 60.0
INITIAL_RECONNECT_S = 0.2
MAX_RECONNECT_S = 10.0


class Key(NamedTuple):
    """What to look at: a kind, and the id of one thing of it; an empty id means all."""

    kind: str
    id: str = ""


ACCOUNTS = Key("accounts")
#: Servers of users whose account is gone.
REMOVED_USERS = Key("accounts", "removed")
ROUTES = Key("routes")
ALL_SERVERS = Key("servers")
#: Notebooks whose task has ended, on whatever node.
ENDED = Key("ended")
LEADER = Key("leader")
IMAGE_PULLS = Key("prepull")
CREDENTIALS = Key("credentials")
SERVICE_NAMES = Key("names")


def keys_for(event: Event, stack: str) -> tuple[Key, ...]:
    """Return what an event gives reason to look at. Pure.

    Service events carry no labels (facts), so every service that comes or changes is a key; the
    pass finds out whether it is ours.
    """
    if event.type == "service":
        if event.attributes.get("name") in {
            labels.service_name(stack, role) for role in labels.ROLES
        }:
            # Its secret mounts may have been changed by hand.
            return (CREDENTIALS,)
        return (Key("server", event.id),)
    if event.type == "node":
        # It is down, or back, or a new one.
        return (IMAGE_PULLS, ENDED) if event.action in ("create", "update") else ()
    if event.type == "secret":
        # Maybe a newer list of users, which another manager's daemon made, or a rotation begins.
        return (ACCOUNTS, CREDENTIALS) if event.action == "create" else ()
    if event.type == "container":
        service = event.attributes.get(labels.SERVICE_NAME, "")
        if service == labels.service_name(stack, "hub"):
            if event.action in ("create", "start"):
                return (ACCOUNTS, LEADER)
            if event.action == "health_status: healthy":
                # What waits in a backoff for the hub need not wait any longer.
                return (ACCOUNTS, ALL_SERVERS, ROUTES, REMOVED_USERS, CREDENTIALS)
            return (LEADER, CREDENTIALS) if event.action == "die" else ()
        if service == labels.service_name(stack, "proxy"):
            if event.action == "health_status: healthy":
                return (ROUTES, CREDENTIALS)
            return (CREDENTIALS,) if event.action == "die" else ()
        if service and event.action == "die":
            return (Key("ended", event.attributes.get(labels.SERVICE_ID, "")),)
    return ()


class Reflector:
    """Reads events in a thread of its own, and wakes keys."""

    def __init__(
        self,
        engine: Engine,
        stack: str,
        wake: Callable[[Key], None],
        stop: threading.Event,
    ) -> None:
        self._engine = engine
        self._stack = stack
        self._wake = wake
        self._stop = stop
        self.reconnects = 0
        self.is_connected = False
        self._thread = threading.Thread(target=self._run, name="reflector", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def _run(self) -> None:
        wait_s = INITIAL_RECONNECT_S
        lost = True  # at first nothing is known
        since_s = time.time()
        while not self._stop.is_set():
            begun_s = time.time()
            until_s = begun_s + SESSION_S
            try:
                for event in self._engine.events(since_s, until_s):
                    if event.type == "subscribed":
                        self.is_connected = True
                        if lost:
                            self._look_at_everything()
                            lost = False
                    keys = keys_for(event, self._stack)
                    if keys:
                        metrics.EVENT_LAG_SECONDS.observe(max(0.0, time.time() - event.at_s))
                    for key in keys:
                        self._wake(key)
                since_s = until_s
                wait_s = INITIAL_RECONNECT_S
            except Exception as exc:
                if not isinstance(exc, EngineError):
                    # A daemon without ears must not look as if it had some.
                    log.exception("Reading the engine's events failed unexpectedly")
                self.is_connected = False
                lost = True
                if time.time() - begun_s > MAX_RECONNECT_S:
                    wait_s = INITIAL_RECONNECT_S  # it was well until now
                since_s = time.time()
                self.reconnects += 1
                metrics.RECONNECTS.inc()
                log.warning("Event stream lost, reconnecting: %s", exc)
                self._stop.wait(random.uniform(wait_s / 2, wait_s))  # noqa: S311 - jitter
                wait_s = min(MAX_RECONNECT_S, wait_s * 2)

    def _look_at_everything(self) -> None:
        """Look at what may have changed while nobody listened."""
        for key in (ACCOUNTS, ROUTES, ALL_SERVERS, ENDED, IMAGE_PULLS, CREDENTIALS, SERVICE_NAMES):
            self._wake(key)
