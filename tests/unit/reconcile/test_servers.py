"""Reconciling servers: what is removed, and everything that is not."""

import pytest

from jhswarmd import metrics
from jhswarmd.errors import EngineUnavailable, HubUnavailable
from jhswarmd.reconcile.servers import (
    ENDED_AGAIN_S,
    ENDED_LOOKS,
    FAILURES,
    INITIAL_PENDING_INTERVAL_S,
    MAX_PENDING_INTERVAL_S,
    OLDER,
    Servers,
)
from tests.kit.factories import make_identity, make_service, make_user
from tests.kit.fakes import FakeClock, FakeEngine, FakeHub


def reconciler(engine, hub):
    return Servers(engine, hub, "jupyterhub", lambda: True, FakeClock())


def test_an_orphan_is_removed_by_its_id_in_a_full_pass():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub()
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    assert engine.removed == ["s1"]
    assert servers.view.removals[0].reason == "hub has no such user"


def test_an_orphan_is_removed_by_a_look_at_one_service_without_any_listing():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub()
    reconciler(engine, hub).reconcile_one("s1")
    assert engine.removed == ["s1"]
    assert "list_notebooks" not in engine.calls
    assert "list_users" not in hub.calls


def test_services_are_listed_before_the_hub_is_asked():
    calls = []
    engine, hub = FakeEngine(), FakeHub()
    engine.calls = hub.calls = calls
    reconciler(engine, hub).reconcile_all()
    assert calls[:3] == ["list_notebooks", "read_identity", "list_users"]


def test_a_server_that_appears_before_the_removal_is_kept():
    engine, hub = FakeEngine(make_service()), FakeHub()
    hub.list_users = lambda: iter(())  # a page that was read too early
    hub.users["alice"] = make_user(default="spawn")
    reconciler(engine, hub).reconcile_all()
    assert engine.removed == []


@pytest.mark.parametrize(
    "facts", [{"hub_id": "b" * 32}, {"hub_id": None}, {"user": None}, {"server": None}]
)
def test_what_another_hub_or_nobody_owns_is_kept(facts):
    engine = FakeEngine(make_service(id="s1", **facts))
    servers = reconciler(engine, FakeHub())
    servers.reconcile_all()
    servers.reconcile_one("s1")
    assert engine.removed == []


def test_an_ill_hub_removes_nothing():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub()
    hub.unknown = True
    servers = reconciler(engine, hub)
    with pytest.raises(HubUnavailable):
        servers.reconcile_all()
    with pytest.raises(HubUnavailable):
        servers.reconcile_one("s1")
    assert engine.removed == []


def test_a_pending_server_is_looked_at_again_soon():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user(default="stop"))
    servers = reconciler(engine, hub)
    assert servers.reconcile_all() == ["s1"]
    waits = [servers.reconcile_one("s1") for _ in range(6)]
    assert waits[:3] == [
        INITIAL_PENDING_INTERVAL_S,
        2 * INITIAL_PENDING_INTERVAL_S,
        4 * INITIAL_PENDING_INTERVAL_S,
    ]
    assert waits[-1] == MAX_PENDING_INTERVAL_S
    hub.users = {"alice": make_user(default=None)}
    assert servers.reconcile_one("s1") is None
    assert engine.removed == []


def test_many_orphans_at_once_are_held_until_they_are_approved():
    orphans = [make_service(id=f"s{n}", user=f"user{n}") for n in range(30)]
    kept = [make_service(id=f"k{n}", user=f"kept{n}") for n in range(70)]
    engine = FakeEngine(*orphans, *kept)
    hub = FakeHub(*(make_user(f"kept{n}", default=None) for n in range(70)))
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    assert engine.removed == []
    assert len(servers.view.held) == 30
    # A single event about one of them does not slip through.
    servers.reconcile_one("s1")
    assert engine.removed == []
    assert len(servers.approve()) == 30
    servers.reconcile_all()
    assert sorted(engine.removed) == sorted(service.id for service in orphans)
    assert servers.view.held == {}
    # What was approved is no reason to hold what comes next.
    engine.services["late"] = make_service(id="late", user="late")
    servers.reconcile_one("late")
    assert engine.removed[-1] == "late"


def test_a_held_service_that_the_hub_knows_again_is_no_longer_held():
    orphans = [make_service(id=f"s{n}", user=f"user{n}") for n in range(4)]
    engine, hub = FakeEngine(*orphans), FakeHub()
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    assert len(servers.view.held) == 4
    hub.users = {f"user{n}": make_user(f"user{n}", default=None) for n in range(4)}
    servers.reconcile_all()
    assert servers.view.held == {}
    assert engine.removed == []


