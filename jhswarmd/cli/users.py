"""``jhswarmd users``: the password accounts of a deployment.

Passwords are read from a prompt or from standard input, never from arguments, which are visible in
the process table and in the shell's history.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from jhswarmd.cli.options import DryRunOption, JsonOption, StackOption
from jhswarmd.errors import UsageError

app = typer.Typer(help="Manage password accounts.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the account.")]
FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="File with one name:password per line.")
]


@app.command("list")
def list_(stack: StackOption = None, as_json: JsonOption = False) -> None:
    """List the accounts, how their passwords are stored, and where each came from."""
    from jhswarmd.api import daemon_client
    from jhswarmd.commands import status
    from jhswarmd.deploy.machine import local_engine

    client = local_engine.connect()
    answer = daemon_client.call_with_retry(client, status.find_stack(client, stack), "users")
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    for each in answer["accounts"]:
        storage = "hashed" if each["is_hashed"] else "plain"
        source = "users add" if each["source"] == "added" else "list"
        typer.echo(f"{each['name']:32}  {storage:6}  {source}")


@app.command()
def check(file: FileArgument) -> None:
    """Check a user list: show rejected lines by number, and count the accounts."""
    from jhswarmd.accounts import user_list
    from jhswarmd.deploy import users

    accounts = user_list.parse(users.read_list(file))
    for refusal in accounts.refused:
        typer.echo(f"{file}, {refusal}")
    plain = sum(not entry.is_hashed for entry in accounts.entries.values())
    typer.echo(
        f"{len(accounts.entries)} accounts, {plain} with a plain-text password; "
        f"{len(accounts.refused)} lines rejected"
    )
    if plain:
        typer.echo(f"'jhswarmd users convert {file}' replaces plain-text passwords with hashes")
    if accounts.refused:
        raise typer.Exit(1)


@app.command("hash")
def hash_(
    name: Annotated[
        Optional[str],  # noqa: UP045 - typer reads annotations at run time, on Python 3.10 too
        typer.Argument(metavar="[NAME]", help="Print a complete line for this name."),
    ] = None,
) -> None:
    """Hash a password, for use in a user list."""
    from jhswarmd.deploy import users

    if name:
        _check_name(name)
    hashed = users.hash_typed(_ask_password())
    typer.echo(f"{name}:{hashed}" if name else hashed)


@app.command()
def convert(file: FileArgument) -> None:
    """Replace plain-text passwords in a user list with hashes, in place."""
    from jhswarmd.deploy import users
    from jhswarmd.deploy.progress import Progress

    with Progress().step(f"Hashing the plain-text passwords in {file}") as step:
        step.done(f"{users.convert(file, step.update)} converted")


@app.command()
def add(
    name: NameArgument,
    replace: Annotated[
        bool, typer.Option("--replace", help="Set a new password for an existing account.")
    ] = False,
    stack: StackOption = None,
) -> None:
    """Add an account; takes effect within seconds, without restarting the hub."""
    from jhswarmd.deploy import users

    _check_name(name)
    client, stack_name = _connect(stack)
    hashed = users.hash_typed(_ask_password())
    answer = users.change(client, stack_name, "add", name=name, hash=hashed, replace=replace)
    typer.echo(f"{name} {_when(answer, 'can log in')}")
    _wait_mounted(client, stack_name, answer)


@app.command()
def passwd(
    name: NameArgument,
    generate: Annotated[
        bool, typer.Option("--generate", help="Generate a password, and print it once.")
    ] = False,
    stack: StackOption = None,
) -> None:
    """Change the password of an account; it takes precedence over the profile's list."""
    import secrets

    from jhswarmd.deploy import users

    client, stack_name = _connect(stack)
    password = secrets.token_urlsafe(12) if generate else _ask_password()
    answer = users.set_password(client, stack_name, name, password)
    typer.echo(f"{name} {_when(answer, 'can log in with the new password')}")
    if generate:
        typer.echo(f"The password is {password}")
    _wait_mounted(client, stack_name, answer)


@app.command()
def remove(name: NameArgument, stack: StackOption = None) -> None:
    """Remove an account and end its logins. Its volume is always kept."""
    from jhswarmd.deploy import users

    client, stack_name = _connect(stack)
    answer = users.change(client, stack_name, "remove", name=name)
    typer.echo(f"{name} {_when(answer, 'can no longer log in')}; the volume is kept")
    _wait_mounted(client, stack_name, answer)


@app.command("set")
def set_(file: FileArgument, dry_run: DryRunOption = False, stack: StackOption = None) -> None:
    """Replace all accounts, including added ones, with those of a list."""
    from jhswarmd.accounts import user_list
    from jhswarmd.deploy import users
    from jhswarmd.deploy.progress import Progress

    client, stack_name = _connect(stack)
    content = users.read_list(file)
    accounts = user_list.parse(content)
    if not accounts.entries:
        raise UsageError(
            f"{file} has no usable account",
            why="no user could log in",
            remedy=f"See 'jhswarmd users check {file}'. To remove single accounts, use 'jhswarmd "
            "users remove'.",
        )
    for refusal in accounts.refused:
        typer.echo(f"{file}, {refusal}; the other lines are used", err=True)
    with Progress().step(f"Hashing the plain-text passwords in {file}") as step:
        text = users.hash_list(content, step.update)
    answer = users.change(client, stack_name, "set", list=text, is_dry_run=dry_run)
    for line in users.describe(answer):
        typer.echo(line)
    _wait_mounted(client, stack_name, answer)


def _when(answer: dict[str, Any], effect: str) -> str:
    if answer["generation"] is None or answer["is_live"]:
        return effect
    return f"{effect} in a few seconds"


def _connect(stack: str | None) -> tuple[Any, str]:
    from jhswarmd.commands import status
    from jhswarmd.deploy.machine import local_engine

    client = local_engine.connect()
    return client, status.find_stack(client, stack)


def _wait_mounted(client: Any, stack: str, answer: dict[str, Any]) -> None:
    """Wait until the daemon is back: the next command may need it."""
    from jhswarmd.deploy import stack as stacks
    from jhswarmd.deploy import users
    from jhswarmd.deploy.progress import Progress

    if answer["generation"] is not None:
        with Progress().step("Waiting for the daemon to load the new list") as step:
            users.wait_mounted(client, stack, answer["generation"])
            # The daemon answers before Swarm considers it healthy.
            stacks.wait_healthy(client, stack, step)


def _check_name(name: str) -> None:
    from jhswarmd.accounts import user_list

    try:
        user_list.check_name(name)
    except ValueError as exc:
        raise UsageError(f"'{name}' is not a valid account name", why=str(exc)) from None


def _ask_password() -> str:
    """Return a password: from the prompt, entered twice, or the first line of standard input."""
    if sys.stdin.isatty():
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    try:
        return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError("This password cannot be used", why="not valid UTF-8") from None
