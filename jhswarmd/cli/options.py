"""Options that several commands of the command line have."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

StackOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads annotations at run time, on Python 3.10 too
    typer.Option("--stack", metavar="NAME", help="Stack, where the swarm has several."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done and why; remove nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
