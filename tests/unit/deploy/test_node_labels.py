"""The label of the hub's node: set and taken away beside whatever else changes a node."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import requests
from docker.errors import APIError

from jhswarmd import labels, retry
from jhswarmd.deploy import stack
from jhswarmd.errors import EngineError, EngineOutOfSequence

MARK = labels.hub_node_label("lab")


def refusal(status: int, text: str) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("failed", response=response, explanation=text)


class Swarm:
    """One node, to which another process writes before each of ``others`` updates succeeds."""

    def __init__(self, *others: Mapping[str, str], error: Exception | None = None) -> None:
        self.node: dict[str, Any] = {
            "ID": "n1",
            "Version": {"Index": 7},
            "Spec": {"Role": "manager", "Labels": {"disk": "fast"}},
        }
        self.others = list(others)
        self.error = error
        self.calls = 0
        self.api = self

    def info(self) -> dict[str, Any]:
        return {"Swarm": {"NodeID": "n1"}}

    def nodes(self) -> list[dict[str, Any]]:
        return [copy.deepcopy(self.node)]

    def inspect_node(self, node_id: str) -> dict[str, Any]:
        found = copy.deepcopy(self.node)
        if self.others:
            self.node["Spec"]["Labels"].update(self.others.pop(0))
            self.node["Version"]["Index"] += 1
        return found

    def update_node(self, node_id: str, version: int, spec: dict[str, Any]) -> None:
        self.calls += 1
        if self.error:
            raise self.error
        if version != self.node["Version"]["Index"]:
            raise refusal(500, "rpc error: code = Unknown desc = update out of sequence")
        self.node["Spec"] = spec


def test_the_label_is_set_on_top_of_what_another_process_wrote_meanwhile() -> None:
    swarm = Swarm({"rack": "1"}, {"rack": "2"})
    assert stack.label_hub_node(swarm, "lab")
    assert swarm.node["Spec"]["Labels"] == {"disk": "fast", "rack": "2", MARK: "true"}
    assert swarm.calls == 3
    assert not stack.label_hub_node(swarm, "lab")
    swarm.others = [{"rack": "3"}]
    stack._update_node_labels(swarm, "n1", {MARK: None})
    assert swarm.node["Spec"] == {"Role": "manager", "Labels": {"disk": "fast", "rack": "3"}}


@pytest.mark.parametrize(
    "error", [refusal(500, "The swarm does not have a leader"), refusal(400, "invalid label")]
)
def test_any_other_error_is_raised_at_once(error: Exception) -> None:
    swarm = Swarm(error=error)
    with pytest.raises(EngineError):
        stack.label_hub_node(swarm, "lab")
    assert swarm.calls == 1


def test_reading_again_has_an_end() -> None:
    def conflict() -> None:
        raise EngineOutOfSequence("update out of sequence")

    with pytest.raises(EngineOutOfSequence):
        retry.rereading(0.0)(conflict)
