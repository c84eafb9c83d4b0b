"""Build our images and push them to the registry, once for each content.

A tag is a hash of everything that goes into its image: Dockerfile, lock, code, certificates and
the base's name. So a tag that the registry holds needs no build, an edited file is never
deployed under an old name, and nothing has to be remembered but the tags themselves.

Bases are the community's images where they can be pulled, else a Debian made from the package
mirror of this machine. What ``BASE_IMAGES=auto`` once chose stays chosen as long as either the
registry or the engine holds what was made of it.

The classic builder is all that is asked of the engine.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import DockerException

from jhswarmd import assets
from jhswarmd.deploy import host
from jhswarmd.deploy.progress import Progress, Step
from jhswarmd.engine_errors import translate, translated
from jhswarmd.errors import EngineError, EngineNotFound, EngineUnavailable, JhswarmdError
from jhswarmd.settings import BaseImages, Settings

#: Repositories are ``<registry>/jhswarmd/<name>``.
NAMESPACE = "jhswarmd"
#: Extra certificates of this machine, as update-ca-certificates finds them.
CA_CERTIFICATES = Path("/usr/local/share/ca-certificates")
#: Python is in the base: three of the four images need it, and share it that way.
DEBIAN_PACKAGES = ("ca-certificates", "python3", "python3-venv")
#: Seconds a registry of base images has for its first answer before it counts as out of reach.
BASE_ANSWER_S = 20.0
#: Seconds our registry has to list what it holds.
CATALOG_TIMEOUT_S = 10.0

#: What an image takes from the folder of locks.
_LOCKS = {
    "hub": ("runtime.txt", "install", "installer.txt"),
    "proxy": ("proxy.txt",),
    "singleuser": ("notebook.txt", "install", "installer.txt"),
}
_DIGEST_LENGTH = 12
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Images:
    """References to deploy, and what they were made from."""

    hub: str
    """Image of the hub and of the daemon."""
    proxy: str
    singleuser: str
    base: str
    """The bases, in words for the administrator."""
    built: tuple[str, ...] = ()
    """Names of the images that were not in the registry before."""


@dataclass(frozen=True)
class Recipe:
    """One image to build: its base and its build context."""

    name: str
    base: str
    context: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """Return the hash of all that goes in."""
        return _digest(self.base.encode(), *_flat(self.context))

    def reference(self, registry: str = "") -> str:
        """Return the image's full name; without a registry it stays on this engine."""
        prefix = f"{registry}/" if registry else ""
        return f"{prefix}{NAMESPACE}/{self.name}:{self.digest}"


@dataclass(frozen=True)
class Debian:
    """The base that this machine's package mirror gives."""

    codename: str
    sources: tuple[str, ...]

    @property
    def reference(self) -> str:
        """Return the name of the imported root file system."""
        parts = (self.codename, *self.sources, *DEBIAN_PACKAGES, *_MMDEBSTRAP_OPTIONS)
        return f"{NAMESPACE}/debian:{_digest(*(part.encode() for part in parts))}"


@dataclass(frozen=True)
class Bases:
    """What the images start from; ``debian`` is None for the community's."""

    hub: str
    singleuser: str
    debian: Debian | None
    certificates: Mapping[str, bytes]

    @property
    def words(self) -> str:
        """Return what the administrator reads."""
        if self.debian is not None:
            return f"Debian {self.debian.codename}, made from this machine's package mirror"
        return " and ".join(dict.fromkeys((self.hub, self.singleuser)))

    def with_certificates(self, base: str) -> Recipe | None:
        """Return the recipe that adds this machine's certificates; None without any."""
        if not self.certificates:
            return None
        context = _files(assets.DOCKERFILES / "base")
        context |= {f"ca-certificates/{name}": pem for name, pem in self.certificates.items()}
        return Recipe("base", base, context)

    def start(self, base: str) -> str:
        """Return what a Dockerfile's FROM names for ``base``."""
        recipe = self.with_certificates(base)
        return recipe.reference() if recipe else base

    @property
    def starts(self) -> tuple[str, ...]:
        """Return everything that must be on the engine before an image is built."""
        return tuple(dict.fromkeys((self.start(self.hub), self.start(self.singleuser))))


