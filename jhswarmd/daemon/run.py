"""The daemon: wiring, signals, start and stop in mirrored order."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from jhswarmd import __version__, retry
from jhswarmd.api import control_socket, web_server
from jhswarmd.daemon.controller import Controller
from jhswarmd.daemon.culler import Culler
from jhswarmd.daemon.forwarding import Forwarder
from jhswarmd.daemon.leader import Leader
from jhswarmd.daemon.reflector import (
    ACCOUNTS,
    ALL_SERVERS,
    CREDENTIALS,
    IMAGE_PULLS,
    REMOVED_USERS,
    Key,
    Reflector,
)
from jhswarmd.daemon.servers_controller import ServersController
from jhswarmd.daemon.user_commands import UserCommands
from jhswarmd.daemon.workqueue import WorkQueue
from jhswarmd.engine.client import Engine
from jhswarmd.errors import JhswarmdError, UsageError
from jhswarmd.hub_client import HubClient
from jhswarmd.log import event
from jhswarmd.reconcile.accounts import Accounts
from jhswarmd.reconcile.credentials import Credentials
from jhswarmd.reconcile.image_pulls import ImagePulls
from jhswarmd.reconcile.removed_users import RemovedUsers
from jhswarmd.reconcile.routes import Routes
from jhswarmd.reconcile.servers import Servers
from jhswarmd.reconcile.service_names import ServiceNames
from jhswarmd.reconcile.users_secret import UsersSecret
from jhswarmd.settings.settings import SECRETS_DIR, Settings

log = logging.getLogger(__name__)

#: The hub's alias on the control network.
HUB_URL = "http://hub:8081/hub/api"
TOKEN = Path(SECRETS_DIR) / "daemon_token"
#: Seconds in which a pass in hand may end after a stop was asked for; Swarm kills after 10.
STOP_WITHIN_S = 5.0
#: A full pass that is older than this many seconds, and than three intervals, means that something
#: is wrong.
PASS_OLD_S = 300.0
#: Seconds for which a starting daemon tries to reach the engine before Swarm restarts it.
ENGINE_WITHIN_S = 60.0


class Daemon:
    """One instance of jhswarmd. ``start`` begins, ``stop`` ends in reverse order."""

    def __init__(
        self, settings: Settings, engine: Engine, hub: HubClient, *, dry_run: bool = False
    ) -> None:
        stack = settings.stack_name
        self._settings = settings
        self._stop = threading.Event()
        self._started_s = time.time()
        self.leader = Leader(engine, stack)
        self.servers = Servers(engine, hub, stack, self.leader.refresh, dry_run=dry_run)
        self.users = UsersSecret(engine, stack, self._stop)
        self.accounts = Accounts(
            engine, stack, self.users, on_delivered=lambda: self.wake(REMOVED_USERS)
        )
        self.user_commands = UserCommands(self.users, self.accounts, lambda: self.wake(ACCOUNTS))
        self.removed_users = RemovedUsers(hub)
        self.routes = Routes(hub)
        self.prepull = ImagePulls(
            engine,
            stack,
            settings.notebook_images,
            settings.notebook_constraints,
            lambda: self.leader.is_active and not dry_run,
            self._stop,
        )
        self.credentials = Credentials(
            engine, hub, settings, lambda: self.leader.is_active and not dry_run, self._stop
        )
        self.names = ServiceNames(
            engine,
            stack,
            lambda: not dry_run and not self.credentials.feed.now["doing"],
        )
        self.server_keys = ServersController(
            self.servers, self.leader, self.wake, settings.resync_interval_s
        )
        # One worker for each kind: a slow hash delays no orphan.
        self._workers = {
            kind: Controller(kind, queue, reconcile)
            for kind, queue, reconcile in (
                ("accounts", WorkQueue[Key](), self._reconcile_accounts),
                ("routes", WorkQueue[Key](), self._reconcile_routes),
                ("servers", self.server_keys.queue, self.server_keys.reconcile),
                ("prepull", WorkQueue[Key](), self._reconcile_prepull),
                ("credentials", WorkQueue[Key](), self._reconcile_credentials),
                ("names", WorkQueue[Key](), lambda key: self.names.reconcile()),
            )
        }
        self._reflector = Reflector(engine, stack, self.wake, self._stop)
        self._dry_run = dry_run
        self._culler = Culler(HUB_URL, settings.idle_timeout_s, self.leader, self._stop)

    def wake(self, key: Key) -> None:
        """Make the worker of this kind look at ``key``."""
        if key.kind == "server" and self.server_keys.is_in_burst():
            return
        kind = key.kind if key.kind in self._workers else "servers"
        self._workers[kind].queue.put(key)

    def start(self) -> None:
        """Begin to work."""
        for worker in self._workers.values():
            worker.start()
        self._reflector.start()
        if not self._dry_run:
            self._culler.start()

    def stop(self) -> None:
        """End after the passes in hand, or after ``STOP_WITHIN_S`` seconds."""
        self._stop.set()
        self.prepull.close()
        self.credentials.feed.close()
        for worker in self._workers.values():
            worker.queue.close()
        deadline = time.monotonic() + STOP_WITHIN_S
        for name, worker in self._workers.items():
            if not worker.join(max(0.0, deadline - time.monotonic())):
                log.warning("A pass did not end in time: %s", name)

    def _reconcile_accounts(self, key: Key) -> float | None:
        # Every instance does this: only the local engine can upload to the local container.
        if key == REMOVED_USERS:
            may_act = bool(self.accounts.view.delivered_to) and not self._dry_run
            return self.removed_users.reconcile() if may_act else None
        again_s = self.accounts.reconcile()
        # That a new container of the hub came is told by an event, and events may be lost.
        return self._settings.resync_interval_s if again_s is None else again_s

    def _reconcile_routes(self, key: Key) -> float | None:
        # Nor is this: only the proxy's own node hears that it started.
        self.routes.reconcile()
        return None

    def _reconcile_credentials(self, key: Key) -> float | None:
        return self.credentials.reconcile()

    def _reconcile_prepull(self, key: Key) -> float | None:
        return self.prepull.reconcile()

    def snapshot(self) -> dict[str, Any]:
        """Return what ``jhswarmd status`` shows of this daemon, as JSON data."""
        servers, accounts = self.servers.view, self.accounts.view
        return {
            "version": __version__,
            "up_s": round(time.time() - self._started_s, 1),
            "is_active": self.leader.is_active,
            "node_id": self.leader.node_id,
            "unready": self.unready(),
            "is_connected": self._reflector.is_connected,
            "reconnects": self._reflector.reconnects,
            "unknown": {
                name: worker.last_error
                for name, worker in self._workers.items()
                if worker.last_error
            },
            "servers": {
                "tracked": servers.tracked,
                "by_verdict": servers.by_verdict,
                "held": sorted(service.name for service in list(servers.held.values())),
                "removals": [vars(removal) for removal in list(servers.removals)],
                "last_pass_at_s": servers.last_pass_s,
                "silent": servers.silent,
            },
            "accounts": {
                "names": len(accounts.names),
                "refused": accounts.refused,
                "plain": accounts.plain,
                "pending": accounts.pending,
                "delivered_to": accounts.delivered_to,
                "generation": accounts.generation,
                "mounted": self.users.mounted,
                "has_published_password": accounts.has_published_password,
                "removed_with_servers": sorted(self.removed_users.with_servers),
            },
            "admins": servers.admins,
            "routes": {"restored_at_s": self.routes.restored_at_s},
            "prepull": self.prepull.view,
            "rotation": self.credentials.feed.now,
            "names": {
                "lost": sorted(self.names.view.lost),
                "repaired_at_s": dict(self.names.view.repaired_at_s),
            },
        }

    def unready(self) -> str:
        """Return why this daemon is not ready, or an empty text."""
        if not self._reflector.is_connected:
            return "it gets no events from the engine"
        last_s = self.servers.view.last_pass_s
        old_s = max(PASS_OLD_S, 3 * self.server_keys.resync_interval_s())
        if self.leader.is_active and (last_s is None or time.time() - last_s > old_s):
            return "its last full pass is too long ago"
        return ""

    def approve(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Allow the removal of what is held, and look again at once.

        With ``dry_run`` it only tells, as ``held``, what that is and why.
        """
        if arguments.get("dry_run"):
            return {"held": self._held()}
        approved = self.servers.approve()
        log.warning(event("Removal approved", services=", ".join(approved) or "none"))
        self.wake(ALL_SERVERS)
        return {"approved": approved}

    def look_at_everything(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin a full pass now; it is this daemon's, for two must never act at once."""
        self.wake(ALL_SERVERS)
        return {}

    def _held(self) -> list[dict[str, str]]:
        view = self.servers.view
        return [
            {
                "service": service.name,
                "user": service.user or "",
                "server": service.server or "",
                "why": view.why_held.get(id_, ""),
            }
            for id_, service in sorted(dict(view.held).items(), key=lambda item: item[1].name)
        ]

    def ask_rotation(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell how far rotations are. With ``seen``, a version, the answer waits for news."""
        view = self.credentials.feed.wait_newer(int(arguments.get("seen", -1)))
        return {**view, "is_active": self.leader.is_active}

    def rotate(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin a rotation; see ``Credentials.rotate``."""
        made = self.credentials.rotate(arguments)
        self.wake(CREDENTIALS)
        return made

    def ask_prepull(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell how far the nodes are with the images: with ``anew`` of all, and begin anew.

        With ``seen``, a version, the answer waits for news. Raises JhswarmdError.
        """
        if arguments.get("anew"):
            if not self.leader.is_active:
                raise JhswarmdError(
                    "The daemon on this node stands by",
                    remedy="Run the command on the hub's node; 'docker service ps' shows it.",
                )
            self.prepull.ask()
            self.wake(IMAGE_PULLS)
        view = self.prepull.news(int(arguments.get("seen", -1)))
        return {**view, "is_active": self.leader.is_active}


def _refuse(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    raise JhswarmdError(
        "This daemon only says what it would do",
        why="it was started with --dry-run",
        remedy="Start it without, and ask again.",
    )


def read_token(path: Path = TOKEN) -> str:
    """Return the token for the hub. Raises UsageError when it is not mounted."""
    try:
        return path.read_text().strip()
    except OSError as exc:
        raise UsageError(
            f"The daemon's token {path} cannot be read",
            why=exc.strerror or type(exc).__name__,
            remedy="Run 'jhswarmd up': it deploys the daemon with all its secrets.",
        ) from exc


def look_once(settings: Settings) -> None:
    """Look at all notebook services once. The log tells what the daemon would do, and why.

    Raises JhswarmdError when engine or hub give no definite answer.
    """
    engine = Engine.connect()
    leader = Leader(engine, settings.stack_name)
    hub = HubClient(HUB_URL, read_token())
    servers = Servers(engine, hub, settings.stack_name, leader.refresh, dry_run=True)
    servers.reconcile_all()
    log.info(event("Pass done", services=servers.view.tracked, **servers.view.by_verdict))


def watch_threads(stop: threading.Event) -> list[str]:
    """Set ``stop`` when a thread ends by an error; returns the list that will hold its name.

    A daemon without ears, or without one of its workers, must not look as if it worked.
    """
    dead: list[str] = []

    def on_death(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else "unknown"
        caught = args.exc_value or args.exc_type()
        log.critical("The thread %s has ended", name, exc_info=caught)
        dead.append(name)
        stop.set()

    threading.excepthook = on_death
    return dead


def run(settings: Settings, *, dry_run: bool = False) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises JhswarmdError when a part of it dies.

    With ``dry_run`` no server is stopped, no service removed and no secret changed. Accounts and
    routes, without which nobody can work, are seen to.
    """
    asked_to_stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    dead = watch_threads(asked_to_stop)
    engine = retry.blocking(ENGINE_WITHIN_S, asked_to_stop)(Engine.connect)
    token = read_token()
    hub = HubClient(HUB_URL, token)
    daemon = Daemon(settings, engine, hub, dry_run=dry_run)
    handlers: dict[str, control_socket.Handler] = {
        "status": lambda arguments: daemon.snapshot(),
        "approve": daemon.approve,
        "reconcile": daemon.look_at_everything,
        "prepull": daemon.ask_prepull,
        "rotate": daemon.rotate,
        "rotation": daemon.ask_rotation,
        "users": daemon.user_commands.list_accounts,
        "users_change": daemon.user_commands.change,
    }
    if dry_run:
        for name in ("prepull", "rotate", "users_change"):
            handlers[name] = _refuse
    forwarder = Forwarder(engine, daemon.leader, settings.stack_name, token)
    server = control_socket.Control(forwarder.wrap(handlers))
    site = web_server.Web(
        web_server.address_in(settings.control_subnet),
        daemon.unready,
        token=token,
        handlers=handlers,
    )
    daemon.start()
    site.start()
    server.start()
    log.info(event("jhswarmd runs", version=__version__, stack=settings.stack_name))
    asked_to_stop.wait()
    log.info("Stopping")
    server.close()
    site.close()
    daemon.stop()
    if dead:
        raise JhswarmdError(
            f"A thread of the daemon has died: {', '.join(dead)}",
            remedy="Swarm restarts the daemon. The log above says why.",
        )
