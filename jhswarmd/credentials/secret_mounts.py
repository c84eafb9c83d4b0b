"""Which generations of secrets a service mounts, changed in the service's specification. Pure.

``Engine.change_service`` reads the specification, lets a function here change it, and writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from jhswarmd.credentials.generations import Generation, SecretVersion, base_kind

#: Kinds of which the hub takes several generations at once, each as ``<kind>_g<N>``.
NUMBERED = frozenset({"cookie_secret", "proxy_auth_token", "crypt_key"})

_NUMBER = re.compile(r"_g[0-9]+$")


def with_mounts(
    spec: Mapping[str, Any],
    existing: Iterable[SecretVersion],
    *wanted: Generation,
    is_numbered: bool = False,
) -> dict[str, Any] | None:
    """Return the specification with every reference to these kinds led to the wanted generations.

    Owner, mode and target of each reference stay. Parts that the wanted generation has more are
    mounted beside, parts that it has not are left out. With ``is_numbered`` there may be several
    generations of the kinds in ``NUMBERED``, each under a target of its own. A kind that the
    service has lost is mounted as its others are, unless somebody else's secret is in its place.
    None: nothing is to be changed, because the service mounts just that, or nothing of ours.

    ``existing`` are the stack's secrets: a reference's kind is what its secret's labels say.
    """
    kinds = {each.id: each.kind for each in existing}
    references = _references(spec)
    secrets = [secret for generation in wanted for secret in generation.secrets]
    wanted_kinds = {base_kind(secret.kind) for secret in secrets}
    mine = [
        each for each in references if base_kind(kinds.get(each["SecretID"], "")) in wanted_kinds
    ]
    like = {kinds[each["SecretID"]]: each for each in mine}
    ours = [each for each in references if each["SecretID"] in kinds]
    targets = {each["File"]["Name"] for each in references}
    swapped = []
    for secret in secrets:
        template = like.get(secret.kind) or like.get(base_kind(secret.kind))
        if template is not None:
            swapped.append(_reference_to(secret, template, kinds, is_numbered=is_numbered))
        elif ours and not is_target_in_use(secret.kind, targets):
            swapped.append(_reference_to(secret, ours[0], kinds, is_numbered=is_numbered))
    if _identity(mine) == _identity(swapped):
        return None
    others = [each for each in references if each not in mine]
    # The order of 'docker stack deploy': another one would restart the service at the next.
    ordered = sorted([*others, *swapped], key=lambda each: str(each["SecretName"]))
    template = spec["TaskTemplate"]
    container = {**template["ContainerSpec"], "Secrets": ordered}
    return {**spec, "TaskTemplate": {**template, "ContainerSpec": container}}


def is_target_in_use(kind: str, targets: Iterable[str]) -> bool:
    """Tell whether one of these files is where a secret of this kind is looked for."""
    names = {PurePosixPath(each).name for each in targets}
    return any(each == kind or _NUMBER.sub("", each) == kind for each in names)


def mounted(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the secrets that a service or a task mounts, id to name."""
    return {each["SecretID"]: each["SecretName"] for each in _references(spec)}


def _references(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    task: Mapping[str, Any] = spec.get("TaskTemplate", spec)
    return list(task["ContainerSpec"].get("Secrets") or ())


def _identity(references: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    return {(each["SecretID"], each["File"]["Name"]) for each in references}


def _reference_to(
    secret: SecretVersion,
    template: Mapping[str, Any],
    kinds: Mapping[str, str],
    *,
    is_numbered: bool,
) -> dict[str, Any]:
    """Return a reference like ``template``, to this secret."""
    file = dict(template.get("File") or {})
    if is_numbered and secret.kind in NUMBERED:
        file["Name"] = target(secret)
    elif secret.kind != kinds[template["SecretID"]]:
        file["Name"] = str(PurePosixPath(file["Name"]).with_name(secret.kind))
    return {**template, "File": file, "SecretID": secret.id, "SecretName": secret.name}


def target(secret: SecretVersion) -> str:
    """Return the name under which the hub finds one of several generations."""
    return f"{secret.kind}_g{secret.generation}"