def build(client: docker.DockerClient, settings: Settings, progress: Progress) -> Images:
    """See that the registry holds our images, building and pushing what it lacks.

    Raises JhswarmdError.
    """
    candidates = _candidates(settings, progress)
    with progress.step("Images") as step:
        step.update("asking the registry")
        for bases in candidates:
            recipes = _recipes(bases, settings)
            if all(_in_registry(client, it.reference(settings.registry)) for it in recipes):
                step.done("already in the registry")
                return _images(recipes, bases, settings, built=())
    bases = _ensure_bases(client, settings, progress, candidates)
    recipes = _recipes(bases, settings)
    with progress.step("Building and pushing images") as step:
        missing = [
            it for it in recipes if not _in_registry(client, it.reference(settings.registry))
        ]
        # Downloads and unpacking take turns well, also on two cores.
        with ThreadPoolExecutor(max_workers=max(1, len(missing))) as pool:
            jobs = [pool.submit(_build_and_push, client, it, settings, step) for it in missing]
        names = tuple(job.result() for job in jobs)
        step.done(", ".join(names))
    return _images(recipes, bases, settings, built=names)


def build_local(
    client: docker.DockerClient, settings: Settings, progress: Progress, name: str
) -> str:
    """Build ``dockerfiles/<name>`` for this engine alone and return the image's id.

    For the registry itself, which cannot be pulled from itself. An id, unlike a name, is never
    looked up in a registry. Raises JhswarmdError.
    """
    bases = _ensure_bases(client, settings, progress, _candidates(settings, progress))
    recipe = Recipe(name, bases.start(bases.hub), _files(assets.DOCKERFILES / name))
    if not _on_engine(client, recipe.reference()):
        with progress.step(f"Building the image {name}") as step:
            _build(client, recipe, recipe.reference(), step)
    with translated(f"reading the image {name}"):
        return str(client.images.get(recipe.reference()).id)


def plan(client: docker.DockerClient, settings: Settings) -> Images:
    """Return the images that ``build`` would give, changing nothing. Raises JhswarmdError.

    Where the choice of the bases is still open, it is the one that ``build`` looks for first.
    """
    candidates = _candidates(settings, None)
    for bases in candidates:
        images = _images(_recipes(bases, settings), bases, settings, built=())
        if not list_missing(client, images):
            return images
    return _images(_recipes(candidates[0], settings), candidates[0], settings, built=())


def list_missing(client: docker.DockerClient, images: Images) -> list[str]:
    """Return which of our images the registry lacks, and all if it does not answer.

    An image of the site's own (SINGLE_USER_IMAGE) is the nodes' to find.
    """
    ours = [it for it in (images.hub, images.proxy, images.singleuser) if f"/{NAMESPACE}/" in it]
    try:
        return [it for it in ours if not _in_registry(client, it)]
    except EngineUnavailable:
        return ours


def list_registry(client: docker.DockerClient, settings: Settings) -> list[str]:
    """Return ``repository:tag`` for each of our images that the registry holds, sorted.

    Asks with the login that ``docker login`` left for it, if any. Raises JhswarmdError, also for
    a registry that does not let itself be listed.
    """
    registry = settings.registry
    with session(registry) as asking:
        login = client.api._auth_configs.resolve_authconfig(registry)
        if login:
            asking.auth = (login.get("username", ""), login.get("password", ""))

        def ask(path: str) -> Any:
            try:
                answer = asking.get(f"{base_url(registry)}{path}", timeout=CATALOG_TIMEOUT_S)
                answer.raise_for_status()
                return answer.json()
            except (requests.RequestException, ValueError) as exc:
                raise JhswarmdError(
                    f"The registry {registry} cannot be listed",
                    why=str(exc),
                    remedy="The images are there; only listing them failed. See that the registry "
                    "answers this machine and lets its content be listed.",
                ) from exc

        # 1000 is the most that the registry's interface promises to give at once; we have three.
        repositories = ask("/v2/_catalog?n=1000").get("repositories") or []
        return sorted(
            f"{repository}:{tag}"
            for repository in repositories
            if repository.startswith(f"{NAMESPACE}/")
            for tag in ask(f"/v2/{repository}/tags/list").get("tags") or []
        )


def base_url(registry: str) -> str:
    """Return the address of a registry; like the engine, trust this machine without TLS."""
    name = registry.rsplit(":", 1)[0]
    return f"http://{registry}" if is_local(name) else f"https://{registry}"


def session(registry: str) -> requests.Session:
    """Return a session for a registry; one on this machine is never asked through a proxy."""
    made = requests.Session()
    made.trust_env = not is_local(registry.rsplit(":", 1)[0])
    return made


