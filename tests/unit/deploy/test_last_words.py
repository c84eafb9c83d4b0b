"""What a container of the stack wrote last, for those who ask why it does not run."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from jhswarmd.deploy import last_words

TASK = {"ID": "t1", "Spec": {"ContainerSpec": {"Env": ["DAEMON_TOKEN=abcdefgh", "HOST=x"]}}}


@pytest.fixture
def client() -> Any:
    made = MagicMock()
    made.api.containers.return_value = [{"Id": "c1"}]
    made.api.logs.return_value = b"starting\nNameError: no abcdefgh\n"
    made.api.inspect_container.return_value = {"State": {}}
    return made


def test_the_container_of_this_node_tells_what_was_wrong_without_its_secrets(client: Any) -> None:
    assert last_words.of_task(client, TASK) == ("starting", "NameError: no [hidden]")


def test_what_a_failed_health_check_says_comes_last(client: Any) -> None:
    health = {"Log": [{"ExitCode": 0, "Output": "old"}, {"ExitCode": 1, "Output": "hung:\n why"}]}
    client.api.inspect_container.return_value = {"State": {"Health": health}}
    assert last_words.of_task(client, TASK)[-1] == "health check: hung: why"


def test_a_container_elsewhere_is_asked_through_the_cluster(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.api.containers.return_value = []
    asked: list[str] = []
    monkeypatch.setattr(last_words, "_read_remote", lambda id_: asked.append(id_) or "words")
    assert last_words.of_task(client, TASK) == ("words",)
    assert asked == ["t1"]


def test_where_there_is_no_task_there_are_no_words(client: Any) -> None:
    assert last_words.of_task(client, None) == ()
