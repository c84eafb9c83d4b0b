"""The command line: parse, call, print. The only place where errors become exit codes.

Each family of commands has a module; here they are registered, in the order of the help.
"""

from __future__ import annotations

import functools
import json
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


@app.command()
def up(
    env: EnvOption = None,
    if_new: Annotated[
        str,
        typer.Option(
            "--env-if-new",
            metavar="NAME",
            help="Profile for a swarm without a deployment, when no other is named.",
        ),
    ] = "default",
    yes: Annotated[
        bool, typer.Option("--yes", help="Replace a deployment of another profile without asking.")
    ] = False,
) -> None:
    """Deploy, or update an existing deployment to match its profile.

    Without --env: the profile that it was deployed from.
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
    """Build and push the images without deploying, and list those in the registry."""
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
    """Print the fully resolved stack.yml, for 'docker stack deploy -c - NAME'."""
    from jhswarmd.commands import up

    typer.echo(up.render(_load_profile(env)), nl=False)


def _load_profile(env: str | None) -> Profile:
    """Return the named profile, else the deployment's."""
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
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Shut the notebooks down and remove the stack. Volumes are always kept."""
    from jhswarmd.commands import status
    from jhswarmd.deploy import stack as stacks
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.profiles import profile
    from jhswarmd.deploy.progress import Progress

    client = local_engine.connect()
    if env and not stack:
        stack = profile.load(env).settings.stack_name
    name = status.find_stack(client, stack, include_down=True)
    stacks.take_down(client, name, Progress())
    if purge and (
        yes
        or typer.confirm(
            f"Remove the secrets of {name}? All users will have to log in again, and data that "
            "the hub has encrypted becomes unreadable. Volumes are kept."
        )
    ):
        stacks.purge(client, name, Progress())


@app.command()
def status(
    stack: StackOption = None,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
) -> None:
    """Show the health of a deployment. Exit code: 0 healthy, 1 degraded, 2 down."""
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
    """Diagnose machine, swarm and deployment. Exit code: 1 if anything is wrong.

    With --env, also check what that profile needs. Changes nothing.
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
    """Run the daemon (the stack does this, in the daemon's container)."""
    from jhswarmd.daemon import run

    run.run(_settings_of_container(), dry_run=dry_run)


@app.command()
def reconcile(
    once: Annotated[bool, typer.Option("--once", help="One full pass.")],
    dry_run: DryRunOption = False,
) -> None:
    """Trigger a full reconciliation now (--dry-run: only in the daemon's container)."""
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
        "Full reconciliation started; see 'jhswarmd status' and the daemon's log for the result."
    )


def _settings_of_container() -> Settings:
    """Read the profile's keys from the environment, and configure logging from them."""
    try:
        settings = Settings.from_environ(os.environ)
    except ValidationError as exc:
        keys = ", ".join(str(error["loc"][0]).upper() for error in exc.errors() if error["loc"])
        raise UsageError("Invalid environment variables", why=keys) from None
    log.configure(settings.log_level, settings.log_format.value)
    return settings


@orphans_app.command("list")
def orphans_list(stack: StackOption = None, as_json: JsonOption = False) -> None:
    """List held orphans, and recent removals with their reasons."""
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
    """Approve the removal of all orphans currently held."""
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
    """Pull the notebook images on all nodes that may run notebooks, and wait."""
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
    credential: Annotated[
        str,
        typer.Argument(metavar="CREDENTIAL", help="cookie, proxy, crypt, daemon, tls; or all."),
    ],
    revoke: Annotated[
        bool,
        typer.Option("--revoke", help="Revoke older secrets at once; all users log in again."),
    ] = False,
    dry_run: DryRunOption = False,
    env: EnvOption = None,
    stack: StackOption = None,
) -> None:
    """Rotate secrets of hub, proxy and daemon. No notebook and no login is lost.

    'all' is every credential except tls. 'tls' uses the profile's certificate (--env), if any.
    """
    from jhswarmd.commands import rotate, status
    from jhswarmd.deploy import secrets
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.progress import Progress

    names = rotate.credentials_named(credential)
    client = local_engine.connect()
    profile = _load_profile(env) if env else None
    if profile and not stack:
        stack = profile.settings.stack_name
    stack_name = status.find_stack(client, stack)
    if dry_run:
        existing = secrets.list_existing(client, stack_name)
        for line in rotate.describe(existing, names, revoke=revoke):
            typer.echo(line)
        return
    rotate.rotate(client, stack_name, names, Progress(), revoke=revoke, profile=profile)


@app.command("engine-stop")
def engine_stop() -> None:
    """Stop the Docker Engine, if 'jhswarmd up' started it."""
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.progress import Progress

    local_engine.stop_engine(Progress())


@app.command(hidden=True)
def ctl() -> None:
    """Forward a request from standard input to this container's daemon (api/daemon_client.py)."""
    from jhswarmd.api import control_socket

    typer.echo(json.dumps(control_socket.exchange(json.loads(sys.stdin.readline()))))


@app.command()
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