def is_local(name: str) -> bool:
    """Tell whether a registry's host name means the machine that asks."""
    return name == "localhost" or name.startswith("127.")


# -- what goes into an image ---------------------------------------------------------------------


def _candidates(settings: Settings, progress: Progress | None) -> list[Bases]:
    """Return the bases that the profile allows; what this machine can always make comes first.

    Never empty. Without ``progress`` nothing on this machine is changed.
    """
    certificates = _certificates()
    found = []
    if settings.base_images is not BaseImages.community:
        debian = _read_host_debian(progress)
        if debian is not None:
            found.append(Bases(debian.reference, debian.reference, debian, certificates))
        elif settings.base_images is BaseImages.debian:
            raise JhswarmdError(
                "A Debian base cannot be made",
                why="this machine has no apt sources of Debian or Ubuntu",
                remedy="Run this on a Debian machine, or set BASE_IMAGES=community.",
            )
    if settings.base_images is not BaseImages.debian:
        # Without a notebook image of ours its base is of no use, and may be gigabytes.
        singleuser = settings.singleuser_base_image
        if settings.single_user_image:
            singleuser = settings.hub_base_image
        found.append(Bases(settings.hub_base_image, singleuser, None, certificates))
    return found


def _recipes(bases: Bases, settings: Settings) -> list[Recipe]:
    names = ["hub", "proxy"] if settings.single_user_image else ["hub", "proxy", "singleuser"]
    recipes = []
    for name in names:
        context = _files(assets.DOCKERFILES / name)
        context |= {f"locks/{lock}": (assets.LOCKS / lock).read_bytes() for lock in _LOCKS[name]}
        if name == "hub":
            context |= {f"jhswarmd/{key}": it for key, it in _files(assets.PACKAGE).items()}
            context |= {f"hub_config/{key}": it for key, it in _files(assets.HUB_CONFIG).items()}
        base = bases.singleuser if name == "singleuser" else bases.hub
        recipes.append(Recipe(name, bases.start(base), context))
    return recipes


def _images(
    recipes: Iterable[Recipe], bases: Bases, settings: Settings, *, built: tuple[str, ...]
) -> Images:
    references = {it.name: it.reference(settings.registry) for it in recipes}
    return Images(
        hub=references["hub"],
        proxy=references["proxy"],
        singleuser=settings.single_user_image or references["singleuser"],
        base=bases.words,
        built=built,
    )


def _files(folder: Path) -> dict[str, bytes]:
    """Return a folder's files by relative path, without what Python and an editor leave there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        # A wheel carries the deployment's files inside the package (assets.py).
        hidden = any(
            part.startswith(".") or part in ("__pycache__", "_assets") for part in name.parts
        )
        if path.is_file() and not hidden and path.suffix != ".pyc":
            found[name.as_posix()] = path.read_bytes()
    return found


def _certificates() -> dict[str, bytes]:
    if not CA_CERTIFICATES.is_dir():
        return {}
    # update-ca-certificates takes no other ending.
    return {name: pem for name, pem in _files(CA_CERTIFICATES).items() if name.endswith(".crt")}


def _flat(context: Mapping[str, bytes]) -> Iterable[bytes]:
    for name in sorted(context):
        yield name.encode()
        yield context[name]


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        # The length keeps two parts apart from one that reads the same.
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _tar(context: Mapping[str, bytes]) -> io.BytesIO:
    """Return the build context; the same content gives the same bytes, so the cache holds."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(context):
            info = tarfile.TarInfo(name)
            info.size = len(context[name])
            # By content: the mode of a file does not survive every way to install a wheel.
            info.mode = 0o755 if context[name].startswith(b"#!") else 0o644
            archive.addfile(info, io.BytesIO(context[name]))
    buffer.seek(0)
    return buffer


# -- bases ---------------------------------------------------------------------------------------


def _ensure_bases(
    client: docker.DockerClient, settings: Settings, progress: Progress, candidates: list[Bases]
) -> Bases:
    """See that one candidate's bases are on the engine, and return it."""
    for bases in candidates:
        if all(_on_engine(client, reference) for reference in bases.starts):
            return bases
    # The community's images are the first choice to make anew, and the last in the list.
    for bases in reversed(candidates):
        if bases.debian is None:
            problem = _pull_bases(client, bases, progress)
            if problem is None:
                break
            if settings.base_images is BaseImages.community:
                raise problem
            progress.note(f"Community images are out of reach ({problem.why or problem.what})")
            if len(candidates) == 1:
                raise JhswarmdError(
                    "There is no base to build images from",
                    why=f"{problem}; and this machine has no apt sources of Debian or Ubuntu",
                    remedy="Give this machine access to the community images, or run this on a "
                    "Debian machine.",
                ) from problem
        else:
            _make_debian(client, bases.debian, progress)
    _add_certificates(client, bases, progress)
    return bases


