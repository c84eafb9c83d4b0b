"""The stream of events: whatever is no end of a session is an error, and nothing is left open."""

import time
from itertools import islice

import docker
import pytest

from jhswarmd.engine import client as module
from jhswarmd.engine.client import Engine
from jhswarmd.errors import EngineUnavailable
from tests.kit.engine_proxy import Answer, CutBody, Silence
from tests.unit.kit.test_engine_proxy import little_engine, proxy_before_it

__all__ = ["little_engine", "proxy_before_it"]  # fixtures


@pytest.fixture
def view(proxy):
    client = docker.DockerClient(proxy.base_url, version="1.41", timeout=5)
    yield Engine(client)
    client.close()


def listen(view, for_s=60.0):
    now = time.time()
    return view.events(now, now + for_s)


def test_subscribing_comes_first_and_a_session_ends_at_its_time(view, engine):
    engine.events.put(1)
    engine.events.put(None)
    assert [each.type for each in listen(view, for_s=0)] == ["subscribed", ""]


def test_an_error_status_is_no_subscription(view, proxy):
    with proxy.fault(Answer(503)), pytest.raises(EngineUnavailable):
        next(listen(view))


@pytest.mark.parametrize("fault", [CutBody(), CutBody(after_bytes=100)])
def test_a_lost_connection_is_no_end(view, proxy, engine, fault):
    for number in range(3):
        engine.events.put(number)
    with proxy.fault(fault), pytest.raises(EngineUnavailable, match="read events"):
        list(listen(view))


def test_an_end_before_its_time_is_an_error(view, engine):
    engine.events.put(None)
    with pytest.raises(EngineUnavailable, match="before its time"):
        list(listen(view))


def test_a_stream_that_stays_open_and_silent_is_given_up(view, proxy, monkeypatch):
    monkeypatch.setattr(module, "STREAM_GRACE_S", 0.1)
    with proxy.fault(Silence()), pytest.raises(EngineUnavailable, match="read events"):
        list(listen(view, for_s=0.1))


def test_a_stream_that_is_left_is_closed(view, engine):
    engine.events.put(1)
    stream = listen(view)
    assert len(list(islice(stream, 2))) == 2
    stream.close()
    while not engine.has_left.wait(0.01):
        engine.events.put(2)
