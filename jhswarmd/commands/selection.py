"""Which profile ``up`` takes, and whether it may replace what another one deployed.

A profile that is named counts; else the recorded one (``record``); on a swarm without a deployment
the one for new ones. What cannot be told is asked for, never guessed.
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

#: Keys that no running service shows.
_NOT_SHOWN = frozenset({"ENGINE_SOCKET"})
#: Part of the name of the notebook image that we build.
_OUR_IMAGE = "/jhswarmd/"
#: Characters of a value that are shown.
_MOST_CHARS = 60
#: An address with a login in it.
_LOGIN = re.compile(r"://[^/\s]*@")


def select(client: docker.DockerClient, if_new: str, folder: Path | None = None) -> Profile:
    """Return the profile to take when none is named: the recorded one.

    Without any deployment on this swarm it is ``if_new``. Raises UsageError when it cannot be told.
    """
    with engine_errors("look at the swarm"):
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
            remedy="Name the profile of the one that is meant with --env NAME.",
        )
    (name,) = names
    if name in records:
        return _recorded(records[name], folder)
    candidate = profile.load(if_new, folder)
    if candidate.settings.stack_name == name and not _changes(client, candidate):
        return candidate
    raise UsageError(
        f"The profile of the deployment {name} is not known",
        why="it was made by a version that did not record it, or its first 'up' did not finish",
        remedy="Name its profile once with --env NAME ('make up ENV=NAME'); from then on it is "
        "recorded. Nothing was changed.",
    )


def _recorded(found: record.Record, folder: Path | None) -> Profile:
    try:
        loaded = profile.load(found.profile, folder)
    except ProfileError as exc:
        raise UsageError(
            f"The deployment {found.stack} has the profile '{found.profile}', which cannot be used",
            output=exc.faults,
            remedy="Run this where the files of that profile are (JHSWARMD_ENV_DIR), or name "
            "another profile with --env NAME. Nothing was changed.",
        ) from exc
    if loaded.settings.stack_name != found.stack:
        raise UsageError(
            f"The profile '{found.profile}' names another stack than the deployment {found.stack}",
            why=f"it has STACK_NAME={loaded.settings.stack_name} now",
            remedy=f"Say with --env {found.profile} that a second stack is meant, or change the "
            "key back. Nothing was changed.",
        )
    return loaded


def _deployed_stacks(client: docker.DockerClient) -> set[str]:
    """Return the names of all stacks of ours that run, or that left their accounts behind."""
    with engine_errors("list services and secrets"):
        found = [
            *client.api.services(filters={"label": labels.STACK}),
            *client.api.secrets(filters={"label": f"{labels.KIND}=users"}),
        ]
    return {
        marks[labels.STACK]
        for marks in map(labels.of, found)
        if marks.get(labels.STACK)
        and (marks.get(labels.ROLE) in labels.ROLES or marks.get(labels.KIND) == "users")
    }


def confirm(
    client: docker.DockerClient,
    wanted: Profile,
    progress: Progress,
    may_replace: Callable[[str], bool],
) -> None:
    """Return when ``wanted`` may be deployed.

    When it would replace the deployment of another profile, or of one that is not known, what would
    change is shown, and ``may_replace`` is called with a question. Raises UsageError when the
    answer is no.
    """
    name = wanted.settings.stack_name
    found = record.read(client, name)
    if found is not None and found.is_of(wanted):
        return
    if found is None and name not in _deployed_stacks(client):
        return
    changes = _changes(client, wanted)
    if found is not None and found.profile == wanted.name:
        if changes:
            progress.note(f"Changed in the profile '{wanted.name}' since it was deployed:")
            _tell(changes, progress)
        return
    if not changes and (found is None or found.has_keys(wanted.settings)):
        return
    if found is None:
        what = f"The profile of the deployment {name} is not recorded; '{wanted.name}' changes it"
        keep = "name the profile that it was deployed from"
    else:
        what = f"The deployment {name} has the profile '{found.profile}', not '{wanted.name}'"
        keep = f"run 'jhswarmd up --env {found.profile}' ('make up ENV={found.profile}')"
    progress.warn(f"{what}. What would change:")
    _tell(changes or ["nothing that can be seen from here"], progress)
    if may_replace(f"Deploy the profile '{wanted.name}' in its place?"):
        return
    raise UsageError(
        what,
        remedy=f"To keep what is deployed, {keep}. To replace it: 'jhswarmd up --env "
        f"{wanted.name} --yes' ('make up ENV={wanted.name} YES=1'). Nothing was changed.",
    )


def _tell(changes: Sequence[str], progress: Progress) -> None:
    for line in changes:
        progress.note(f"  {line}")


def _changes(client: docker.DockerClient, wanted: Profile) -> list[str]:
    """Return a line for everything that deploying ``wanted`` changes and that can be seen."""
    name = wanted.settings.stack_name
    services = stack.list_services(client, name)
    hub = [each for each in services if labels.of(each).get(labels.ROLE) == "hub"]
    existing = secrets.list_existing(client, name)
    lines = _account_changes(client, wanted, existing, is_running=bool(hub))
    replaced = [
        SECRET_FILES[kind]
        for creation in secrets.plan(wanted, existing)
        for kind in creation.kind.names
        if creation.supplied is not None and not creation.kind.seeded
    ]
    if replaced:
        lines.append(f"files of the profile that replace what is in use: {', '.join(replaced)}")
    deployed = status.settings_of(services)
    if deployed is not None:
        lines += key_changes(deployed, wanted.settings)
    elif hub:
        lines.append("the keys of the running deployment cannot be read")
    return lines


def _account_changes(
    client: docker.DockerClient,
    wanted: Profile,
    existing: Sequence[SecretVersion],
    *,
    is_running: bool,
) -> list[str]:
    name = wanted.settings.stack_name
    content = secrets.changed_users(wanted, existing)
    if content is None:
        return []
    listed = user_list.parse(content)
    if not listed.entries:
        return []  # such a list is not applied
    is_published = published_password.has_published_password(listed)
    if is_running:
        try:
            held = daemon_client.call(client, name, "users")["accounts"]
        except JhswarmdError:
            held = None
        if held is not None:
            return account_changes(held, list(listed.entries), is_published=is_published)
    return [
        f"accounts: the list of '{wanted.name}' replaces the one that was applied last "
        f"({users.some(list(listed.entries))})" + (f"; {_PUBLISHED}" if is_published else "")
    ]


_PUBLISHED = "the password of testuser is published"


def account_changes(
    held: Sequence[Mapping[str, Any]], listed: Sequence[str], *, is_published: bool
) -> list[str]:
    """Return what a new list does to the accounts that there are. Pure.

    Accounts of 'jhswarmd users add' stay, with their passwords.
    """
    names = {each["name"] for each in held}
    of_list = [each["name"] for each in held if each["source"] != "added"]
    comes = [name for name in listed if name not in names]
    goes = [name for name in of_list if name not in set(listed)]
    stays = [name for name in of_list if name in set(listed)]
    lines = []
    if comes:
        lines.append(
            f"accounts added: {users.some(comes)}"
            + (f" ({_PUBLISHED})" if is_published and published_password.NAME in comes else "")
        )
    if goes:
        lines.append(f"accounts removed: {users.some(goes)}")
    if stays:
        lines.append(f"accounts that get the password of the profile's list: {users.some(stays)}")
    return lines


def key_changes(deployed: Settings, wanted: Settings) -> list[str]:
    """Return a line for each key that changes. Pure."""
    before, after = deployed.to_environ(), wanted.to_environ()
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
    # Options of a share, and addresses, may hold a login.
    if key.endswith("_OPTIONS") or _LOGIN.search(value):
        return "(not shown)"
    text = " ".join(value.split()) or "(empty)"
    return text if len(text) <= _MOST_CHARS else text[:_MOST_CHARS] + "..."


def load(named: str | None, if_new: str, connect: Callable[[], docker.DockerClient]) -> Profile:
    """Return the profile that is ``named``, else the one that ``select`` finds.

    A named one is checked before the engine is looked for.
    """
    return profile.load(named) if named else select(connect(), if_new)
