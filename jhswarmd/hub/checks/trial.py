"""What the spawner makes of a site's options, tried out for one user.

Each of these would otherwise be refused, or misunderstood, at each start of a notebook.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from traitlets.config import Config

from jhswarmd import mount_targets
from jhswarmd.errors import JhswarmdError
from jhswarmd.hub.checks.common import SPAWNER, Classes, refusal
from jhswarmd.hub.site_config import Given, Site, section_names

#: What Swarm takes as the name of a service (swarmkit, manager/controlapi), and the engine as the
#: name of a local volume.
_SERVICE_NAME = re.compile(r"[a-zA-Z0-9](?:[-_]*[a-zA-Z0-9]+)*")
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
#: What the engine takes as the name of an image: its repository is in lower case.
_IMAGE = re.compile(r"([\w.-]+(:\d+)?/)?[a-z0-9._/-]+(:[\w][\w.-]*)?(@[\w.+-]+:[0-9a-fA-F]+)?")
_CONSTRAINT = re.compile(r"\s*[^\s=!]+\s*[=!]=\s*[^\s=!]+\s*")
_VOLUMES = ("volumes", "read_only_volumes", "shared_volumes")
#: Keys of a volume's dict, and words of its mode; any others would be ignored.
_VOLUME_KEYS = {"bind", "mode", "propagation"}
_MODES = {"ro", "rw", "z", "Z", "nocopy"}
_FILLED_IN = ("notebook_dir", "default_url")
#: What the engine refuses: less memory (bytes), less of a processor (cores).
_LEAST_MEMORY = 4 * 1024**2
_LEAST_CPU = 0.001
#: The same within ``extra_resources_spec``, which has other units.
_RESOURCES = {
    **dict.fromkeys(
        ("mem_limit", "mem_reservation"),
        (_LEAST_MEMORY, "bytes, or c.SwarmSpawner.mem_limit and mem_guarantee"),
    ),
    **dict.fromkeys(
        ("cpu_limit", "cpu_reservation"),
        (10**6, "billionths of a core, or c.SwarmSpawner.cpu_limit and cpu_guarantee"),
    ),
}
#: With how many arguments JupyterHub or dockerspawner calls what these options hold.
_CALLED_WITH = {
    "pre_spawn_hook": 1,
    "post_stop_hook": 1,
    "auth_state_hook": 2,
    "progress_ready_hook": 2,
    "post_auth_hook": 3,
    "reconcile_auth_state_hook": 3,
    "options_form": 1,
    "apply_user_options": 2,
    "mem_limit": 1,
    "cpu_limit": 1,
    "allowed_images": 1,
    "extra_create_kwargs": 1,
    "escape": 1,
    "format_volume_name": 2,
    "user_redirect_hook": 4,
}


def unfit(c: Config, site: Site, classes: Classes) -> Iterator[str]:
    """Find options with which no notebook could start, or would start as nobody means it."""
    yield from _wrong_callables(site, classes)
    try:
        made = classes.spawner(user=SimpleNamespace(name="user"), config=c)
    except Exception:  # noqa: BLE001 - a site's own class may want a whole user
        return
    faults = _Faults(site, classes, made)
    yield from faults.name()
    yield from faults.volumes()
    yield from faults.filled_in()
    yield from faults.limits()
    yield from faults.specs()


def _wrong_callables(site: Site, classes: Classes) -> Iterator[str]:
    sections = {name for cls in classes.all for name in section_names(cls)}
    for option, count in _CALLED_WITH.items():
        for given in site.given(sections, option):
            if option.endswith("_hook") and given.value is not None and not callable(given.value):
                yield refusal(given, "it must be a function", "the function itself, without quotes")
            elif callable(given.value) and not _takes(given.value, count):
                arguments = "one argument" if count == 1 else f"{count} arguments"
                yield refusal(
                    given, f"it is called with {arguments}", "a function that takes as many"
                )


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        return True  # of C code, which does not tell
    return True


class _Faults:
    """What is wrong with the options of ``made``, a spawner of the site's configuration."""

    def __init__(self, site: Site, classes: Classes, made: Any) -> None:
        self._site = site
        self._sections = classes.with_subclasses(SPAWNER)
        self._made = made

    def _given(self, option: str) -> Given | None:
        """Return where the site sets an option last; None: it does not."""
        found = list(self._site.given(self._sections, option))
        return found[-1] if found else None

    def _fill(self, given: Given, template: str, fill: Callable[[str], str]) -> tuple[str, str]:
        """Return a template filled in, or what is wrong with it in words."""
        try:
            return str(fill(template)), ""
        except (KeyError, IndexError, ValueError) as exc:
            names = ", ".join(f"{{{name}}}" for name in sorted(self._made.template_namespace()))
            why = f"nothing fills in '{template}' ({type(exc).__name__}: {exc})"
            return "", self._refusal(given, why, f"one of {names}; other braces as {{{{ or }}}}")
        except Exception:  # noqa: BLE001 - a site's own function may want a whole user
            return "", ""

    def _refusal(self, given: Given, why: str, instead: str) -> str:
        return f"{given.place}: {given.name} cannot work here: {why}. Instead: {instead}"

    def name(self) -> Iterator[str]:
        """Judge the name of the service."""
        given = self._given("name_template")
        if given is None:
            return
        made, fault = self._fill(
            given,
            self._made.name_template,
            lambda template: template.format(**self._made.template_namespace()),
        )
        if fault:
            yield fault
        elif made and not _SERVICE_NAME.fullmatch(made := made.rstrip("-_")):
            why = f"Swarm has no services that are called '{made}'"
            yield self._refusal(given, why, "letters, digits, '-' and '_' around {username}")

    def volumes(self) -> Iterator[str]:
        """Judge where volumes come from and where they are mounted."""
        faults: list[str] = []
        mounted: dict[str, str] = {}
        for option in _VOLUMES:
            given = self._given(option)
            for source, bind in getattr(self._made, option).items():
                source = str(source)
                if given is not None:
                    faults += self._of_volume(given, source, bind)
                target = bind.get("bind") if isinstance(bind, dict) else bind
                if not isinstance(target, str):
                    continue
                path = mount_targets.canonical(target)
                if path in mounted and given is not None:
                    why = f"'{mounted[path]}' and '{source}' are both mounted at {target}"
                    faults.append(self._refusal(given, why, "a path for each"))
                mounted[path] = source
        yield from faults
        given = self._given("volume_driver_options") or self._given("shared_volume_driver_options")
        if faults or given is None:
            return
        try:
            _ = self._made.mounts
        except JhswarmdError as exc:
            yield f"{given.place}: {exc}. {exc.remedy}"
        except Exception:  # noqa: BLE001, S110 - a site's own function may want a whole user
            pass

    def _of_volume(self, given: Given, source: str, bind: Any) -> Iterator[str]:
        form = f"{{'{source}': {{'bind': '/path', 'mode': 'ro'}}}}"
        if isinstance(bind, dict):
            if wrong := sorted(str(key) for key in bind.keys() - _VOLUME_KEYS):
                yield self._refusal(given, f"'{source}' has no {', '.join(wrong)}", form)
                return
            modes = set(str(bind.get("mode", "rw")).split(","))
            if wrong := sorted(modes - _MODES):
                why = f"'{source}' cannot have the mode {', '.join(wrong)}"
                yield self._refusal(given, why, "'ro' or 'rw'")
            bind = bind.get("bind")
        if not isinstance(bind, str):
            yield self._refusal(given, f"'{source}' has no path to be mounted at", form)
            return
        target, fault = self._fill(given, bind, self._format_name)
        if fault:
            yield fault
        elif ":" in target:
            yield self._refusal(given, f"'{target}' is a path and no more", form)
        elif target and (not target.startswith("/") or target.rstrip("/") == ""):
            why = f"'{source}' cannot be mounted at '{target}'"
            yield self._refusal(given, why, "an absolute path in the notebook's container")
        name, fault = self._fill(given, source, self._format_name)
        if fault:
            yield fault
        elif name and not name.startswith("/") and not self._is_volume(given, name):
            why = f"the engine has no volumes that are called '{name}'"
            yield self._refusal(
                given,
                why,
                "letters, digits, '.', '_' and '-' for a volume, or the absolute path of a "
                "directory of the node",
            )

    def _format_name(self, template: str) -> str:
        return str(self._made.format_volume_name(template, self._made))

    def _is_volume(self, given: Given, name: str) -> bool:
        is_shared = given.option == "shared_volumes"
        driver = self._made.shared_volume_driver if is_shared else self._made.volume_driver
        # Names of other drivers are theirs.
        return driver not in ("", "local") or _VOLUME_NAME.fullmatch(name) is not None

    def filled_in(self) -> Iterator[str]:
        """Judge other templates."""
        for option in _FILLED_IN:
            given = self._given(option)
            if given is not None:
                _, fault = self._fill(given, getattr(self._made, option), self._made.format_string)
                if fault:
                    yield fault

    def specs(self) -> Iterator[str]:
        """Judge what the engine would refuse in the request for the service."""
        given = self._given("image")
        if given is not None and not _IMAGE.fullmatch(self._made.image):
            yield refusal(given, "the engine knows no such names", "REGISTRY/NAME:TAG, lower case")
        given = self._given("cmd")
        if given is not None and len(self._made.cmd) == 1 and " " in self._made.cmd[0]:
            words = self._made.cmd[0].split()
            yield refusal(given, "a program of that name is looked for", f"the list {words}")
        given = self._given("extra_placement_spec")
        constraints = self._made.extra_placement_spec.get("constraints") or ()
        if given is not None and not (
            isinstance(constraints, (list, tuple))
            and all(_CONSTRAINT.fullmatch(str(each)) for each in constraints)
        ):
            why = f"the engine knows no constraints such as {constraints!r}"
            yield self._refusal(given, why, "a list as ['node.labels.x == y', 'node.role != z']")
        given = self._given("extra_resources_spec")
        if given is None:
            return
        for name, value in self._made.extra_resources_spec.items():
            least, instead = _RESOURCES.get(name, (None, ""))
            if least is not None and (not isinstance(value, int) or value < least):
                why = f"the engine cannot give {value!r} as {name}"
                yield self._refusal(given, why, instead)

    def limits(self) -> Iterator[str]:
        """Judge limits that are too small for any process, in whichever unit they were meant."""
        least: Mapping[str, tuple[float, str, str]] = {
            **dict.fromkeys(
                ("mem_limit", "mem_guarantee"),
                (_LEAST_MEMORY, "the engine gives no less than 4 MiB", "with its unit, as '2G'"),
            ),
            **dict.fromkeys(
                ("cpu_limit", "cpu_guarantee"),
                (_LEAST_CPU, "the engine gives no less than 0.001", "cores, as 0.5"),
            ),
        }
        for option, (amount, why, instead) in least.items():
            given = self._given(option)
            value = getattr(self._made, option)
            if given is not None and isinstance(value, (int, float)) and 0 < value < amount:
                yield refusal(given, why, instead)
