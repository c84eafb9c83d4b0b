"""The faults that the daemon has to survive, and what must hold after each of them.

After every one (``intact``): the daemon removed nothing but orphans, nobody removed a volume, no
log shows a secret, hub and engine agree within 60 s, and no thread or descriptor is left behind.

Where each fault is shown, beside this file:

===================================== =====================================================
engine stopped for longer              here; two minutes: ``make soak``
spawner and hub in an outage           test_spawner.py, test_spawner_hub.py, and here
more than a few orphans at once        unit/reconcile/test_orphans.py (30 of 100), test_stack.py
two hubs on one swarm                  test_stack.py (services of another hub)
hub's container, proxy's, daemon's     test_stack.py, with the deployed stack
update out of sequence                 test_engine_view.py
a start that is slow, lost, cancelled  test_spawner.py, test_spawner_failures.py
malformed answers of the hub, each     tests/unit/test_hub_client.py
managers and workers that are lost     tests/cluster
===================================== =====================================================
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from docker.errors import APIError
from docker.types import ContainerSpec, TaskTemplate

from bench.site import StartFailed
from tests.kit.engine_proxy import (
    Answer,
    Cut,
    CutBody,
    Delay,
    Fault,
    LoseAnswer,
    Silence,
    Swallow,
    Throttle,
    Truncate,
)
from tests.kit.fault_site import CONVERGED_S, NOWHERE, FaultSite, killed_hub
from tests.kit.lab import Lab
from tests.kit.wait import wait_until

#: Short, for the tests that wait for a full pass.
RESYNC_S = 10
#: How long the engine is away at least: one poll of the hub is what fits into the time of a test.
#: JHSWARMD_OUTAGE_S=300 is what is promised.
OUTAGE_S = float(os.environ.get("JHSWARMD_OUTAGE_S", "0"))
_ANSWERS = (APIError, requests.RequestException)


@pytest.fixture(scope="module")
def site(engine: Lab) -> Iterator[FaultSite]:
    with FaultSite(engine, RESYNC_INTERVAL_S=str(RESYNC_S)) as made:
        yield made


@pytest.fixture
def intact(site: FaultSite) -> Iterator[FaultSite]:
    """The site, with ann's server running; afterwards all that must hold is looked at."""
    if not site.hub.is_known("ann"):
        site.start_server("ann")
    before = site.resources()
    yield site
    site.wait_converged()
    site.check(before)


@pytest.fixture
def spares_ann(intact: FaultSite) -> Iterator[FaultSite]:
    """The site; afterwards ann's server is still the same."""
    service = intact.service_of("ann")
    yield intact
    wait_until(lambda: intact.hub.is_known("ann"), CONVERGED_S, what="ann's server is known")
    assert intact.service_of("ann") == service


# --- the engine ---


def test_engine_is_silent_for_longer_than_a_call_may_take(spares_ann: FaultSite) -> None:
    site = spares_ann
    unknown = site.metric("jhswarmd_unknown_total")
    with site.lab.paused():
        site.start_full_pass()
        wait_until(lambda: site.metric("jhswarmd_unknown_total") > unknown, 60, what="a failure")
        assert site.hub.is_known("ann")
    site.wait_gone(site.make_service("ghost"))


def test_engines_socket_goes_and_another_comes(spares_ann: FaultSite) -> None:
    site = spares_ann
    reconnects = site.metric("jhswarmd_reconnects_total")
    with site.engine.down():
        wait_until(lambda: site.metric("jhswarmd_reconnects_total") > reconnects, 60)
        orphan = site.make_service("ghost")
    site.wait_gone(orphan)


@pytest.mark.timeout(OUTAGE_S + 240, func_only=True)
def test_an_outage_of_the_engine_makes_nobody_forget_a_notebook(spares_ann: FaultSite) -> None:
    site = spares_ann
    log = site.site.log_file(site.hub.log_name)

    def unanswered_polls() -> int:
        return log.read_text().count("counts as alive")

    before, begun_at = unanswered_polls(), time.monotonic()
    with site.spawner.down(), site.engine.down():
        wait_until(lambda: unanswered_polls() > before, 60, what="a poll without an answer")
        wait_until(
            lambda: time.monotonic() - begun_at >= OUTAGE_S, OUTAGE_S + 1, what="the outage's end"
        )
        assert site.hub.is_known("ann")
    site.wait_gone(site.make_service("ghost"))