@pytest.fixture
def restored():
    """Engine and hub, whose database is an older copy that has forgotten alice's server."""
    engine = FakeEngine(make_service(id="s1", count="start-1.8"))
    return engine, FakeHub(identity=make_identity(spawns={"start-1": 7}))


@pytest.mark.parametrize("count", ["start-1.8", "start-2.1", "start-1", ""])
def test_what_is_younger_than_the_database_is_held_until_it_is_approved(restored, count):
    engine, hub = restored
    engine.services["s1"] = make_service(id="s1", count=count)
    servers = reconciler(engine, hub)
    servers.reconcile_one("s1")
    servers.reconcile_all()
    assert engine.removed == []
    assert servers.view.why_held["s1"] == OLDER
    assert servers.approve() == ["jupyter-alice"]
    servers.reconcile_all()
    assert engine.removed == ["s1"]


@pytest.mark.parametrize("count", ["start-1.7", "start-1.1", None])
def test_what_the_database_has_counted_goes_at_once(restored, count):
    engine, hub = restored
    engine.services["s1"] = make_service(id="s1", count=count)
    reconciler(engine, hub).reconcile_one("s1")
    assert engine.removed == ["s1"]


def test_an_approval_says_nothing_about_what_comes_later(restored):
    engine, hub = restored
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    servers.approve()
    engine.services = {"late": make_service(id="late", count="start-1.9")}
    servers.reconcile_all()
    assert engine.removed == []


def test_a_hub_that_is_replaced_by_one_with_an_older_database_during_a_pass_removes_nothing():
    engine = FakeEngine(make_service(id="s1", count="start-1.8"))
    hub = FakeHub(identity=make_identity(spawns={"start-1": 8}))
    hub.read_user = lambda name, service_id="": (make_identity(spawns={"start-1": 7}), None)
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    assert engine.removed == []
    assert list(servers.view.held) == ["s1"]


def test_a_wiped_database_makes_old_notebooks_foreign_and_its_own_orphans_go(restored):
    engine, hub = restored
    hub.identity = make_identity(hub_id="b" * 32, spawns={"start-9": 1})
    engine.services["s2"] = make_service(id="s2", hub_id="b" * 32, count="start-9.1")
    reconciler(engine, hub).reconcile_all()
    assert engine.removed == ["s2"]


def test_a_service_that_was_removed_by_hand_is_reported_at_once():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user(default=None))
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    del engine.services["s1"]
    servers.reconcile_one("s1")
    assert hub.reports == [("alice", "")]


def test_a_removed_service_that_was_never_seen_is_nobodys():
    hub = FakeHub(make_user(default=None))
    reconciler(FakeEngine(), hub).reconcile_one("s1")
    assert hub.reports == []


def test_a_server_without_any_service_is_reported_in_a_full_pass():
    hub = FakeHub(make_user("alice", default=None, gpu="spawn"), make_user("bob", default="check"))
    reconciler(FakeEngine(make_service(hub_id="b" * 32)), hub).reconcile_all()
    assert hub.reports == [("alice", "")]


def test_a_task_that_has_ended_is_reported_and_one_that_has_not_yet_is_looked_at_again():
    engine, hub = FakeEngine(make_service(id="s1", server="gpu")), FakeHub()
    servers = reconciler(engine, hub)
    assert servers.reconcile_ended("s1") == ENDED_AGAIN_S
    assert servers.reconcile_ended("s1") == 2 * ENDED_AGAIN_S
    engine.ended.add("s1")
    hub.users["alice"] = make_user(gpu=None)
    assert servers.reconcile_ended("s1") is None
    assert hub.reports == [("alice", "gpu")]
    assert engine.removed == []


def test_a_task_that_never_ends_is_not_looked_at_for_ever():
    servers = reconciler(FakeEngine(make_service(id="s1")), FakeHub())
    delays = [servers.reconcile_ended("s1") for _ in range(ENDED_LOOKS + 1)]
    assert delays[-1] is None
    assert all(delays[:-1])


def test_an_instance_that_lost_its_duty_meanwhile_removes_nothing():
    engine = FakeEngine(make_service(id="s1"))
    Servers(engine, FakeHub(), "jupyterhub", lambda: False, FakeClock()).reconcile_all()
    assert engine.removed == []


def test_an_event_costs_one_service_inspect_and_one_read_of_the_hub():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user(default=None))
    reconciler(engine, hub).reconcile_one("s1")
    assert engine.calls == ["read_notebook s1"]
    assert hub.calls == ["read_user alice"]


