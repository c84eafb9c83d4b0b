"""Options that no class has, those of older Swarm spawners among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import dockerspawner
from traitlets.config import Config, Configurable

from jhswarmd.hub.checks.common import (
    LEAVE_OUT,
    SPAWNER,
    Classes,
    did_you_mean,
    installed_classes,
)
from jhswarmd.hub.checks.spawner import REFUSED
from jhswarmd.hub.site_config import Given, Site, section_names

#: Options of older Swarm spawners, and where today's users set the same.
_OLDER: Mapping[str, str] = {
    "container_spec": "c.SwarmSpawner.image, cmd, environment, volumes (or the profile's keys)",
    "resource_spec": "c.SwarmSpawner.mem_limit, mem_guarantee, cpu_limit (in cores) and "
    "cpu_guarantee, or MEM_LIMIT, MEM_GUARANTEE, CPU_LIMIT and CPU_GUARANTEE in the profile",
    "networks": f"{LEAVE_OUT}: notebooks are in the stack's own network; more of them with "
    "networks in c.SwarmSpawner.extra_task_spec",
    "placement": "NOTEBOOK_CONSTRAINTS in the profile, or "
    "c.SwarmSpawner.extra_placement_spec = {'constraints': [...]}",
    "jupyterhub_service_name": f"{LEAVE_OUT}: notebooks find the hub by itself",
    "service_prefix": "c.SwarmSpawner.prefix",
    "service_name": "c.SwarmSpawner.name_template",
    "service_owner": LEAVE_OUT,
    "service_port": "c.SwarmSpawner.port",
    "service_image": "c.SwarmSpawner.image (or SINGLE_USER_IMAGE in the profile)",
    **dict.fromkeys(
        ("use_user_options", "images", "dockerimages", "profile_list", "profiles"),
        "c.SwarmSpawner.notebook_profiles (or notebook_profiles.yml)",
    ),
    **dict.fromkeys(
        ("form_template", "option_template", "user_upload_form"), "c.SwarmSpawner.options_form"
    ),
    **dict.fromkeys(
        (
            "enable_user_upload_install_files",
            "allowed_user_upload_extensions",
            "user_upload_destination_directory",
        ),
        "a notebook's image of your own (SINGLE_USER_IMAGE in the profile), or pip in the notebook",
    ),
    "user_format_attributes": "{username}, {raw_username} and {servername} in c.SwarmSpawner's "
    "templates",
    "configs": "c.SwarmSpawner.extra_container_spec = {'configs': [...]}",
    "secrets": "c.SwarmSpawner.extra_container_spec = {'secrets': [...]}",
    "log_driver": "c.SwarmSpawner.extra_task_spec = {'log_driver': ...}",
    "accelerators": "c.SwarmSpawner.generic_resources (or GENERIC_RESOURCES in the profile)",
    "extra_hosts": "c.SwarmSpawner.extra_container_spec = {'hosts': {...}}",
    "extra_start_command": "c.SwarmSpawner.cmd, or a start script in the notebook's image",
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


def unknown_options(site: Site, classes: Classes) -> Iterator[str]:
    """Find options that no class has which the hub uses, or could use."""
    used = classes.all
    sections = {name for cls in used for name in section_names(cls)}
    known = installed_classes()
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
                yield _no_option(given, names, _classes_with(given.option, used))
        elif given.section in known:
            names = _option_names(known[given.section])
            if names and given.option not in names:
                yield _no_option(given, names, ())
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
        f"{did_you_mean(like or get_close_matches(given.option, known), 'c.')}"
    )


def _no_class(given: Given, known: Mapping[str, Any]) -> str:
    # What looks like one of ours is a slip of the pen; the rest may be the notebooks'.
    like = get_close_matches(given.section, known, cutoff=0.85)
    if not like and any(word in given.section for word in _NOTEBOOK_WORDS):
        what = _NOTEBOOK_SECTIONS.format(section=given.section, option=given.option)
        return f"{given.place}: {given.name} {what}"
    what = (
        f"{given.place}: {given.name} has no effect: nothing in the hub's image is called "
        f"{given.section}"
    )
    if instead := _of_our_spawner(given):
        return f"{what}. Instead: {instead}"
    # 'LDAPAuthenticator' is no slip of the pen for 'Authenticator'.
    like = [name for name in like if not given.section.endswith(name)]
    return f"{what}{did_you_mean(like, 'c.')}"


def _of_our_spawner(given: Given) -> str:
    """Return what to set instead of an option of a spawner that is not installed; '': nothing."""
    if not given.section.endswith("Spawner") or given.section in SPAWNER:
        return ""
    if given.option in dockerspawner.SwarmSpawner.class_trait_names(config=True):
        return f"c.SwarmSpawner.{given.option}"
    return _OLDER.get(given.option, "")


def _classes_with(option: str, used: Iterable[Any]) -> list[str]:
    """Return the general classes that have an option which was set on another one."""
    found = []
    for cls in used:
        for name in section_names(cls):
            owner = next(each for each in cls.__mro__ if each.__name__ == name)
            if option in _option_names(owner):
                found.append(name)
                break
    return found


def _no_option(given: Given, names: Iterable[str], others: Sequence[str]) -> str:
    if given.section in SPAWNER and given.option in _OLDER:
        return (
            f"{given.place}: {given.name} is an option of an older spawner, and has no effect. "
            + _today(given)
        )
    like = [f"{given.section}.{name}" for name in get_close_matches(given.option, names)]
    if others:
        like = [f"{name}.{given.option}" for name in others]
    like = [name for name in like if name.rpartition(".")[2] not in REFUSED]
    return (
        f"{given.place}: {given.name} has no effect: there is no such option"
        f"{did_you_mean(like, 'c.')}"
    )


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
