"""The daemon as it runs in its container, but for where the hub is: ``python -m bench.daemon``.

Reads from the environment what the stack gives it, from standard input the daemon's token.
"""

from __future__ import annotations

import os
import signal
import sys

from jhswarmd import log
from jhswarmd.daemon.run import Daemon
from jhswarmd.engine.client import Engine
from jhswarmd.hub_client import HubClient
from jhswarmd.settings.settings import Settings


def main() -> None:
    """Run until SIGTERM."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    settings = Settings.from_environ(os.environ)
    log.configure(settings.log_level, settings.log_format.value)
    hub = HubClient("http://127.0.0.1:8081/hub/api", sys.stdin.readline().strip())
    daemon = Daemon(settings, Engine.connect(), hub)
    daemon.start()
    signal.sigwait(signals)
    daemon.stop()


if __name__ == "__main__":
    main()
