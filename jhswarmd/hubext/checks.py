"""What of a site's options cannot work in this stack, and what to set instead.

Judged when the hub starts, and before that by ``jhswarmd up`` (``rehearsal.py``): an option that
is ignored without a word would be taken for working. Which options there are, the classes
themselves tell.
"""

from __future__ import annotations

import copy
import inspect
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import dockerspawner
from docker import APIClient, types
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator, DummyAuthenticator
from jupyterhub.auth import PAMAuthenticator as StockPAMAuthenticator
from jupyterhub.crypto import CryptKeeper
from jupyterhub.httpclient import JupyterHubHTTPClient
from jupyterhub.proxy import Proxy
from jupyterhub.services.service import Service
from jupyterhub.spawner import Spawner
from traitlets import TraitError
from traitlets.config import Config, Configurable
from traitlets.config.loader import LazyConfigValue

from jhswarmd.hubext.auth import PAMAuthenticator
from jhswarmd.hubext.proxy import RotatingProxy
from jhswarmd.hubext.site import Given, Site, section_names
from jhswarmd.reconcile.rotation import COOKIE_LIFETIME
from jhswarmd.settings import Settings

_LEAVE_OUT = "leave it out"
_MAX_WORDS = 300

# ---- which class does what ----------------------------------------------------------------------


@dataclass(frozen=True)
class Classes:
    """The classes that a configuration chooses."""

    spawner: type[Spawner]
    authenticator: type[Authenticator]
    proxy: type[Proxy]

    @property
    def all(self) -> tuple[Any, ...]:
        """Every class of which the hub makes something, and whose options therefore count."""
        chosen = (self.spawner, self.authenticator, self.proxy)
        return (JupyterHub, *chosen, CryptKeeper, JupyterHubHTTPClient)

    @property
    def hierarchies(self) -> list[list[str]]:
        """The sections of each, the most general one first."""
        return [section_names(cls) for cls in self.all]

    def with_subclasses(self, sections: Sequence[str]) -> set[str]:
        """Return ``sections`` and those of the chosen classes that they configure too."""
        mine = set(sections)
        return mine.union(*(names for names in self.hierarchies if mine <= set(names)))


_PAM_INSTEAD = (
    "leave it out, and AUTHENTICATOR_TYPE=pam in the profile: that one ends the logins of accounts "
    "that are removed"
)


def choose_classes(base: Config, site: Site) -> tuple[Classes, list[str]]:
    """Return the classes that base and site choose, and what is wrong with the site's choice."""
    faults: list[str] = []

    def choose(option: str, wanted: type[Any], why: str, instead: str) -> Any:
        chosen = _resolve(option, base.JupyterHub[option])
        for given in site.given(_HUB, option):
            try:
                cls = _resolve(option, given.value)
            except (TraitError, ImportError, AttributeError) as exc:
                is_missing = isinstance(exc, ImportError) or "could not be imported" in str(exc)
                words = "it is not installed in the hub's image" if is_missing else why
                faults.append(_refusal(given, words, instead))
                continue
            if cls is StockPAMAuthenticator:
                faults.append(_refusal(given, "jhswarmd has one of its own", _PAM_INSTEAD))
            elif issubclass(cls, wanted):
                chosen = cls
            else:
                faults.append(_refusal(given, why, instead))
        return chosen

    classes = Classes(
        spawner=choose(
            "spawner_class",
            _resolve("spawner_class", base.JupyterHub.spawner_class),
            "the daemon, status and the users' volumes know the servers of jhswarmd's own spawner "
            "alone",
            f"{_LEAVE_OUT}: c.SwarmSpawner and c.DockerSpawner set that spawner's options "
            "(docs/spawner.md)",
        ),
        authenticator=choose(
            "authenticator_class",
            Authenticator,
            "it is not an authenticator",
            "AUTHENTICATOR_TYPE in the profile, or a class that is installed there: 'pam', "
            + ", ".join(f"'{name}'" for name in ("github", "gitlab", "google", "generic-oauth")),
        ),
        proxy=choose(
            "proxy_class",
            RotatingProxy,
            "the stack's proxy is a service of its own, whose token rotates",
            _LEAVE_OUT,
        ),
    )
    return classes, faults


def _resolve(option: str, value: Any) -> type[Any]:
    """Return the class that JupyterHub would take. Raises TraitError."""
    trait = JupyterHub.class_traits()[option]
    resolved = trait.validate(None, value)
    if isinstance(resolved, str):
        resolved = trait._resolve_string(resolved)
    return resolved  # type: ignore[no-any-return]


