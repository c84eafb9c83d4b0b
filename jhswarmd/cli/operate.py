"""Commands for a running deployment: its health, secrets, images and orphans."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from jhswarmd.cli.daemon import read_settings
from jhswarmd.cli.options import (
    DryRunOption,
    EnvOption,
    JsonOption,
    StackOption,
    load_profile,
)
from jhswarmd.errors import JhswarmdError

orphans = typer.Typer(help="Notebook services without a server in the hub.")


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


def doctor(env: EnvOption = None, stack: StackOption = None, as_json: JsonOption = False) -> None:
    """Diagnose machine, swarm and deployment. Exit code: 1 if anything is wrong.

    With --env, also check what that profile needs. Changes nothing.
    """
    from jhswarmd.commands import doctor

    console = Console(highlight=False, soft_wrap=True)
    findings = []
    for finding in doctor.examine(load_profile(env) if env else None, stack):
        findings.append(finding)
        if not as_json:
            doctor.show(finding, console)
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in findings], indent=2))
    raise typer.Exit(max(each.grade for each in findings))


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
        run.look_once(read_settings())
        return
    client = local_engine.connect()
    daemon_client.call(client, status.find_stack(client, None), "reconcile")
    typer.echo(
        "Full reconciliation started; see 'jhswarmd status' and the daemon's log for the result."
    )


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
    profile = load_profile(env) if env else None
    if profile and not stack:
        stack = profile.settings.stack_name
    stack_name = status.find_stack(client, stack)
    if dry_run:
        existing = secrets.list_existing(client, stack_name)
        for line in rotate.describe(existing, names, revoke=revoke):
            typer.echo(line)
        return
    rotate.rotate(client, stack_name, names, Progress(), revoke=revoke, profile=profile)


@orphans.command("list")
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


@orphans.command("approve")
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
