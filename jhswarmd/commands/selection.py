"""Which profile ``up`` uses, and whether it may replace a deployment of another one.

A named profile takes precedence; else the recorded one (``record``); on a swarm without a
deployment, the one for new deployments. An ambiguous choice is left to the user, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker

from jhswarmd import labels
from jhswarmd.accounts import published_password, user_list
from jhswarmd.api import daemon_client
from jhswarmd.commands import status
from jhswarmd.credentials.generations import SecretVersion
from jhswarmd.deploy import secrets, stack, users
from jhswarmd.deploy.profiles import profile, record
from jhswarmd.deploy.profiles.profile import SECRET_FILES, Profile, ProfileError
from jhswarmd.deploy.progress import Progress
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import JhswarmdError, UsageError
from jhswarmd.settings.settings import Settings

#: Keys that no running service has in its environment.
_NOT_SHOWN = frozenset({"ENGINE_SOCKET"})
#: Part of the name of our own notebook image.
_OUR_IMAGE = "/jhswarmd/"
#: Maximum number of characters of a value that are shown.
_MAX_CHARS = 60
#: An address that contains a login.
_LOGIN = re.compile(r"://[^/\s]*@")


def select(client: docker.DockerClient, if_new: str, folder: Path | None = None) -> Profile:
    """Return the profile to use when none is named: the recorded one.

    Without a deployment on this swarm, that is ``if_new``. Raises UsageError if it is ambiguous.
    """
    with engine_errors("inspect the swarm"):
        state = client.api.info()["Swarm"]["LocalNodeState"]
    if state == "inactive":
        return profile.load(if_new, folder)
    records = record.read_all(client)
    names = sorted(records.keys() | _deployed_stacks(client))
    if not names:
        return profile.load(if_new, folder)
    if len(names) > 1:
        raise UsageError(
            f"There are {len(names)} deployments on this swarm",
            why=", ".join(names),
            remedy="Name the profile of the intended one with --env NAME.",
        )
    (name,) = names
    if name in records:
        return _recorded(records[name], folder)
    candidate = profile.load(if_new, folder)
    if candidate.settings.stack_name == name and not _changes(client, candidate):
        return candidate
    raise UsageError(
        f"The profile of the deployment {name} is unknown",
        why="it was deployed by a version that did not record it, or its first 'up' did not finish",
        remedy="Name its profile once with --env NAME ('make up ENV=NAME'); it is then recorded. "
        "Nothing was changed.",
    )


def _recorded(found: record.Record, folder: Path | None) -> Profile:
    try:
        loaded = profile.load(found.profile, folder)
    except ProfileError as exc:
        raise UsageError(
            f"The deployment {found.stack} has the profile '{found.profile}', which cannot be used",
            output=exc.faults,
            remedy="Run this where that profile's files are (JHSWARMD_ENV_DIR), or name "
            "another profile with --env NAME. Nothing was changed.",
        ) from exc
    if loaded.settings.stack_name != found.stack:
        raise UsageError(
            f"The profile '{found.profile}' names another stack than the deployment {found.stack}",
            why=f"it now has STACK_NAME={loaded.settings.stack_name}",
            remedy=f"Use --env {found.profile} to deploy a second stack, or change the key back. "
            "Nothing was changed.",
        )
    return loaded


def _deployed_stacks(client: docker.DockerClient) -> set[str]:
    """Return the names of all our stacks that run, or whose accounts still exist."""
    with engine_errors("list services and secrets"):
        found = [
            *client.api.services(filters={"label": labels.STACK}),
            *client.api.secrets(filters={"label": f"{labels.KIND}=users"}),
        ]
    return {
        stack_labels[labels.STACK]
        for stack_labels in map(labels.of, found)
        if stack_labels.get(labels.STACK)
        and (
            stack_labels.get(labels.ROLE) in labels.ROLES
            or stack_labels.get(labels.KIND) == "users"
        )
    }


def confirm(
    client: docker.DockerClient,
    desired: Profile,
    progress: Progress,
    may_replace: Callable[[str], bool],
) -> None:
    """Return if ``desired`` may be deployed.

    If it would replace a deployment of another or unknown profile, the changes are shown, and
    ``may_replace`` is called with a question. Raises UsageError if the answer is no.
    """
    name = desired.settings.stack_name
    found = record.read(client, name)
    if found is not None and found.is_of(desired):
        return
    if found is None and name not in _deployed_stacks(client):
        return
    changes = _changes(client, desired)
    if found is not None and found.profile == desired.name:
        if changes:
            progress.note(f"Changes in the profile '{desired.name}' since it was deployed:")
            _print(changes, progress)
        return
    if not changes and (found is None or found.has_keys(desired.settings)):
        return
    if found is None:
        what = f"The profile of the deployment {name} is not recorded; '{desired.name}' changes it"
        keep = "name the profile that it was deployed from"
    else:
        what = f"The deployment {name} has the profile '{found.profile}', not '{desired.name}'"
        keep = f"run 'jhswarmd up --env {found.profile}' ('make up ENV={found.profile}')"
    progress.warn(f"{what}. Changes:")
    _print(changes or ["none that can be seen from here"], progress)
    if may_replace(f"Deploy the profile '{desired.name}' in its place?"):
        return
    raise UsageError(
        what,
        remedy=f"To keep the deployment, {keep}. To replace it: 'jhswarmd up --env "
        f"{desired.name} --yes' ('make up ENV={desired.name} YES=1'). Nothing was changed.",
    )


def _print(changes: Sequence[str], progress: Progress) -> None:
    for line in changes:
        progress.note(f"  {line}")


def _changes(client: docker.DockerClient, desired: Profile) -> list[str]:
    """Return a line for each visible change that deploying ``desired`` makes."""
    name = desired.settings.stack_name
    services = stack.list_services(client, name)
    hub = [each for each in services if labels.of(each).get(labels.ROLE) == "hub"]
    existing = secrets.list_existing(client, name)
    lines = _account_changes(client, desired, existing, is_running=bool(hub))
    replaced = [
        SECRET_FILES[kind]
        for creation in secrets.plan(desired, existing)
        for kind in creation.kind.names
        if creation.supplied is not None and not creation.kind.seeded
    ]
    if replaced:
        lines.append(f"files of the profile that replace the secrets in use: {', '.join(replaced)}")
    deployed = status.settings_of(services)
    if deployed is not None:
        lines += key_changes(deployed, desired.settings)
    elif hub:
        lines.append("the keys of the running deployment cannot be read")
    return lines


def _account_changes(
    client: docker.DockerClient,
    desired: Profile,
    existing: Sequence[SecretVersion],
    *,
    is_running: bool,
) -> list[str]:
    name = desired.settings.stack_name
    content = secrets.changed_users(desired, existing)
    if content is None:
        return []
    listed = user_list.parse(content)
    if not listed.entries:
        return []  # an empty list is not applied
    is_published = published_password.has_published_password(listed)
    if is_running:
        try:
            held = daemon_client.call(client, name, "users")["accounts"]
        except JhswarmdError:
            held = None
        if held is not None:
            return account_changes(held, list(listed.entries), is_published=is_published)
    return [
        f"accounts: the list of '{desired.name}' replaces the one applied last "
        f"({users.shorten(list(listed.entries))})" + (f"; {_PUBLISHED}" if is_published else "")
    ]


_PUBLISHED = "the password of testuser is published"


def account_changes(
    held: Sequence[Mapping[str, Any]], listed: Sequence[str], *, is_published: bool
) -> list[str]:
    """Return what a new list changes in the existing accounts. Pure.

    Accounts created by 'jhswarmd users add' are kept, with their passwords.
    """
    names = {each["name"] for each in held}
    of_list = [each["name"] for each in held if each["source"] != "added"]
    added = [name for name in listed if name not in names]
    removed = [name for name in of_list if name not in set(listed)]
    kept = [name for name in of_list if name in set(listed)]
    lines = []
    if added:
        lines.append(
            f"accounts added: {users.shorten(added)}"
            + (f" ({_PUBLISHED})" if is_published and published_password.NAME in added else "")
        )
    if removed:
        lines.append(f"accounts removed: {users.shorten(removed)}")
    if kept:
        lines.append(
            f"accounts whose password is set from the profile's list: {users.shorten(kept)}"
        )
    return lines


def key_changes(deployed: Settings, desired: Settings) -> list[str]:
    """Return a line for each key that changes. Pure."""
    before, after = deployed.to_environ(), desired.to_environ()
    if "SINGLE_USER_IMAGE" not in after and _OUR_IMAGE in before.get("SINGLE_USER_IMAGE", ""):
        del before["SINGLE_USER_IMAGE"]
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key) or key in _NOT_SHOWN:
            continue
        shown = [_shown(key, environ) for environ in (before, after)]
        lines.append(f"{key}: {shown[0]} -> {shown[1]}")
    return lines


def _shown(key: str, environ: Mapping[str, str]) -> str:
    if key not in environ:
        return "(default)"
    value = environ[key]
    # The options of a share, and addresses, may contain a login.
    if key.endswith("_OPTIONS") or _LOGIN.search(value):
        return "(not shown)"
    text = " ".join(value.split()) or "(empty)"
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + "..."


def load(named: str | None, if_new: str, connect: Callable[[], docker.DockerClient]) -> Profile:
    """Return the profile ``named``, else the one that ``select`` finds.

    A named profile is checked before the engine is contacted.
    """
    return profile.load(named) if named else select(connect(), if_new)
