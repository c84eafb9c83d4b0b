"""Which events wake which keys, and what happens when the stream breaks."""

import threading

import pytest

from jhswarmd.daemon.reflector import (
    ACCOUNTS,
    ALL_SERVERS,
    CREDENTIALS,
    ENDED,
    IMAGE_PULLS,
    INITIAL_RECONNECT_S,
    LEADER,
    MAX_RECONNECT_S,
    REMOVED_USERS,
    ROUTES,
    SERVICE_NAMES,
    Key,
    Reflector,
    keys_for,
)
from jhswarmd.engine.client import Event
from jhswarmd.errors import EngineUnavailable
from jhswarmd.labels import SERVICE_ID, SERVICE_NAME

HUB = {SERVICE_NAME: "jupyterhub_hub"}
PROXY = {SERVICE_NAME: "jupyterhub_proxy"}


@pytest.mark.parametrize(
    ("event", "keys"),
    [
        (Event("service", "create", "s1", {"name": "x"}), (Key("server", "s1"),)),
        (Event("service", "update", "s1", {}), (Key("server", "s1"),)),
        (Event("service", "remove", "s1", {}), (Key("server", "s1"),)),
        (Event("service", "update", "s1", {"name": "jupyterhub_hub"}), (CREDENTIALS,)),
        (
            Event("container", "die", "c1", {SERVICE_NAME: "x", SERVICE_ID: "s1"}),
            (Key("ended", "s1"),),
        ),
        (Event("container", "die", "c1", {}), ()),
        (Event("container", "create", "c1", HUB), (ACCOUNTS, LEADER)),
        (Event("container", "start", "c1", HUB), (ACCOUNTS, LEADER)),
        (Event("container", "die", "c1", HUB), (LEADER, CREDENTIALS)),
        (Event("container", "exec_start: true", "c1", HUB), ()),
        (
            Event("container", "health_status: healthy", "c1", HUB),
            (ACCOUNTS, ALL_SERVERS, ROUTES, REMOVED_USERS, CREDENTIALS),
        ),
        (Event("secret", "create", "x1", {}), (ACCOUNTS, CREDENTIALS)),
        (Event("secret", "remove", "x1", {}), ()),
        (Event("container", "health_status: healthy", "c1", PROXY), (ROUTES, CREDENTIALS)),
        (Event("container", "die", "c1", PROXY), (CREDENTIALS,)),
        (Event("container", "health_status: unhealthy", "c1", PROXY), ()),
        (Event("container", "start", "c1", {SERVICE_NAME: "other_hub"}), ()),
        (Event("container", "start", "c1", {}), ()),
        (Event("node", "create", "n1", {}), (IMAGE_PULLS, ENDED)),
        (Event("node", "update", "n1", {}), (IMAGE_PULLS, ENDED)),
        (Event("node", "remove", "n1", {}), ()),
    ],
)
def test_an_event_wakes_what_it_gives_reason_to_look_at(event, keys):
    assert keys_for(event, "jupyterhub") == keys


class ScriptedEngine:
    """Each subscription plays the next session; an exception in it breaks the stream."""

    def __init__(self, sessions, stop):
        self.sessions = list(sessions)
        self.stop = stop
        self.since = []

    def events(self, since_s, until_s):
        self.since.append((since_s, until_s))
        if not self.sessions:
            self.stop.set()
            return
        yield Event("subscribed", "", "", {})
        for item in self.sessions.pop(0):
            if isinstance(item, Exception):
                raise item
            yield item


def play(sessions, waited=None):
    """Play all sessions; notes in ``waited`` how long it would have waited before each next one."""
    stop = threading.Event()
    waits = [] if waited is None else waited
    stop.wait = waits.append
    engine, woken = ScriptedEngine(sessions, stop), []
    reflector = Reflector(engine, "jupyterhub", woken.append, stop)
    reflector._run()
    return engine, woken, reflector


def test_everything_is_looked_at_only_after_the_first_subscription():
    _, woken, _ = play([[Event("service", "create", "s1", {})]])
    assert woken == [
        ACCOUNTS,
        ROUTES,
        ALL_SERVERS,
        ENDED,
        IMAGE_PULLS,
        CREDENTIALS,
        SERVICE_NAMES,
        Key("server", "s1"),
    ]


def test_a_session_begins_where_the_one_before_ended():
    engine, woken, _ = play([[], []])
    (_, first_until), (second_since, _) = engine.since[:2]
    assert second_since == first_until
    assert woken.count(ALL_SERVERS) == 1


def test_a_broken_stream_is_taken_up_again_and_everything_is_looked_at():
    _, woken, reflector = play([[EngineUnavailable("cut")], []])
    assert woken.count(ALL_SERVERS) == 2
    assert reflector.reconnects == 1


def test_a_stream_that_opens_and_is_lost_again_and_again_is_taken_up_ever_more_slowly():
    waited = []
    play([[EngineUnavailable("cut")]] * 8, waited)
    assert all(INITIAL_RECONNECT_S * 2**n / 2 <= waited[n] for n in range(5))
    assert waited[-1] >= MAX_RECONNECT_S / 2
    # One that was well for a whole session begins anew.
    waited.clear()
    play([[EngineUnavailable("cut")]] * 5 + [[], [EngineUnavailable("cut")]], waited)
    assert waited[-1] <= INITIAL_RECONNECT_S


def test_what_nobody_foresaw_is_a_lost_stream_and_not_the_end_of_listening():
    _, woken, reflector = play([[TypeError("an event that is no object")], []])
    assert woken.count(ALL_SERVERS) == 2
    assert reflector.reconnects == 1
