"""Build our images and push them to the registry, once per content.

Images are deployed by digest. A tag in a registry cannot be trusted: anyone with write access can
move it. Our digests are known from this engine's builds, or from what Swarm already runs; the
registry is only asked whether it has them, so a run with nothing to do makes three requests.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import docker
import requests

from jhswarmd import assets, labels
from jhswarmd.deploy.images import bases as bases_
from jhswarmd.deploy.images.bases import Bases
from jhswarmd.deploy.images.recipes import (
    NAMESPACE,
    Recipe,
    build_recipe,
    is_on_engine,
    read_files,
    stream,
)
from jhswarmd.deploy.progress import Progress, Step
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import EngineError, EngineNotFound, EngineUnavailable, JhswarmdError
from jhswarmd.settings.settings import Settings

#: Seconds for a registry to list its content.
CATALOG_TIMEOUT_S = 10.0

#: The lock files of each image.
_LOCKS = {
    "hub": ("runtime.txt", "install", "installer.txt"),
    "proxy": ("proxy.txt",),
    "singleuser": ("notebook.txt", "install", "installer.txt"),
}


@dataclass(frozen=True)
class Images:
    """References to deploy, ours as ``repository:tag@digest``, and their bases."""

    hub: str
    """Image of the hub and of the daemon."""
    proxy: str
    singleuser: str
    base: str
    """Description of the bases for the administrator."""
    built: tuple[str, ...] = ()
    """Names of the images that were not in the registry before."""


def build(
    client: docker.DockerClient,
    settings: Settings,
    progress: Progress,
    deployed: Collection[str] = (),
) -> Images:
    """Ensure that the registry has our images, building and pushing missing ones.

    ``deployed`` are the references in use (``list_deployed``), maybe built on another manager.
    Raises JhswarmdError.
    """
    candidates = bases_.candidates(settings, progress)
    with progress.step("Images") as step:
        step.update("querying the registry")
        for bases in candidates:
            recipes = _recipes(bases, settings)
            found = _find(client, recipes, settings, deployed)
            if len(found) == len(recipes):
                step.done("already in the registry")
                return _images(found, bases, settings, built=())
        step.done("to be built")
    bases = bases_.ensure(client, settings, progress)
    recipes = _recipes(bases, settings)
    with progress.step("Building and pushing images") as step:
        found = _find(client, recipes, settings, deployed)
        missing = [it for it in recipes if it.name not in found]
        # Downloading and unpacking overlap well, even on two cores.
        with ThreadPoolExecutor(max_workers=max(1, len(missing))) as pool:
            jobs = [pool.submit(_build_and_push, client, it, settings, step) for it in missing]
        found |= {it.name: job.result()[0] for it, job in zip(missing, jobs, strict=True)}
        step.done(", ".join(job.result()[1] for job in jobs))
    return _images(found, bases, settings, built=tuple(it.name for it in missing))


def build_local(
    client: docker.DockerClient, settings: Settings, progress: Progress, name: str
) -> str:
    """Build ``dockerfiles/<name>`` for this engine only and return the image's id.

    For the registry, which cannot be pulled from itself. An id, unlike a name, is never
    looked up in a registry. Raises JhswarmdError.
    """
    bases = bases_.ensure(client, settings, progress)
    recipe = Recipe(name, bases.start(bases.hub), read_files(assets.DOCKERFILES / name))
    if not is_on_engine(client, recipe.reference()):
        with progress.step(f"Building the image {name}") as step:
            build_recipe(client, recipe, recipe.reference(), step)
    with engine_errors(f"inspect the image {name}"):
        return str(client.images.get(recipe.reference()).id)


def plan(client: docker.DockerClient, settings: Settings, deployed: Collection[str] = ()) -> Images:
    """Return the images that ``build`` would return, changing nothing. Raises JhswarmdError.

    Images that are not built yet have no digest (``list_missing``). If the bases are not chosen
    yet, they are those that ``build`` checks first.
    """
    planned = []
    for bases in bases_.candidates(settings, None):
        recipes = _recipes(bases, settings)
        try:
            found = _find(client, recipes, settings, deployed)
        except EngineUnavailable:
            found = {}
        tags = {it.name: it.reference(settings.registry) for it in recipes}
        planned.append(_images({**tags, **found}, bases, settings, built=()))
        if len(found) == len(recipes):
            return planned[-1]
    return planned[0]


def list_missing(images: Images) -> list[str]:
    """Return which of our images the registry lacks, all if it does not answer. Pure.

    The nodes pull a site's own image (SINGLE_USER_IMAGE) from elsewhere.
    """
    ours = [it for it in (images.hub, images.proxy, images.singleuser) if f"/{NAMESPACE}/" in it]
    return [it for it in ours if "@" not in it]


def list_deployed(client: docker.DockerClient, stack: str) -> list[str]:
    """Return the images of the stack's services and notebooks, as specified in Swarm."""
    with engine_errors("list the services"):
        found = client.api.services(filters={"label": f"{labels.STACK}={stack}"})
    containers = [
        each["Spec"]["TaskTemplate"]["ContainerSpec"]
        for each in found
        if labels.of(each).get(labels.ROLE) in labels.ROLES
    ]
    notebooks = [
        entry.partition("=")[2]
        for each in containers
        for entry in each.get("Env") or ()
        if entry.startswith("SINGLE_USER_IMAGE=")
    ]
    return list(dict.fromkeys([*(each["Image"] for each in containers), *notebooks]))


