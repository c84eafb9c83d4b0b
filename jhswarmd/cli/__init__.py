"""The command line: parse, call, print. The only place where errors become exit codes."""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from pydantic import ValidationError
from rich.console import Console

from jhswarmd import __version__, log, outbound
from jhswarmd.cli import users
from jhswarmd.cli.options import DryRunOption, JsonOption, StackOption
from jhswarmd.errors import JhswarmdError, UsageError
from jhswarmd.settings.settings import Settings

if TYPE_CHECKING:
    from jhswarmd.deploy.profiles.profile import Profile

app = typer.Typer(
    help="JupyterHub on Docker Swarm that runs itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals may hold secrets
)
orphans_app = typer.Typer(help="Notebook services that the hub does not have.")
app.add_typer(orphans_app, name="orphans", no_args_is_help=True)
app.add_typer(users.app, name="users", no_args_is_help=True)

#: Exit code for Ctrl-C, as shells have it.
INTERRUPTED = 130

EnvOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads annotations at run time, on Python 3.10 too
    typer.Option(
        "--env", metavar="NAME", help="Profile; default: JHSWARMD_ENV, else the deployment's."
    ),
]


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
            Console(stderr=True).print("Interrupted. Run the command again: it goes on from here.")
        raise


def _show_error(exc: JhswarmdError) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[red]error[/] ", end="")
    console.print(str(exc), markup=False)
    for line in exc.output:
        console.print(f"  | {line}", markup=False)
    if exc.remedy:
        console.print(f"What to do: {exc.remedy}", markup=False)


@app.command()
def up(
    env: EnvOption = None,
    if_new: Annotated[
        str,
        typer.Option(
            "--env-if-new",
            metavar="NAME",
            help="Profile for a swarm that has no deployment yet, when none is named.",
        ),
    ] = "default",
    yes: Annotated[
        bool, typer.Option("--yes", help="Replace the deployment of another profile, unasked.")
    ] = False,
) -> None:
    """Bring a deployment up, or make it what its profile says.

    Without --env, with the profile that it was deployed from.
    """
    from jhswarmd.commands import selection, up
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.progress import Progress

    progress = Progress()

    def may_replace(question: str) -> bool:
        return yes or (sys.stdin.isatty() and typer.confirm(question))

    # Once, whichever of the two needs it first.
    connect = functools.cache(lambda: local_engine.ensure_engine(progress))
    profile = selection.load(_named(env), if_new, connect)
    up.up(profile, progress, connect, may_replace)


@app.command()
def build(env: EnvOption = None) -> None:
    """Build and push the images alone, and list what the registry then holds."""
    from jhswarmd.commands import selection, up
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.profiles import profile
    from jhswarmd.deploy.progress import Progress

    progress = Progress()
    connect = functools.cache(lambda: local_engine.ensure_engine(progress))
    wanted = selection.load(_named(env), profile.DEFAULT, connect)
    for line in up.build(wanted, progress, connect):
        typer.echo(line)


@app.command()
def render(env: EnvOption = None) -> None:
    """Print stack.yml fully resolved, for 'docker stack deploy -c - NAME'."""
    from jhswarmd.commands import up

    typer.echo(up.render(_load_profile(env)), nl=False)


def _load_profile(env: str | None) -> Profile:
    """Return the profile that is named, else the deployment's."""
    from jhswarmd.commands import selection
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.profiles import profile

    return selection.load(_named(env), profile.DEFAULT, local_engine.connect)


def _named(env: str | None) -> str | None:
    from jhswarmd.deploy.profiles import profile

    return profile.selected_name(env, os.environ)


