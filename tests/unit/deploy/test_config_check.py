"""The trial run of the hub's configuration before it is deployed."""

from __future__ import annotations

import io
import json
from typing import Any
from unittest.mock import MagicMock

import pytest
import requests
import yaml
from docker.errors import ImageNotFound, NotFound
from rich.console import Console

from jhswarmd import labels
from jhswarmd.deploy import config_check
from jhswarmd.deploy.progress import Progress
from jhswarmd.errors import EngineUnavailable, JhswarmdError

RENDERED = yaml.safe_dump(
    {
        "services": {
            "hub": {
                "image": "reg/hub:1",
                "environment": {"STACK_NAME": "lab", "VALUE": "a$$b"},
                "networks": ["control", "notebooks", "site"],
                "volumes": [{"type": "volume", "source": "hub_data", "target": "/srv/jupyterhub"}],
                "secrets": [{"source": "daemon_token", "target": "daemon_token"}],
            }
        },
        "networks": {"control": {}, "notebooks": {}, "site": {"name": "physics"}},
    }
)
GOOD = {"faults": [], "warnings": [], "network": "lab_notebooks"}


@pytest.fixture
def client() -> Any:
    """An engine whose rehearsal reports no errors."""
    made = MagicMock()
    made.containers.list.return_value = []
    made.api.inspect_service.side_effect = NotFound(
        "no hub runs yet", response=MagicMock(status_code=404)
    )
    report(made, GOOD)
    return made


def report(client: Any, answer: Any) -> None:
    container = client.containers.create.return_value
    container.logs.return_value = answer if isinstance(answer, bytes) else json.dumps(answer)


def check(client: Any) -> str:
    """Return the console output."""
    shown = io.StringIO()
    progress = Progress(Console(file=shown, soft_wrap=True))
    config_check.check(client, "lab", RENDERED, progress)
    return shown.getvalue()


def test_it_runs_isolated_in_the_hubs_image(client: Any) -> None:
    assert "ok" in check(client)
    (image,), options = client.containers.create.call_args
    assert image == "reg/hub:1"
    assert options["network_mode"] == "none"
    assert options["environment"] == {"STACK_NAME": "lab", "VALUE": "a$b"}
    assert not {"volumes", "mounts"} & options.keys()
    assert json.loads(options["command"][0]) == {
        "secrets": ["daemon_token"],
        "absent": ["/srv/jupyterhub"],
    }
    client.containers.create.return_value.remove.assert_called_once_with(force=True, v=True)


SPEC = {"Image": "reg/hub:1", "Env": ["VALUE=a$b", "STACK_NAME=lab"]}


def run_hub(client: Any, state: str = "running", **task: Any) -> None:
    """Let a hub run; ``task`` are differences of its task's spec."""
    client.api.inspect_service.side_effect = None
    client.api.inspect_service.return_value = {
        "ID": "h",
        "Spec": {"TaskTemplate": {"ContainerSpec": SPEC, "Networks": [{}, {}, {}]}},
    }
    client.api.tasks.return_value = [
        {
            "DesiredState": "running",
            "Status": {"State": state},
            "Spec": {"ContainerSpec": {**SPEC, **task}},
        }
    ]


def test_a_running_hub_proves_its_own_configuration(client: Any) -> None:
    run_hub(client)
    assert "the hub runs with it" in check(client)
    client.containers.create.assert_not_called()


@pytest.mark.parametrize(
    ("state", "task"),
    [
        ("starting", {}),
        ("failed", {}),
        ("running", {"Image": "reg/hub:0"}),
        ("running", {"Env": ["STACK_NAME=lab"]}),
    ],
)
def test_a_running_hub_proves_no_other_configuration(
    client: Any, state: str, task: dict[str, Any]
) -> None:
    run_hub(client, state, **task)
    check(client)
    client.containers.create.assert_called_once()


def test_a_hub_with_another_spec_proves_nothing(client: Any) -> None:
    run_hub(client)
    template = client.api.inspect_service.return_value["Spec"]["TaskTemplate"]
    template["ContainerSpec"] = {**SPEC, "Image": "reg/hub:2"}
    check(client)
    client.containers.create.assert_called_once()


def test_all_errors_are_reported_at_once_with_a_remedy(client: Any) -> None:
    report(client, {**GOOD, "faults": ["one", "two"], "network": "else"})
    with pytest.raises(JhswarmdError) as caught:
        check(client)
    assert caught.value.output[:2] == ("one", "two")
    assert "lab_notebooks" in caught.value.output[2]
    assert "Nothing was deployed" in caught.value.remedy
    assert caught.value.exit_code == 1


def test_warnings_are_shown(client: Any) -> None:
    report(client, {**GOOD, "warnings": ["mind this"]})
    assert "warning mind this" in check(client)


@pytest.mark.parametrize("network", ["lab_notebooks", "lab_control", "physics", ""])
def test_notebooks_may_use_a_network_of_the_hub(client: Any, network: str) -> None:
    report(client, {**GOOD, "network": network})
    check(client)


@pytest.mark.parametrize(
    ("failure", "error", "expected"),
    [
        (requests.ReadTimeout(), JhswarmdError, "does not finish loading"),
        (requests.ConnectionError("timed out"), JhswarmdError, "does not finish loading"),
    ],
)
def test_a_trial_run_that_does_not_end_is_killed(
    client: Any, failure: Exception, error: type[Exception], expected: str
) -> None:
    container = client.containers.create.return_value
    container.wait.side_effect = failure
    container.logs.return_value = b"last words\n"
    with pytest.raises(error, match=expected) as caught:
        check(client)
    assert "last words" in caught.value.output  # type: ignore[attr-defined]
    container.remove.assert_called_once_with(force=True, v=True)


def test_a_trial_run_without_a_report_shows_its_last_output(client: Any) -> None:
    report(client, b"")
    with pytest.raises(JhswarmdError, match="without an error message"):
        check(client)


def test_an_engine_that_does_not_answer_is_reported(client: Any) -> None:
    client.containers.create.side_effect = requests.ConnectionError("gone")
    with pytest.raises(EngineUnavailable):
        check(client)


def test_an_image_that_is_only_in_the_registry_is_pulled(client: Any) -> None:
    container = client.containers.create.return_value
    client.containers.create.side_effect = [ImageNotFound("x"), container]
    check(client)
    client.images.pull.assert_called_once_with("reg/hub:1")


def test_leftovers_of_a_killed_run_are_removed(client: Any) -> None:
    left = MagicMock()
    client.containers.list.return_value = [left]
    check(client)
    left.remove.assert_called_once_with(force=True, v=True)
    filters = client.containers.list.call_args.kwargs["filters"]
    assert filters == {"label": [f"{labels.REHEARSAL}=lab"]}