def pinned(client: docker.DockerClient, settings: Settings) -> Settings:
    """Return the settings with the site's images by digest, if PIN_IMAGES is set.

    Swarm pulls a tag again for each task; a digest is immutable. Raises JhswarmdError.
    """
    if not settings.pin_images:
        return settings
    digests = {image: _pin(client, image) for image in settings.notebook_images}
    titled = settings.single_user_images.items()
    return settings.model_copy(
        update={
            "single_user_image": digests.get(settings.single_user_image, ""),
            "single_user_images": {title: digests[image] for title, image in titled},
            "notebook_profiles": tuple(
                each.model_copy(update={"image": digests[each.image]}) if each.image else each
                for each in settings.notebook_profiles
            ),
        }
    )


def _pin(client: docker.DockerClient, image: str) -> str:
    if "@" in image:
        return image
    try:
        with engine_errors(f"query the registry for {image}"):
            answer = client.api.inspect_distribution(image)
    except EngineError as exc:
        raise JhswarmdError(
            f"The image {image} cannot be pinned",
            why=exc.why,
            remedy="Check that its registry answers this machine, and serves the image with the "
            "login in registry_config.json, if it requires one; or write image@digest into the "
            "profile; or set PIN_IMAGES=false.",
        ) from exc
    return f"{image}@{answer['Descriptor']['digest']}"


def list_registry(client: docker.DockerClient, settings: Settings) -> list[str]:
    """Return ``repository:tag`` of each of our images in the registry, sorted.

    Uses the login of ``docker login``, if any. Raises JhswarmdError, also for a registry that does
    not support listing.
    """
    registry = settings.registry
    with session(registry) as http:
        login = client.api._auth_configs.resolve_authconfig(registry)
        if login:
            http.auth = (login.get("username", ""), login.get("password", ""))

        def get(path: str) -> Any:
            try:
                answer = http.get(f"{base_url(registry)}{path}", timeout=CATALOG_TIMEOUT_S)
                answer.raise_for_status()
                return answer.json()
            except (requests.RequestException, ValueError) as exc:
                raise JhswarmdError(
                    f"The registry {registry} cannot be listed",
                    why=str(exc),
                    remedy="The images were pushed; only listing them failed. Check that the "
                    "registry answers this machine and supports listing.",
                ) from exc

        # 1000 is the maximum page size that the registry API guarantees; we have three.
        repositories = get("/v2/_catalog?n=1000").get("repositories") or []
        return sorted(
            f"{repository}:{tag}"
            for repository in repositories
            if repository.startswith(f"{NAMESPACE}/")
            for tag in get(f"/v2/{repository}/tags/list").get("tags") or []
        )


def base_url(registry: str) -> str:
    """Return the URL of a registry; like the engine, trust this machine without TLS."""
    name = registry.rsplit(":", 1)[0]
    return f"http://{registry}" if is_local(name) else f"https://{registry}"


