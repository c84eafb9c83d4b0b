"""Commands that deploy: ``up``, ``build``, ``render``, ``down`` and ``engine-stop``."""

from __future__ import annotations

import functools
import sys
from typing import Annotated

import typer

from jhswarmd.cli.options import EnvOption, StackOption, load_profile, named_profile


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
    profile = selection.load(named_profile(env), if_new, connect)
    up.up(profile, progress, connect, may_replace)


def build(env: EnvOption = None) -> None:
    """Build and push the images without deploying, and list those in the registry."""
    from jhswarmd.commands import selection, up
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.profiles import profile
    from jhswarmd.deploy.progress import Progress

    progress = Progress()
    connect = functools.cache(lambda: local_engine.ensure_engine(progress))
    selected = selection.load(named_profile(env), profile.DEFAULT, connect)
    for line in up.build(selected, progress, connect):
        typer.echo(line)


def render(env: EnvOption = None) -> None:
    """Print the fully resolved stack.yml, for 'docker stack deploy -c - NAME'."""
    from jhswarmd.commands import up

    typer.echo(up.render(load_profile(env)), nl=False)


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


def engine_stop() -> None:
    """Stop the Docker Engine, if 'jhswarmd up' started it."""
    from jhswarmd.deploy.machine import local_engine
    from jhswarmd.deploy.progress import Progress

    local_engine.stop_engine(Progress())
