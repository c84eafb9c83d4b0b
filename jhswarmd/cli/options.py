"""Options shared by several commands, and the profile that ``--env`` selects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from jhswarmd.deploy.profiles.profile import Profile

EnvOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads annotations at run time, on Python 3.10 too
    typer.Option(
        "--env", metavar="NAME", help="Profile. Default: JHSWARMD_ENV, else the deployment's."
    ),
]
StackOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads annotations at run time, on Python 3.10 too
    typer.Option("--stack", metavar="NAME", help="Stack, if the swarm has several."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, and why; change nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_profile(env: str | None) -> Profile:
    """Return the named profile, else the deployment's."""
    from jhswarmd.commands import selection
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.profiles import profile

    return selection.load(named_profile(env), profile.DEFAULT, local_engine.connect)


def named_profile(env: str | None) -> str | None:
    """Return the name of the profile that the option or the environment selects, if any."""
    from jhswarmd.deploy.profiles import profile

    return profile.selected_name(env, os.environ)
