"""Notebooks from a registry that wants a login, on a real engine and a real registry."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from typing import Any

import pytest

from jhswarmd.spawner.errors import StartFailed
from tests.kit.registry_kit import FIRST, HASHES, IMAGE, SECOND, PrivateRegistry
from tests.kit.spawner_kit import Flaky, start_and_clean_up, the_service


@pytest.fixture
def make_private(make: Any, registry: PrivateRegistry, client: Flaky) -> Any:
    # The first look at the registry of a password takes the time of its slow hash.
    client._client.timeout = 30
    return lambda: make(image=IMAGE, registry_login_file=str(registry.logins))


def fail(spawner: Any) -> StartFailed:
    with pytest.raises(StartFailed) as caught:
        asyncio.run(start_and_clean_up(spawner))
    return caught.value


def start_and_stop(spawner: Any) -> None:
    async def both() -> None:
        await spawner.start()
        await spawner.stop()

    asyncio.run(both())


@pytest.mark.every_engine
def test_without_a_login_the_start_fails_in_words(make_private: Any) -> None:
    failure = fail(make_private())
    assert failure.reason == "registry_refused"
    assert "may not pull" in failure.jupyterhub_message
    assert "no basic auth credentials" in failure.log_message
    assert "registry_config.json" in failure.log_message


@pytest.mark.every_engine
def test_the_login_is_read_anew_at_each_start(make_private: Any, registry: PrivateRegistry) -> None:
    spawner = make_private()
    registry.give(FIRST)
    start_and_stop(spawner)
    registry.forget_image()
    registry.want(SECOND)
    assert fail(spawner).reason == "registry_refused"  # the node needs the new one, and had none
    registry.give(SECOND)
    start_and_stop(spawner)


def test_a_login_shows_nowhere(
    make_private: Any,
    registry: PrivateRegistry,
    client: Flaky,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    registry.want(SECOND)
    registry.give(FIRST)
    spawner = make_private()
    failure = fail(spawner)
    registry.give(SECOND)
    asyncio.run(spawner.start())
    seen = [caplog.text, str(vars(failure)), repr(failure), repr(failure.__context__)]
    seen += [json.dumps(client.inspect_service(the_service(client)["ID"]))]
    seen += [json.dumps(client.tasks()), json.dumps(spawner.get_state())]
    asyncio.run(spawner.stop())
    for password in HASHES:
        encoded = base64.b64encode(f"robot:{password}".encode()).decode()
        assert not [text for text in seen if password in text or encoded in text]


def test_a_broken_file_of_logins_starts_nothing(
    make_private: Any, registry: PrivateRegistry, client: Flaky
) -> None:
    registry.logins.write_text('{"auths": {"canary')
    failure = fail(make_private())
    assert failure.reason == "configuration"
    assert "canary" not in failure.log_message
    assert client.services() == []
