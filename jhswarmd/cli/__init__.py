"""The command line: parse, call, print. The only place where errors become exit codes.

Each family of commands has a module; here they are registered, in the order of the help.
"""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

from jhswarmd import __version__, outbound
from jhswarmd.cli import daemon, deploy, operate, users
from jhswarmd.errors import JhswarmdError

app = typer.Typer(
    help="JupyterHub on Docker Swarm that runs itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals may hold secrets
)

#: Exit code for Ctrl-C, as in a shell.
INTERRUPTED = 130


def main() -> None:
    """Run the command line and turn errors into messages and exit codes."""
    outbound.keep_local(os.environ)
    try:
        app(standalone_mode=True)
    except JhswarmdError as exc:
        _show_error(exc)
        sys.exit(exc.exit_code)
    except SystemExit as exc:
        if exc.code == INTERRUPTED:  # typer's, for Ctrl-C
            Console(stderr=True).print("Interrupted. Run the command again to continue.")
        raise


def _show_error(exc: JhswarmdError) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[red]error[/] ", end="")
    console.print(str(exc), markup=False)
    for line in exc.output:
        console.print(f"  | {line}", markup=False)
    if exc.remedy:
        console.print(f"What to do: {exc.remedy}", markup=False)


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


app.add_typer(operate.orphans, name="orphans", no_args_is_help=True)
app.add_typer(users.app, name="users", no_args_is_help=True)
app.command()(deploy.up)
app.command()(deploy.build)
app.command()(deploy.render)
app.command()(deploy.down)
app.command()(operate.status)
app.command()(operate.doctor)
app.command()(daemon.run)
app.command()(operate.reconcile)
app.command()(operate.prepull)
app.command()(operate.rotate)
app.command("engine-stop")(deploy.engine_stop)
app.command(hidden=True)(daemon.ctl)
app.command()(version)
