"""The profile that a stack was deployed from, recorded in a Swarm config that no service mounts.

The record holds the profile's name, and a salted slow hash to recognise its keys; a key may hold a
value that could be guessed, such as the password of a share. It survives ``down`` and ``docker
stack rm``, like the secrets, and is removed by ``down --purge``. A config is immutable: the newest
generation counts, and older ones are removed once there is a newer one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import docker

from jhswarmd import labels
from jhswarmd.credentials import generations
from jhswarmd.deploy.profiles.profile import Profile
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import EngineConflict, EngineNotFound
from jhswarmd.settings.settings import Settings

_KIND = "profile"


@dataclass(frozen=True)
class Record:
    """What a stack was deployed from; ``fingerprint`` is a ``generations.source_label``."""

    id: str
    stack: str
    profile: str
    fingerprint: str
    number: int

    def is_of(self, profile: Profile) -> bool:
        """Return whether this profile was recorded, with its current keys."""
        return self.profile == profile.name and self.has_keys(profile.settings)

    def has_keys(self, settings: Settings) -> bool:
        """Return whether these keys were recorded."""
        return generations.source_matches(self.fingerprint, [_keys(settings)])


def _keys(settings: Settings) -> bytes:
    return json.dumps(settings.to_environ(), sort_keys=True).encode()


def newest(found: Iterable[Mapping[str, Any]]) -> dict[str, Record]:
    """Return the newest record of each stack, from configs in the engine's format. Pure."""
    records: dict[str, Record] = {}
    for config in found:
        record = _read(config)
        if record is None:
            continue
        if record.stack not in records or records[record.stack].number < record.number:
            records[record.stack] = record
    return records


def _read(config: Mapping[str, Any]) -> Record | None:
    found = labels.of(config)
    number, profile = found.get(labels.GENERATION, ""), found.get(labels.PROFILE)
    stack = found.get(labels.STACK)
    if found.get(labels.KIND) != _KIND or not number.isdecimal() or not profile or not stack:
        return None
    return Record(config["ID"], stack, profile, found.get(labels.SOURCE, ""), int(number))


def read_all(client: docker.DockerClient) -> dict[str, Record]:
    """Return the newest record of each stack on this swarm, by the stack's name."""
    return newest(_configs(client))


def read(client: docker.DockerClient, stack: str) -> Record | None:
    """Return the record of ``stack``; None: it has none."""
    return read_all(client).get(stack)


def _configs(client: docker.DockerClient) -> list[dict[str, Any]]:
    with engine_errors("list the configs"):
        found: list[dict[str, Any]] = client.api.configs(
            filters={"label": f"{labels.KIND}={_KIND}"}
        )
    return found


def write(client: docker.DockerClient, profile: Profile) -> None:
    """Record what a stack is deployed from, unless that is already recorded."""
    stack = profile.settings.stack_name
    current = read(client, stack)
    if current is None or not current.is_of(profile):
        number = current.number + 1 if current else 1
        record_labels = {
            labels.STACK: stack,
            labels.KIND: _KIND,
            labels.GENERATION: str(number),
            labels.PROFILE: profile.name,
            labels.SOURCE: generations.source_label([_keys(profile.settings)], guessable=True),
        }
        name = labels.secret_name(stack, _KIND, number)
        try:
            with engine_errors(f"create the config {name}"):
                # All data is in the labels, but the engine refuses an empty config.
                client.api.create_config(name, b"see its labels\n", labels=record_labels)
        except EngineConflict as exc:
            raise EngineConflict(
                f"The config {name} already exists",
                why="another 'up' is running, or another program created it",
                remedy="Run the command again. If the error persists, see 'docker config inspect "
                f"{name}'.",
            ) from exc
    _remove_older(client, stack)


def _remove_older(client: docker.DockerClient, stack: str) -> None:
    found = [record for record in map(_read, _configs(client)) if record and record.stack == stack]
    newest_number = max(record.number for record in found)
    for record in found:
        if record.number < newest_number:
            _remove(client, record)


def remove(client: docker.DockerClient, stack: str) -> None:
    """Remove every record of ``stack``."""
    for record in map(_read, _configs(client)):
        if record and record.stack == stack:
            _remove(client, record)


def _remove(client: docker.DockerClient, record: Record) -> None:
    try:
        with engine_errors("remove a record of the profile"):
            client.api.remove_config(record.id)
    except EngineNotFound:
        return
