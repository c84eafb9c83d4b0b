"""``jhswarmd users``: accounts of a deployment whose users log in by password.

Passwords come from a prompt or from standard input, never from arguments: those show in the
process table and in the shell's history.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from jhswarmd.cli.options import DryRunOption, JsonOption, StackOption
from jhswarmd.errors import UsageError

app = typer.Typer(help="Accounts of those who log in by password.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the account.")]
FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="List of users, name:password a line.")
]


@app.command("list")
def list_(stack: StackOption = None, as_json: JsonOption = False) -> None:
    """List the accounts: how their passwords are kept, and where each came from."""
    from jhswarmd.api import daemon_client
    from jhswarmd.commands import status
    from jhswarmd.deploy.machine import local_engine

    client = local_engine.connect()
    answer = daemon_client.call_with_retry(client, status.find_stack(client, stack), "users")
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    for each in answer["accounts"]:
        kept = "hashed" if each["is_hashed"] else "plain"
        source = "users add" if each["source"] == "added" else "list"
        typer.echo(f"{each['name']:32}  {kept:6}  {source}")


@app.command()
def check(file: FileArgument) -> None:
    """Check a list of users: refused lines by their number, and how many accounts it makes."""
    from jhswarmd.accounts import user_list as passwd
    from jhswarmd.deploy import users

    found = passwd.parse(users.read_list(file))
    for refusal in found.refused:
        typer.echo(f"{file}, {refusal}")
    plain = sum(not entry.is_hashed for entry in found.entries.values())
    typer.echo(
        f"{len(found.entries)} accounts, of them {plain} with a plain password; "
        f"{len(found.refused)} lines refused"
    )
    if plain:
        typer.echo(f"'jhswarmd users convert {file}' replaces plain passwords by hashes")
    if found.refused:
        raise typer.Exit(1)


@app.command("hash")
def hash_(
    name: Annotated[
        Optional[str],  # noqa: UP045 - typer reads annotations at run time, on Python 3.10 too
        typer.Argument(metavar="[NAME]", help="Print a whole line for this name."),
    ] = None,
) -> None:
    """Print the hash of a password, for a list of users."""
    from jhswarmd.deploy import users

    if name:
        _check_name(name)
    hashed = users.hash_typed(_ask_password())
    typer.echo(f"{name}:{hashed}" if name else hashed)


@app.command()
def convert(file: FileArgument) -> None:
    """Replace the plain passwords in a list of users by their hashes, in place."""
    from jhswarmd.deploy import users
    from jhswarmd.deploy.progress import Progress

    with Progress().step(f"Hashing the plain passwords of {file}") as step:
        step.done(f"{users.convert(file, step.update)} converted")


@app.command()
def add(
    name: NameArgument,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give an account that is there this password.")
    ] = False,
    stack: StackOption = None,
) -> None:
    """Add an account; it works within seconds, and nobody is disturbed."""
    from jhswarmd.deploy import users

    _check_name(name)
    client, found = _connect(stack)
    hashed = users.hash_typed(_ask_password())
    answer = users.change(client, found, "add", name=name, hash=hashed, replace=replace)
    typer.echo(f"{name} {_when(answer, 'can log in')}")
    _take_up(client, found, answer)


@app.command()
def passwd(
    name: NameArgument,
    generate: Annotated[
        bool, typer.Option("--generate", help="Make a password, and print it once.")
    ] = False,
    stack: StackOption = None,
) -> None:
    """Give an account another password; it holds whatever the profile's list says."""
    import secrets

    from jhswarmd.deploy import users

    client, found = _connect(stack)
    password = secrets.token_urlsafe(12) if generate else _ask_password()
    answer = users.set_password(client, found, name, password)
    typer.echo(f"{name} {_when(answer, 'can log in with the new password')}")
    if generate:
        typer.echo(f"The password is {password}")
    _take_up(client, found, answer)


@app.command()
def remove(name: NameArgument, stack: StackOption = None) -> None:
    """Remove an account; its logins end. Its volume stays, always."""
    from jhswarmd.deploy import users

    client, found = _connect(stack)
    answer = users.change(client, found, "remove", name=name)
    typer.echo(f"{name} {_when(answer, 'cannot log in any more')}; the volume stays")
    _take_up(client, found, answer)


@app.command("set")
def set_(file: FileArgument, dry_run: DryRunOption = False, stack: StackOption = None) -> None:
    """Replace all accounts by those of a list, added ones included."""
    from jhswarmd.accounts import user_list as passwd
    from jhswarmd.deploy import users
    from jhswarmd.deploy.progress import Progress

    client, found = _connect(stack)
    content = users.read_list(file)
    if not passwd.parse(content).entries:
        raise UsageError(
            f"{file} has no account that can be used",
            why="with it nobody could log in",
            remedy=f"See 'jhswarmd users check {file}'. To remove single accounts: 'jhswarmd users "
            "remove'.",
        )
    for refusal in passwd.parse(content).refused:
        typer.echo(f"{file}, {refusal}; the other lines work", err=True)
    with Progress().step(f"Hashing the plain passwords of {file}") as step:
        text = users.hash_list(content, step.update)
    answer = users.change(client, found, "set", list=text, is_dry_run=dry_run)
    for line in users.describe(answer):
        typer.echo(line)
    _take_up(client, found, answer)


def _when(answer: dict[str, Any], what: str) -> str:
    if answer["generation"] is None or answer["is_live"]:
        return what
    return f"{what} in a few seconds"


def _connect(stack: str | None) -> tuple[Any, str]:
    from jhswarmd.commands import status
    from jhswarmd.deploy.machine import local_engine

    client = local_engine.connect()
    return client, status.find_stack(client, stack)


def _take_up(client: Any, stack: str, answer: dict[str, Any]) -> None:
    """Wait until the daemon is back: what comes next may ask it something."""
    from jhswarmd.deploy import stack as stacks
    from jhswarmd.deploy import users
    from jhswarmd.deploy.progress import Progress

    if answer["generation"] is not None:
        with Progress().step("The daemon takes up the new list") as step:
            users.wait_taken_up(client, stack, answer["generation"])
            # It answers before Swarm has seen that it is healthy.
            stacks.wait_healthy(client, stack, step)


def _check_name(name: str) -> None:
    from jhswarmd.accounts import user_list as passwd

    try:
        passwd.check_name(name)
    except ValueError as exc:
        raise UsageError(f"'{name}' cannot be an account", why=str(exc)) from None


def _ask_password() -> str:
    """Return a password from the prompt, asked twice, or the first line of standard input."""
    if sys.stdin.isatty():
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    try:
        return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError("This password cannot be used", why="not valid UTF-8") from None
