"""Base images: the community's images, else a Debian base made on this machine.

The Debian base comes from this machine's own package mirror, so that a site with only mirrors works
too. A choice of ``BASE_IMAGES=auto`` is kept as long as the engine, or the registry
(``publish.build``), has the images built from it; there is no other state.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import requests
from docker.errors import DockerException

from jhswarmd import assets
from jhswarmd.deploy.images.recipes import (
    NAMESPACE,
    Recipe,
    build_recipe,
    digest_of,
    is_on_engine,
    read_files,
    stream,
)
from jhswarmd.deploy.machine import host
from jhswarmd.deploy.progress import Progress
from jhswarmd.engine import streams
from jhswarmd.engine.errors import engine_errors, translate
from jhswarmd.errors import JhswarmdError
from jhswarmd.settings.settings import BaseImages, Settings

#: This machine's extra certificates, where update-ca-certificates reads them.
CA_CERTIFICATES = Path("/usr/local/share/ca-certificates")
#: Python is in the base, to be shared by the three of four images that need it.
DEBIAN_PACKAGES = ("ca-certificates", "python3", "python3-venv")
#: Seconds for the first answer of a base image registry before it counts as unreachable.
BASE_ANSWER_S = 20.0

_MMDEBSTRAP_OPTIONS = (
    "--variant=minbase",
    f"--include={','.join(DEBIAN_PACKAGES)}",
    # Manuals and translations are not needed in a container; apt applies this later, too.
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    '--aptopt=Acquire::Languages "none"',
)


@dataclass(frozen=True)
class Debian:
    """A base built from this machine's package mirror."""

    codename: str
    sources: tuple[str, ...]

    @property
    def reference(self) -> str:
        """Return the name of the imported root file system."""
        parts = (self.codename, *self.sources, *DEBIAN_PACKAGES, *_MMDEBSTRAP_OPTIONS)
        return f"{NAMESPACE}/debian:{digest_of(*(part.encode() for part in parts))}"


@dataclass(frozen=True)
class Bases:
    """The bases of our images; ``debian`` is None for the community's images."""

    hub: str
    singleuser: str
    debian: Debian | None
    certificates: Mapping[str, bytes]

    @property
    def description(self) -> str:
        """Return the description for the administrator."""
        if self.debian is not None:
            return f"Debian {self.debian.codename}, built from this machine's package mirror"
        return " and ".join(dict.fromkeys((self.hub, self.singleuser)))

    def with_certificates(self, base: str) -> Recipe | None:
        """Return the recipe that adds this machine's certificates; None if there are none."""
        if not self.certificates:
            return None
        context = read_files(assets.DOCKERFILES / "base")
        context |= {f"ca-certificates/{name}": pem for name, pem in self.certificates.items()}
        return Recipe("base", base, context)

    def start(self, base: str) -> str:
        """Return the image for a Dockerfile's FROM, given ``base``."""
        recipe = self.with_certificates(base)
        return recipe.reference() if recipe else base

    @property
    def required_images(self) -> tuple[str, ...]:
        """Return the images that must be on the engine before a build."""
        return tuple(dict.fromkeys((self.start(self.hub), self.start(self.singleuser))))


def candidates(settings: Settings, progress: Progress | None) -> list[Bases]:
    """Return the bases that the profile allows, starting with the one that this machine can build.

    Never empty. Without ``progress``, nothing on this machine is changed.
    """
    certificates = _certificates()
    found = []
    if settings.base_images is not BaseImages.community:
        debian = _read_host_debian(progress)
        if debian is not None:
            found.append(Bases(debian.reference, debian.reference, debian, certificates))
        elif settings.base_images is BaseImages.debian:
            raise JhswarmdError(
                "A Debian base cannot be built",
                why="this machine has no apt sources of Debian or Ubuntu",
                remedy="Run this on a Debian machine, or set BASE_IMAGES=community.",
            )
    if settings.base_images is not BaseImages.debian:
        # With a foreign notebook image, our notebook base is unused, and may be gigabytes.
        singleuser = settings.singleuser_base_image
        if settings.single_user_image:
            singleuser = settings.hub_base_image
        found.append(Bases(settings.hub_base_image, singleuser, None, certificates))
    return found


def ensure(client: docker.DockerClient, settings: Settings, progress: Progress) -> Bases:
    """Ensure that the bases are on the engine, and return them. Raises JhswarmdError."""
    found = candidates(settings, progress)
    for bases in found:
        if all(is_on_engine(client, reference) for reference in bases.required_images):
            return bases
    chosen = found[-1]
    if chosen.debian is None:
        try:
            _pull(client, chosen, progress)
        except JhswarmdError as exc:
            chosen = found[0]
            if chosen.debian is None:
                raise
            progress.note(f"The community's images are unreachable ({exc.why})")
    if chosen.debian is not None:
        _make_debian(client, chosen.debian, progress)
    _add_certificates(client, chosen, progress)
    return chosen


