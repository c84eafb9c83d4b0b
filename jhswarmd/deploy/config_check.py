"""The hub's configuration, tried out before the hub that runs is touched.

What a site puts into ``hub_config/conf.d`` is Python, so only the hub's own image can tell what it
does. It is loaded in a container of that image, without network, volumes and secrets of the
deployment, and with the environment that the hub will have (``jhswarmd/hub/rehearsal.py``).
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

#: Seconds for the whole rehearsal; it ends by itself long before, unless the machine is very busy.
WITHIN_S = 120
_MODULE = "jhswarmd.hub.rehearsal"
_UNTOUCHED = "Nothing was deployed: a hub that runs is as it was"
_REMEDY = (
    f"{_UNTOUCHED}. Change the files in hub_config/conf.d and run the command again; "
    "docs/configuration.md and docs/spawner.md tell what each option does here."
)


def check(client: docker.DockerClient, stack: str, rendered: str, progress: Progress) -> None:
    """Raise JhswarmdError for a configuration that cannot work; warn of what is odd.

    ``rendered`` is the stack's file as it is about to be deployed. A hub that runs with the same
    image and environment proves its configuration by itself.
    """
    document = yaml.safe_load(rendered)
    hub = document["services"]["hub"]
    with progress.step("Trying out the hub's configuration") as step:
        if _is_running(client, stack, hub):
            step.done("the hub runs with it")
            return
        report = _rehearse(client, stack, hub)
        reached = [_network_name(document, stack, name) for name in hub["networks"]]
        faults = [*report["faults"], *_wrong_network(report["network"], reached)]
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


def _wrong_network(network: str, reached: Sequence[str]) -> list[str]:
    """Return why notebooks cannot be in ``network``; empty: they can, or it is not known."""
    if not network or network in reached:
        return []
    return [
        f"c.SwarmSpawner.network_name = '{network}' cannot work here: the hub is in no network of "
        "that name, and could reach no notebook. Instead: leave it out; the hub is in "
        + ", ".join(reached)
    ]


def _is_running(client: docker.DockerClient, stack: str, hub: Mapping[str, Any]) -> bool:
    """Tell whether a healthy hub runs with this image, environment and set of networks."""
    try:
        with engine_errors("look up the hub's service"):
            service = client.api.inspect_service(labels.service_name(stack, "hub"))
            tasks = client.api.tasks(filters={"service": service["ID"]})
    except EngineNotFound:
        return False
    spec = service["Spec"]["TaskTemplate"]["ContainerSpec"]
    wanted = {f"{key}={value}" for key, value in _environment(hub).items()}
    networks = service["Spec"]["TaskTemplate"].get("Networks") or ()
    return (
        spec["Image"] == hub["image"]
        and set(spec.get("Env") or ()) == wanted
        and len(networks) == len(hub["networks"])
        and any(
            task["DesiredState"] == task["Status"]["State"] == "running"
            and task["Spec"]["ContainerSpec"]["Image"] == hub["image"]
            and set(task["Spec"]["ContainerSpec"].get("Env") or ()) == wanted
            for task in tasks
        )
    )


def _environment(hub: Mapping[str, Any]) -> dict[str, str]:
    # In the rendered file '$' is written twice.
    return {key: str(value).replace("$$", "$") for key, value in hub["environment"].items()}


def _rehearse(client: docker.DockerClient, stack: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    asked = {
        "secrets": [each["target"] for each in hub["secrets"]],
        "absent": [each["target"] for each in hub["volumes"]],
    }
    mark = {labels.REHEARSAL: stack}
    with engine_errors("try out the hub's configuration"):
        _remove_left(client, mark)
        container = _create(
            client,
            hub["image"],
            entrypoint=["python", "-m", _MODULE],
            command=[json.dumps(asked)],
            environment=_environment(hub),
            labels=mark,
            network_mode="none",
            use_config_proxy=False,
            # The engine's own default may be one that cannot be read back.
            log_config={"type": "json-file", "config": {}},
        )
        try:
            container.start()
            return _read_report(container)
        finally:
            container.remove(force=True, v=True)


def _create(client: docker.DockerClient, image: str, **kw: Any) -> Container:
    """Create a container; its image may so far be in the registry alone."""
    try:
        return client.containers.create(image, **kw)
    except ImageNotFound:
        client.images.pull(image)
        return client.containers.create(image, **kw)


def _remove_left(client: docker.DockerClient, mark: Mapping[str, str]) -> None:
    """Remove what a run that was killed left behind."""
    wanted = [f"{key}={value}" for key, value in mark.items()]
    for left in client.containers.list(all=True, filters={"label": wanted}):
        left.remove(force=True, v=True)


def _read_report(container: Container) -> dict[str, Any]:
    try:
        container.wait(timeout=WITHIN_S)
    except (requests.ConnectionError, requests.Timeout) as exc:
        raise JhswarmdError(
            f"The hub's configuration does not finish loading within {WITHIN_S} s",
            output=_last_lines(container),
            remedy=_REMEDY,
        ) from exc
    try:
        report: dict[str, Any] = json.loads(container.logs(stdout=True, stderr=False))
    except ValueError as exc:
        raise JhswarmdError(
            "The hub's configuration ends the hub without a word of what is wrong",
            output=_last_lines(container),
            remedy=_REMEDY,
        ) from exc
    return report


def _last_lines(container: Container) -> list[str]:
    log: bytes = container.logs(stdout=False, stderr=True, tail=10)
    return log.decode(errors="replace").splitlines()