@pytest.mark.parametrize("look", [Servers.reconcile_all, lambda it: it.reconcile_one("s1")])
def test_a_removal_whose_answer_was_lost_is_counted_and_told_all_the_same(look, caplog):
    def applied_but_500(service_id):
        del engine.services[service_id]
        raise EngineUnavailable("500")

    engine, hub = FakeEngine(make_service(id="s1")), FakeHub()
    engine.remove_service = applied_but_500
    servers = reconciler(engine, hub)
    with pytest.raises(EngineUnavailable):
        servers.reconcile_one("s1")
    assert list(servers.view.removals) == []
    look(servers)
    assert [each.id for each in servers.view.removals] == ["s1"]
    assert "Removed an orphan service=jupyter-alice" in caplog.text
    look(servers)
    assert (len(servers.view.removals), hub.reports) == (1, [])


@pytest.mark.parametrize("look", [Servers.reconcile_all, lambda it: it.reconcile_one("s1")])
def test_a_removal_that_was_refused_is_none_when_the_hub_has_the_server_again(look):
    def refuse(service_id):
        raise EngineUnavailable("500")

    engine, hub = FakeEngine(make_service(id="s1")), FakeHub()
    engine.remove_service = refuse
    servers = reconciler(engine, hub)
    with pytest.raises(EngineUnavailable):
        servers.reconcile_one("s1")
    hub.users["alice"] = make_user(default=None)
    look(servers)
    del engine.services["s1"]  # as its user stops it
    servers.reconcile_one("s1")
    assert (list(servers.view.removals), hub.reports) == ([], [("alice", "")])


def test_what_is_left_alone_is_told_once(caplog):
    servers = reconciler(FakeEngine(make_service(id="s1", hub_id="b" * 32)), FakeHub())
    with caplog.at_level("INFO"):
        servers.reconcile_all()
        servers.reconcile_one("s1")
        servers.reconcile_all()
    assert caplog.text.count("Ignoring service") == 1


def test_an_ordinary_stop_is_no_news(caplog):
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user(default=None))
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    del engine.services["s1"]
    hub.check_server = lambda user, server: False  # the hub knows
    with caplog.at_level("INFO"):
        servers.reconcile_one("s1")
    assert "looked" not in caplog.text


def test_the_daemons_own_removal_is_not_reported_to_the_hub():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub()
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    servers.reconcile_one("s1")
    assert engine.removed == ["s1"]
    assert hub.reports == []


def test_a_dry_run_says_what_it_would_do_and_does_nothing(caplog):
    engine = FakeEngine(make_service(id="s1"))
    hub = FakeHub(make_user("bob", default=None))
    servers = Servers(engine, hub, "jupyterhub", lambda: True, FakeClock(), dry_run=True)
    with caplog.at_level("INFO"):
        servers.reconcile_all()
    assert "Would remove an orphan service=jupyter-alice" in caplog.text
    assert "Would ask the hub to poll the server user=bob" in caplog.text
    assert (engine.removed, hub.reports) == ([], [])


def test_an_orphan_is_counted_once_however_often_it_is_seen():
    def seen():
        return metrics.REGISTRY.get_sample_value("jhswarmd_orphans_seen_total")

    before = seen()
    engine = FakeEngine(*(make_service(id=f"s{number}") for number in range(5)))
    servers = reconciler(engine, FakeHub())
    servers.reconcile_all()
    servers.reconcile_one("s1")
    servers.reconcile_all()
    assert engine.removed == []
    assert seen() - before == 5


def test_the_notebook_of_a_user_who_was_renamed_is_kept():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user("alicia", default=None))
    hub.held_services = {"s1"}
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    servers.reconcile_one("s1")
    assert engine.removed == []
    assert servers.view.held == {}


def test_notebooks_of_users_who_were_renamed_make_nothing_suspicious():
    renamed = [make_service(id=f"r{n}", user=f"old{n}") for n in range(4)]
    engine, hub = FakeEngine(*renamed), FakeHub()
    hub.held_services = {each.id for each in renamed}
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    for each in renamed:
        servers.reconcile_one(each.id)
    assert servers.view.held == {}
    assert servers.view.by_verdict == {"known": 4}
    engine.services["s1"] = make_service(id="s1")
    servers.reconcile_one("s1")
    assert engine.removed == ["s1"]


def test_what_was_approved_and_kept_after_all_is_not_approved_later(restored):
    engine, hub = restored
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    servers.approve()
    hub.held_services = {"s1"}
    servers.reconcile_all()
    hub.held_services = set()
    servers.reconcile_all()
    assert engine.removed == []
    assert list(servers.view.held) == ["s1"]