def _pull(client: docker.DockerClient, bases: Bases, progress: Progress) -> None:
    """Pull the community's images. Raises JhswarmdError."""
    for reference in dict.fromkeys((bases.hub, bases.singleuser)):
        if is_on_engine(client, reference):
            continue
        with progress.step(f"Pulling {reference}", is_attempt=True) as step:
            try:
                _call_with_timeout(lambda name=reference: client.api.inspect_distribution(name))  # type: ignore[misc]
                repository, _, tag = reference.rpartition(":")
                lines = client.api.pull(repository, tag=tag, stream=True, decode=True)
                for line in stream(lines, f"{reference} cannot be pulled"):
                    step.update(line)
            except (JhswarmdError, DockerException, requests.RequestException, OSError) as exc:
                action = f"pull {reference}"
                problem = exc if isinstance(exc, JhswarmdError) else translate(exc, action)
                problem.remedy = (
                    "Make 'docker pull' of it work on this engine, or run this on a Debian machine "
                    "with BASE_IMAGES=debian, which builds a base from its package mirror."
                )
                raise problem from exc


def _call_with_timeout(function: Callable[[], object]) -> None:
    """Call ``function`` in a thread; raise its exception, or JhswarmdError after BASE_ANSWER_S.

    A firewall that drops packets keeps the engine trying for minutes, and its API has no timeout.
    The thread is a daemon thread, so that it does not delay our exit.
    """
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            function()
            outcome.append(None)
        except BaseException as exc:  # noqa: BLE001 - passed on, not swallowed
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


def _add_certificates(client: docker.DockerClient, bases: Bases, progress: Progress) -> None:
    for base in dict.fromkeys((bases.hub, bases.singleuser)):
        recipe = bases.with_certificates(base)
        if recipe is None or is_on_engine(client, recipe.reference()):
            continue
        with progress.step("Adding this machine's CA certificates to the base") as step:
            build_recipe(client, recipe, recipe.reference(), step)
            step.done(", ".join(sorted(bases.certificates)))


def _make_debian(client: docker.DockerClient, debian: Debian, progress: Progress) -> None:
    if is_on_engine(client, debian.reference):
        return
    if shutil.which("mmdebstrap") is None:
        host.apt_install(["mmdebstrap"], progress, what_for="Building a Debian base")
    title = f"Building a Debian {debian.codename} base"
    # /var/tmp: 200 MB may be too much if /tmp is in memory.
    with progress.step(title) as step, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        archive = Path(folder, "base.tar")
        host.run_shown(
            ["mmdebstrap", *_MMDEBSTRAP_OPTIONS, debian.codename, str(archive), *debian.sources],
            step,
            remedy="Make 'apt-get update' work on this machine, then run this again.",
        )
        step.update("importing it into the engine")
        repository, _, tag = debian.reference.rpartition(":")
        with engine_errors("import the Debian base"):
            answer = client.api.import_image_from_file(str(archive), repository=repository, tag=tag)
            streams.raise_failure(answer, "import the Debian base")
        step.done("; ".join(debian.sources))


def _read_host_debian(progress: Progress | None) -> Debian | None:
    """Return the base of this machine's apt sources; None if it is neither Debian nor Ubuntu."""
    system = host.os_release()
    codename = system.get("VERSION_CODENAME", "")
    if not codename or not host.has_apt():
        return None
    sources = _apt_sources(system.get("ID", ""), codename)
    if sources is None and progress is not None:
        # The publisher of a source is in its package lists, which are still missing.
        with progress.step("Reading this machine's package lists") as step:
            host.apt_update(step)
        sources = _apt_sources(system.get("ID", ""), codename)
    return Debian(codename, sources) if sources else None


def _apt_sources(system: str, codename: str) -> tuple[str, ...] | None:
    """Return the system's own sources as apt lines; None if apt has no package lists yet.

    Queries apt itself, which handles both formats, all folders and every option. Third-party
    sources may need keys and certificates that a base does not have.
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


def _certificates() -> dict[str, bytes]:
    if not CA_CERTIFICATES.is_dir():
        return {}
    # update-ca-certificates ignores other suffixes.
    return {name: pem for name, pem in read_files(CA_CERTIFICATES).items() if name.endswith(".crt")}