# ---- options whose value the stack depends on ---------------------------------------------------

_HUB = section_names(JupyterHub)
_PROXY = section_names(RotatingProxy)
_SPAWNER = section_names(dockerspawner.SwarmSpawner)
_PAM = section_names(PAMAuthenticator)

_PORTS = "HTTPS_PORT and HTTP_PORT in the profile"
_TLS = "the files ssl/cert.pem and ssl/key.pem of the profile"
_HUB_ADDRESS = "proxy, daemon, health check and notebooks reach the hub at http://hub:8081"
_PROXY_SERVICE = "the stack's proxy is a service of its own, which the hub does not start"
_COOKIES = "it is a secret of the stack, which the daemon rotates"

#: By sections and option: why a value other than ours cannot be, what to set instead, and which
#: values mean the same as ours. Empty values: none does.
_FIXED: Sequence[tuple[Sequence[str], str, str, str, tuple[Any, ...]]] = (
    (_HUB, "hub_ip", "the hub listens on all addresses of its container", _LEAVE_OUT, ("",)),
    (_HUB, "hub_port", _HUB_ADDRESS, _LEAVE_OUT, ()),
    (
        _HUB,
        "hub_bind_url",
        _HUB_ADDRESS,
        _LEAVE_OUT,
        ("", "http://:8081", "http://0.0.0.0:8081", "http://:8081/", "http://0.0.0.0:8081/"),
    ),
    (_HUB, "hub_connect_ip", _HUB_ADDRESS, _LEAVE_OUT, ()),
    (_HUB, "hub_connect_port", _HUB_ADDRESS, _LEAVE_OUT, (0, 8081)),
    (
        _HUB,
        "hub_connect_url",
        _HUB_ADDRESS,
        _LEAVE_OUT,
        ("", "http://hub:8081", "http://hub:8081/"),
    ),
    (
        _HUB,
        "base_url",
        "health check, daemon and callbacks expect the hub at /",
        "a host name of its own (HOST in the profile)",
        ("/", ""),
    ),
    (
        _HUB,
        "hub_routespec",
        "paths that are not a notebook's go to the hub",
        _LEAVE_OUT,
        ("/",),
    ),
    (
        _HUB,
        "ip",
        "the proxy's published ports are open on all addresses of a node",
        "a firewall",
        ("", "0.0.0.0", "*"),  # noqa: S104 - what people write, not what we listen on
    ),
    (_HUB, "port", f"{_PROXY_SERVICE}; it listens where the profile says", _PORTS, ()),
    (
        _HUB,
        "bind_url",
        f"{_PROXY_SERVICE}; it listens where the profile says",
        f"HOST, {_PORTS}",
        (),
    ),
    (_HUB, "public_url", "'up' and the daemon go by the profile", "HOST and HTTPS_PORT", ("",)),
    (
        _HUB,
        "subdomain_host",
        "the stack's proxy does not route by host name",
        f"{_LEAVE_OUT}: all is served at HOST",
        ("",),
    ),
    (_HUB, "ssl_key", "TLS ends at the proxy, which is a service of its own", _TLS, ("",)),
    (_HUB, "ssl_cert", "TLS ends at the proxy, which is a service of its own", _TLS, ("",)),
    (
        _HUB,
        "db_url",
        "the hub's identity is kept in the database that the profile names",
        "DATABASE_URL in the profile",
        (),
    ),
    (
        _HUB,
        "reset_db",
        "each start of the hub would forget users and notebooks",
        _LEAVE_OUT,
        (False,),
    ),
    (
        _HUB,
        "cleanup_servers",
        "each restart of the hub would end all notebooks",
        f"{_LEAVE_OUT}; 'jhswarmd down' ends them",
        (),
    ),
    (
        _HUB,
        "cleanup_proxy",
        "each restart of the hub would cut off all notebooks",
        _LEAVE_OUT,
        (),
    ),
    (_HUB, "cookie_secret", _COOKIES, "the file cookie_secret of the profile", ()),
    (_HUB, "cookie_secret_file", _COOKIES, "the file cookie_secret of the profile", ()),
    (_HUB, "proxy_auth_token", _COOKIES, "the file proxy_auth_token of the profile", ()),
    (_HUB, "proxy_api_ip", _PROXY_SERVICE, _LEAVE_OUT, ("", "proxy")),
    (_HUB, "proxy_api_port", _PROXY_SERVICE, _LEAVE_OUT, (0, 8001)),
    (_HUB, "proxy_cmd", _PROXY_SERVICE, _LEAVE_OUT, ()),
    (_HUB, "debug_proxy", _PROXY_SERVICE, _LEAVE_OUT, (False,)),
    (
        _HUB,
        "internal_ssl",
        "it does not work on Swarm: a notebook's certificate would be on the hub's node alone",
        "'encrypted' among the overlay network's driver_opts",
        (False,),
    ),
    (_HUB, "generate_config", "the hub would write a file and end", _LEAVE_OUT, (False,)),
    (_HUB, "generate_certs", "the hub would write files and end", _LEAVE_OUT, (False,)),
    (_HUB, "show_config", "the hub would print it and end", _LEAVE_OUT, (False,)),
    (_HUB, "show_config_json", "the hub would print it and end", _LEAVE_OUT, (False,)),
    (_PROXY, "should_start", _PROXY_SERVICE, _LEAVE_OUT, ()),
    (_PROXY, "api_url", _PROXY_SERVICE, _LEAVE_OUT, ("http://proxy:8001/",)),
    (_PROXY, "auth_token", _COOKIES, "the file proxy_auth_token of the profile", ()),
    (_PROXY, "older_tokens", _COOKIES, "the file proxy_auth_token of the profile", ()),
    (_PROXY, "command", _PROXY_SERVICE, _LEAVE_OUT, ()),
    (_PROXY, "command_umask", _PROXY_SERVICE, _LEAVE_OUT, ()),
    (_PROXY, "debug", _PROXY_SERVICE, _LEAVE_OUT, (False,)),
    (_PROXY, "pid_file", _PROXY_SERVICE, _LEAVE_OUT, ()),
    (("CryptKeeper",), "keys", _COOKIES, "the file crypt_key of the profile", ()),
    (_SPAWNER, "stack", "it says whose the notebooks are", "STACK_NAME in the profile", ()),
    (_SPAWNER, "hub_id", "it says whose the notebooks are", _LEAVE_OUT, ()),
    (_SPAWNER, "count_spawn", "it tells an older copy of the hub's database", _LEAVE_OUT, ()),
    (_PAM, "service", "the daemon delivers accounts for this PAM service", _LEAVE_OUT, ()),
    (
        _SPAWNER,
        "hub_connect_url",
        _HUB_ADDRESS,
        _LEAVE_OUT,
        ("", None, "http://hub:8081", "http://hub:8081/", "http://hub:8081/hub/"),
    ),
    (
        _PAM,
        "create_system_users",
        "the accounts are those that the daemon delivers",
        "'jhswarmd users add'",
        (False,),
    ),
)
#: Values that may be repeated in a message: none of them holds a secret.
_SHOWN = (str, int, float, bool, type(None))
_NOT_SHOWN = ("cookie_secret", "db_url", "proxy_auth_token", "auth_token", "older_tokens", "keys")


