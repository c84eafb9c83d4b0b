"""Commands inside the daemon's container, and the settings in its environment."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import typer

from jhswarmd.cli.options import DryRunOption
from jhswarmd.errors import UsageError

if TYPE_CHECKING:
    from jhswarmd.settings.settings import Settings


def run(dry_run: DryRunOption = False) -> None:
    """Run the daemon (the stack does this, in the daemon's container)."""
    from jhswarmd.daemon import run

    run.run(read_settings(), dry_run=dry_run)


def ctl() -> None:
    """Forward a request from standard input to this container's daemon (api/daemon_client.py)."""
    from jhswarmd.api import control_socket

    typer.echo(json.dumps(control_socket.exchange(json.loads(sys.stdin.readline()))))


def read_settings() -> Settings:
    """Read the profile's keys from the environment, and configure logging from them."""
    from pydantic import ValidationError

    from jhswarmd import log
    from jhswarmd.settings.settings import Settings

    try:
        settings = Settings.from_environ(os.environ)
    except ValidationError as exc:
        keys = ", ".join(str(error["loc"][0]).upper() for error in exc.errors() if error["loc"])
        raise UsageError("Invalid environment variables", why=keys) from None
    log.configure(settings.log_level, settings.log_format.value)
    return settings
