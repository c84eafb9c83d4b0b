"""Give the hub's container its accounts, through one archive upload.

The accounts are declarative: each upload holds all of them. It needs no process in the hub's
container, shows in no event and works before the container is started (``Engine.put_archive``).
The last file in the archive, ``ready``, is what the container's entrypoint waits for.
"""

from __future__ import annotations

import io
import logging
import pwd
import tarfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jhswarmd import labels, metrics
from jhswarmd.engine import Engine
from jhswarmd.errors import EngineNotFound
from jhswarmd.log import event
from jhswarmd.reconcile import passwd
from jhswarmd.settings import SECRETS_DIR

log = logging.getLogger(__name__)

USERS_SECRET = Path(SECRETS_DIR) / "users"
#: Where libnss-extrausers looks; fixed in its source.
TARGET = "/var/lib"
FOLDER = "extrausers"
#: Debian's group ``shadow``.
SHADOW_GID = 42


@dataclass(frozen=True)
class AccountsView:
    """What the list said, and which containers were given it."""

    names: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    plain: int = 0
    delivered_to: tuple[str, ...] = ()


class Accounts:
    """Reconciles the accounts of this node's containers of the hub. One worker thread only."""

    def __init__(self, engine: Engine, stack: str, source: Path = USERS_SECRET) -> None:
        self._engine = engine
        self._service = labels.service_name(stack, "hub")
        self._source = source
        self._archive: bytes | None = None
        self._list = passwd.UserList({}, ())
        self._delivered: frozenset[str] = frozenset()
        self.view = AccountsView()

    def reconcile(self) -> None:
        """Upload the accounts to each local container of the hub that has not got them yet."""
        archive = self._read_archive()
        containers = self._engine.list_local_containers(self._service)
        alive = [each.id for each in containers if each.state in ("created", "running")]
        delivered = [id_ for id_ in alive if id_ in self._delivered]
        for id_ in alive:
            if id_ in self._delivered:
                continue
            try:
                self._engine.put_archive(id_, TARGET, archive)
            except EngineNotFound:
                continue  # it was removed while we looked
            for name in self._list.entries:
                log.info("Adding user %s", name)
            log.info(event("Accounts delivered", container=id_[:12], users=len(self._list.entries)))
            delivered.append(id_)
        self._delivered = frozenset(delivered)
        metrics.ACCOUNTS.set(len(self._list.entries))
        metrics.ACCOUNTS_REFUSED.set(len(self._list.refused))
        self.view = AccountsView(
            names=tuple(self._list.entries),
            refused=self._list.refused,
            plain=sum(not entry.is_hashed for entry in self._list.entries.values()),
            delivered_to=tuple(id_[:12] for id_ in delivered),
        )

    def _read_archive(self) -> bytes:
        """Return the archive; made once, for the secret cannot change while it is mounted."""
        if self._archive is None:
            try:
                content = self._source.read_bytes()
            except FileNotFoundError:
                log.warning("No users secret is mounted: there are no accounts")
                content = b""
            # This container runs the hub's image: the same system accounts.
            self._list = passwd.parse(content, {each.pw_name for each in pwd.getpwall()})
            for refusal in self._list.refused:
                log.warning(event("Refusing a line of the list of users", where=refusal))
            self._archive = pack(passwd.render(self._list.entries.values(), hash_password))
        return self._archive


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive with the account files, and with ``ready`` as its last member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        folder = tarfile.TarInfo(FOLDER)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for name, content in (*files.items(), ("ready", b"")):
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            member.mode = 0o644
            if name == "shadow":
                member.mode, member.gid = 0o640, SHADOW_GID
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def hash_password(password: str) -> str:
    """Return a SHA-512 crypt hash, which any libcrypt reads."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import crypt
    except ImportError:  # it ended with Python 3.12
        import crypt_r as crypt  # type: ignore[no-redef]
    hashed: str = crypt.crypt(password, crypt.mksalt(crypt.METHOD_SHA512))
    return hashed
