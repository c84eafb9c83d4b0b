"""Options of the spawner that cannot do on Swarm what they promise."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

from docker import APIClient, types
from traitlets import TraitError
from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue

from jhswarmd import log_tail
from jhswarmd.hub.checks.common import (
    LEAVE_OUT,
    MAX_WORDS,
    SPAWNER,
    Classes,
    did_you_mean,
    final,
    plain,
    refusal,
    settings_of,
)
from jhswarmd.hub.site_config import Site, section_names

#: Options of JupyterHub's and dockerspawner's that cannot do on Swarm what they promise: why, and
#: what does.
REFUSED = {
    "extra_host_config": (
        "a service has no host configuration",
        "c.SwarmSpawner.extra_container_spec, extra_resources_spec, and the options for limits",
    ),
    "links": (
        "services reach each other by name in a common network",
        "c.SwarmSpawner.network_name, or networks in extra_task_spec",
    ),
    "mounts": (
        "the node that holds a user's files is known for volumes alone",
        "c.SwarmSpawner.volumes, shared_volumes and shm_size",
    ),
    "post_start_cmd": (
        "Swarm runs no command in a container, and the hub reaches none on other nodes",
        "c.SwarmSpawner.cmd, or a start script in the notebook's image",
    ),
    "remove": (
        "a stopped service cannot be started again",
        "nothing: volumes keep what is to be kept",
    ),
}
_EXTRA = "c.SwarmSpawner.extra_container_spec = {{'{}': ...}}"
_GPUS = "the runtime of each node's engine and GENERIC_RESOURCES (docs/spawner.md, GPUs)"
_MEMORY = "c.SwarmSpawner.mem_limit (or MEM_LIMIT in the profile)"
_CPU = "c.SwarmSpawner.cpu_limit, in cores (or CPU_LIMIT in the profile)"
_BINDS = "c.SwarmSpawner.volumes (or SHARED_VOLUMES in the profile)"
_NONE = "nothing: Swarm has no such thing for services"
#: What people write into ``extra_host_config`` and ``extra_create_kwargs`` for containers, and
#: what does the same for services.
_OF_CONTAINERS: Mapping[str, str] = {
    "network_mode": f"{LEAVE_OUT}: notebooks are in the stack's own network",
    **dict.fromkeys(("mem_limit", "memory", "memswap_limit"), _MEMORY),
    "mem_reservation": "c.SwarmSpawner.mem_guarantee (or MEM_GUARANTEE in the profile)",
    **dict.fromkeys(("nano_cpus", "cpu_quota", "cpu_period", "cpus"), _CPU),
    "cpu_shares": "c.SwarmSpawner.cpu_guarantee (or CPU_GUARANTEE in the profile)",
    "shm_size": "c.SwarmSpawner.shm_size (or SHM_SIZE in the profile)",
    "pids_limit": "c.SwarmSpawner.pids_limit (or PIDS_LIMIT in the profile)",
    "ulimits": "c.SwarmSpawner.ulimits (or ULIMITS in the profile)",
    "cap_drop": "c.SwarmSpawner.cap_drop (or CAP_DROP in the profile)",
    "security_opt": "c.SwarmSpawner.no_new_privileges (or NO_NEW_PRIVILEGES in the profile), and "
    + _EXTRA.format("privileges"),
    **{key: _EXTRA.format(key) for key in ("cap_add", "sysctls", "read_only", "user", "hostname")},
    **{key: _EXTRA.format(key) for key in ("tty", "healthcheck")},
    "dns": _EXTRA.format("dns_config"),
    "extra_hosts": _EXTRA.format("hosts"),
    "group_add": _EXTRA.format("groups"),
    "working_dir": _EXTRA.format("workdir"),
    "stdin_open": _EXTRA.format("open_stdin"),
    "entrypoint": _EXTRA.format("command"),
    "tmpfs": "c.SwarmSpawner.shm_size for /dev/shm, else " + _EXTRA.format("mounts"),
    "log_config": "c.SwarmSpawner.extra_task_spec = {'log_driver': ...}",
    **dict.fromkeys(("runtime", "device_requests"), _GPUS),
    **dict.fromkeys(("binds", "mounts", "volumes", "volumes_from"), _BINDS),
    "command": "c.SwarmSpawner.cmd",
    "environment": "c.SwarmSpawner.environment",
    "image": "c.SwarmSpawner.image",
    "name": "c.SwarmSpawner.name_template",
    "ports": "c.SwarmSpawner.port",
    "port_bindings": "c.SwarmSpawner.use_internal_ip = False",
    **dict.fromkeys(("init", "auto_remove", "restart_policy", "detach", "links"), LEAVE_OUT),
    **dict.fromkeys(("devices", "privileged", "ipc_mode", "pid_mode", "userns_mode"), _NONE),
}
#: Those that ask for what is the case anyway, or mean nothing to a service.
NO_EFFECT = {
    "remove_containers": "a stopped notebook is always removed, its volumes stay",
    **dict.fromkeys(
        ("certs_volume_name", "move_certs_image", "ssl_alt_names", "ssl_alt_names_include_local"),
        "it belongs to c.JupyterHub.internal_ssl, which does not work on Swarm",
    ),
    **dict.fromkeys(
        ("tls", "tls_verify", "tls_ca", "tls_cert", "tls_key", "tls_assert_hostname"),
        "dockerspawner has abandoned it; set c.DockerSpawner.tls_config",
    ),
    "hub_ip_connect": "dockerspawner has abandoned it; notebooks reach the hub at http://hub:8081",
    "use_docker_client_env": "dockerspawner has abandoned it",
}
#: What each of these options may hold: the arguments of one of docker-py's types.
_ARGUMENTS: Mapping[str, Callable[..., Any]] = {
    "extra_container_spec": types.ContainerSpec,
    "extra_task_spec": types.TaskTemplate,
    "extra_resources_spec": types.Resources,
    "extra_placement_spec": types.Placement,
    "extra_endpoint_spec": types.EndpointSpec,
    "extra_create_kwargs": APIClient.create_service,
}
#: What ``create_service`` gets from the spawner alone.
_NOT_FOR_SITES = frozenset(("self", "task_template"))


def impossible(site: Site, classes: Classes) -> Iterator[str]:
    """Find options, and arguments within them, that do not exist on Swarm."""
    sections = classes.with_subclasses(SPAWNER)
    for option, (why, instead) in REFUSED.items():
        for given in site.given(sections, option):
            value = True if isinstance(given.value, LazyConfigValue) else given.value
            if bool(value) is (option != "remove"):
                what = f"{given.place}: {given.name} does not work on Swarm: {why}"
                arguments = plain(given.value, {}) if option == "extra_host_config" else None
                if isinstance(arguments, dict) and arguments:
                    yield f"{what}. Instead {_for_services(arguments, instead)}"
                else:
                    yield f"{what}. Instead: {instead}"
    for option, kind in _ARGUMENTS.items():
        names = inspect.signature(kind).parameters.keys() - _NOT_FOR_SITES
        for given in site.given(sections, option):
            value = plain(given.value, {})
            keys = value if isinstance(value, dict) else ()
            for key in [key for key in keys if key not in names]:
                if option == "extra_create_kwargs" and key in _OF_CONTAINERS:
                    instead = f". Instead: {_OF_CONTAINERS[key]}"
                else:
                    instead = did_you_mean(get_close_matches(str(key), names), "")
                yield (
                    f"{given.place}: {given.name} cannot be used: docker-py's {kind.__name__} has "
                    f"no '{key}'{instead}"
                )


def _for_services(arguments: Iterable[str], other: str) -> str:
    """Return what to set instead of each of a container's arguments."""
    return "; ".join(f"of its '{key}': {_OF_CONTAINERS.get(key, other)}" for key in arguments)