@app.command()
def down(
    env: EnvOption = None,
    stack: StackOption = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove secrets and node label, after asking.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop the notebooks in order and remove the stack. Volumes stay, always."""
    from jhswarmd.commands import status
    from jhswarmd.deploy import stack as stacks
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.profiles import profile
    from jhswarmd.deploy.progress import Progress

    client = local_engine.connect()
    if env and not stack:
        stack = profile.load(env).settings.stack_name
    name = status.find_stack(client, stack, with_remains=True)
    stacks.take_down(client, name, Progress())
    if purge and (
        yes
        or typer.confirm(
            f"Remove the secrets of {name}? Everybody will have to log in again, and what the "
            "hub has encrypted cannot be read any more. Volumes stay."
        )
    ):
        stacks.purge(client, name, Progress())


@app.command()
def status(
    stack: StackOption = None,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until Ctrl-C.")] = False,
) -> None:
    """Show how a deployment is. Exit code: 0 healthy, 1 degraded, 2 down."""
    from jhswarmd.commands import status
    from jhswarmd.deploy.machine import local_engine

    console = Console(highlight=False, soft_wrap=True)
    try:
        client = local_engine.connect()
        name = status.find_stack(client, stack)
        if watch:
            status.watch(lambda: status.gather(client, name), console)
        report = status.gather(client, name)
    except JhswarmdError as exc:
        exc.exit_code = status.Health.down.value
        raise
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        status.show(report, console)
    raise typer.Exit(status.Health[report.health].value)


@app.command()
def doctor(env: EnvOption = None, stack: StackOption = None, as_json: JsonOption = False) -> None:
    """Look for what is wrong with machine, swarm and deployment. Exit code: 1 if anything is.

    With --env also at what that profile needs. Changes nothing.
    """
    from jhswarmd.commands import doctor

    console = Console(highlight=False, soft_wrap=True)
    findings = []
    for finding in doctor.examine(_load_profile(env) if env else None, stack):
        findings.append(finding)
        if not as_json:
            doctor.show(finding, console)
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in findings], indent=2))
    raise typer.Exit(max(each.grade for each in findings))


@app.command()
def run(dry_run: DryRunOption = False) -> None:
    """Run the daemon (in its container; the stack does it)."""
    from jhswarmd.daemon import run

    run.run(_settings_of_container(), dry_run=dry_run)


@app.command()
def reconcile(
    once: Annotated[bool, typer.Option("--once", help="One full pass.")],
    dry_run: DryRunOption = False,
) -> None:
    """Make the daemon compare services and servers now (--dry-run: in its container)."""
    from jhswarmd.api import daemon_client
    from jhswarmd.commands import status
    from jhswarmd.daemon import run
    from jhswarmd.deploy.machine import local_engine

    if dry_run:
        run.look_once(_settings_of_container())
        return
    client = local_engine.connect()
    daemon_client.call(client, status.find_stack(client, None), "reconcile")
    typer.echo(
        "A full pass has begun: see the daemon's log and 'jhswarmd status' for what it finds."
    )


def _settings_of_container() -> Settings:
    """Read the profile's keys from the environment, and begin to log as they say."""
    try:
        settings = Settings.from_environ(os.environ)
    except ValidationError as exc:
        keys = ", ".join(str(error["loc"][0]).upper() for error in exc.errors() if error["loc"])
        raise UsageError("The environment has bad keys", why=keys) from None
    log.configure(settings.log_level, settings.log_format.value)
    return settings


@orphans_app.command("list")
def orphans_list(stack: StackOption = None, as_json: JsonOption = False) -> None:
    """List what is held, and what was removed and why."""
    from jhswarmd.api import daemon_client
    from jhswarmd.commands import status
    from jhswarmd.deploy.machine import local_engine

    client = local_engine.connect()
    servers = daemon_client.call(client, status.find_stack(client, stack), "status")["servers"]
    if as_json:
        typer.echo(json.dumps({key: servers[key] for key in ("held", "removals")}, indent=2))
        return
    for name in servers["held"]:
        typer.echo(f"held     {name}")
    for removal in servers["removals"]:
        typer.echo(f"removed  {removal['service']}: {removal['reason']}")


@orphans_app.command("approve")
def orphans_approve(stack: StackOption = None, dry_run: DryRunOption = False) -> None:
    """Allow the removal of everything that is held now."""
    from jhswarmd.api import daemon_client
    from jhswarmd.commands import status
    from jhswarmd.deploy.machine import local_engine

    client = local_engine.connect()
    answer = daemon_client.call(
        client, status.find_stack(client, stack), "approve", {"dry_run": dry_run}
    )
    if dry_run:
        for held in answer["held"]:
            typer.echo(f"would approve {held['service']} of {held['user']}, held: {held['why']}")
        typer.echo(f"{len(answer['held'])} would be approved")
        return
    for name in answer["approved"]:
        typer.echo(f"approved {name}")
    typer.echo(f"{len(answer['approved'])} approved")


@app.command()
def prepull(env: EnvOption = None, stack: StackOption = None) -> None:
    """Make every node that may run notebooks pull their images, and wait for it."""
    from jhswarmd.commands import prepull, status
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.profiles import profile
    from jhswarmd.deploy.progress import Progress

    client = local_engine.connect()
    if env and not stack:
        stack = profile.load(env).settings.stack_name
    prepull.pull(client, status.find_stack(client, stack), Progress())


@app.command()
def rotate(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="cookie, proxy, crypt, daemon, tls; or all.")
    ],
    revoke: Annotated[
        bool,
        typer.Option("--revoke", help="Older ones stop working at once; everybody logs in again."),
    ] = False,
    dry_run: DryRunOption = False,
    env: EnvOption = None,
    stack: StackOption = None,
) -> None:
    """Replace secrets of hub, proxy and daemon; nobody loses a notebook or a login.

    'all' is every kind but tls. 'tls' takes the certificate of the profile (--env) if it has one.
    """
    from jhswarmd.commands import rotate, status
    from jhswarmd.deploy import secrets
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.progress import Progress

    units = rotate.units_of(kind)
    client = local_engine.connect()
    profile = _load_profile(env) if env else None
    if profile and not stack:
        stack = profile.settings.stack_name
    name = status.find_stack(client, stack)
    if dry_run:
        existing = secrets.list_existing(client, name)
        for line in rotate.describe(existing, units, revoke=revoke):
            typer.echo(line)
        return
    rotate.rotate(client, name, units, Progress(), revoke=revoke, profile=profile)


@app.command("engine-stop")
def engine_stop() -> None:
    """Stop the engine, if 'jhswarmd up' started it."""
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.progress import Progress

    local_engine.stop_engine(Progress())


@app.command(hidden=True)
def ctl() -> None:
    """Pass a request from standard input to the daemon of this container (api/daemon_client.py)."""
    from jhswarmd.api import control_socket

    typer.echo(json.dumps(control_socket.exchange(json.loads(sys.stdin.readline()))))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