def _fixed(base: Config, site: Site, classes: Classes, settings: Settings) -> Iterator[str]:
    same = {"port": (settings.https_port,), "db_url": _same_database(settings.database_url)}
    for sections, option, why, instead, allowed in _FIXED:
        ours = [base[name][option] for name in sections if name in base and option in base[name]]
        for given in site.given(classes.with_subclasses(sections), option):
            if not any(
                type(given.value) is type(value) and given.value == value
                for value in (*ours, *allowed, *same.get(option, ()))
            ):
                yield _refusal(given, why, instead)


def _same_database(url: str) -> tuple[str, ...]:
    """Return how JupyterHub lets people spell the same database."""
    return (url, url.removeprefix("sqlite:///"))


def _refusal(given: Given, why: str, instead: str) -> str:
    value = given.value
    shown = isinstance(value, _SHOWN) and given.option not in _NOT_SHOWN
    what = f"{given.name} = {value!r}"[:120] if shown else given.name
    return f"{given.place}: {what} cannot work here: {why}. Instead: {instead}"


# ---- options that no class has ------------------------------------------------------------------

#: Options of older Swarm spawners, and where today's users set the same.
_OLDER: Mapping[str, str] = {
    "container_spec": "c.SwarmSpawner.image, cmd, environment, volumes (or the profile's keys)",
    "resource_spec": "c.SwarmSpawner.mem_limit, mem_guarantee, cpu_limit (in cores) and "
    "cpu_guarantee, or MEM_LIMIT, MEM_GUARANTEE, CPU_LIMIT and CPU_GUARANTEE in the profile",
    "networks": f"{_LEAVE_OUT}: notebooks are in the stack's own network; more of them with "
    "networks in c.SwarmSpawner.extra_task_spec",
    "placement": "NOTEBOOK_CONSTRAINTS in the profile, or "
    "c.SwarmSpawner.extra_placement_spec = {'constraints': [...]}",
    "jupyterhub_service_name": f"{_LEAVE_OUT}: notebooks find the hub by itself",
    "service_prefix": "c.SwarmSpawner.prefix",
    "service_name": "c.SwarmSpawner.name_template",
    "service_owner": _LEAVE_OUT,
    "service_port": "c.SwarmSpawner.port",
    "service_image": "c.SwarmSpawner.image (or SINGLE_USER_IMAGE in the profile)",
    "use_user_options": "c.SwarmSpawner.notebook_profiles (or notebook_profiles.yml)",
}
#: What stood in the older ``container_spec``.
_CONTAINER_SPEC = {
    "Image": "c.SwarmSpawner.image (or SINGLE_USER_IMAGE in the profile)",
    "args": "c.SwarmSpawner.cmd (or NOTEBOOK_COMMAND in the profile)",
    "command": "c.SwarmSpawner.cmd (or NOTEBOOK_COMMAND in the profile)",
    "env": "c.SwarmSpawner.environment",
    "mounts": "c.SwarmSpawner.volumes, volume_driver and volume_driver_options (or NOTEBOOK_DIR, "
    "VOLUME_DRIVER and VOLUME_OPTIONS in the profile)",
}
_CONTAINER_SPEC_ELSE = "c.SwarmSpawner.extra_container_spec"
#: What stood in the older ``resource_spec``: today's option, and what makes its value of the older.
_RESOURCE_SPEC: Mapping[str, tuple[str, float]] = {
    "mem_limit": ("mem_limit", 1),
    "mem_reservation": ("mem_guarantee", 1),
    "cpu_limit": ("cpu_limit", 1e-9),
    "cpu_reservation": ("cpu_guarantee", 1e-9),
}
_NOTEBOOK_SECTIONS = (
    "configures notebook servers, which do not read the hub's configuration. Instead: "
    "c.SwarmSpawner.args (or NOTEBOOK_ARGS in the profile), as '--{section}.{option}=...', or "
    "jupyter_server_config.py in the notebook's image"
)
_NOTEBOOK_WORDS = ("Notebook", "Server", "Lab", "Kernel", "Contents", "Terminal", "SingleUser")