def test_an_approval_ends_with_the_duty(restored):
    engine, hub = restored
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    servers.approve()
    servers.stand_by()
    servers.reconcile_all()
    assert engine.removed == []


def test_what_goes_by_approval_alone_makes_no_other_suspicious():
    forgotten = [make_service(id=f"f{n}", user=f"user{n}", count="start-1.9") for n in range(4)]
    engine = FakeEngine(*forgotten)
    servers = reconciler(engine, FakeHub(identity=make_identity(spawns={"start-1": 7})))
    servers.reconcile_all()
    assert len(servers.view.held) == 4
    engine.services["late"] = make_service(id="late", user="late", count="start-1.7")
    servers.reconcile_one("late")
    assert engine.removed == ["late"]
    engine.services["later"] = make_service(id="later", user="later", count="start-1.7")
    servers.reconcile_all()
    assert engine.removed == ["late", "later"]
    assert len(servers.view.held) == 4


def test_a_report_that_the_hub_did_not_hear_is_made_again():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user(default=None))
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    del engine.services["s1"]
    hub.unknown = True
    with pytest.raises(HubUnavailable):
        servers.reconcile_one("s1")
    hub.unknown = False
    servers.reconcile_one("s1")
    assert hub.reports == [("alice", "")]
    assert servers.is_pass_due  # it was away
    servers.reconcile_one("s1")
    assert hub.reports == [("alice", "")]


def test_a_report_of_an_end_that_fails_hinders_no_other_and_is_made_again():
    engine = FakeEngine(*(make_service(id=f"s{n}", user=f"user{n}") for n in range(3)))
    hub = FakeHub(*(make_user(f"user{n}", default=None) for n in range(3)))
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    engine.ended = {"s0", "s1", "s2"}
    report = hub.check_server
    ill = {"user0"}

    def ill_for_one(user, server):
        if user in ill:
            raise HubUnavailable("500")
        return report(user, server)

    hub.check_server = ill_for_one
    assert servers.report_ended() == ["s1", "s2"]
    ill.clear()
    assert servers.report_ended() == ["s0"]
    assert servers.report_ended() == []


def test_a_server_that_stays_pending_for_days_is_looked_at_as_often():
    engine, hub = FakeEngine(make_service(id="s1")), FakeHub(make_user(default="stop"))
    servers = reconciler(engine, hub)
    assert {servers.reconcile_one("s1") for _ in range(2000)} == {1.0, 2.0, 4.0, 8.0, 15.0}


def test_a_fifth_of_many_means_many_of_this_hub():
    orphans = [make_service(id=f"s{n}", user=f"user{n}") for n in range(10)]
    others = [make_service(id=f"o{n}", user=f"other{n}", hub_id="b" * 32) for n in range(200)]
    engine = FakeEngine(*orphans, *others)
    servers = reconciler(engine, FakeHub())
    servers.reconcile_all()
    assert engine.removed == []
    assert len(servers.view.held) == 10


def test_one_that_cannot_be_removed_hinders_no_other_and_is_looked_at_again():
    orphans = [make_service(id=f"s{n}", user=f"user{n}") for n in range(3)]
    engine, hub = FakeEngine(*orphans), FakeHub()
    ask = hub.read_user

    def ill_for_one(name, service_id=""):
        if name == "user1":
            raise HubUnavailable("500")
        return ask(name, service_id)

    hub.read_user = ill_for_one
    servers = reconciler(engine, hub)
    assert servers.reconcile_all() == ["s1"]
    assert engine.removed == ["s0", "s2"]
    assert servers.view.last_pass_s is not None
    with pytest.raises(HubUnavailable):
        servers.reconcile_one("s1")


def test_a_pass_ends_when_nothing_works_any_more():
    kept = [make_user(f"user{n}", default=None) for n in range(9)]
    engine, hub = FakeEngine(), FakeHub(*kept)
    reports = []

    def ill(user, server):
        reports.append(user)
        raise HubUnavailable("away")

    hub.check_server = ill
    with pytest.raises(HubUnavailable):
        reconciler(engine, hub).reconcile_all()
    assert len(reports) == FAILURES


def test_what_the_hub_has_again_is_no_longer_approved():
    orphans = [make_service(id=f"s{n}", user=f"user{n}") for n in range(4)]
    engine, hub = FakeEngine(*orphans), FakeHub()
    servers = reconciler(engine, hub)
    servers.reconcile_all()
    servers.approve()
    hub.users = {f"user{n}": make_user(f"user{n}", default=None) for n in range(4)}
    servers.reconcile_all()
    hub.users = {}
    servers.reconcile_all()
    assert engine.removed == []
    assert len(servers.view.held) == 4