def _add_certificates(client: docker.DockerClient, bases: Bases, progress: Progress) -> None:
    for base in dict.fromkeys((bases.hub, bases.singleuser)):
        recipe = bases.with_certificates(base)
        if recipe is None or _on_engine(client, recipe.reference()):
            continue
        with progress.step("Adding this machine's CA certificates to the base") as step:
            _build(client, recipe, recipe.reference(), step)
            step.done(", ".join(sorted(bases.certificates)))


def _pull_bases(
    client: docker.DockerClient, bases: Bases, progress: Progress
) -> JhswarmdError | None:
    """Pull the community's images; return the reason why that is not possible."""
    for reference in dict.fromkeys((bases.hub, bases.singleuser)):
        if _on_engine(client, reference):
            continue
        with progress.step(f"Pulling {reference}") as step:
            try:
                _ask_quickly(lambda name=reference: client.api.inspect_distribution(name))  # type: ignore[misc]
                repository, _, tag = reference.rpartition(":")
                for line in _stream(
                    client.api.pull(repository, tag=tag, stream=True, decode=True),
                    f"{reference} cannot be pulled",
                ):
                    step.update(line)
            except (JhswarmdError, DockerException, requests.RequestException, OSError) as exc:
                step.done("not possible")
                problem = (
                    exc
                    if isinstance(exc, JhswarmdError)
                    else translate(exc, f"pulling {reference}")
                )
                problem.remedy = (
                    "See that the engine can pull it ('docker pull'), or set BASE_IMAGES=debian: "
                    "a base made from this machine's package mirror."
                )
                return problem
    return None


def _ask_quickly(ask: Callable[[], object]) -> None:
    """Call ``ask`` in a thread; raise its exception, or JhswarmdError after BASE_ANSWER_S.

    A firewall that drops packets keeps the engine trying for minutes, and its interface takes no
    time limit. The thread is a daemon, so that it does not hold up our end.
    """
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            ask()
            outcome.append(None)
        except BaseException as exc:  # noqa: BLE001 - handed over, not swallowed
            outcome.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(BASE_ANSWER_S)
    if not outcome:
        raise JhswarmdError(
            "The registry of the base images does not answer",
            why=f"no answer within {BASE_ANSWER_S:.0f} s",
        )
    if outcome[0] is not None:
        raise outcome[0]


def _read_host_debian(progress: Progress | None) -> Debian | None:
    """Return what this machine's apt sources give; None where it is neither Debian nor Ubuntu."""
    system = host.os_release()
    codename = system.get("VERSION_CODENAME", "")
    if not codename or not host.has_apt():
        return None
    sources = _apt_sources(system.get("ID", ""), codename)
    if sources is None and progress is not None:
        # Who a source's publisher is stands in its lists, and they are not there yet.
        with progress.step("Reading this machine's package lists") as step:
            host.apt_update(step)
        sources = _apt_sources(system.get("ID", ""), codename)
    return Debian(codename, sources) if sources else None


def _apt_sources(system: str, codename: str) -> tuple[str, ...] | None:
    """Return the system's own sources as apt lines; None where apt has no lists to tell by.

    Apt itself is asked: it knows both formats, all folders and every option. Sources of third
    parties may need keys and certificates that a base has no use for.
    """
    fields = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
    command = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    suites = {codename, f"{codename}-updates", f"{codename}-security"}
    components: dict[tuple[str, str], list[str]] = {}
    for line in output.splitlines():
        uri, suite, component, origin = line.split("|")
        if suite not in suites:
            continue
        if origin.startswith("$("):
            return None
        if origin.lower() == system:
            components.setdefault((uri, suite), []).append(component)
    return tuple(
        f"deb {uri} {suite} {' '.join(dict.fromkeys(names))}"
        for (uri, suite), names in sorted(components.items())
    )


_MMDEBSTRAP_OPTIONS = (
    "--variant=minbase",
    f"--include={','.join(DEBIAN_PACKAGES)}",
    # Manuals and translations nobody reads in a container; apt keeps to it later, too.
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    '--aptopt=Acquire::Languages "none"',
)