def _unknown(site: Site, classes: Classes) -> Iterator[str]:
    used = classes.all
    sections = {name for cls in used for name in section_names(cls)}
    known = _installed_classes()
    for given in site.given():
        if not given.section:
            yield _no_section(given, known)
        elif isinstance(given.value, Config):
            yield (
                f"{given.place}: {given.name} has no effect: the hub makes no {given.option} "
                f"within a {given.section}. Instead: c.{given.option}"
            )
        elif given.section in sections:
            names = {
                name
                for cls in used
                if given.section in section_names(cls)
                for name in _option_names(cls)
            }
            if given.option not in names:
                yield _no_option(given, names)
        elif given.section in known:
            names = _option_names(known[given.section])
            if names and given.option not in names:
                yield _no_option(given, names)
        else:
            yield _no_class(given, known)


def _option_names(cls: Any) -> set[str]:
    """Return the options of a class and its ancestors; none when it is not loaded (None)."""
    return {
        name
        for each in (cls.__mro__ if cls else ())
        if issubclass(each, Configurable)
        for name in each.class_trait_names(config=True)
    }


def _no_section(given: Given, known: Mapping[str, Any]) -> str:
    like = [name for name in known if name.lower() == given.option.lower()]
    return (
        f"{given.place}: c.{given.option} is not a class with options"
        f"{_did_you_mean(like or get_close_matches(given.option, known), 'c.')}"
    )


def _no_class(given: Given, known: Mapping[str, Any]) -> str:
    # What looks like one of ours is a slip of the pen; the rest may be the notebooks'.
    like = get_close_matches(given.section, known, cutoff=0.85)
    if not like and any(word in given.section for word in _NOTEBOOK_WORDS):
        what = _NOTEBOOK_SECTIONS.format(section=given.section, option=given.option)
        return f"{given.place}: {given.name} {what}"
    return (
        f"{given.place}: {given.name} has no effect: nothing in the hub's image is called "
        f"{given.section}{_did_you_mean(like, 'c.')}"
    )