def unreachable(c: Config, site: Site, classes: Classes) -> Iterator[str]:
    """Find what keeps the hub from reaching any notebook."""
    sections = classes.with_subclasses(SPAWNER)
    for given in site.given(sections, "ip"):
        if given.value in ("127.0.0.1", "localhost", "::1"):
            why = "the hub is not in the notebook's container, and could not reach it"
            yield refusal(given, why, LEAVE_OUT)
    for given in site.given(sections, "extra_task_spec"):
        value = plain(given.value, {})
        networks = value.get("networks") if isinstance(value, dict) else None
        name = final(c, classes.spawner, "network_name")
        if networks and name not in [
            each.get("Target") if isinstance(each, dict) else each for each in networks
        ]:
            yield (
                f"{given.place}: {given.name} cannot work here: its networks replace all others, "
                f"and the hub reaches notebooks in '{name}' alone. Instead: name that one too"
            )


def invalid(site: Site, classes: Classes) -> Iterator[str]:
    """Find values that an option does not take; a start of a notebook would find some first."""
    try:
        made = classes.spawner(user=SimpleNamespace(name="user"), config=Config())
    except Exception:  # noqa: BLE001 - a site's own class may want a whole user
        made = None
    for cls in classes.all:
        is_spawner = cls is classes.spawner and made is not None
        traits: dict[str, Any] = cls.class_traits(config=True)
        for given in site.given(section_names(cls)):
            trait = traits.get(given.option)
            # Those that choose classes have words of their own.
            if trait is None or given.option.endswith("_class"):
                continue
            try:
                if is_spawner:
                    trait._validate(made, plain(given.value, getattr(made, given.option)))
                elif not isinstance(given.value, LazyConfigValue):
                    trait.validate(None, given.value)
            except TraitError as exc:
                words = " ".join(str(exc).replace(" of None instance", "").split())
                if log_tail.is_secret_name(given.option):
                    words = f"it takes {trait.info()}, not {type(given.value).__name__}"
                words = log_tail.hide(words)[:MAX_WORDS]
                yield f"{given.place}: {given.name} cannot be used: {words}"
            except (AttributeError, TypeError):
                continue  # it cannot be judged without the object that has it


