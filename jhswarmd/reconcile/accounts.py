"""Give the hub's container its accounts, through one archive upload.

The accounts are declarative: each upload holds all of them. It needs no process in the hub's
container, shows in no event and works before the container is started (``Engine.put_archive``).
The last file in the archive, ``ready``, is what the container's entrypoint waits for. While plain
passwords are still being hashed the others are delivered, and ``pending`` says how many are left.

A list that is older than Swarm's is never delivered: it may hold who was removed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import tarfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from jhswarmd import labels, metrics
from jhswarmd.accounts import edits, user_list
from jhswarmd.accounts.hashing import Hasher
from jhswarmd.accounts.published_password import has_published_password
from jhswarmd.accounts.user_list import Entry
from jhswarmd.engine.client import Engine
from jhswarmd.errors import DaemonBusy, EngineNotFound
from jhswarmd.log import event
from jhswarmd.reconcile.users_secret import UsersSecret

log = logging.getLogger(__name__)

#: Where libnss-extrausers looks; fixed in its source.
TARGET = "/var/lib"
FOLDER = "extrausers"
#: Debian's group ``shadow``.
SHADOW_GID = 42
#: Seconds of hashing after which those that are done are delivered; a starting hub waits longer.
HASH_FOR_S = 3.0
#: Names that get a line of their own in the log; a hub that starts has all accounts to be told.
NAMED_MOST = 20


@dataclass(frozen=True)
class AccountsView:
    """What the list said, and which containers were given it."""

    names: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    plain: int = 0
    pending: int = 0
    """Plain passwords that are still to be hashed."""
    has_published_password: bool | None = None
    """Whether everybody can log in who has read the list of the profile ``local``; None: not known
    yet."""
    generation: int | None = None
    delivered_to: tuple[str, ...] = ()


@dataclass
class _Delivered:
    """What a container has: the list it was given, and the names in it."""

    archive: bytes
    names: frozenset[str] = field(default_factory=frozenset)


class Accounts:
    """Reconciles the accounts of this node's containers of the hub. One worker thread only."""

    def __init__(
        self,
        engine: Engine,
        stack: str,
        users: UsersSecret,
        on_delivered: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._service = labels.service_name(stack, "hub")
        self._users = users
        self._on_delivered = on_delivered
        self._hasher = Hasher()
        self._content: bytes | None = None
        self._list = user_list.UserList({}, ())
        self._pending = 0
        self._archive = b""
        self._has_published_password = False
        self._delivered: dict[str, _Delivered] = {}
        self._passed = threading.Condition()
        self.view = AccountsView()

    def reconcile(self) -> float | None:
        """Upload the accounts to each local container of the hub that has not got them yet.

        Returns the seconds after which there is more to do, or None.
        """
        if self._users.is_stale():
            return self._users.converge()
        generation = self._users.number
        is_new = self._users.content != self._content
        self._read_list(self._users.content)
        self._deliver()
        if is_new:  # after the delivery: it takes a slow hash
            self._has_published_password = has_published_password(self._list)
        entries = self._list.entries.values()
        metrics.ACCOUNTS.set(len(entries))
        metrics.ACCOUNTS_REFUSED.set(len(self._list.refused))
        with self._passed:
            self.view = AccountsView(
                names=tuple(self._list.entries),
                refused=self._list.refused,
                plain=sum(not entry.is_hashed for entry in entries),
                pending=self._pending,
                has_published_password=self._has_published_password,
                generation=generation,
                delivered_to=tuple(id_[:12] for id_ in self._delivered),
            )
            self._passed.notify_all()
        return 0.0 if self._pending else self._users.converge()

    def wait_delivered(self, generation: int, within_s: float) -> bool:
        """Wait for a pass with this generation; tells whether a container of the hub got it."""
        with self._passed:
            self._passed.wait_for(
                lambda: (self.view.generation or 0) >= generation, timeout=within_s
            )
            return (self.view.generation or 0) >= generation and bool(self.view.delivered_to)

    def normalised(self, content: bytes) -> str:
        """Return the list that is held, with hashes only. Raises NotNow while some are missing."""
        return edits.normalise(
            content, self._hash_of, is_ours=True, system_names=self._users.system_names
        )

    def _hash_of(self, entry: Entry) -> str:
        hashed = self._hasher.get(entry.name, entry.password)
        if hashed is None:
            raise DaemonBusy(
                "The passwords of the list are still being hashed",
                remedy="Wait a minute; 'jhswarmd status' counts them down.",
            )
        return hashed

    def _read_list(self, content: bytes) -> None:
        """Parse the list when it is another one, hash what is left, and pack what can be used."""
        is_new = content != self._content
        if is_new:
            self._list = user_list.parse(content, self._users.system_names)
            if not content:
                log.warning("No users secret is mounted: there are no accounts")
            for refusal in self._list.refused:
                log.warning(event("Refusing a line of the list of users", where=refusal))
        plain = [
            (each.name, each.password) for each in self._list.entries.values() if not each.is_hashed
        ]
        if is_new:
            self._hasher.keep(plain)
        was_pending = self._pending
        self._pending = self._hasher.work(plain, HASH_FOR_S)
        if is_new or was_pending != self._pending:
            usable = [
                each
                for each in self._list.entries.values()
                if each.is_hashed or self._hasher.get(each.name, each.password)
            ]
            self._archive = pack(user_list.render(usable, self._hash_of), self._pending)
        self._content = content

    def _deliver(self) -> None:
        containers = self._engine.list_local_containers(self._service)
        alive = [each.id for each in containers if each.state in ("created", "running")]
        delivered: dict[str, _Delivered] = {}
        has_uploaded = False
        for id_ in alive:
            held = self._delivered.get(id_)
            if held is None or held.archive is not self._archive:
                try:
                    held = self._upload(id_, held)
                except EngineNotFound:
                    continue  # it was removed while we looked
                has_uploaded = True
            delivered[id_] = held
        self._delivered = delivered
        if has_uploaded:
            self._on_delivered()

    def _upload(self, id_: str, held: _Delivered | None) -> _Delivered:
        before = held.names if held else self._read_names(id_)
        self._engine.put_archive(id_, TARGET, self._archive)
        names = frozenset(self._list.entries)
        _tell("Adding", [name for name in self._list.entries if name not in before])
        _tell("Removing", sorted(before - names))
        log.info(
            event("Accounts delivered", container=id_[:12], users=len(names), left=self._pending)
        )
        return _Delivered(self._archive, names)

    def _read_names(self, id_: str) -> frozenset[str]:
        """Return the names that a container has, from an earlier daemon; a new one has none."""
        try:
            content = self._engine.read_file(id_, f"{TARGET}/{FOLDER}/passwd")
        except EngineNotFound:
            return frozenset()
        return frozenset(line.partition(":")[0] for line in content.decode().splitlines())


def _tell(what: str, names: Sequence[str]) -> None:
    """Log which accounts come or go: a line for each of the first, and one for all others."""
    for name in names[:NAMED_MOST]:
        log.info("%s user %s", what, name)
    if len(names) > NAMED_MOST:
        log.info("%s users: %d more", what, len(names) - NAMED_MOST)


def pack(files: Mapping[str, bytes], pending: int = 0) -> bytes:
    """Return a tar archive with the account files, and with ``ready`` as its last member."""
    buffer = io.BytesIO()
    waiting = f"{pending}\n".encode() if pending else b""
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        folder = tarfile.TarInfo(FOLDER)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        # Whoever reads 'passwd' while it is written sees that 'ready' does not belong to it, or
        # that 'pending' says so.
        ready = hashlib.sha256(files.get("passwd", b"")).hexdigest().encode()
        members = [*files.items(), ("ready", ready)]
        members.insert(0 if pending else -1, ("pending", waiting))
        for name, content in members:
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            member.mode = 0o644
            if name == "shadow":
                member.mode, member.gid = 0o640, SHADOW_GID
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
