"""The users secret: which generation this daemon holds, how the next one is made and taken up.

The newest complete generation in Swarm is the truth, and only a container that mounts a secret can
read it. So the daemon that mounts it makes the next one, and leads its own service to it. That
restarts every daemon, and is the last step: what was interrupted before it is finished by the next
daemon that starts, for that one holds an older generation than Swarm does.
"""

from __future__ import annotations

import logging
import pwd
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timezone
from pathlib import Path

from jhswarmd import labels, retry
from jhswarmd.credentials import generations, secret_mounts
from jhswarmd.credentials.generations import Generation, SecretVersion
from jhswarmd.engine.client import Engine
from jhswarmd.errors import DaemonBusy, EngineConflict, EngineError, JhswarmdError
from jhswarmd.log import event
from jhswarmd.settings.settings import SECRETS_DIR

log = logging.getLogger(__name__)

KIND = "users"
#: Some 50,000 hashed accounts. A service that mounts hundreds of secrets helps nobody.
MAX_PARTS = 10
#: Seconds after which parts of a generation that is not complete are what an interrupted change
#: left. A change creates its parts in one go.
ABANDONED_S = 30.0
#: Seconds for which an answer is given time to leave before the daemon restarts itself.
ANSWER_WITHIN_S = 0.5
#: Seconds after which a restart that was asked for is looked after.
RETRY_INTERVAL_S = 5.0
#: Seconds for which an update of our own service is tried while others update it too.
MOUNT_TIMEOUT_S = 10.0