def _no_option(given: Given, names: Iterable[str]) -> str:
    if given.section in _SPAWNER and given.option in _OLDER:
        return (
            f"{given.place}: {given.name} is an option of an older spawner, and has no effect. "
            + _today(given)
        )
    like = get_close_matches(given.option, names)
    return (
        f"{given.place}: {given.name} has no effect: there is no such option"
        f"{_did_you_mean(like, f'c.{given.section}.')}"
    )


def _did_you_mean(names: Sequence[str], prefix: str) -> str:
    return f". Did you mean {' or '.join(prefix + name for name in names)}?" if names else ""


def _today(given: Given) -> str:
    """Return what to set instead of an older spawner's option."""
    spec = given.value if isinstance(given.value, dict) else {}
    if given.option == "container_spec" and spec:
        words = [
            f"of its '{key}': {_CONTAINER_SPEC.get(key, _CONTAINER_SPEC_ELSE)}" for key in spec
        ]
        if "no_copy" in str(spec.get("mounts")):
            words.append("of 'no_copy': c.SwarmSpawner.volume_no_copy (or VOLUME_NO_COPY)")
        return f"Instead {'; '.join(words)}"
    if given.option == "resource_spec":
        words = [
            f"c.SwarmSpawner.{name} = {value * unit:.12g}"
            for key, (name, unit) in _RESOURCE_SPEC.items()
            if isinstance(value := spec.get(key), (int, float))
        ]
        if words and len(words) == len(spec):
            return f"Instead: {'; '.join(words)}"
    return f"Instead: {_OLDER[given.option]}"


def _installed_classes() -> dict[str, Any]:
    """Return the classes with options that the hub's process has, or could load, by name.

    None stands for one that is not loaded.
    """
    found: dict[str, Any] = {
        each.attr: None
        for group in ("jupyterhub.authenticators", "jupyterhub.spawners", "jupyterhub.proxies")
        for each in entry_points(group=group)
    }
    left: list[Any] = [Configurable]
    while left:
        cls = left.pop()
        found[cls.__name__] = cls
        left += cls.__subclasses__()
    return found


# ---- options of the spawner ---------------------------------------------------------------------

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


def _impossible(site: Site, classes: Classes) -> Iterator[str]:
    sections = classes.with_subclasses(_SPAWNER)
    for option, (why, instead) in REFUSED.items():
        for given in site.given(sections, option):
            value = True if isinstance(given.value, LazyConfigValue) else given.value
            if bool(value) is (option != "remove"):
                yield (
                    f"{given.place}: {given.name} does not work on Swarm: {why}. Instead: {instead}"
                )
    for option, kind in _ARGUMENTS.items():
        names = inspect.signature(kind).parameters.keys() - _NOT_FOR_SITES
        for given in site.given(sections, option):
            value = _plain(given.value, {})
            keys = value if isinstance(value, dict) else ()
            for key in [key for key in keys if key not in names]:
                yield (
                    f"{given.place}: {given.name} cannot be used: docker-py's {kind.__name__} has "
                    f"no '{key}'{_did_you_mean(get_close_matches(str(key), names), '')}"
                )


def _unreachable(c: Config, site: Site, classes: Classes) -> Iterator[str]:
    """Find what keeps the hub from reaching any notebook."""
    sections = classes.with_subclasses(_SPAWNER)
    for given in site.given(sections, "ip"):
        if given.value in ("127.0.0.1", "localhost", "::1"):
            why = "the hub is not in the notebook's container, and could not reach it"
            yield _refusal(given, why, _LEAVE_OUT)
    for given in site.given(sections, "extra_task_spec"):
        value = _plain(given.value, {})
        networks = value.get("networks") if isinstance(value, dict) else None
        name = final(c, classes.spawner, "network_name")
        if networks and name not in [
            each.get("Target") if isinstance(each, dict) else each for each in networks
        ]:
            yield (
                f"{given.place}: {given.name} cannot work here: its networks replace all others, "
                f"and the hub reaches notebooks in '{name}' alone. Instead: name that one too"
            )


def final(c: Config, cls: Any, option: str) -> Any:
    """Return what ``option`` of a class is set to in the end; None: it is not set."""
    values = [c[name][option] for name in section_names(cls) if name in c and option in c[name]]
    return values[-1] if values else None