def _make_debian(client: docker.DockerClient, debian: Debian, progress: Progress) -> None:
    if _on_engine(client, debian.reference):
        return
    if shutil.which("mmdebstrap") is None:
        host.apt_install(["mmdebstrap"], progress, what_for="Making a Debian base")
    title = f"Making a Debian {debian.codename} base"
    # /var/tmp: 200 MB may be too much where /tmp is memory.
    with progress.step(title) as step, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        archive = Path(folder, "base.tar")
        host.run_shown(
            ["mmdebstrap", *_MMDEBSTRAP_OPTIONS, debian.codename, str(archive), *debian.sources],
            step,
            remedy="See that 'apt-get update' works on this machine, then run this again.",
        )
        step.update("importing it into the engine")
        repository, _, tag = debian.reference.rpartition(":")
        with translated("importing the Debian base"):
            client.api.import_image_from_file(str(archive), repository=repository, tag=tag)
        step.done("; ".join(debian.sources))


# -- engine and registry -------------------------------------------------------------------------


def _on_engine(client: docker.DockerClient, reference: str) -> bool:
    try:
        with translated(f"looking for {reference}"):
            client.images.get(reference)
    except EngineNotFound:
        return False
    return True


def _in_registry(client: docker.DockerClient, reference: str) -> bool:
    """Ask through the engine: it knows how to reach the registry, and with which login."""
    try:
        with translated(f"asking the registry for {reference}"):
            client.api.inspect_distribution(reference)
    except EngineNotFound:
        return False
    except EngineError as exc:
        exc.remedy = (
            "See that the engine reaches the registry, and has a login if it wants one "
            "('docker login'); REGISTRY in the profile names it."
        )
        raise
    return True


def _build_and_push(
    client: docker.DockerClient, recipe: Recipe, settings: Settings, step: Step
) -> str:
    started = step.elapsed_s
    reference = recipe.reference(settings.registry)
    # Built but not pushed: an earlier run was interrupted.
    if not _on_engine(client, reference):
        _build(client, recipe, reference, step)
    built = step.elapsed_s
    what = f"{reference} cannot be pushed"
    with translated(f"pushing {reference}"):
        repository, _, tag = reference.rpartition(":")
        for line in _stream(client.api.push(repository, tag, stream=True, decode=True), what):
            step.update(f"{recipe.name}: {line}")
    return f"{recipe.name} {built - started:.0f} s + {step.elapsed_s - built:.0f} s"


def _build(client: docker.DockerClient, recipe: Recipe, reference: str, step: Step) -> None:
    arguments = {"BASE": recipe.base, **_site_arguments()}
    with translated(f"building the image {recipe.name}"):
        output = client.api.build(
            fileobj=_tar(recipe.context),
            custom_context=True,
            tag=reference,
            buildargs=arguments,
            rm=True,
            forcerm=True,
            decode=True,
        )
        for line in _stream(output, f"The image {recipe.name} cannot be built"):
            step.update(f"{recipe.name}: {line}")


def _site_arguments() -> dict[str, str]:
    """Return this machine's proxies and package indexes: ways to the content, no part of it.

    Builders know the proxies' arguments without a declaration and keep them out of the image. An
    index stands in the image's history, so one with a login in its address is not passed on.
    """
    proxies = urllib.request.getproxies()
    found = {f"{key}_proxy": proxies[key] for key in ("http", "https", "no") if key in proxies}
    for key in ("PIP_INDEX_URL", "NPM_CONFIG_REGISTRY"):
        value = os.environ.get(key) or os.environ.get(key.lower(), "")
        if value and "@" not in value:
            found[key] = value
    return found


def _stream(output: Iterable[Mapping[str, Any]], what: str) -> Iterable[str]:
    """Yield the lines of a build, a pull or a push; raise what it reports as an error.

    The engine answers 200 before it begins: a failure is one more line in its answer.
    """
    lines: deque[str] = deque(maxlen=host.TAIL_LINES)
    for part in output:
        if "error" in part:
            lines.append(str(part["error"]))
            raise JhswarmdError(
                what,
                why=host.tail(list(lines)),
                remedy="Run this again: what is finished is kept. A mirror or a registry that did "
                "not answer is the usual reason.",
            )
        # The classic builder paints what went to stderr red.
        line = _COLOURS.sub("", str(part.get("stream") or part.get("status") or "")).strip()
        if line:
            lines.append(line)
            yield line
