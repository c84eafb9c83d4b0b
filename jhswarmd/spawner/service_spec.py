"""The request that creates a notebook's service, from the options of its spawner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from docker.errors import InvalidArgument
from docker.types import (
    ContainerSpec,
    EndpointSpec,
    Healthcheck,
    Placement,
    Resources,
    RestartPolicy,
    TaskTemplate,
)
from jupyterhub.traitlets import ByteSpecification
from jupyterhub.utils import maybe_future
from traitlets import TraitError

from jhswarmd import mount_targets
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import JhswarmdError

#: Options of dockerspawner's that only containers have, and services do not.
CONTAINERS_ONLY = ("extra_host_config", "links", "post_start_cmd")


async def create_request(
    spawner: Any, labels: dict[str, str], *, node_id: str = ""
) -> dict[str, Any]:
    """Return the arguments of docker-py's ``create_service``.

    ``extra_*`` options win over everything but ``labels``, by which the service is known, and
    ``node_id``, the only node that may run it (empty: any).
    """
    for option in CONTAINERS_ONLY:
        # The hub's start refuses them in the configuration; hooks set them later.
        if getattr(spawner, option):
            raise _unusable(option, "a Swarm service has nothing like it; a hook has set it")
    extra = await _extra_create_kwargs(spawner)
    return {
        "name": spawner.object_name,
        "endpoint_spec": _endpoint_spec(spawner),
        **extra,
        "task_template": await _task_template(spawner, labels, node_id),
        "labels": {**(extra.get("labels") or {}), **labels},
    }


#: What docker-py's ``create_service`` takes besides what is made here.
_CREATE_KWARGS = frozenset(
    ("name", "labels", "mode", "update_config", "rollback_config", "networks", "endpoint_spec")
)


async def _extra_create_kwargs(spawner: Any) -> dict[str, Any]:
    extra = spawner.extra_create_kwargs
    # As in dockerspawner: a callable may return it, also an async one.
    if callable(extra):
        extra = await maybe_future(extra(spawner))
    unknown = sorted(extra.keys() - _CREATE_KWARGS)
    if unknown:
        raise _unusable("extra_create_kwargs", f"a service has no {', '.join(unknown)}")
    return dict(extra)


def _make(kind: Callable[..., Any], option: str, arguments: Mapping[str, Any]) -> Any:
    """Make one of docker-py's specs; what ``option`` added may not fit."""
    try:
        return kind(**arguments)
    except (TypeError, ValueError, InvalidArgument) as exc:
        raise _unusable(option, str(exc)) from exc


@contextmanager
def using_options() -> Iterator[None]:
    """Raise JhswarmdError for what makes no sense among the site's own options."""
    try:
        yield
    except (KeyError, TypeError, ValueError, TraitError) as exc:
        why = f"{type(exc).__name__}: {exc}"
        raise _cannot_be_used("An option of the spawner", why) from exc


def _unusable(option: str, why: str) -> JhswarmdError:
    return _cannot_be_used(f"c.SwarmSpawner.{option}", why)


def _cannot_be_used(what: str, why: str) -> JhswarmdError:
    return JhswarmdError(
        f"{what} cannot be used",
        why=why,
        remedy="Change it in hub_config/conf.d; docs/spawner.md tells what each option takes.",
    )


async def _task_template(spawner: Any, labels: dict[str, str], node_id: str) -> TaskTemplate:
    arguments = {
        "container_spec": await _container_spec(spawner, labels),
        "resources": _resources(spawner),
        # A notebook that its user shut down must not come back, with a revoked token too.
        "restart_policy": RestartPolicy(condition="none"),
        "placement": _placement(spawner, node_id),
        "networks": [spawner.network_name] if spawner.network_name else [],
    }
    return _make(TaskTemplate, "extra_task_spec", {**arguments, **spawner.extra_task_spec})


