"""The stack's Swarm secrets: the catalogue of kinds, and which secrets ``up`` has to create.

A secret is immutable, so new content is a new generation, ``<stack>_<kind>_g<N>``. Content that a
profile does not supply is generated here, straight into Swarm and never onto disk. Labels let a
later ``up`` detect changed content without revealing it: SHA-256 for keys, a salted slow hash for
content that could be guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from secrets import token_hex

import docker

from jhswarmd import labels
from jhswarmd.credentials import rotation, secret_mounts, tls
from jhswarmd.credentials.generations import (
    GENERATED,
    MAX_BYTES,
    Generation,
    SecretVersion,
    base_kind,
    complete,
    format_utc,
    newest,
    part_names,
    source_label,
    source_matches,
    split,
    version_labels,
)
from jhswarmd.deploy import users
from jhswarmd.deploy.profiles.profile import SECRET_FILES, Profile
from jhswarmd.engine.client import Engine
from jhswarmd.errors import EngineConflict, EngineError
from jhswarmd.model import StackService


def _random_hex(_: Profile) -> bytes:
    return token_hex(32).encode()


def _no_accounts(_: Profile) -> bytes:
    # Swarm refuses an empty secret.
    return b"# no accounts\n"


@dataclass(frozen=True)
class Kind:
    """One group of secrets that change together.

    ``names`` are the kinds in it: one, or certificate and key. ``generate`` returns contents for
    all of them, in order; None: it exists only if the profile supplies it. ``guessable`` contents
    are recognised by a salted slow hash. A ``seeded`` kind is created from the profile's file
    once; later changes go through the daemon, which can read the current content.
    """

    names: tuple[str, ...]
    generate: Callable[[Profile], tuple[bytes, ...]] | None
    guessable: bool = False
    seeded: bool = False


def _single(
    name: str,
    generate: Callable[[Profile], bytes] | None,
    *,
    guessable: bool = False,
    seeded: bool = False,
) -> Kind:
    return Kind(
        names=(name,),
        generate=(lambda profile: (generate(profile),)) if generate else None,
        guessable=guessable,
        seeded=seeded,
    )


USERS = _single("users", _no_accounts, guessable=True, seeded=True)
TLS = Kind(
    names=("tls_cert", "tls_key"),
    generate=lambda profile: tls.self_signed(profile.settings.host),
)
KINDS: tuple[Kind, ...] = (
    USERS,
    _single("cookie_secret", _random_hex),
    _single("proxy_auth_token", _random_hex),
    Kind(
        names=("daemon_token", "culler_token"),
        generate=lambda profile: (_random_hex(profile), _random_hex(profile)),
    ),
    _single("crypt_key", _random_hex),
    _single("oauth_client_secret", None, guessable=True),
    _single("registry_login", None, guessable=True),
    TLS,
)


@dataclass(frozen=True)
class Create:
    """Create the next generation of a kind; the contents come from the profile or are generated."""

    kind: Kind
    generation: int
    supplied: tuple[bytes, ...] | None


def plan(
    profile: Profile, existing: Sequence[SecretVersion], *, retry_rejected: bool = False
) -> list[Create]:
    """Decide which secrets to create. Pure, but comparing slow hashes takes time.

    An existing secret is kept unless the profile supplies different content; a generated
    certificate is kept as long as it is for the profile's host. Removing a file from the profile
    changes nothing: the secret made from it is kept. Content with which hub or proxy did not start
    is not applied again, unless ``retry_rejected``: each attempt would cost three starts.
    """
    creations = []
    for kind in KINDS:
        supplied = _supplied(profile, kind)
        current = newest(existing, *kind.names)
        if supplied is None and (kind.generate is None or _is_kept(kind, current, profile)):
            continue
        if supplied and current and source_matches(current.source, supplied):
            continue
        if kind.seeded and current:
            continue
        if supplied and not retry_rejected and _rolled_back(kind, supplied, existing):
            continue
        used = [each.generation for each in existing if base_kind(each.kind) in kind.names]
        creations.append(Create(kind, max(used, default=0) + 1, supplied))
    return creations


def _is_kept(kind: Kind, current: Generation | None, profile: Profile) -> bool:
    """Return whether a generated or formerly supplied secret remains valid without a file."""
    if current is None:
        return False
    names = current.secrets[0].certificate_names
    # Without names, an older version created it: unknown.
    is_outdated = kind is TLS and current.source == GENERATED and names
    return not is_outdated or tls.is_for(profile.settings.host, names)


def rolled_back(profile: Profile, existing: Sequence[SecretVersion]) -> dict[str, str]:
    """Return why the daemon rolled back what the profile supplies, by file names."""
    found = {}
    for kind in KINDS:
        supplied = _supplied(profile, kind)
        if supplied and (rejected := _rolled_back(kind, supplied, existing)):
            found[", ".join(SECRET_FILES[name] for name in kind.names)] = rejected.rejected
    return found


def _rolled_back(
    kind: Kind, supplied: Sequence[bytes], existing: Sequence[SecretVersion]
) -> Generation | None:
    """Return the rejected generation with these contents; None: there is none.

    Only generations newer than the live one count.
    """
    current = newest(existing, *kind.names)
    for each in complete(existing, *kind.names):
        if current and each.number <= current.number:
            break
        if source_matches(each.source, supplied):
            return each
    return None


def changed_users(profile: Profile, existing: Sequence[SecretVersion]) -> bytes | None:
    """Return the profile's user list if it differs from the one applied last.

    None also if there is no such file, or none was ever applied.
    """
    supplied, current = _supplied(profile, USERS), newest(existing, *USERS.names)
    if supplied is None or current is None or source_matches(current.source, supplied):
        return None
    return supplied[0]


def _supplied(profile: Profile, kind: Kind) -> tuple[bytes, ...] | None:
    if any(name not in profile.files for name in kind.names):
        return None
    # Swarm refuses an empty secret, but an empty user list is valid.
    return tuple(profile.files[name] or b"\n" for name in kind.names)


def list_existing(client: docker.DockerClient, stack: str) -> list[SecretVersion]:
    """Return every generation of every secret of ``stack``."""
    return Engine(client).list_secrets(stack)


def create(
    client: docker.DockerClient,
    profile: Profile,
    creation: Create,
    report: Callable[[str], None] = lambda detail: None,
) -> None:
    """Carry out one planned creation; ``report`` receives the progress of slow parts.

    If the name already exists, an interrupted run or a concurrent one created it. Its content is
    unknown, so that is an error; the next run plans a later generation.
    """
    kind = creation.kind
    if creation.supplied is not None:
        contents = creation.supplied
        source = source_label(contents, guessable=kind.guessable)
    else:
        assert kind.generate is not None
        contents, source = kind.generate(profile), GENERATED
    stack, engine = profile.settings.stack_name, Engine(client)
    names = kind.names
    if kind.seeded:
        # Only hashes leave this machine.
        contents = split(users.hash_list(contents[0], report).encode())
        names = part_names(kind.names[0], len(contents))
    # The certificate comes first; its key expires with it.
    expires_at, certificate_names = "", []
    if kind is TLS:
        expires_at = format_utc(tls.expires_at(contents[0]))
        certificate_names = tls.names_of(contents[0])
    for name, content in zip(names, contents, strict=True):
        if len(content) > MAX_BYTES:
            raise EngineError(
                f"The secret '{name}' is too large",
                why=f"{len(content)} bytes; Swarm's limit is {MAX_BYTES}",
                remedy="Make the file smaller.",
            )
        full_name = labels.secret_name(stack, name, creation.generation)
        parts = len(contents) if kind.seeded else 1
        try:
            engine.create_secret(
                full_name,
                content,
                version_labels(
                    stack,
                    name,
                    creation.generation,
                    source,
                    parts=parts,
                    expires_at=expires_at,
                    certificate_names=certificate_names,
                ),
            )
        except EngineConflict as exc:
            raise EngineConflict(
                f"The secret {full_name} already exists",
                why=exc.why,
                remedy="Run the command again. If the error persists, another program created the "
                f"secret: see 'docker secret inspect {full_name}'.",
            ) from exc


def live_names(existing: Sequence[SecretVersion], stack: str) -> Mapping[str, str]:
    """Return, for each kind and part that exists, the name of its newest complete generation."""
    return {
        secret.kind: labels.secret_name(stack, secret.kind, current.number)
        for kind in KINDS
        if (current := newest(existing, *kind.names)) is not None
        for secret in current.secrets
    }


def for_hub(
    existing: Sequence[SecretVersion], services: Mapping[str, StackService]
) -> list[SecretVersion]:
    """Return the secrets of which the hub mounts several generations.

    They are the same that a rotating daemon derives (``credentials.rotation``) from the mounts of
    the stack's services; before the first deployment there are none.
    """
    no_mounts = StackService(frozenset())
    found = rotation.wanted(
        existing,
        "hub",
        services.get("hub", no_mounts).mounts,
        services.get("proxy", no_mounts).mounts,
        datetime.now(timezone.utc),
    )
    secrets = [secret for generation in found for secret in generation.secrets]
    return [secret for secret in secrets if secret.kind in secret_mounts.NUMBERED]


def required_names(*, uses_oauth: bool) -> list[str]:
    """Return the kinds that every stack requires."""
    return [
        name
        for kind in KINDS
        for name in kind.names
        if kind.generate is not None or (uses_oauth and name == "oauth_client_secret")
    ]


def superseded(existing: Iterable[SecretVersion]) -> list[SecretVersion]:
    """Return the secrets older than the live generation of their kind. Pure.

    A newer one is being created, or was rejected, which 'status' reports: the daemon handles it.
    """
    held = list(existing)
    live = {
        name: current.number
        for kind in KINDS
        if (current := newest(held, *kind.names)) is not None
        for name in kind.names
    }
    return [each for each in held if each.generation < live.get(base_kind(each.kind), 0)]


def remove_unused(client: docker.DockerClient, stack: str) -> list[str]:
    """Remove generations that are older than the live one and that no service mounts.

    The engine refuses to remove a secret in use, so a race does no harm. Returns the names of the
    removed secrets.
    """
    engine = Engine(client)
    removed = []
    for each in superseded(engine.list_secrets(stack)):
        try:
            engine.remove_secret(each.id)
        except EngineError:
            continue
        removed.append(each.name)
    return removed
