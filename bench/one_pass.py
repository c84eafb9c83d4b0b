"""One full pass of the daemon's: ``python -m bench.one_pass HUB_URL STACK``; prints its seconds.

Reads the daemon's token from standard input. The first pass is not counted.
"""

from __future__ import annotations

import sys
import time

from jhswarmd.engine.client import Engine
from jhswarmd.hub_client import HubClient
from jhswarmd.reconcile.servers import Servers


def main() -> None:
    """Pass twice, time the second."""
    url, stack = sys.argv[1:]
    hub = HubClient(url, sys.stdin.read().strip())
    servers = Servers(Engine.connect(), hub, stack, lambda: True, dry_run=True)
    servers.reconcile_all()
    begun_at = time.perf_counter()
    servers.reconcile_all()
    print(time.perf_counter() - begun_at)


if __name__ == "__main__":
    main()