def _invalid(site: Site, classes: Classes) -> Iterator[str]:
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
                    trait._validate(made, _plain(given.value, getattr(made, given.option)))
                elif not isinstance(given.value, LazyConfigValue):
                    trait.validate(None, given.value)
            except TraitError as exc:
                words = " ".join(str(exc).replace(" of None instance", "").split())[:_MAX_WORDS]
                yield f"{given.place}: {given.name} cannot be used: {words}"
            except (AttributeError, TypeError):
                continue  # it cannot be judged without the object that has it


def _plain(value: Any, initial: Any) -> Any:
    """Return what a lazy value makes of ``initial``."""
    if isinstance(value, LazyConfigValue):
        # A copy: it keeps what it made of the first one.
        return copy.deepcopy(value).get_value(initial)
    return value


#: Names that differ, and that careless escaping makes the same.
_ALIKE = ("a-b", "a.b", "a_b", "a b", "a@b", "a--b", "ab", "\u00e4b", "-ab", "ab-")


def _set(c: Config, option: str) -> Iterator[tuple[str, Any]]:
    """Yield where the spawner's ``option`` is set in the end, and to what."""
    for section in _SPAWNER:
        if section in c and option in c[section]:
            yield f"c.{section}.{option}", c[section][option]


def _unsafe(c: Config) -> Iterator[str]:
    """Find what would give two users one service or one volume."""
    for name, escape in _set(c, "escape"):
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
    if any(escape == "legacy" for _, escape in _set(c, "escape")):
        yield from _alike_under_legacy(c)
    named_servers = "JupyterHub" in c and c.JupyterHub.get("allow_named_servers")
    for name, template in _set(c, "name_template"):
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
        for name, value in _set(c, option):
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


# ---- services, cookies, start -------------------------------------------------------------------

#: The hub's volume, and its working directory: only the running hub has what is there.
_DATA = Path("/srv/jupyterhub")
#: Settings of tornado that make cookies valid.
_TORNADO = ("cookie_secret", "key_version")
#: Seconds after which a hub that does not listen yet is ended by its health check, with a margin.
_LISTENS_WITHIN_S = 100
_INTERPRETERS = ("python", "python3", "sh", "bash", "node", "perl", "ruby")


def _wrong_services(base: Config, site: Site) -> Iterator[str]:
    ours = [each["name"] for each in base.JupyterHub.services]
    fields = Service.class_trait_names(input=True)
    for given in site.given(_HUB, "services"):
        for service in _items(given.value):
            if not isinstance(service, dict) or not service.get("name"):
                yield f"{given.place}: {given.name} has an entry that is not a dict with a 'name'"
                continue
            name = service["name"]
            if service in base.JupyterHub.services:
                continue
            words = [
                f"there is no field '{key}'{_did_you_mean(get_close_matches(str(key), fields), '')}"
                for key in service
                if key not in fields
            ]
            if name in ours:
                words.append("jhswarmd has a service of this name. Instead: another name")
            words += _wrong_command(service)
            if _host(service) in _LOOPBACK:
                words.append(
                    "the proxy runs in another container and cannot reach its url. Instead: "
                    "http://hub:PORT, and let the service listen on 0.0.0.0"
                )
            for each in words:
                yield f"{given.place}: the service '{name}' in {given.name} cannot work: {each}"
    for given in site.given(_HUB, "load_roles"):
        for role in _items(given.value):
            if not isinstance(role, dict) or not role.get("name"):
                yield f"{given.place}: {given.name} has an entry that is not a dict with a 'name'"
            elif role["name"] in ours and role not in base.JupyterHub.load_roles:
                yield (
                    f"{given.place}: the role '{role['name']}' in {given.name} is jhswarmd's own. "
                    "Instead: another name"
                )


_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 - to be refused


def _host(service: Mapping[str, Any]) -> str:
    try:
        return urlsplit(str(service.get("url") or "")).hostname or ""
    except ValueError:
        return ""  # JupyterHub says what is wrong with it


def _items(value: Any) -> list[Any]:
    """Return the items of a list, or what is appended to it."""
    value = _plain(value, [])
    return list(value) if isinstance(value, (list, tuple)) else []


