"""What is retried, for how long, and that nobody is kept who wants to leave."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import docker
import pytest
import requests

from jhswarmd import retry
from jhswarmd.errors import (
    EngineConflict,
    EngineError,
    EngineNotFound,
    EngineUnavailable,
    HubUnavailable,
    UsageError,
)
from jhswarmd.spawner import swarm
from jhswarmd.spawner.service import ServiceSpawner
from tests.unit.spawner.test_swarm import make_spawner

TRANSIENT = [EngineUnavailable("no answer"), HubUnavailable("no answer")]
DEFINITE = [EngineNotFound("x"), EngineConflict("x"), EngineError("x"), UsageError("x")]
#: Longer than any test may take.
FOR_EVER_S = 3600.0


class Failing:
    """Raises the given errors one after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    async def call(self) -> str:
        return self()


def call(policy: str, failing: Failing, deadline_s: float) -> Any:
    """Call once by either policy."""
    if policy == "blocking":
        return retry.blocking(deadline_s, threading.Event())(failing)
    return asyncio.run(retry.coroutine(deadline_s)(failing.call))


either = pytest.mark.parametrize("policy", ["blocking", "coroutine"])


@either
def test_what_may_pass_is_tried_again(policy: str) -> None:
    failing = Failing(*TRANSIENT)
    assert call(policy, failing, FOR_EVER_S) == "answer"
    assert failing.calls == 3


@either
@pytest.mark.parametrize("error", DEFINITE, ids=lambda error: type(error).__name__)
def test_a_definite_answer_is_believed_at_once(policy: str, error: Exception) -> None:
    failing = Failing(error)
    with pytest.raises(type(error)):
        call(policy, failing, FOR_EVER_S)
    assert failing.calls == 1


@either
def test_after_the_deadline_the_last_error_itself_is_raised(policy: str) -> None:
    failing = Failing(*[EngineUnavailable("no answer")] * 100)
    with pytest.raises(EngineUnavailable):
        call(policy, failing, 0.0)
    assert failing.calls == 1


def test_who_is_asked_to_stop_waits_for_no_further_try() -> None:
    stop = threading.Event()

    def fail() -> None:
        stop.set()
        raise EngineUnavailable("no answer")

    with pytest.raises(EngineUnavailable):
        retry.blocking(FOR_EVER_S, stop)(fail)


def test_a_cancelled_coroutine_tries_no_more() -> None:
    failing = Failing(*[EngineUnavailable("no answer")] * 1000)

    async def cancel() -> None:
        trying = asyncio.ensure_future(retry.coroutine(FOR_EVER_S)(failing.call))
        while not failing.calls:
            await asyncio.sleep(0)
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying
        calls = failing.calls
        await asyncio.sleep(0.2)
        assert failing.calls == calls

    asyncio.run(cancel())


# ---- an outage, however long


def refusal(status: int, words: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("x", response, words)


OUTAGES = [
    requests.exceptions.ConnectionError("refused"),
    requests.exceptions.ReadTimeout("silent"),
    refusal(500, "rpc error: code = DeadlineExceeded"),
    refusal(503, "The swarm does not have a leader"),
    refusal(503, "This node is not a swarm manager"),
    refusal(400, "client version 1.41 is too new"),
]


class Away:
    """An engine that answers every request with the same failure."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure
        self.calls = 0

    def tasks(self, **_: Any) -> Any:
        self.calls += 1
        raise self._failure


@pytest.mark.parametrize("failure", OUTAGES, ids=str)
def test_no_number_of_polls_in_an_outage_ends_a_notebook(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    away = Away(failure)
    monkeypatch.setattr(ServiceSpawner, "_engine_client", away)
    monkeypatch.setattr(swarm, "LOOK_WITHIN_S", 0.1)
    spawner = make_spawner(state={"object_id": "1", "spawn_id": "b" * 32})

    async def poll() -> list[object]:
        return [await spawner.poll() for _ in range(3)]

    assert asyncio.run(poll()) == [None] * 3
    assert away.calls, "nothing failed: nothing is shown"
    assert spawner.get_state()["object_id"] == "1"


class Runs:
    """An engine with one task, which runs."""

    def tasks(self, **_: Any) -> Any:
        mounts = [{"Type": "volume", "Source": "home-ann", "Target": "/home"}]
        return [
            {
                "ID": "t1",
                "NodeID": "n1",
                "Status": {"State": "running"},
                "Spec": {"ContainerSpec": {"Mounts": mounts}},
            }
        ]


def test_no_option_that_cannot_be_used_ends_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceSpawner, "_engine_client", Runs())
    state = {"object_id": "1", "spawn_id": "b" * 32}
    wrong = make_spawner(state=state, volumes={"home-{username}-{project}": "/home"})
    assert asyncio.run(wrong.poll()) is None
    monkeypatch.setattr(Runs, "tasks", lambda *_, **__: 1 / 0)
    assert asyncio.run(make_spawner(state=state).poll()) is None


def test_only_the_engines_definite_answer_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceSpawner, "_engine_client", Away(refusal(404, "not found")))
    spawner = make_spawner(state={"object_id": "1", "spawn_id": "b" * 32})
    assert asyncio.run(spawner.poll()) == 0