class UsersSecret:
    """The list that this daemon holds. Any number of threads may use it."""

    def __init__(
        self, engine: Engine, stack: str, stop: threading.Event, folder: Path = Path(SECRETS_DIR)
    ) -> None:
        self._engine = engine
        self._stack = stack
        self._service = labels.service_name(stack, "jhswarmd")
        self._stop = stop
        self._lock = threading.Lock()
        self._folder = folder
        self._mounted: int | None = None
        self._is_whole = True
        self._made_s = 0.0
        self.content = _read(folder)
        self.number: int | None = None
        """The generation that ``content`` is; None: not known yet, or none of ours."""
        self.system_names: Collection[str] = frozenset(each.pw_name for each in pwd.getpwall())
        """This container runs the hub's image: the same system accounts."""

    @property
    def mounted(self) -> int | None:
        """The generation that this daemon was started with; None: it was with none of ours."""
        return self._mounted

    def converge(self) -> float | None:
        """Lead our own service to the newest generation, unless it mounts that already.

        Returns the seconds after which to look again; None: this daemon mounts the newest one.
        The seconds are also a sign that ``content`` may be out of date (see ``is_stale``).
        """
        with self._lock:
            existing = self._engine.list_secrets(self._stack)
            newest = generations.newest(existing, KIND)
            self._find_mounted(existing)
            if newest is None or (self._is_whole and self._mounted is None):
                return None
            if self._is_whole and newest.number <= (self._mounted or 0):
                self._prune(existing, newest)
                return None
            left_s = self._made_s + ANSWER_WITHIN_S - time.monotonic()
            if newest.number == self.number and left_s > 0:
                return left_s
        self._mount(existing, newest)
        return RETRY_INTERVAL_S

    def is_stale(self) -> bool:
        """Tell whether Swarm holds a newer list than this daemon does, or a whole one.

        What this daemon holds is then not to be delivered: it would let somebody in who was
        removed, or take the accounts of all who are not in it.
        """
        with self._lock:
            existing = self._engine.list_secrets(self._stack)
            self._find_mounted(existing)
            newest = generations.newest(existing, KIND)
            if newest is None:
                return False
            return not self._is_whole or (self.number is not None and newest.number > self.number)

    def change(
        self, request: str, edit: Callable[[bytes], str], source: str | None = None
    ) -> int | None:
        """Make the next generation from this one, and return its number; None: nothing changes.

        ``edit`` returns the new list from the one that is held. A request that was carried out
        before, and whose answer was lost, is known by its id. ``source`` tells from which file it
        is; None: from the same as before. Raises NotNow while another change is under way.
        """
        with self._lock:
            existing = self._engine.list_secrets(self._stack)
            newest = generations.newest(existing, KIND)
            self._find_mounted(existing)
            if newest is None or self.number is None:
                raise JhswarmdError(
                    "The users secret is not the deployment's own",
                    why="this daemon mounts no generation of it",
                    remedy="Deploy with 'jhswarmd up', or change the secret where it came from.",
                )
            if newest.secrets[0].request == request:
                return newest.number
            if newest.number != self.number:
                raise DaemonBusy("Another change of the list is being taken up")
            self._clear_unfinished(existing, newest, request)
            edited = edit(self.content).encode()
            if edited == self.content and source in (None, newest.source):
                return None
            number = newest.number + 1
            self._create(number, edited, source or newest.source, request)
            self.content, self.number = edited, number
            self._made_s = time.monotonic()
        log.info(event("List of users changed", generation=number))
        return number

    def _find_mounted(self, existing: Iterable[SecretVersion]) -> None:
        """Find out, once, which generation this daemon was started with."""
        if self._mounted is not None:
            return
        task = self._engine.read_own_task()
        if task is None:
            return
        held = {each.id: each for each in existing}
        # One that is gone from Swarm was an older one.
        gone = re.compile(re.escape(labels.secret_name(self._stack, KIND, 0))[:-1] + r"([0-9]+)")
        parts: dict[str, SecretVersion] = {}
        for id_, name in secret_mounts.mounted(task).items():
            match = gone.fullmatch(name)
            if id_ in held and generations.base_kind(held[id_].kind) == KIND:
                parts[held[id_].kind] = held[id_]
            elif id_ not in held and match:
                self._mounted = self.number = int(match[1])
        first = parts.get(KIND)
        if first is not None:
            self._mounted = self.number = first.generation
            self._is_whole = all(
                kind in parts and parts[kind].generation == first.generation
                for kind in generations.part_names(KIND, first.parts)
            )
        elif self._mounted is None:
            # Somebody took it away, unless a list that is not ours is in its place.
            self._is_whole = (self._folder / KIND).exists()

    def _create(self, number: int, content: bytes, source: str, request: str) -> None:
        parts = generations.split(content)
        if len(parts) > MAX_PARTS:
            raise JhswarmdError(
                "The list of users is too large",
                why=f"{len(content)} bytes; {MAX_PARTS} secrets hold "
                f"{MAX_PARTS * generations.MAX_BYTES}",
                remedy="Use a provider of logins for so many (docs/logins.md).",
            )
        for kind, part in zip(generations.part_names(KIND, len(parts)), parts, strict=True):
            name = labels.secret_name(self._stack, kind, number)
            marks = generations.version_labels(
                self._stack, kind, number, source, parts=len(parts), request=request
            )
            try:
                self._engine.create_secret(name, part, marks)
            except EngineConflict:
                # The first part is the claim: whoever creates it may make this generation.
                raise DaemonBusy("Another change of the list is under way") from None

    def _clear_unfinished(
        self, existing: Iterable[SecretVersion], newest: Generation, request: str
    ) -> None:
        now = datetime.now(timezone.utc)
        for each in existing:
            if generations.base_kind(each.kind) != KIND or each.generation <= newest.number:
                continue
            if each.request != request and (now - each.created).total_seconds() < ABANDONED_S:
                raise DaemonBusy("Another change of the list is under way")
            self._engine.remove_secret(each.id)

    def _mount(self, existing: Iterable[SecretVersion], newest: Generation) -> None:
        held = list(existing)
        policy = retry.blocking(MOUNT_TIMEOUT_S, self._stop)
        changed = policy(
            self._engine.change_service,
            self._service,
            lambda spec: secret_mounts.with_mounts(spec, held, newest),
        )
        if changed and not self._is_whole:
            log.warning(
                event(
                    "Somebody took the list of users from this daemon; mounting it again",
                    generation=newest.number,
                )
            )
        elif changed:
            log.info(event("Restarting with the newest list of users", generation=newest.number))

    def _prune(self, existing: Iterable[SecretVersion], newest: Generation) -> None:
        """Remove older generations; the engine refuses while a service mounts one."""
        for each in existing:
            if generations.base_kind(each.kind) == KIND and each.generation < newest.number:
                try:
                    self._engine.remove_secret(each.id)
                except EngineError as exc:
                    log.debug("An older list stays for now: %s", exc)


def _read(folder: Path) -> bytes:
    """Return the list from all parts that are mounted; a missing one is an empty list."""
    content = b""
    for name in generations.part_names(KIND, MAX_PARTS):
        try:
            content += (folder / name).read_bytes()
        except FileNotFoundError:
            break
    return content