def session(registry: str) -> requests.Session:
    """Return a session for a registry; one on this machine is never accessed through a proxy."""
    made = requests.Session()
    made.trust_env = not is_local(registry.rsplit(":", 1)[0])
    return made


def is_local(name: str) -> bool:
    """Return whether a registry's host name refers to the local machine."""
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
    references: Mapping[str, str], bases: Bases, settings: Settings, *, built: tuple[str, ...]
) -> Images:
    return Images(
        hub=references["hub"],
        proxy=references["proxy"],
        singleuser=settings.single_user_image or references["singleuser"],
        base=bases.description,
        built=built,
    )


def _find(
    client: docker.DockerClient,
    recipes: Iterable[Recipe],
    settings: Settings,
    deployed: Collection[str],
) -> dict[str, str]:
    """Return, by name, the images that are known by digest and in the registry."""
    found = {}
    for recipe in recipes:
        reference = recipe.reference(settings.registry)
        known = [each for each in deployed if each.startswith(f"{reference}@")]
        known += [f"{reference}@{it}" for it in _digests(client, recipe, reference)]
        for each in dict.fromkeys(known):
            if _in_registry(client, each):
                found[recipe.name] = each
                break
    return found


def _digests(client: docker.DockerClient, recipe: Recipe, reference: str) -> list[str]:
    """Return the digests in a repository of the image that this engine built.

    The engine knows them from its own pushes and pulls, and a digest proves the content. The image
    is looked up by its name without a registry: one with a registry may have been pulled since.
    """
    try:
        with engine_errors(f"inspect the image {recipe.reference()}"):
            image = client.images.get(recipe.reference())
    except EngineNotFound:
        return []
    repository = reference.rpartition(":")[0]
    split = (each.partition("@") for each in image.attrs.get("RepoDigests") or ())
    return [digest for name, _, digest in split if name == repository]


def _in_registry(client: docker.DockerClient, reference: str) -> bool:
    """Query through the engine, which knows how to reach the registry, and with which login."""
    try:
        with engine_errors(f"query the registry for {reference}"):
            client.api.inspect_distribution(reference)
    except EngineNotFound:
        return False
    except EngineError as exc:
        exc.remedy = (
            "Check that the engine reaches the registry, and has a login if it requires one "
            "('docker login'); REGISTRY in the profile names it."
        )
        raise
    return True


def _build_and_push(
    client: docker.DockerClient, recipe: Recipe, settings: Settings, step: Step
) -> tuple[str, str]:
    """Return the image by digest, and a description of the time taken."""
    started = step.elapsed_s
    reference = recipe.reference(settings.registry)
    # Built but not pushed: an earlier run was interrupted.
    if not is_on_engine(client, recipe.reference()):
        build_recipe(client, recipe, recipe.reference(), step)
    built = step.elapsed_s
    what = f"{reference} cannot be pushed"
    pushed: list[str] = []
    with engine_errors(f"push {reference}"):
        repository, _, tag = reference.rpartition(":")
        client.api.tag(recipe.reference(), repository, tag, force=True)
        output = client.api.push(repository, tag, stream=True, decode=True)
        for line in stream(_with_digest(output, pushed), what):
            step.update(f"{recipe.name}: {line}")
    if not pushed or pushed[-1] not in _digests(client, recipe, reference):
        raise JhswarmdError(
            what,
            why=f"the engine pushed {pushed[-1]}, which is not what it built"
            if pushed
            else "the engine did not report what it pushed",
            remedy="Run this again. If the error persists, another process changes the image "
            f"{reference} on this engine.",
        )
    duration = f"{recipe.name} {built - started:.0f} + {step.elapsed_s - built:.0f} s"
    return f"{reference}@{pushed[-1]}", duration


def _with_digest(
    output: Iterable[Mapping[str, Any]], pushed: list[str]
) -> Iterator[Mapping[str, Any]]:
    """Yield a push's output, and append the digest in it to ``pushed``."""
    for part in output:
        digest = (part.get("aux") or {}).get("Digest")
        if digest:
            pushed.append(digest)
        yield part
