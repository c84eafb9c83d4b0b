"""The reason why a service does not become healthy."""

import pytest

from jhswarmd.deploy import stack


def service(update=""):
    return {
        "Spec": {"TaskTemplate": {"ContainerSpec": {"Image": "i"}}},
        **({"UpdateStatus": {"State": update}} if update else {}),
    }


def task(number, state, *, wanted="running", error=""):
    return {
        "ID": f"t{number}",
        "UpdatedAt": f"2026-01-01T00:00:0{number}Z",
        "DesiredState": wanted,
        "Status": {"State": state, "Err": error},
        "Spec": {"ContainerSpec": {"Image": "i"}},
    }


FAILED = [
    task(1, "failed", wanted="shutdown", error="task: non-zero exit (2)"),
    task(2, "failed", wanted="shutdown", error="task: non-zero exit (1)"),
]


@pytest.mark.parametrize(
    ("update", "tasks", "reason", "culprit"),
    [
        pytest.param("", [task(3, "running")], "", None, id="it runs"),
        pytest.param("", [*FAILED, task(3, "running")], "", None, id="it runs at last"),
        pytest.param("updating", [task(3, "running")], "updating", "t3", id="the old one runs"),
        pytest.param(
            "updating",
            [*FAILED, task(3, "starting")],
            "updating, starting (before: task: non-zero exit (1))",
            "t2",
            id="it fails while it is updated",
        ),
        pytest.param("updating", [task(3, "starting")], "updating, starting", "t3", id="starts"),
        pytest.param(
            "",
            [*FAILED, task(3, "ready")],
            "ready (before: task: non-zero exit (1))",
            "t2",
            id="it fails",
        ),
        pytest.param("", [], "waiting for a task", None, id="no task yet"),
    ],
)
def test_the_cause_is_reported_even_during_an_update(update, tasks, reason, culprit):
    rollout = stack._assess(service(update), tasks)
    assert rollout.reason == reason
    assert (rollout.culprit or {}).get("ID") == culprit
