"""A trial run of the hub's configuration before the running hub is changed.

The files in a site's ``hub_config/conf.d`` are Python, so only the hub's own image can evaluate
them. They are loaded in a container of that image, without the deployment's network, volumes and
secrets, and with the environment that the hub will have (``jhswarmd/hub/rehearsal.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import docker
import requests
import yaml
from docker.errors import ImageNotFound
from docker.models.containers import Container

from jhswarmd import labels
from jhswarmd.deploy.progress import Progress
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import EngineNotFound, JhswarmdError

#: Seconds for the whole rehearsal, which takes much less unless the machine is very busy.
REHEARSAL_TIMEOUT_S = 120
_MODULE = "jhswarmd.hub.rehearsal"
_UNTOUCHED = "Nothing was deployed: a running hub is unchanged"
_REMEDY = (
    f"{_UNTOUCHED}. Change the files in hub_config/conf.d and run the command again; see "
    "docs/configuration.md and docs/spawner.md for each option."
)


def check(client: docker.DockerClient, stack: str, rendered: str, progress: Progress) -> None:
    """Raise JhswarmdError for a configuration that cannot work; print its warnings.

    ``rendered`` is the stack file that is about to be deployed. If a hub already runs with the same
    image and environment, its configuration is known to work.
    """
    document = yaml.safe_load(rendered)
    hub = document["services"]["hub"]
    with progress.step("Trying the hub's configuration") as step:
        if _is_running(client, stack, hub):
            step.done("the hub runs with it")
            return
        report = _rehearse(client, stack, hub)
        networks = [_network_name(document, stack, name) for name in hub["networks"]]
        faults = [*report["faults"], *_wrong_network(report["network"], networks)]
        if faults:
            _warn(progress, report)
            raise JhswarmdError(
                "The hub's configuration cannot work", output=faults, remedy=_REMEDY
            )
        step.done("it loads")
    _warn(progress, report)


def _warn(progress: Progress, report: Mapping[str, Any]) -> None:
    for each in report["warnings"]:
        progress.warn(each)


def _network_name(document: Mapping[str, Any], stack: str, name: str) -> str:
    network = (document.get("networks") or {}).get(name) or {}
    return str(network.get("name") or labels.network_name(stack, name))


def _wrong_network(network: str, networks: Sequence[str]) -> list[str]:
    """Return why notebooks cannot use ``network``, unless it is one of the hub's or unset."""
    if not network or network in networks:
        return []
    return [
        f"c.SwarmSpawner.network_name = '{network}' cannot work here: the hub is not in a network "
        "of that name, and could not reach notebooks. Instead: leave it out; the hub is in "
        + ", ".join(networks)
    ]


def _is_running(client: docker.DockerClient, stack: str, hub: Mapping[str, Any]) -> bool:
    """Return whether a healthy hub runs with this image, environment and number of networks."""
    try:
        with engine_errors("inspect the hub's service"):
            service = client.api.inspect_service(labels.service_name(stack, "hub"))
            tasks = client.api.tasks(filters={"service": service["ID"]})
    except EngineNotFound:
        return False
    spec = service["Spec"]["TaskTemplate"]["ContainerSpec"]
    desired = {f"{key}={value}" for key, value in _environment(hub).items()}
    networks = service["Spec"]["TaskTemplate"].get("Networks") or ()
    return (
        spec["Image"] == hub["image"]
        and set(spec.get("Env") or ()) == desired
        and len(networks) == len(hub["networks"])
        and any(
            task["DesiredState"] == task["Status"]["State"] == "running"
            and task["Spec"]["ContainerSpec"]["Image"] == hub["image"]
            and set(task["Spec"]["ContainerSpec"].get("Env") or ()) == desired
            for task in tasks
        )
    )


def _environment(hub: Mapping[str, Any]) -> dict[str, str]:
    # In the rendered file, '$' is doubled.
    return {key: str(value).replace("$$", "$") for key, value in hub["environment"].items()}


def _rehearse(client: docker.DockerClient, stack: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    request = {
        "secrets": [each["target"] for each in hub["secrets"]],
        "absent": [each["target"] for each in hub["volumes"]],
    }
    container_labels = {labels.REHEARSAL: stack}
    with engine_errors("try the hub's configuration"):
        _remove_leftovers(client, container_labels)
        container = _create(
            client,
            hub["image"],
            entrypoint=["python", "-m", _MODULE],
            command=[json.dumps(request)],
            environment=_environment(hub),
            labels=container_labels,
            network_mode="none",
            use_config_proxy=False,
            # The engine's default log driver may not support reading.
            log_config={"type": "json-file", "config": {}},
        )
        try:
            container.start()
            return _read_report(container)
        finally:
            container.remove(force=True, v=True)


def _create(client: docker.DockerClient, image: str, **kw: Any) -> Container:
    """Create a container; its image may only be in the registry so far."""
    try:
        return client.containers.create(image, **kw)
    except ImageNotFound:
        client.images.pull(image)
        return client.containers.create(image, **kw)


def _remove_leftovers(client: docker.DockerClient, container_labels: Mapping[str, str]) -> None:
    """Remove containers left behind by a killed run."""
    filters = {"label": [f"{key}={value}" for key, value in container_labels.items()]}
    for leftover in client.containers.list(all=True, filters=filters):
        leftover.remove(force=True, v=True)


def _read_report(container: Container) -> dict[str, Any]:
    try:
        container.wait(timeout=REHEARSAL_TIMEOUT_S)
    except (requests.ConnectionError, requests.Timeout) as exc:
        raise JhswarmdError(
            f"The hub's configuration does not finish loading within {REHEARSAL_TIMEOUT_S} s",
            output=_last_lines(container),
            remedy=_REMEDY,
        ) from exc
    try:
        report: dict[str, Any] = json.loads(container.logs(stdout=True, stderr=False))
    except ValueError as exc:
        raise JhswarmdError(
            "The hub's configuration makes the hub exit without an error message",
            output=_last_lines(container),
            remedy=_REMEDY,
        ) from exc
    return report


def _last_lines(container: Container) -> list[str]:
    log: bytes = container.logs(stdout=False, stderr=True, tail=10)
    return log.decode(errors="replace").splitlines()
