"""The table of task states, and when a start is hopeless."""

from __future__ import annotations

from typing import Any

import pytest

from jhswarmd.spawner.progress import describe
from jhswarmd.spawner.tasks import (
    NO_NODE_GRACE_S,
    Phase,
    Task,
    exit_status,
    failure,
    newest,
    read_task,
)


def make_raw(**changes: Any) -> dict[str, Any]:
    """Return a running task as engine 20.10.24 lists it, with ``changes`` to its status."""
    return {
        "ID": "task1",
        "CreatedAt": changes.pop("CreatedAt", "2026-01-01T00:00:00.1Z"),
        "NodeID": "node1",
        "Status": {
            "State": "running",
            "Message": "started",
            "ContainerStatus": {"ContainerID": "c0ffee", "PID": 7, "ExitCode": 0},
            **changes,
        },
        "NetworksAttachments": [
            {
                "Network": {"ID": "net1", "Spec": {"Name": "hub_notebooks"}},
                "Addresses": ["10.128.0.7/16"],
            },
            {"Network": {"ID": "net2", "Spec": {"Name": "other"}}, "Addresses": None},
        ],
    }


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        *(
            (state, Phase.starting)
            for state in (
                "new",
                "pending",
                "assigned",
                "accepted",
                "preparing",
                "ready",
                "starting",
            )
        ),
        ("running", Phase.running),
        *(
            (state, Phase.ended)
            for state in ("complete", "failed", "shutdown", "rejected", "orphaned", "remove")
        ),
        ("a state of a later engine", Phase.starting),
        ("", Phase.starting),
    ],
)
def test_every_state_has_its_phase(state: str, phase: Phase) -> None:
    assert read_task(make_raw(State=state)).phase is phase


@pytest.mark.parametrize("raw", [{}, {"Status": None}, {"Status": {}, "NetworksAttachments": None}])
def test_a_task_that_the_engine_has_not_filled_in_is_alive(raw: dict[str, Any]) -> None:
    assert exit_status(read_task(raw)) is None


def test_a_service_without_a_task_is_alive() -> None:
    assert exit_status(newest([])) is None


def test_states_are_read_in_any_case() -> None:
    assert read_task(make_raw(State="RUNNING")).phase is Phase.running


def test_addresses_are_found_by_name_and_by_id_of_the_network() -> None:
    task = read_task(make_raw())
    assert task.addresses == {"hub_notebooks": "10.128.0.7", "net1": "10.128.0.7"}


def test_the_task_created_last_counts() -> None:
    old = make_raw(CreatedAt="2026-01-01T00:00:00Z", State="shutdown")
    new = make_raw(CreatedAt="2026-01-02T00:00:00Z")
    assert [newest(order) for order in ([old, new], [new, old])] == [read_task(new)] * 2


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"State": "complete"}, 0),
        ({"State": "failed", "ContainerStatus": {"ContainerID": "c", "ExitCode": 137}}, 137),
        (
            {"State": "rejected", "Err": "No such image: x", "ContainerStatus": {"ExitCode": 0}},
            "rejected: No such image: x",
        ),
        (
            {"State": "failed", "Err": "starting container failed"},
            "failed: starting container failed",
        ),
        ({"State": "orphaned", "ContainerStatus": None}, "orphaned"),
    ],
)
def test_an_ended_task_tells_how_it_ended(status: dict[str, Any], expected: int | str) -> None:
    assert exit_status(read_task(make_raw(**status))) == expected


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"State": "rejected", "Err": "No such image: x:1"}, "image_not_found"),
        (
            {
                "State": "failed",
                "Err": "task: non-zero exit (3)",
                "ContainerStatus": {"ContainerID": "c", "ExitCode": 3},
            },
            "exited",
        ),
        (
            {
                "State": "failed",
                "Err": "starting container failed: unable to find user x",
                "ContainerStatus": {"ContainerID": "c", "ExitCode": 128},
            },
            "failed",
        ),
        ({"State": "complete"}, "exited"),
        ({"State": "rejected", "Err": "invalid mount config", "ContainerStatus": None}, "rejected"),
        (
            {"State": "pending", "Err": "no suitable node (insufficient resources on 1 node)"},
            "no_node",
        ),
        (
            {"State": "pending", "Err": "no suitable node (scheduling constraints not satisfied)"},
            "no_node",
        ),
    ],
)
def test_hopeless_starts_are_told_apart(status: dict[str, Any], reason: str) -> None:
    found = failure(read_task(make_raw(**status)), image="x:1", lasted_s=NO_NODE_GRACE_S)
    assert found is not None
    assert found.reason == reason


def test_a_failure_gives_the_administrator_the_engines_own_words() -> None:
    task = read_task(make_raw(State="rejected", Err="invalid mount config", ContainerStatus=None))
    found = failure(task, image="x:1", lasted_s=0)
    assert found is not None
    assert "invalid mount config" in found.detail
    assert "invalid mount config" not in found.message


def test_a_lack_of_nodes_is_believed_only_when_it_lasts() -> None:
    task = Task("t", "pending", error="no suitable node (insufficient resources on 1 node)")
    assert failure(task, image="x:1", lasted_s=NO_NODE_GRACE_S - 0.1) is None


@pytest.mark.parametrize("task", [None, Task("t", "preparing"), Task("t", "running")])
def test_what_may_still_succeed_is_no_failure(task: Task | None) -> None:
    assert failure(task, image="x:1", lasted_s=1e6) is None


def test_progress_only_grows_on_the_way_to_a_running_notebook() -> None:
    way = [
        None,
        Task("t", "pending"),
        Task("t", "assigned", node_id="n"),
        Task("t", "preparing", node_id="n"),
        Task("t", "starting", node_id="n"),
        Task("t", "running", node_id="n"),
    ]
    percents = [describe(task, node="box", image="x:1")[0] for task in way]
    assert percents == sorted(percents)
    assert percents[-1] < 100


def test_progress_names_the_node_and_the_image_it_may_pull() -> None:
    _, text = describe(Task("t", "preparing", node_id="n"), node="box", image="x:1")
    assert "box" in text
    assert "x:1" in text
