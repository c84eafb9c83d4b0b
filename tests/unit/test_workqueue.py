"""The guarantees of the workqueue, one each."""

import threading

import pytest

from jhswarmd.daemon.workqueue import BACKOFF_FIRST_S, BACKOFF_MOST_S, WorkQueue
from tests.fakes import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def queue(clock):
    return WorkQueue(clock, jitter=lambda least, most: most)


def test_a_waiting_key_is_held_once(queue):
    queue.put("a")
    queue.put("a")
    assert len(queue) == 1


def test_keys_come_in_the_order_in_which_they_are_due(queue, clock):
    queue.put("late", delay_s=2)
    queue.put("early", delay_s=1)
    clock.now += 3
    assert [queue.get(), queue.get()] == ["early", "late"]


def test_a_key_that_is_worked_on_is_not_handed_out_again_until_done(queue):
    queue.put("a")
    assert queue.get() == "a"
    queue.put("a")
    queue.put("b", delay_s=0)
    assert queue.get() == "b"
    queue.done("a")
    assert queue.get() == "a"


def test_a_key_put_again_comes_at_the_earlier_moment(queue):
    queue.put("a", delay_s=100)
    queue.put("a")
    assert queue.get() == "a"


def test_a_key_put_again_with_a_longer_delay_keeps_its_moment(queue):
    queue.put("a")
    queue.put("a", delay_s=100)
    assert queue.get() == "a"


def test_the_backoff_doubles_and_has_a_limit(queue):
    delays = [queue.put_failed("a") for _ in range(3)]
    assert delays == [BACKOFF_FIRST_S, 2 * BACKOFF_FIRST_S, 4 * BACKOFF_FIRST_S]
    for _ in range(2000):
        last = queue.put_failed("a")
    assert last == BACKOFF_MOST_S


def test_success_forgets_the_backoff(queue):
    queue.put_failed("a")
    queue.succeeded("a")
    assert queue.put_failed("a") == BACKOFF_FIRST_S


def test_closing_wakes_whoever_waits():
    queue = WorkQueue()
    got = []
    thread = threading.Thread(target=lambda: got.append(queue.get()))
    thread.start()
    queue.close()
    thread.join(5)
    assert got == [None]


def test_putting_a_key_wakes_whoever_waits():
    queue = WorkQueue()
    got = []
    thread = threading.Thread(target=lambda: got.append(queue.get()))
    thread.start()
    queue.put("a")
    thread.join(5)
    assert got == ["a"]
