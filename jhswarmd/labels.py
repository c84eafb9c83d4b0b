"""The labels that make a thing ours, and the names built from a stack's name.

Ownership is by label alone: a name or a prefix never proves anything (architecture,
invariant 2). Swarm copies nothing between a service's labels and its containers' labels, so a
notebook service carries the same set in both places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Set by ``docker stack deploy``; a service that carries it is removed by ``docker stack rm``.
STACK_NAMESPACE = "com.docker.stack.namespace"
#: Set by the engine on the containers of a service.
SERVICE_NAME = "com.docker.swarm.service.name"
SERVICE_ID = "com.docker.swarm.service.id"
TASK_ID = "com.docker.swarm.task.id"

STACK = "jhswarmd.stack"
#: On a service of the stack: ``hub``, ``proxy``, ``jhswarmd``. On a notebook: ``notebook``; on
#: what makes nodes pull their images: ``prepull``; on what hands new volumes over: ``prepare``.
ROLE = "jhswarmd.role"

#: On a service of the stack: the image that ``up`` deployed, by digest.
IMAGE = "jhswarmd.image"

HUB = "jhswarmd.hub"
USER = "jhswarmd.user"
SERVER = "jhswarmd.server"
SPAWN = "jhswarmd.spawn"

#: On a secret: its kind and its generation, a decimal number from 1.
KIND = "jhswarmd.kind"
GENERATION = "jhswarmd.generation"
#: On a config that records it: the profile that a stack was deployed from.
PROFILE = "jhswarmd.profile"
#: On a secret whose content an administrator's file supplied: how to recognise that content.
SOURCE = "jhswarmd.source"
#: On a secret of several parts: how many. On one that a request made: the request's id.
PARTS = "jhswarmd.parts"
REQUEST = "jhswarmd.request"
#: On a generation: from when on everything worked with it; why it was taken back; that older ones
#: stop working with it; when its certificate ends, and the names that it is for; ``MOMENT WHAT`` of
#: others' doings that were put right. Moments are ISO 8601 in UTC.
SETTLED = "jhswarmd.settled"
REJECTED = "jhswarmd.rejected"
REVOKES = "jhswarmd.revokes"
EXPIRES = "jhswarmd.expires"
CERTIFICATE_NAMES = "jhswarmd.certificate_names"
PUT_RIGHT = "jhswarmd.put_right"

#: On a container that tries out the hub's configuration: the stack it is for.
REHEARSAL = "jhswarmd.rehearsal"

#: ``START.NUMBER``: the start of the hub that made the notebook, and the number of that spawn.
COUNT = "jhswarmd.count"

ROLE_NOTEBOOK = "notebook"
#: On a service that only makes nodes pull an image (``reconcile.prepull``).
ROLE_PREPULL = "prepull"
#: On a service that only gives new volumes to a notebook's user (``spawner.preparing``).
ROLE_PREPARE = "prepare"
#: On the registry's service, its container and its secrets. They are no stack's.
ROLE_REGISTRY = "registry"
#: The stack's own services.
ROLES = ("hub", "proxy", "jhswarmd")


def of(thing: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels of a service, node or secret as the engine shows it; it may have none."""
    found: Mapping[str, str] = thing["Spec"].get("Labels") or {}
    return found


def notebook_labels(
    *, stack: str, hub_id: str, user: str, server: str, spawn_id: str, count: str = ""
) -> dict[str, str]:
    """Return the labels of one notebook service.

    ``server`` is empty for a user's default server. ``spawn_id`` is new for each start, so that
    a create whose answer was lost can be told from somebody else's service of the same name.
    ``count`` (see ``COUNT``) is left out when it is empty.
    """
    return {
        STACK_NAMESPACE: stack,
        STACK: stack,
        ROLE: ROLE_NOTEBOOK,
        HUB: hub_id,
        USER: user,
        SERVER: server,
        SPAWN: spawn_id,
        **({COUNT: count} if count else {}),
    }


def prepull_labels(stack: str) -> dict[str, str]:
    """Return the labels of a service that only makes nodes pull an image."""
    return {STACK_NAMESPACE: stack, STACK: stack, ROLE: ROLE_PREPULL}


def is_notebook_of(labels: Mapping[str, str], stack: str) -> bool:
    """Tell whether these labels claim to be a notebook of ``stack``, whichever hub made it."""
    return labels.get(STACK) == stack and labels.get(ROLE) == ROLE_NOTEBOOK


def service_name(stack: str, role: str) -> str:
    """Name of the stack's own service ``role``, as ``docker stack deploy`` builds it."""
    return f"{stack}_{role}"


def network_name(stack: str, network: str) -> str:
    """Name of the stack's network ``control`` or ``notebooks``."""
    return f"{stack}_{network}"


def secret_name(stack: str, kind: str, generation: int) -> str:
    """Name of one generation of a secret."""
    return f"{stack}_{kind}_g{generation}"


def hub_node_label(stack: str) -> str:
    """Node label that pins the hub to the node that holds its database volume."""
    return f"jhswarmd.{stack}.hub"
