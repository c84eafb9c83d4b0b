"""Which generation of a secret a service mounts, changed in the service's specification. Pure.

``Engine.change_service`` reads the specification, lets a function here change it, and writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from jhswarmd.generations import Existing, Generation, whole


def swap(
    spec: Mapping[str, Any], existing: Iterable[Existing], wanted: Generation
) -> dict[str, Any] | None:
    """Return the specification with every reference to these kinds led to the wanted generation.

    Owner, mode and target of each reference stay. Parts that the wanted generation has more are
    mounted beside, parts that it has not are left out. None: nothing is to be changed, because
    the service mounts just that, or none of these kinds.

    ``existing`` are the stack's secrets: a reference's kind is what its secret's labels say.
    """
    kinds = {each.id: each.kind for each in existing}
    references = _references(spec)
    wanted_kinds = {whole(each.kind) for each in wanted.secrets}
    mine = {
        kinds[each["SecretID"]]: each
        for each in references
        if each["SecretID"] in kinds and whole(kinds[each["SecretID"]]) in wanted_kinds
    }
    if not mine:
        return None
    others = [each for each in references if each not in mine.values()]
    swapped = [
        _led_to(secret, mine)
        for secret in wanted.secrets
        if secret.kind in mine or whole(secret.kind) in mine
    ]
    if {each["SecretID"] for each in mine.values()} == {each["SecretID"] for each in swapped}:
        return None
    # The order of 'docker stack deploy': another one would restart the service at the next.
    ordered = sorted([*others, *swapped], key=lambda each: str(each["SecretName"]))
    template = spec["TaskTemplate"]
    container = {**template["ContainerSpec"], "Secrets": ordered}
    return {**spec, "TaskTemplate": {**template, "ContainerSpec": container}}


def mounted(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the secrets that a service or a task mounts, id to name."""
    return {each["SecretID"]: each["SecretName"] for each in _references(spec)}


def _references(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    task: Mapping[str, Any] = spec.get("TaskTemplate", spec)
    return list(task["ContainerSpec"].get("Secrets") or ())


def _led_to(secret: Existing, mine: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    like = mine.get(secret.kind) or mine[whole(secret.kind)]
    file = dict(like.get("File") or {})
    if secret.kind not in mine:
        file["Name"] = str(PurePosixPath(file["Name"]).with_name(secret.kind))
    return {**like, "File": file, "SecretID": secret.id, "SecretName": secret.name}
