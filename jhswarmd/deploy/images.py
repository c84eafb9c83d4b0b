"""Build our images and push them to the registry, once for each content.

A tag that the registry holds is right as it is (``recipes``), so a run with nothing to do asks
three questions and ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import docker
import requests

from jhswarmd import assets
from jhswarmd.deploy import bases as bases_
from jhswarmd.deploy.bases import Bases
from jhswarmd.deploy.progress import Progress, Step
from jhswarmd.deploy.recipes import (
    NAMESPACE,
    Recipe,
    build_recipe,
    is_on_engine,
    read_files,
    stream,
)
from jhswarmd.engine_errors import translated
from jhswarmd.errors import EngineError, EngineNotFound, EngineUnavailable, JhswarmdError
from jhswarmd.settings import Settings

#: Seconds a registry has to list what it holds.
CATALOG_TIMEOUT_S = 10.0

#: What an image takes from the folder of locks.
_LOCKS = {
    "hub": ("runtime.txt", "install", "installer.txt"),
    "proxy": ("proxy.txt",),
    "singleuser": ("notebook.txt", "install", "installer.txt"),
}


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


def build(client: docker.DockerClient, settings: Settings, progress: Progress) -> Images:
    """See that the registry holds our images, building and pushing what it lacks.

    Raises JhswarmdError.
    """
    candidates = bases_.candidates(settings, progress)
    with progress.step("Images") as step:
        step.update("asking the registry")
        for bases in candidates:
            recipes = _recipes(bases, settings)
            if all(_in_registry(client, it.reference(settings.registry)) for it in recipes):
                step.done("already in the registry")
                return _images(recipes, bases, settings, built=())
        step.done("to be built")
    bases = bases_.ensure(client, settings, progress)
    recipes = _recipes(bases, settings)
    with progress.step("Building and pushing images") as step:
        missing = [
            it for it in recipes if not _in_registry(client, it.reference(settings.registry))
        ]
        # Downloads and unpacking take turns well, also on two cores.
        with ThreadPoolExecutor(max_workers=max(1, len(missing))) as pool:
            jobs = [pool.submit(_build_and_push, client, it, settings, step) for it in missing]
        step.done(", ".join(job.result() for job in jobs))
    return _images(recipes, bases, settings, built=tuple(it.name for it in missing))


def build_local(
    client: docker.DockerClient, settings: Settings, progress: Progress, name: str
) -> str:
    """Build ``dockerfiles/<name>`` for this engine alone and return the image's id.

    For the registry itself, which cannot be pulled from itself. An id, unlike a name, is never
    looked up in a registry. Raises JhswarmdError.
    """
    bases = bases_.ensure(client, settings, progress)
    recipe = Recipe(name, bases.start(bases.hub), read_files(assets.DOCKERFILES / name))
    if not is_on_engine(client, recipe.reference()):
        with progress.step(f"Building the image {name}") as step:
            build_recipe(client, recipe, recipe.reference(), step)
    with translated(f"reading the image {name}"):
        return str(client.images.get(recipe.reference()).id)


def plan(client: docker.DockerClient, settings: Settings) -> Images:
    """Return the images that ``build`` would give, changing nothing. Raises JhswarmdError.

    Where the choice of the bases is still open, it is the one that ``build`` looks for first.
    """
    candidates = bases_.candidates(settings, None)
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


def _recipes(bases: Bases, settings: Settings) -> list[Recipe]:
    names = ["hub", "proxy"] if settings.single_user_image else ["hub", "proxy", "singleuser"]
    recipes = []
    for name in names:
        context = read_files(assets.DOCKERFILES / name)
        context |= {f"locks/{lock}": (assets.LOCKS / lock).read_bytes() for lock in _LOCKS[name]}
        if name == "hub":
            context |= {f"jhswarmd/{key}": it for key, it in read_files(assets.PACKAGE).items()}
            context |= {
                f"hub_config/{key}": it for key, it in read_files(assets.HUB_CONFIG).items()
            }
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
    """Return how long it took, in words."""
    started = step.elapsed_s
    reference = recipe.reference(settings.registry)
    # Built but not pushed: an earlier run was interrupted.
    if not is_on_engine(client, reference):
        build_recipe(client, recipe, reference, step)
    built = step.elapsed_s
    what = f"{reference} cannot be pushed"
    with translated(f"pushing {reference}"):
        repository, _, tag = reference.rpartition(":")
        for line in stream(client.api.push(repository, tag, stream=True, decode=True), what):
            step.update(f"{recipe.name}: {line}")
    return f"{recipe.name} {built - started:.0f} + {step.elapsed_s - built:.0f} s"