#: Names that differ, and that careless escaping makes the same.
_ALIKE = ("a-b", "a.b", "a_b", "a b", "a@b", "a--b", "ab", "\u00e4b", "-ab", "ab-")


def unsafe(c: Config) -> Iterator[str]:
    """Find what would give two users one service or one volume."""
    for name, escape in settings_of(c, "escape"):
        if not callable(escape):
            continue
        seen: dict[str, str] = {}
        for user in _ALIKE:
            other = seen.setdefault(escape(user), user)
            if other != user:
                yield (
                    f"{name} makes the users '{other}' and '{user}' the same: they would share "
                    "services and volumes. Instead: leave it out, or 'legacy' for dockerspawner's "
                    "older names"
                )
                break
    if any(escape == "legacy" for _, escape in settings_of(c, "escape")):
        yield from _alike_under_legacy(c)
    named_servers = "JupyterHub" in c and c.JupyterHub.get("allow_named_servers")
    for name, template in settings_of(c, "name_template"):
        if "username}" not in template:
            yield f"{name} gives all users one name: it must hold {{username}}"
        elif named_servers and "servername}" not in template:
            yield f"{name} gives all servers of a user one name: it must hold {{servername}}"


def _alike_under_legacy(c: Config) -> Iterator[str]:
    """Find volumes of which two users' may be one: older names keep '-', which templates hold too.

    With ``{username}`` and ``{username}-data`` the data of 'ann' are the home of 'ann-data'.
    """
    ends: dict[str, str] = {}
    for option in ("volumes", "read_only_volumes"):
        for name, value in settings_of(c, option):
            for template in value if isinstance(value, dict) else ():
                begin, held, end = str(template).partition("username}")
                if not held or begin.startswith("/"):
                    continue
                if ends.setdefault(begin, end) != end or "servername}" in end:
                    yield (
                        f"{name} and escape='legacy' may give two users one volume: "
                        f"'{template}' for one may be another template for another. Instead: put "
                        "what tells volumes apart before {username}"
                    )
