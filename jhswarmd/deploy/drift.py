"""Compare what a service runs with what ``up`` deployed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jhswarmd import labels


def describe(service: Mapping[str, Any], running: Iterable[Mapping[str, Any]]) -> str:
    """Return how a service of the stack differs from its deployment; empty: no drift.

    ``running`` are its running tasks. Those that an update is about to replace do not count.
    """
    deployed = labels.of(service).get(labels.IMAGE, "")
    specified = _image(service["Spec"]["TaskTemplate"])
    if "@" not in specified:
        return (
            f"its image {specified} is named by tag: anyone who can write to the registry decides "
            "what its next task runs. Run 'jhswarmd up'"
        )
    if not deployed:
        return (
            f"the deployed image is not recorded, and it runs {specified}: if that is not "
            "yours, do not trust this deployment. 'jhswarmd up' deploys it again"
        )
    update = (service.get("UpdateStatus") or {}).get("State", "")
    others = {_image(task["Spec"]) for task in running if task["DesiredState"] == "running"}
    if update in ("updating", "rollback_started"):
        others = set()
    for image in (specified, *sorted(others)):
        if image != deployed:
            return (
                f"{deployed} was deployed, but {image} runs: if no administrator changed it, do "
                "not trust this deployment. 'jhswarmd up' deploys it again"
            )
    return ""


def _image(template: Mapping[str, Any]) -> str:
    return str(template["ContainerSpec"]["Image"])