def test_stream_is_cut_inside_a_line(spares_ann: FaultSite) -> None:
    site = spares_ann
    rule = site.engine.add(CutBody(), path="^/events", times=2)
    site.engine.cut_streams("^/events")
    orphans = [site.make_service("ghost")]
    rule.wait_hit(CONVERGED_S)
    orphans.append(site.make_service("ghost"))
    site.wait_gone(*orphans)


def test_stream_that_is_lost_between_two_lines_is_no_end_of_a_session(
    spares_ann: FaultSite,
) -> None:
    site = spares_ann
    with site.engine.fault(Answer(503), path="^/events") as rule:
        assert site.engine.cut_streams("^/events") == 1
        rule.wait_hit(CONVERGED_S)
        orphan = site.make_service("ghost")  # nobody hears of it
    site.wait_gone(orphan)


def test_stream_falls_silent_and_stays_open(spares_ann: FaultSite) -> None:
    site = spares_ann
    with site.engine.fault(Silence(), path="^/events") as rule:
        site.engine.cut_streams("^/events")
        rule.wait_hit(CONVERGED_S)
    site.wait_full_pass()  # because the other stream was lost
    site.wait_gone(site.make_service("ghost"))


def test_slow_reader_loses_events_and_no_orphan(spares_ann: FaultSite) -> None:
    site = spares_ann
    with site.engine.fault(Throttle(pause_s=0.5, piece=512), path="^/events") as rule:
        site.engine.cut_streams("^/events")
        rule.wait_hit(CONVERGED_S)
        _make_unrelated_events(site, 200)
        site.wait_gone(site.make_service("ghost"))
    site.engine.cut_streams("^/events")


@pytest.mark.timeout(400)
def test_five_thousand_events_of_others_cost_hardly_a_pass(spares_ann: FaultSite) -> None:
    site = spares_ann
    passes = site.passes()
    writes = len(site.engine.writes)
    begun_at = time.monotonic()
    _make_unrelated_events(site, 5000)
    site.wait_gone(site.make_service("ghost"))
    by_timer = (time.monotonic() - begun_at) / (0.8 * RESYNC_S) + 1
    assert site.passes() - passes <= 3 + by_timer
    assert len(site.engine.writes) - writes <= 1


def _make_unrelated_events(site: FaultSite, count: int) -> None:
    """Create and remove services that are nobody's, until there were so many events."""
    template = TaskTemplate(ContainerSpec(site.site.image), placement=NOWHERE)

    def make(number: int) -> None:
        made = site.site.api.create_service(template, name=f"unrelated-{number}")
        site.site.api.remove_service(made["ID"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(count // 2)))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Answer(500, "rpc error: deadline exceeded"), id="500"),
        pytest.param(Answer(503, "The swarm does not have a leader"), id="503"),
        pytest.param(Truncate(), id="truncated JSON"),
        pytest.param(CutBody(), id="cut inside the body"),
        pytest.param(Cut(), id="cut before"),
        pytest.param(Answer(400, "client version 1.41 is too old"), id="refused API version"),
    ],
)
def test_engine_gives_no_answer_to_use(spares_ann: FaultSite, fault: Fault) -> None:
    site = spares_ann
    with site.engine.fault(fault, "GET", r"^/(services|tasks)") as rule:
        orphan = site.make_service("ghost")
        site.start_full_pass()
        rule.wait_hit(CONVERGED_S, hits=3)
        assert site.exists(orphan)
    site.wait_gone(orphan)


def test_orphans_removal_is_applied_and_answered_by_an_error(spares_ann: FaultSite) -> None:
    site = spares_ann
    with site.engine.fault(Answer(500, "no leader", applied=True), "DELETE"):
        site.wait_gone(site.make_service("ghost"))
    with site.engine.fault(LoseAnswer(), "DELETE"):
        site.wait_gone(site.make_service("ghost"))


# --- what the hub answers ---

_NO_PAGES = json.dumps({"items": [], "_pagination": {"next": None}})
_NO_SERVERS = json.dumps({"items": [{"name": "ann"}], "_pagination": {"next": None}})


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Answer(500), id="500"),
        pytest.param(Answer(404), id="404"),
        pytest.param(Answer(403), id="403"),
        pytest.param(Answer(200, body="<html><body>Welcome</body></html>"), id="HTML"),
        pytest.param(Answer(502, body="<html><body>Bad gateway</body></html>"), id="502 in HTML"),
        pytest.param(Answer(200, body="[]"), id="an empty list"),
        pytest.param(Answer(200, body="{}"), id="an empty object"),
        pytest.param(Truncate(), id="truncated JSON"),
        pytest.param(Cut(), id="cut before"),
        pytest.param(LoseAnswer(), id="answer lost"),
    ],
)
def test_hub_gives_no_answer_to_use(spares_ann: FaultSite, fault: Fault) -> None:
    site = spares_ann
    with site.hub_api.fault(fault) as rule:
        orphan = site.make_service("ghost")
        site.start_full_pass()
        rule.wait_hit(CONVERGED_S, hits=3)
        assert site.exists(orphan)
    site.wait_gone(orphan)


