"""The stack's Swarm secrets: what each kind is, and what ``up`` has to create.

A secret is immutable, so a new content is a new generation, ``<stack>_<kind>_g<N>``. What a
profile does not supply is generated here, straight into Swarm and never onto disk. Labels tell a
later ``up`` whether what is supplied has changed, without giving the content away: SHA-256 for
keys, a salted slow hash for what could be guessed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets as random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import docker

from jhswarmd import labels
from jhswarmd.deploy import tls
from jhswarmd.deploy.profile import Profile
from jhswarmd.engine_errors import translated
from jhswarmd.errors import EngineConflict, EngineError

GENERATED = "generated"
#: The engine refuses more (swarmkit, MaxSecretSize).
MAX_BYTES = 500 * 1024 - 1

_SCRYPT = {"n": 2**14, "r": 8, "p": 1, "maxmem": 64 * 1024 * 1024}


def _random_hex(_: Profile) -> bytes:
    return random.token_hex(32).encode()


def _no_accounts(_: Profile) -> bytes:
    # Swarm refuses an empty secret.
    return b"# no accounts\n"


@dataclass(frozen=True)
class Kind:
    """One unit of secrets that change together.

    ``names`` are the kinds in it: one, or certificate and key. ``generate`` makes contents for
    all of them, in order; None: it exists only when the profile supplies it. ``guessable``
    contents are recognised by a salted slow hash.
    """

    names: tuple[str, ...]
    generate: Callable[[Profile], tuple[bytes, ...]] | None
    guessable: bool = False


def _single(
    name: str, generate: Callable[[Profile], bytes] | None, *, guessable: bool = False
) -> Kind:
    return Kind(
        names=(name,),
        generate=(lambda profile: (generate(profile),)) if generate else None,
        guessable=guessable,
    )


KINDS: tuple[Kind, ...] = (
    _single("users", _no_accounts, guessable=True),
    _single("cookie_secret", _random_hex),
    _single("proxy_auth_token", _random_hex),
    _single("daemon_token", _random_hex),
    _single("culler_token", _random_hex),
    _single("crypt_key", _random_hex),
    _single("oauth_client_secret", None, guessable=True),
    _single("registry_login", None, guessable=True),
    Kind(
        names=("tls_cert", "tls_key"),
        generate=lambda profile: tls.self_signed(profile.settings.host),
    ),
)


@dataclass(frozen=True)
class Existing:
    """One generation of one secret that Swarm holds."""

    id: str
    name: str
    kind: str
    generation: int
    source: str
    created_at: str = ""


@dataclass(frozen=True)
class Create:
    """Create the next generation of a kind; the contents come from the profile or are generated."""

    kind: Kind
    generation: int
    supplied: tuple[bytes, ...] | None


def newest(existing: Iterable[Existing], kind: Kind) -> tuple[int, str] | None:
    """Return generation and source of the newest complete generation, or None.

    One of which only the certificate or only the key was created (an interrupted ``up``) is not
    complete.
    """
    held = [each for each in existing if each.kind in kind.names]
    complete = [
        (each.generation, each.source)
        for each in held
        if {other.kind for other in held if other.generation == each.generation} == set(kind.names)
    ]
    return max(complete, default=None)


def plan(profile: Profile, existing: Sequence[Existing]) -> list[Create]:
    """Decide which secrets to create. Pure but for the time that comparing slow hashes takes.

    What exists is kept unless the profile supplies something else than what it holds. A file
    that was removed from the profile changes nothing: the secret made from it stays.
    """
    creations = []
    for kind in KINDS:
        supplied = _supplied(profile, kind)
        current = newest(existing, kind)
        if supplied is None and (current is not None or kind.generate is None):
            continue
        if supplied and current and source_matches(current[1], supplied):
            continue
        used = [each.generation for each in existing if each.kind in kind.names]
        creations.append(Create(kind, max(used, default=0) + 1, supplied))
    return creations


def _supplied(profile: Profile, kind: Kind) -> tuple[bytes, ...] | None:
    if any(name not in profile.files for name in kind.names):
        return None
    # Swarm refuses an empty secret; an empty list of users is a list all the same.
    return tuple(profile.files[name] or b"\n" for name in kind.names)


def source_label(contents: Sequence[bytes], *, guessable: bool) -> str:
    """Return the label by which ``source_matches`` knows these contents again."""
    if not guessable:
        return "sha256:" + hashlib.sha256(b"\0".join(contents)).hexdigest()
    salt = os.urandom(16)
    return f"scrypt:{_b64(salt)}:{_b64(_slow(contents, salt))}"


def source_matches(label: str, contents: Sequence[bytes]) -> bool:
    """Tell whether a secret with this label was made from these contents."""
    scheme, _, rest = label.partition(":")
    if scheme == "sha256":
        return hmac.compare_digest(label, source_label(contents, guessable=False))
    if scheme == "scrypt":
        salt, _, digest = rest.partition(":")
        computed = _b64(_slow(contents, base64.b64decode(salt)))
        return hmac.compare_digest(digest, computed)
    return False


def _slow(contents: Sequence[bytes], salt: bytes) -> bytes:
    return hashlib.scrypt(b"\0".join(contents), salt=salt, **_SCRYPT)


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def list_existing(client: docker.DockerClient, stack: str) -> list[Existing]:
    """Return every generation of every secret of ``stack``."""
    with translated("list the secrets"):
        found = client.api.secrets(filters={"label": [f"{labels.STACK}={stack}"]})
    existing = []
    for each in found:
        marks = labels.of(each)
        if marks.get(labels.GENERATION, "").isdecimal():
            existing.append(
                Existing(
                    id=each["ID"],
                    name=each["Spec"]["Name"],
                    kind=marks.get(labels.KIND, ""),
                    generation=int(marks[labels.GENERATION]),
                    source=marks.get(labels.SOURCE, ""),
                    created_at=each["CreatedAt"],
                )
            )
    return existing


def create(client: docker.DockerClient, profile: Profile, creation: Create) -> None:
    """Carry out one planned creation.

    A name that exists already is an interrupted run's, or another's who does the same at this
    moment. Its content is unknown, so it is an error; the next run plans a later generation.
    """
    kind = creation.kind
    if creation.supplied is not None:
        contents = creation.supplied
        source = source_label(contents, guessable=kind.guessable)
    else:
        assert kind.generate is not None
        contents, source = kind.generate(profile), GENERATED
    stack = profile.settings.stack_name
    for name, content in zip(kind.names, contents, strict=True):
        if len(content) > MAX_BYTES:
            raise EngineError(
                f"The secret '{name}' is too large",
                why=f"{len(content)} bytes; Swarm takes {MAX_BYTES}",
                remedy="Make the file smaller.",
            )
        full_name = labels.secret_name(stack, name, creation.generation)
        try:
            with translated(f"create the secret {full_name}"):
                client.api.create_secret(
                    full_name,
                    content,
                    labels={
                        labels.STACK: stack,
                        labels.KIND: name,
                        labels.GENERATION: str(creation.generation),
                        labels.SOURCE: source,
                    },
                )
        except EngineConflict as exc:
            raise EngineConflict(
                f"The secret {full_name} exists already",
                why=exc.why,
                remedy="Run the command again; if it says so again, another program made the "
                f"secret: look at it with 'docker secret inspect {full_name}'.",
            ) from exc


def live_names(existing: Sequence[Existing], stack: str) -> Mapping[str, str]:
    """Return, for each kind that exists, the name of its newest complete generation."""
    names = {}
    for kind in KINDS:
        current = newest(existing, kind)
        if current is not None:
            for name in kind.names:
                names[name] = labels.secret_name(stack, name, current[0])
    return names


def required_names(*, uses_oauth: bool) -> list[str]:
    """Return the kinds that a stack cannot run without."""
    return [
        name
        for kind in KINDS
        for name in kind.names
        if kind.generate is not None or (uses_oauth and name == "oauth_client_secret")
    ]


def retire_unused(client: docker.DockerClient, stack: str) -> list[str]:
    """Remove generations that are older than the newest and that no service mounts.

    The engine itself refuses to remove a secret in use, so a race does no harm. Returns the
    names of what was removed.
    """
    existing = list_existing(client, stack)
    keep = set(live_names(existing, stack).values())
    removed = []
    for each in existing:
        if each.name in keep:
            continue
        try:
            with translated(f"remove the secret {each.name}"):
                client.api.remove_secret(each.id)
        except EngineError:
            continue
        removed.append(each.name)
    return removed
