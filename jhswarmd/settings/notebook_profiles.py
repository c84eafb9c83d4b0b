"""The list of notebook profiles: which servers users may choose, and with what. Pure.

One model serves three readers: the CLI checks the file ``notebook_profiles.yml`` of a profile with
it, ``Settings`` carries it to the hub through the environment, and the spawner takes nothing
from a user but the slug of an entry. Whatever an entry leaves out is as the profile's keys say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    model_validator,
)

#: What Swarm takes as a placement constraint (swarmkit, manager/constraint): one '=' is none. Of
#: another key than these it says nothing, and no node matches.
_CONSTRAINT = re.compile(
    r"(node\.(id|hostname|ip|role|platform\.(os|arch)|labels\.[a-z0-9._-]+)"
    r"|engine\.labels\.[a-z0-9._-]+)\s*(==|!=)\s*[a-z0-9:_.*()?+\[\]\\^$|/-]"
    r"[a-z0-9:_\s.*()?+\[\]\\^$|/-]*\Z",
    re.IGNORECASE,
)


def _constraint(value: str) -> str:
    if not _CONSTRAINT.match(value):
        raise ValueError(
            "must be placement constraints such as node.labels.KEY == VALUE or node.role == worker "
            "(node.id, node.hostname, node.ip, node.platform.os, node.platform.arch, "
            "engine.labels.KEY; == or !=)"
        )
    return value


Constraint = Annotated[str, AfterValidator(_constraint)]

#: Swarm refuses less (swarmkit, manager/controlapi, validateResources).
LEAST_MEMORY = 4 * 1024**2
LEAST_CORES = 0.001

_BYTES = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?$", re.IGNORECASE)
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
#: Characters of all profiles together. They travel to the hub as one variable, of which Linux
#: takes 128 KiB.
_MAX_CHARS = 60_000


def parse_bytes(value: Any) -> Any:
    """Parse ``512M`` or ``2G`` into bytes; empty means no limit (None)."""
    if not isinstance(value, str):
        return value
    if not value:
        return None
    match = _BYTES.match(value.strip())
    if not match:
        raise ValueError("must be a size such as 512M or 2G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_Memory = Annotated[Annotated[int, Field(ge=LEAST_MEMORY)] | None, BeforeValidator(parse_bytes)]
_Cores = Annotated[float, Field(ge=LEAST_CORES, allow_inf_nan=False)] | None
_Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_tuple)]


class NotebookProfile(BaseModel):
    """One entry of the list: what a user sees of it, and what the server then gets."""

    # Strict: a YAML file that says 'yes' where a number is meant is wrong.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    slug: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    """What links, the API and the hub's database call it; another slug is another entry."""
    title: str = Field(min_length=1, max_length=100)
    description: str = Field("", max_length=1000)
    default: bool = False
    """The entry that is chosen beforehand. Without one it is the first that the user may choose."""
    admins_only: bool = False
    groups: _Texts = ()
    """Groups of the hub whose members may choose it; empty: everybody. Admins may choose all."""

    image: str = Field("", pattern=r"^([a-zA-Z0-9][^\s;=]*)?$")
    """Empty: SINGLE_USER_IMAGE, or what the user chooses from SINGLE_USER_IMAGES."""
    mem_limit: _Memory = None
    mem_guarantee: _Memory = None
    cpu_limit: _Cores = None
    cpu_guarantee: _Cores = None
    shm_size: Annotated[Annotated[int, Field(gt=0)] | None, BeforeValidator(parse_bytes)] = None
    generic_resources: dict[
        Annotated[str, Field(min_length=1)], Annotated[int, Field(gt=0, strict=True)]
    ] = {}
    """Counts by name, as ``{"NVIDIA-GPU": 1}``."""
    constraints: Annotated[tuple[Constraint, ...], BeforeValidator(_tuple)] = ()
    """Placement constraints; they hold besides those of all notebooks."""

    @model_validator(mode="after")
    def _is_for_somebody(self) -> NotebookProfile:
        if self.admins_only and self.groups:
            raise ValueError("admins_only and groups exclude each other")
        return self

    def is_for(self, *, is_admin: bool, groups: Collection[str]) -> bool:
        """Tell whether a user with these groups may choose it."""
        if is_admin:
            return True
        return not self.admins_only and (not self.groups or not set(self.groups).isdisjoint(groups))


_LIST = TypeAdapter(list[NotebookProfile])


class Limits(NamedTuple):
    """Memory (bytes) and cores of a server; None: no limit, or nothing guaranteed."""

    mem_limit: int | None
    mem_guarantee: int | None
    cpu_limit: float | None
    cpu_guarantee: float | None

    def faults(self) -> list[str]:
        """Return what no node could fulfil: the engine would refuse it at each start."""
        return [
            f"{kind}_GUARANTEE is more than {kind}_LIMIT"
            for kind, guarantee, limit in (
                ("MEM", self.mem_guarantee, self.mem_limit),
                ("CPU", self.cpu_guarantee, self.cpu_limit),
            )
            if guarantee is not None and limit is not None and guarantee > limit
        ]

    def of(self, profile: NotebookProfile) -> Limits:
        """Return these limits with what ``profile`` says instead."""
        return Limits(
            *(
                ours if (its := getattr(profile, name)) is None else its
                for name, ours in self._asdict().items()
            )
        )


class Fault(NamedTuple):
    """What is wrong with the list: the entry's place in it, its key, and the words."""

    entry: int
    key: str
    message: str


def faults(profiles: Sequence[NotebookProfile]) -> list[Fault]:
    """Return what is wrong between entries that are each right."""
    found = []
    for key in ("slug", "title"):
        seen: set[str] = set()
        for entry, profile in enumerate(profiles):
            value = getattr(profile, key)
            if value in seen:
                found.append(Fault(entry, key, f"'{value}' is there twice"))
            seen.add(value)
    defaults = [entry for entry, profile in enumerate(profiles) if profile.default]
    found += [
        Fault(entry, "default", "only one entry can be the default") for entry in defaults[1:]
    ]
    if len(spell(profiles)) > _MAX_CHARS:
        found.append(Fault(0, "", f"all entries together are over {_MAX_CHARS} characters"))
    return found


def validate(value: Any) -> list[NotebookProfile]:
    """Return a list of dicts as the list it stands for. Raises ValueError."""
    profiles = _LIST.validate_python(value)
    for fault in faults(profiles):
        raise ValueError(fault.message)
    return profiles


def parse(value: Any) -> Any:
    """Read what ``spell`` wrote; anything else than text is left to pydantic."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.strip() else ()


def spell(profiles: Sequence[NotebookProfile]) -> str:
    """Return the list as JSON, the form in which it travels to the hub."""
    return json.dumps(
        [profile.model_dump(mode="json", exclude_defaults=True) for profile in profiles],
        ensure_ascii=False,
        separators=(",", ":"),
    )
