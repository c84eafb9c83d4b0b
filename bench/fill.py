"""Fill a hub's database with users whose servers run: ``python -m bench.fill URL COUNT``.

Ten thousand starts through a hub take a quarter of an hour, and none of them is what is measured.
"""

from __future__ import annotations

import sys
from datetime import datetime, timezone

from jupyterhub import orm

#: Where the small server of ``hubside.IdleSpawner`` listens, in the hub's own network.
ADDRESS, PORT = "127.0.0.1", 8888


def name_of(number: int) -> str:
    """Return the name of one of these users."""
    return f"user{number:05d}"


def fill(url: str, count: int) -> None:
    """Add ``count`` users, each with a server that runs."""
    session = orm.new_session_factory(url)()
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    for number in range(count):
        name = name_of(number)
        server = orm.Server(ip=ADDRESS, port=PORT, base_url=f"/user/{name}/", proto="http")
        spawner = orm.Spawner(name="", server=server, state={}, started=now)
        session.add(orm.User(name=name, _orm_spawners=[spawner]))
    session.commit()
    session.close()


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]))
