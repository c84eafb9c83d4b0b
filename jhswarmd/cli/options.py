"""Options shared by several commands."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

StackOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads annotations at run time, on Python 3.10 too
    typer.Option("--stack", metavar="NAME", help="Stack, if the swarm has several."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, and why; change nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
