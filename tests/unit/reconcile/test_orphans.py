"""Judging services: nothing but a definite orphan is ever one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jhswarmd.model import HubUser
from jhswarmd.reconcile.orphans import FLOOR, WINDOW_S, Breaker, Verdict, classify, classify_all
from tests.kit.factories import HUB_ID, make_identity, make_service, make_user


@pytest.mark.parametrize(
    ("service", "user", "verdict"),
    [
        pytest.param(make_service(), make_user(default=None), Verdict.known, id="running"),
        pytest.param(make_service(), make_user(default="spawn"), Verdict.pending, id="starting"),
        pytest.param(make_service(), make_user(default="stop"), Verdict.pending, id="stopping"),
        pytest.param(make_service(), make_user(default="check"), Verdict.pending, id="hub starts"),
        pytest.param(make_service(), make_user(), Verdict.orphan, id="user without servers"),
        pytest.param(make_service(), None, Verdict.orphan, id="no such user"),
        pytest.param(
            make_service(server="gpu"), make_user(default=None), Verdict.orphan, id="other server"
        ),
        pytest.param(make_service(server="gpu"), make_user(gpu=None), Verdict.known, id="named"),
        pytest.param(make_service(hub_id="b" * 32), None, Verdict.foreign, id="another hub's"),
        pytest.param(make_service(hub_id=None), None, Verdict.unlabelled, id="no hub label"),
        pytest.param(make_service(user=None), None, Verdict.unlabelled, id="no user label"),
        pytest.param(make_service(user=""), None, Verdict.unlabelled, id="empty user label"),
        pytest.param(make_service(server=None), None, Verdict.unlabelled, id="no server label"),
    ],
)
def test_a_service_is_judged_by_what_both_sides_say(service, user, verdict):
    assert classify(service, make_identity(), user) is verdict


names = st.sampled_from(["alice", "bob", "carol"])
server_names = st.sampled_from(["", "gpu"])
services = st.builds(
    make_service,
    id=st.uuids().map(str),
    hub_id=st.sampled_from([HUB_ID, "b" * 32, None]),
    user=st.one_of(names, st.none()),
    server=st.one_of(server_names, st.none()),
    count=st.sampled_from([None, "start.1", "start.2", "other.1", "rubbish"]),
)
users = st.builds(
    HubUser, names, st.dictionaries(server_names, st.sampled_from([None, "spawn", "stop"]))
)


@given(st.lists(services), st.lists(users, unique_by=lambda user: user.name))
def test_an_orphan_is_always_ours_never_listed_by_the_hub_and_no_younger_than_it(found, listed):
    by_name = {user.name: user for user in listed}
    verdicts = classify_all(found, make_identity(spawns={"start": 1}), by_name)
    for service in found:
        if verdicts[service.id] is Verdict.orphan:
            assert service.hub_id == HUB_ID
            assert service.user not in by_name or (
                service.server not in by_name[service.user].servers
            )
            assert service.count in (None, "start.1")


@given(st.lists(services, unique_by=lambda service: service.id), st.randoms())
def test_the_order_of_the_services_does_not_matter(found, random):
    shuffled = random.sample(found, len(found))
    users_ = {"alice": make_user(default=None)}
    assert classify_all(found, make_identity(), users_) == classify_all(
        shuffled, make_identity(), users_
    )


def test_the_breaker_lets_single_removals_pass_and_holds_the_fourth_of_a_minute():
    breaker = Breaker()
    for moment in range(FLOOR):
        assert breaker.allows(1, tracked=10, now=float(moment))
        breaker = breaker.after_removal(float(moment))
    assert not breaker.allows(1, tracked=10, now=10.0)
    assert breaker.allows(1, tracked=10, now=WINDOW_S + 0.5)


def test_the_breaker_allows_a_fifth_of_many():
    assert Breaker().allows(20, tracked=100, now=0.0)
    assert not Breaker().allows(21, tracked=100, now=0.0)