def _wrong_command(service: Mapping[str, Any]) -> Iterator[str]:
    """Find what a service's command needs and the hub's image does not have."""
    command = service.get("command") or ()
    if isinstance(command, str):
        command = [command]
    if not command or not isinstance(command, (list, tuple)):
        return
    program, *arguments = [str(each) for each in command]
    cwd = Path(str(service.get("cwd") or "."))
    if not cwd.is_dir():
        yield f"its directory {cwd} does not exist in the hub's image"
        return
    environment = service.get("environment")
    path = environment.get("PATH") if isinstance(environment, dict) else None
    found = shutil.which(str(cwd / program) if "/" in program else program, path=path)
    if found is None:
        yield (
            f"its command '{program}' does not exist in the hub's image. Instead: put it into "
            "hub_config, which is /etc/jhswarmd/hub_config there, or run the service elsewhere and "
            "give its url and api_token alone"
        )
        return
    if Path(program).name.rstrip(".0123456789") not in _INTERPRETERS or not arguments:
        return
    if arguments[0] == "-m" and len(arguments) > 1:
        is_ours = Path(found).resolve() == Path(sys.executable).resolve()
        if is_ours and not _has_module(arguments[1]):
            yield f"its module '{arguments[1]}' is not installed in the hub's image"
        return
    script = next((each for each in arguments if not each.startswith("-")), "")
    if "." in script and "-c" not in arguments and not (cwd / script).exists():
        yield (
            f"its script '{script}' does not exist in the hub's image. Instead: put it into "
            "hub_config, which is /etc/jhswarmd/hub_config there (to stop idle servers: "
            "IDLE_TIMEOUT_S in the profile)"
        )


def _has_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _wrong_start(site: Site) -> Iterator[str]:
    for given in site.given(_HUB, "tornado_settings"):
        value = _plain(given.value, {})
        for key in [key for key in _TORNADO if isinstance(value, dict) and key in value]:
            yield (
                f"{given.place}: {given.name} with '{key}' cannot work here: {_COOKIES}. Instead: "
                "the file cookie_secret of the profile"
            )
    for given in site.given(_HUB, "init_spawners_timeout"):
        if isinstance(given.value, int) and not 0 <= given.value <= _LISTENS_WITHIN_S:
            why = (
                "a hub that waits for all notebooks before it listens is ended by its health check"
            )
            yield _refusal(given, why, f"0 to {_LISTENS_WITHIN_S}")


def _missing_files(site: Site) -> Iterator[str]:
    """Find pages and pictures that the image does not have; JupyterHub does not miss them."""
    for option in ("template_paths", "logo_file"):
        for given in site.given(_HUB, option):
            for each in _items(given.value) or [given.value]:
                path = Path(str(each))
                if isinstance(each, str) and not path.exists() and _DATA not in path.parents:
                    yield (
                        f"{given.place}: {given.name} cannot work here: {path} does not exist in "
                        "the hub's image. Instead: put it into hub_config, which is "
                        "/etc/jhswarmd/hub_config there"
                    )


# ---- warnings -----------------------------------------------------------------------------------

#: The group of the accounts that the daemon delivers.
ACCOUNTS_GROUP = "jhswarmd"
#: Directories of a node that tell or give every user what is the node's.
_OF_THE_NODE = ("/etc", "/root", "/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib", "/boot")


def warnings(c: Config, site: Site, classes: Classes, settings: Settings) -> Iterator[str]:
    """Yield what works, or means nothing, and what an administrator should know about it."""
    yield from site.unjudged
    yield from _no_effect(site, classes)
    yield from _host_files(c)
    yield from _unkept(c, classes.spawner)
    yield from _lasting(site)
    yield from _who_may_log_in(c, site, classes, settings)


def _no_effect(site: Site, classes: Classes) -> Iterator[str]:
    sections = {name for cls in classes.all for name in section_names(cls)}
    known = _installed_classes()
    for given in site.given():
        if given.section in _SPAWNER and given.option in NO_EFFECT:
            yield f"{given.place}: {given.name} has no effect: {NO_EFFECT[given.option]}"
        elif given.section and given.section not in sections and given.section in known:
            if _is_of_a_choice(known[given.section]):
                yield (
                    f"{given.place}: {given.name} has no effect: {given.section} is not what the "
                    "hub uses"
                )
        elif about := _outdated(given, classes):
            yield f"{given.place}: {given.name} is outdated: {about}"


