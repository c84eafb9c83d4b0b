"""A lost name is noticed, and repaired once: never in haste, never again and again."""

from __future__ import annotations

from typing import Any

import pytest

from jhswarmd.engine import client as engines
from jhswarmd.errors import EngineOutOfSequence, EngineUnavailable
from jhswarmd.model import NamedTask
from jhswarmd.reconcile.service_names import (
    AGAIN_S,
    EVERY_S,
    LOST_FOR_S,
    OWN,
    Seen,
    ServiceNames,
    is_due,
)

HERE = frozenset({"10.129.0.4"})
SETTLED = NamedTask(HERE, is_settled=True)


class Fake:
    """Engine, resolver and clock in one."""

    def __init__(self) -> None:
        self.tasks: dict[str, NamedTask | None] = {"hub": SETTLED, "proxy": SETTLED}
        self.names = {"hub": HERE, "proxy": HERE, OWN: HERE}
        self.updated: list[str] = []
        self.now_s = 1000.0
        self.is_quiet = True
        self.errors: list[Exception] = []
        self.worker = ServiceNames(
            self,  # type: ignore[arg-type]
            "lab",
            lambda: self.is_quiet,
            find=lambda name: self.names.get(name, frozenset()),
            clock=lambda: self.now_s,
        )

    def read_named_task(self, stack: str, role: str) -> NamedTask | None:
        return self.tasks[role]

    def force_update(self, stack: str, role: str) -> None:
        if self.errors:
            raise self.errors.pop()
        self.updated.append(role)

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s <= until_s:
            self.now_s += self.worker.reconcile()


@pytest.fixture
def fake() -> Fake:
    return Fake()


def test_names_that_lead_to_their_tasks_are_left_alone(fake: Fake) -> None:
    fake.run(10 * LOST_FOR_S)
    assert (fake.updated, fake.worker.view.lost) == ([], ())


@pytest.mark.parametrize("resolved", [frozenset(), frozenset({"10.129.0.99"})])
def test_a_lost_name_is_shown_at_once_and_repaired_by_one_update(
    fake: Fake, resolved: frozenset[str]
) -> None:
    fake.names["proxy"] = resolved
    fake.run(0)
    assert (fake.updated, fake.worker.view.lost) == ([], ("proxy",))
    fake.run(LOST_FOR_S)
    assert fake.updated == ["proxy"]
    fake.run(AGAIN_S - 4 * EVERY_S)
    assert fake.updated == ["proxy"]
    fake.run(6 * EVERY_S)
    assert fake.updated == ["proxy", "proxy"]
    fake.names["proxy"] = HERE
    fake.run(0)
    assert fake.worker.view.lost == ()


def test_a_name_that_comes_back_in_time_is_not_repaired(fake: Fake) -> None:
    for _ in range(5):
        del fake.names["hub"]
        fake.run(LOST_FOR_S - 3 * EVERY_S)
        fake.names["hub"] = HERE
        fake.run(0)
    assert fake.updated == []


def test_a_resolver_that_answers_nothing_proves_nothing(fake: Fake) -> None:
    fake.names.clear()
    fake.run(10 * LOST_FOR_S)
    assert (fake.updated, fake.worker.view.lost) == ([], ())


@pytest.mark.parametrize(
    "task",
    [
        None,
        NamedTask(HERE, is_settled=False),
        NamedTask(frozenset(), is_settled=True),
    ],
)
def test_a_service_that_is_on_its_way_is_left_alone(fake: Fake, task: NamedTask | None) -> None:
    fake.tasks["hub"] = task
    del fake.names["hub"]
    fake.run(10 * LOST_FOR_S)
    assert (fake.updated, fake.worker.view.lost) == ([], ())


def test_nothing_is_updated_during_a_rotation(fake: Fake) -> None:
    del fake.names["hub"]
    fake.is_quiet = False
    fake.run(10 * LOST_FOR_S)
    assert (fake.updated, fake.worker.view.lost) == ([], ("hub",))
    fake.is_quiet = True
    fake.run(0)
    assert fake.updated == ["hub"]


def test_an_update_that_was_not_applied_is_repeated_at_the_next_check(fake: Fake) -> None:
    del fake.names["hub"]
    fake.errors = [EngineOutOfSequence("update out of sequence")]
    fake.run(LOST_FOR_S)
    assert (fake.updated, fake.worker.view.repaired_at_s) == ([], {})
    fake.run(0)
    assert fake.updated == ["hub"]


def test_an_update_whose_answer_is_lost_is_not_repeated(fake: Fake) -> None:
    del fake.names["hub"]
    fake.errors = [EngineUnavailable("timed out")]
    with pytest.raises(EngineUnavailable):
        fake.run(LOST_FOR_S)
    fake.run(AGAIN_S - 4 * EVERY_S)
    assert fake.updated == []


def test_times_decide() -> None:
    assert is_due(0, None, LOST_FOR_S, is_quiet=True)
    assert not is_due(0, None, LOST_FOR_S - 1, is_quiet=True)
    assert not is_due(None, None, 10**9, is_quiet=True)
    assert not is_due(0, LOST_FOR_S, LOST_FOR_S + AGAIN_S - 1, is_quiet=True)
    assert is_due(0, LOST_FOR_S, LOST_FOR_S + AGAIN_S, is_quiet=True)
    assert not is_due(0, None, 10**9, is_quiet=False)
    assert not Seen(SETTLED, HERE | {"10.0.0.1"}).is_lost


@pytest.mark.parametrize(
    ("service", "tasks", "node_state", "is_settled"),
    [
        ({}, 1, "ready", True),
        ({"UpdateStatus": {"State": "completed"}}, 1, "ready", True),
        ({"UpdateStatus": {"State": "updating"}}, 1, "ready", False),
        ({"UpdateStatus": {"State": "paused"}}, 1, "ready", False),
        ({"UpdateStatus": {"State": "rollback_started"}}, 1, "ready", False),
        ({}, 2, "ready", False),
        ({}, 1, "down", False),
        ({}, 1, "unknown", False),
    ],
)
def test_where_a_name_should_lead_is_read_from_service_and_task(
    service: dict[str, Any], tasks: int, node_state: str, is_settled: bool
) -> None:
    service["Endpoint"] = {"VirtualIPs": [{"NetworkID": "n", "Addr": "10.129.0.2/24"}, {}]}
    running = {"NetworksAttachments": [{"Addresses": ["10.129.0.4/24"]}, {"Addresses": None}]}
    node = {"Status": {"State": node_state}}
    found = engines._named_task(service, [running] * tasks, running, node)
    assert found == NamedTask(frozenset({"10.129.0.2", "10.129.0.4"}), is_settled)
