"""Looks at tasks that many share: fewer requests, and nobody waits for somebody else's."""

import asyncio
from contextlib import ExitStack

import pytest

from jhswarmd.errors import EngineNotFound, EngineUnavailable
from jhswarmd.spawner import task_batcher
from jhswarmd.spawner.task_batcher import TaskBatcher


def task(service_id, state="running"):
    return {
        "ID": f"task-of-{service_id}",
        "ServiceID": service_id,
        "CreatedAt": "2026-01-01T00:00:00Z",
        "DesiredState": "running",
        "Spec": {},
        "Status": {"State": state},
    }


class Listing:
    """Answers with a task for each service, after what the test lets happen first."""

    def __init__(self):
        self.asked = []
        self.hanging = set()
        self.failures = []

    async def __call__(self, service_ids, within_s):
        self.asked.append(tuple(service_ids))
        if len(service_ids) in self.hanging:
            await asyncio.sleep(3600)
        if self.failures:
            raise self.failures.pop(0)
        return [task(each) for each in service_ids]


def look(count, listing, turns=1):
    """Let so many look at the same moment, each at its own service; returns their services."""
    shared = TaskBatcher()

    async def one(service_id):
        seen = []
        for _ in range(turns):
            seen.append((await shared.newest(service_id, listing, 5)).id)
        return seen

    async def all_of_them():
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(shared.watch())
            return await asyncio.gather(*(one(f"s{number}") for number in range(count)))

    return asyncio.run(all_of_them())


def test_who_waits_alone_looks_at_once_and_at_one_service():
    listing = Listing()
    assert look(1, listing, turns=2) == [["task-of-s0", "task-of-s0"]]
    assert listing.asked == [("s0",), ("s0",)]


def test_those_who_look_at_the_same_moment_share_one_request_and_get_their_own_tasks():
    listing = Listing()
    assert look(20, listing) == [[f"task-of-s{number}"] for number in range(20)]
    assert len(listing.asked) == 1


def test_what_somebody_gets_was_read_after_they_asked():
    listing = Listing()
    look(20, listing, turns=3)
    assert len(listing.asked) == 3


def test_a_look_that_hangs_is_waited_for_by_nobody(monkeypatch):
    monkeypatch.setattr(task_batcher, "ALONE_AFTER_S", 0.05)
    listing = Listing()
    listing.hanging = {3}
    assert look(3, listing) == [["task-of-s0"], ["task-of-s1"], ["task-of-s2"]]
    assert sorted(listing.asked[1:]) == [("s0",), ("s1",), ("s2",)]


@pytest.mark.parametrize("failure", [EngineUnavailable("no answer"), EngineNotFound("gone")])
def test_a_look_that_fails_is_made_again_by_each_alone(failure):
    listing = Listing()
    listing.failures = [failure]
    assert look(3, listing) == [["task-of-s0"], ["task-of-s1"], ["task-of-s2"]]


def test_a_service_that_is_gone_is_told_to_its_own_start_alone():
    class OneIsGone(Listing):
        async def __call__(self, service_ids, within_s):
            if "s1" in service_ids:
                raise EngineNotFound("no such service")
            return await super().__call__(service_ids, within_s)

    listing, shared = OneIsGone(), TaskBatcher()

    async def both():
        with shared.watch(), shared.watch():
            return await asyncio.gather(
                shared.newest("s0", listing, 5),
                shared.newest("s1", listing, 5),
                return_exceptions=True,
            )

    there, gone = asyncio.run(both())
    assert there.id == "task-of-s0"
    assert isinstance(gone, EngineNotFound)


def test_who_leaves_takes_nobody_along():
    listing, shared = Listing(), TaskBatcher()

    async def leave_and_stay():
        with shared.watch(), shared.watch():
            leaving = asyncio.ensure_future(shared.newest("s0", listing, 5))
            staying = asyncio.ensure_future(shared.newest("s1", listing, 5))
            await asyncio.sleep(0)
            leaving.cancel()
            return await staying

    assert asyncio.run(leave_and_stay()).id == "task-of-s1"


def test_a_look_for_those_of_an_ended_loop_is_not_waited_for():
    listing, shared = Listing(), TaskBatcher()

    async def leave():
        with shared.watch(), shared.watch():
            looking = asyncio.ensure_future(shared.newest("s0", listing, 5))
            await asyncio.sleep(0)
            looking.cancel()

    asyncio.run(leave())

    async def come():
        with shared.watch(), shared.watch():
            return await shared.newest("s1", listing, 5)

    assert asyncio.run(come()).id == "task-of-s1"