def test_hub_never_answers(spares_ann: FaultSite) -> None:
    site = spares_ann
    with site.hub_api.fault(Swallow()) as rule:
        orphan = site.make_service("ghost")
        rule.wait_hit(CONVERGED_S)
        assert site.exists(orphan)
    site.hub_api.cut_streams()
    site.wait_gone(orphan)


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        pytest.param(r"/api/users\?.*offset=200", Answer(500), id="a failing second page"),
        pytest.param(r"/api/users\?", Answer(200, body=_NO_SERVERS), id="no scope read:servers"),
        pytest.param(
            r"/api/user$",
            Answer(200, body='{"scopes": ["list:users", "read:servers!user=bob"]}'),
            id="a token with half of its scope",
        ),
    ],
)
def test_listing_that_is_not_whole_is_no_listing(
    spares_ann: FaultSite, path: str, fault: Fault
) -> None:
    site = spares_ann
    many = [f"user-{number:03}" for number in range(201)]
    site.hub.request("POST", "/users", json={"usernames": many})
    with site.hub_api.fault(fault, path=path) as rule:
        site.start_full_pass()
        rule.wait_hit(CONVERGED_S, hits=2)  # a pass that had begun before the fault is over by now
        before = site.last_pass()
        rule.wait_hit(CONVERGED_S, hits=rule.hits + 2)
        assert site.last_pass() == before
    site.wait_full_pass()


def test_listing_without_anybody_costs_nobody_a_server(spares_ann: FaultSite) -> None:
    site = spares_ann
    with site.hub_api.fault(Answer(200, body=_NO_PAGES), path=r"/api/users\?") as rule:
        site.wait_full_pass()
        assert rule.hits >= 1


def test_hub_is_restarted_during_a_pass(spares_ann: FaultSite) -> None:
    site = spares_ann
    with site.hub_api.fault(Delay(before_s=1), path=r"/api/users\?") as rule:
        site.start_full_pass()
        rule.wait_hit(CONVERGED_S)
        with killed_hub(site):
            pass
    site.wait_full_pass()


def test_hub_starts_while_the_engine_answers_with_errors(spares_ann: FaultSite) -> None:
    site = spares_ann
    with site.spawner.fault(Answer(500, "no leader")) as rule, killed_hub(site):
        pass
    rule.wait_hit(0)


def test_hub_starts_before_it_reaches_the_notebooks(spares_ann: FaultSite) -> None:
    site = spares_ann
    site.hub.end(signal.SIGKILL)
    with site.hub_cut_off_from_notebooks():
        site.start_hub()
        wait_until(lambda: site.hub.is_known("ann"), CONVERGED_S, what="the engine's word is taken")


