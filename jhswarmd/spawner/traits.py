"""The options that dockerspawner has not got. docs/spawner.md tells each with its reason."""

from __future__ import annotations

import contextlib
from typing import Any

import dockerspawner
from jupyterhub.traitlets import ByteSpecification
from traitlets import Bool, Callable, Dict, Integer, List, Unicode

from jhswarmd.settings.settings import SECRETS_DIR


class OptionsSpawner(dockerspawner.SwarmSpawner):  # type: ignore[misc]  # untyped
    """dockerspawner's options and ours."""

    stack = Unicode(
        config=True,
        help="""Name of the stack that the notebooks belong to. They carry its label, so that
        ``docker stack rm`` removes them too.""",
    )
    registry_login_file = Unicode(
        f"{SECRETS_DIR}/registry_login",
        config=True,
        help="""Logins of private registries, in the form of docker's ``config.json``; read anew
        at each start. Without the file, images are pulled without a login.""",
    )
    hub_id = Unicode(
        config=True,
        help="""Identity of this hub, kept in its database. Every notebook carries it, and what
        carries another one is never removed.""",
    )
    during_check: Any = Callable(
        contextlib.nullcontext,
        config=True,
        help="""Called for each server that the hub, at its start, finds in its database; returns a
        context manager that lasts for as long as the engine is asked about it.""",
    )
    count_spawn: Any = Callable(
        None,
        allow_none=True,
        config=True,
        help="""Called with the hub's database session before a service is made; returns the count
        that the notebook carries, by which one that is younger than the database is known. Its
        method ``knows``, given session and count, tells whether that is so.""",
    )
    shared_volumes = Dict(
        config=True,
        help="""What every notebook mounts besides ``volumes``, in the same form:
        ``{"name": {"bind": "/path", "mode": "ro"}}``. An own option, because the driver's
        options of ``volumes`` are each user's: an export of their home, for example.""",
    )
    shared_volume_driver = Unicode(
        config=True, help="Driver of ``shared_volumes``; empty: the engine's own, 'local'."
    )
    shared_volume_driver_options = Dict(
        config=True,
        help="Its options. ``{volume}`` in a value is the name of each volume.",
    )
    volume_no_copy = Bool(
        False,
        config=True,
        help="""Whether a new volume stays as it is. Else the engine gives it content and owner of
        the image's directory at the mount point, which an export with root_squash refuses.""",
    )
    shared_volume_no_copy = Bool(False, config=True, help="The same for ``shared_volumes``.")
    shm_size = ByteSpecification(
        None,
        allow_none=True,
        config=True,
        help="""Size of /dev/shm, as ``1G``; None: the engine's 64M.""",
    )
    pids_limit = Integer(
        None,
        allow_none=True,
        config=True,
        help="How many processes and threads a notebook may have; None: any number.",
    )
    ulimits = Dict(
        config=True,
        help="""Limits of each process: ``{"nofile": 4096}``, or ``{"nofile": "1024:4096"}`` for
        soft and hard.""",
    )
    cap_drop = List(
        Unicode(), config=True, help="Capabilities taken away from the container, as ``NET_RAW``."
    )
    no_new_privileges = Bool(
        False,
        config=True,
        help="""Whether nothing in the container may gain privileges (sudo, for example). Engines
        before API 1.44 have no such option for services; the log says so.""",
    )
    generic_resources = Dict(
        config=True,
        help="""What the node must have to give, as ``{"NVIDIA-GPU": 1}``.""",
    )