async def _container_spec(spawner: Any, labels: dict[str, str]) -> ContainerSpec:
    extra = dict(spawner.extra_container_spec)
    arguments = {
        "image": spawner.image,
        "args": await _command(spawner),
        "env": spawner.get_env(),
        "mounts": spawner.mounts,
        "init": True,
        # Swarm kills what an image's own health check finds slow, and with it the user's work;
        # the hub asks the notebook itself.
        "healthcheck": Healthcheck(test=["NONE"]),
        **extra,
        # Swarm copies nothing from a service's labels to its containers'.
        "labels": {**(extra.get("labels") or {}), **labels},
    }
    if spawner.cap_drop:
        arguments.setdefault("cap_drop", list(spawner.cap_drop))
    spec: ContainerSpec = _make(ContainerSpec, "extra_container_spec", arguments)
    if spec.get("Mounts"):
        # Copies: what the site's configuration holds is not changed.
        spec["Mounts"] = [_on_canonical_target(mount) for mount in spec["Mounts"]]
    # docker-py has no arguments for these.
    if spawner.ulimits:
        spec["Ulimits"] = [_ulimit(name, limit) for name, limit in spawner.ulimits.items()]
    if spawner.no_new_privileges:
        spec["Privileges"] = {**(spec.get("Privileges") or {}), "NoNewPrivileges": True}
    return spec


async def _command(spawner: Any) -> list[str] | None:
    """Return the command with its arguments; None: the image's own, which only nodes know."""
    if not spawner.cmd and not spawner.get_args():
        return None
    with engine_errors(f"look up the command of the image {spawner.image}"):
        command: list[str] = await spawner.get_command()
    return command


def _on_canonical_target(mount: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mount without a symlink on the way; hooks spell keys in lower case, too."""
    return {
        key: mount_targets.canonical(value) if key.lower() == "target" else value
        for key, value in mount.items()
    }


def _ulimit(name: str, limit: Any) -> dict[str, Any]:
    """Return a limit of ``4096`` or ``"1024:4096"`` (soft and hard)."""
    soft, _, hard = str(limit).partition(":")
    return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}


#: What an engine whose API is older drops without a word, and where it would be.
_MAY_BE_IGNORED = {
    "no_new_privileges": ("ContainerSpec", "Privileges", "NoNewPrivileges"),
    "cap_drop": ("ContainerSpec", "CapabilityDrop"),
    "ulimits": ("ContainerSpec", "Ulimits"),
    "pids_limit": ("Resources", "Limits", "Pids"),
}


def ignored_options(asked: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Return which options of the template ``asked`` the engine has not ``stored``."""
    return [
        option
        for option, path in _MAY_BE_IGNORED.items()
        if _at(asked, path) and not _at(stored, path)
    ]


def _at(template: Any, path: Iterable[str]) -> Any:
    for key in path:
        template = (template or {}).get(key)
    return template


def _placement(spawner: Any, node_id: str) -> Placement:
    spec = dict(spawner.extra_placement_spec)
    if node_id:
        spec["constraints"] = [*(spec.get("constraints") or ()), f"node.id == {node_id}"]
    return _make(Placement, "extra_placement_spec", spec)


def _resources(spawner: Any) -> Resources:
    arguments = {
        "mem_limit": _size(spawner.mem_limit),
        "mem_reservation": _size(spawner.mem_guarantee),
        "cpu_limit": _nano(spawner.cpu_limit),
        "cpu_reservation": _nano(spawner.cpu_guarantee),
        "generic_resources": dict(spawner.generic_resources) or None,
    }
    arguments.update(spawner.extra_resources_spec)
    resources: Resources = _make(Resources, "extra_resources_spec", arguments)
    if spawner.pids_limit:
        # docker-py has no argument for it.
        resources["Limits"] = {**resources.get("Limits", {}), "Pids": spawner.pids_limit}
    return resources


def _endpoint_spec(spawner: Any) -> EndpointSpec:
    # A virtual address would cost a second address for each notebook, and IPVS drops what is idle
    # for 900 s (moby#31208). Published ports need one.
    arguments: dict[str, Any] = (
        {"mode": "dnsrr"} if spawner.use_internal_ip else {"ports": {None: (spawner.port, "tcp")}}
    )
    arguments.update(spawner.extra_endpoint_spec)
    return _make(EndpointSpec, "extra_endpoint_spec", arguments)


def _size(value: Any) -> int | None:
    """Return bytes; a callable in the configuration may have returned '2G'."""
    return None if value in (None, 0, "") else int(ByteSpecification().validate(None, value))


def _nano(cores: float | None) -> int | None:
    """Return billionths of a core, the engine's unit."""
    return int(cores * 1e9) if cores else None