def test_database_is_wiped(spares_ann: FaultSite) -> None:
    site = spares_ann
    known = site.hub.hub_id()
    away = site.hub.database.with_suffix(".away")
    with killed_hub(site):
        site.hub.database.rename(away)
    assert site.hub.hub_id() != known
    forgotten = site.make_service("ghost", known)
    try:
        site.wait_full_pass()
        assert site.exists(forgotten)
        assert "another hub made it" in site.daemon_text()
    finally:
        with killed_hub(site):
            away.rename(site.hub.database)
    site.wait_gone(forgotten)


# --- races ---


def test_server_starts_while_the_services_are_listed(spares_ann: FaultSite) -> None:
    site = spares_ann
    with site.engine.fault(Delay(after_s=5), "GET", r"^/services\?") as rule:
        site.start_full_pass()
        rule.wait_hit(CONVERGED_S)
        service = site.start_server("bob")
    site.wait_full_pass()
    assert site.service_of("bob") == service
    assert site.hub.is_known("bob")
    site.hub.stop_server("bob")


def test_service_is_created_and_the_answer_lost(spares_ann: FaultSite) -> None:
    site = spares_ann
    with site.spawner.fault(LoseAnswer(), "POST", "^/services/create", times=1) as rule:
        service = site.start_server("carol")
    assert rule.hits == 1
    assert site.exists(service)
    site.hub.stop_server("carol")


def test_service_is_created_after_its_start_was_given_up(spares_ann: FaultSite) -> None:
    site = spares_ann
    site.expected_users.add("dave")
    site.hub.environ["START_TIMEOUT_S"] = "10"
    try:
        with killed_hub(site):
            pass
        late = Delay(before_s=14, although_left=True)
        with site.spawner.fault(late, "POST", "^/services/create") as rule:
            with pytest.raises(StartFailed):
                site.start_server("dave")
            assert rule.hits >= 1

            def were_created() -> bool:
                calls = site.spawner.find("POST", "^/services/create")
                return all(call.status for call in calls if call.fault == late)

            wait_until(were_created, CONVERGED_S, what="the late services are created")
        site.wait_converged()
    finally:
        del site.hub.environ["START_TIMEOUT_S"]
        with killed_hub(site):
            pass


@pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
def test_stop_is_answered_by_an_error(spares_ann: FaultSite, applied: bool) -> None:
    site = spares_ann
    service = site.start_server("erin")
    answer = Answer(500, "rpc error: deadline exceeded", applied=applied)
    with site.spawner.fault(answer, "DELETE", "^/services/", times=2) as rule:
        site.hub.stop_server("erin")
        assert rule.hits >= 1
    assert not site.exists(service)


# --- and the daemon itself ---


def test_daemon_that_is_asked_to_stop_in_the_middle_of_it_all_stops(spares_ann: FaultSite) -> None:
    site = spares_ann
    with site.engine.fault(Swallow(), "GET", r"^/services\?") as rule:
        site.start_full_pass()
        rule.wait_hit(CONVERGED_S)
        assert site.stop_daemon() == 0
    site.start_daemon()


def test_every_line_of_the_log_is_an_object_and_a_removal_names_both_facts(
    spares_ann: FaultSite,
) -> None:
    site = spares_ann
    site.wait_gone(site.make_service("ghost"))
    lines = site.said()
    assert {frozenset(line) for line in lines} == {
        frozenset({"time", "level", "logger", "message"})
    }
    (removal, *_) = [line for line in lines if line["message"].startswith("Removed an orphan")]
    assert 'engine="service exists" hub="hub has no such user"' in removal["message"]


# --- last, for what fails here ends the network that the hub is in ---


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
def test_engine_ends_and_starts_again(intact: FaultSite, kill: bool) -> None:
    site = intact
    site.lab.stop_engine(kill=kill)
    site.hub.end(signal.SIGKILL)  # its container ends with the engine
    site.lab.start_engine()

    def is_back() -> bool:
        site.start_hub()  # in a network of the swarm's, which is there a moment after the engine
        return True

    wait_until(is_back, CONVERGED_S, what="the swarm is back", ignoring=_ANSWERS)
    site.wait_gone(site.make_service("ghost"))
