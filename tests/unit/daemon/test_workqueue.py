"""The guarantees of the workqueue, one each."""

import threading

import pytest

from jhswarmd.daemon.workqueue import BACKOFF_FIRST_S, BACKOFF_MOST_S, WorkQueue
from tests.kit.fakes import FakeClock


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


def test_a_key_put_twice_while_it_is_worked_on_comes_once_more(queue):
    queue.put("a")
    queue.get()
    queue.put("a", delay_s=5)
    queue.put("a")
    queue.done("a")
    assert queue.get() == "a"
    assert len(queue) == 0


def test_forgotten_keys_do_not_come(queue, clock):
    for number in range(10):
        queue.put(number)
    assert queue.forget(lambda key: key % 2 == 0) == 5
    assert [queue.get() for _ in range(5)] == [1, 3, 5, 7, 9]
    queue.put(0, delay_s=1)
    clock.now += 1
    assert queue.get() == 0


def test_keys_that_wait_for_a_delay_are_not_due(queue, clock):
    queue.put("a")
    queue.put("b", delay_s=5)
    assert (len(queue), queue.count_due()) == (2, 1)
    clock.now += 5
    assert queue.count_due() == 2


def test_many_keys_do_not_make_a_step_slower():
    class Key:
        touched = 0

        def __init__(self, number):
            self.number = number

        def __hash__(self):
            Key.touched += 1
            return self.number

        def __eq__(self, other):
            return self.number == other.number

    queue = WorkQueue()
    for number in range(2000):
        queue.put(Key(number))
    for _ in range(2000):
        queue.done(queue.get())
    assert Key.touched < 50 * 2000