def _outdated(given: Given, classes: Classes) -> str:
    """Return what JupyterHub says of an option that it wants to be used no more."""
    if any(given.option == option for _, option, *_ in _FIXED):
        return ""
    for cls in classes.all:
        if given.section in section_names(cls) and given.option in cls.class_traits():
            about = " ".join(cls.class_traits()[given.option].help.split())
            if about.upper().startswith("DEPRECATED"):
                return about[:_MAX_WORDS]
    return ""


def _is_of_a_choice(cls: Any) -> bool:
    """Tell whether the hub chooses one class of this kind (None: of an entry point)."""
    return cls is None or issubclass(cls, (Spawner, Authenticator, Proxy))


def _host_files(c: Config) -> Iterator[str]:
    for option in ("volumes", "read_only_volumes", "shared_volumes"):
        for name, value in _set(c, option):
            given = [str(each) for each in value] if isinstance(value, dict) else []
            if found := [source for source in given if _is_of_the_node(source)]:
                yield (
                    f"{name} gives every user {', '.join(found)} of the node: what is there "
                    "(password hashes, keys, the engine's socket) can be read in each notebook, "
                    "and changed where it is not mounted read-only"
                )


def _unkept(c: Config, spawner: type[Spawner]) -> Iterator[str]:
    """Find that what users save is in no volume."""
    folder = final(c, spawner, "notebook_dir")
    targets = [
        str(bind.get("bind") if isinstance(bind, dict) else bind)
        for option in ("volumes", "read_only_volumes", "shared_volumes")
        if isinstance(binds := final(c, spawner, option), dict)
        for bind in binds.values()
    ]
    if isinstance(folder, str) and folder.startswith("/"):
        path = PurePosixPath(folder)
        if not any(path.is_relative_to(target) for target in targets):
            yield (
                f"notebooks open {folder}, which is in none of c.SwarmSpawner.volumes: what users "
                "save there is lost when their server stops"
            )


def _lasting(site: Site) -> Iterator[str]:
    most = COOKIE_LIFETIME.days
    for given in site.given(_HUB, "cookie_max_age_days"):
        if isinstance(given.value, (int, float)) and given.value > most:
            yield (
                f"{given.place}: {given.name} has no effect beyond {most} days: the key that signs "
                "logins is kept as long as that after a rotation"
            )


def _is_of_the_node(source: str) -> bool:
    path = source.rstrip("/") or "/"
    inside = any(f"{path}/".startswith(f"{each}/") for each in _OF_THE_NODE)
    return source.startswith("/") and (path == "/" or (inside and "username}" not in path))


def _who_may_log_in(c: Config, site: Site, classes: Classes, settings: Settings) -> Iterator[str]:
    uses_pam = issubclass(classes.authenticator, PAMAuthenticator)
    for given in site.given(_HUB, "authenticator_class"):
        if not settings.uses_oauth and not uses_pam:
            yield (
                f"{given.place}: {given.name} decides who may log in, not the accounts of "
                "user_list.txt: 'jhswarmd users' has no effect"
            )
        if issubclass(classes.authenticator, DummyAuthenticator):
            yield f"{given.place}: {given.name} lets people in with any name they like"
    if not uses_pam:
        return
    for option in ("allowed_groups", "admin_groups"):
        for given in site.given(_PAM, option):
            groups = _plain(given.value, set())
            if isinstance(groups, (set, list, tuple)) and set(groups) - {ACCOUNTS_GROUP}:
                yield (
                    f"{given.place}: {given.name} names groups without members: all accounts of "
                    f"user_list.txt are in the group '{ACCOUNTS_GROUP}' alone"
                )
    if final(c, classes.authenticator, "allowed_groups"):
        for given in site.given(_PAM, "allowed_users"):
            yield (
                f"{given.place}: {given.name} keeps nobody out: all accounts of user_list.txt may "
                "log in. Instead: take the others off the list, or add "
                "c.PAMAuthenticator.allowed_groups = set()"
            )


def faults(
    c: Config, base: Config, site: Site, classes: Classes, settings: Settings
) -> Iterator[str]:
    """Yield everything that cannot work. ``base`` is our configuration, ``c`` with the site's."""
    checks: Iterable[Callable[[], Iterator[str]]] = (
        lambda: _fixed(base, site, classes, settings),
        lambda: _unknown(site, classes),
        lambda: _impossible(site, classes),
        lambda: _unreachable(c, site, classes),
        lambda: _invalid(site, classes),
        lambda: _wrong_services(base, site),
        lambda: _wrong_start(site),
        lambda: _missing_files(site),
        lambda: _unsafe(c),
    )
    for check in checks:
        yield from check()
