"""New volumes that the notebook's user can write to.

The engine gives an empty volume the owner of the image's directory at the mount point, and root
where the image has no such directory. So a short-lived service of its own, with the notebook's
image and run by root, hands over what a start has just made. What it guarantees:

- Only the mount point itself is changed, only while it is root's and empty, and only in volumes
  that exist on one node alone: of others the server decides. Never a file.
- Once for each volume and node, as the hub's database remembers. Later starts are not delayed.
- A user's own volumes are ready before their notebook starts, on the node where it then starts;
  shared ones before the hub says that it runs.
- The service is removed however the start ends. One that is left by a hub that was killed
  meanwhile goes with the next start of that server, or with ``down``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import sqlalchemy as sa
from docker.types import (
    ContainerSpec,
    Healthcheck,
    Mount,
    Placement,
    RestartPolicy,
    TaskTemplate,
)

from jhswarmd import labels, retry
from jhswarmd.engine.errors import engine_errors
from jhswarmd.errors import EngineConflict, EngineError, EngineNotFound
from jhswarmd.model import is_local_volume
from jhswarmd.spawner import tasks, volume_nodes
from jhswarmd.spawner.errors import StartFailed
from jhswarmd.spawner.progress import describe
from jhswarmd.spawner.service import MAX_NAME, REMOVE_WITHIN_S, fit
from jhswarmd.spawner.service_spec import create_request, using_options
from jhswarmd.spawner.tasks import Phase, Task
from jhswarmd.spawner.waiting import StartingSpawner

#: The home in our image and in the community's, who give a new volume their user as its owner.
IMAGE_HOME = "/home/jovyan"
#: Seconds after which shared volumes are not waited for any longer.
SHARED_WITHIN_S = 30.0
#: Seconds that one look at this node's engine may take.
_LOOK_WITHIN_S = 2.0

# $1 is whom the container runs as (empty: not known); then 'own:PATH' and 'shared:PATH'. An image
# that starts as root drops to NB_UID, if that is set; where the user is not known the home tells.
_SCRIPT = """
user=$1; shift
uid=${user%%:*}; gid=; case $user in *:*) gid=${user#*:} ;; esac
case $uid in *[!0-9]*) gid=${gid:-$(id -g "$uid")}; uid=$(id -u "$uid") || exit 1 ;; esac
case $gid in *[!0-9]*) gid=$(getent group "$gid" | cut -d: -f3) ;; esac
if [ "${uid:-0}" = 0 ]; then
    [ -n "$user" ] && [ -z "${NB_UID-}" ] && exit 0
    uid=${NB_UID-}; gid=${NB_GID-}
fi
for home in "${HOME-}" /home/jovyan; do
    [ -z "$uid" ] && [ -d "$home" ] || continue
    uid=$(stat -c %u "$home"); gid=$(stat -c %g "$home")
    [ "$uid" = 0 ] && uid= && gid=
done
uid=${uid:-1000}
gid=${gid:-$(getent passwd "$uid" | cut -d: -f4)}
for each; do
    path=${each#*:}
    [ "$(stat -c %u "$path")" = 0 ] && [ -z "$(ls -A "$path")" ] || continue
    chown "$uid:${gid:-100}" "$path" || exit 1
    case $each in shared:*) chmod u+rwx,g+rwxs "$path" ;; *) chmod u+rwx "$path" ;; esac || exit 1
done
"""


class PreparingSpawner(StartingSpawner):
    """A server whose new volumes are its user's."""

    object_id: str
    #: What is being prepared: ``own``, ``shared``; empty: nothing.
    _preparing = ""
    #: This node's id; it lasts as long as the hub's process.
    _own_node: ClassVar[str] = ""

    async def _prepare_own(self) -> None:
        """Hand over this user's own new volumes, and choose the node where they were made.

        Raises StartFailed where the notebook itself could not start either.
        """
        found = self._to_hand_over()
        if not found:
            return
        await self._forget_removed(found)
        node = self._choice.node
        own = {source: path for source, path in found.items() if source in self._local_volumes}
        if not self._unprepared(own, node.id if node else ""):
            return
        # Where no node is known yet Swarm chooses one, as it would for the notebook.
        await self._prepare(found, node.id if node else "", like_notebook=node is None)
        if node is None:
            await self._choose_node()

    async def _prepare_shared(self, task: Task) -> None:
        """Hand over new shared volumes on the node of the notebook, which is known only now."""
        found = self._unprepared(self._to_hand_over(), task.node_id)
        if not found:
            return
        notebook_id = self.object_id
        try:
            await asyncio.wait_for(
                self._prepare(found, task.node_id, like_notebook=False), SHARED_WITHIN_S
            )
        except (StartFailed, EngineError, asyncio.TimeoutError) as exc:
            # No reason to give up a notebook that runs: the next start tries again.
            self.log.warning("%s: its shared volumes may be root's: %s", self._log_name, exc)
        finally:
            self.object_id = notebook_id

    def _to_hand_over(self) -> dict[str, str]:
        with using_options():
            return handed_over(self.extra_container_spec.get("mounts") or self.mounts)

    def _unprepared(self, found: Mapping[str, str], node_id: str) -> dict[str, str]:
        """Return those of ``found`` that were not handed over on that node yet ('': on any)."""
        with self._records():
            return {
                source: path
                for source, path in found.items()
                if node_id not in volume_nodes.list_prepared(self.user.db, source)
            }
        return {}

    async def _forget_removed(self, found: Mapping[str, str]) -> None:
        """Forget what was handed over on this very node and does not exist there any more.

        An administrator has removed it since; other nodes cannot be asked.
        """
        try:
            if not PreparingSpawner._own_node:
                info = await self._engine("look at the engine", "info", within_s=_LOOK_WITHIN_S)
                PreparingSpawner._own_node = str(info["Swarm"]["NodeID"])
            here = PreparingSpawner._own_node
            for source in found.keys() - self._unprepared(found, here).keys():
                try:
                    await self._engine(
                        "look at a volume", "inspect_volume", source, within_s=_LOOK_WITHIN_S
                    )
                except EngineNotFound:
                    with self._records():
                        volume_nodes.forget_prepared(self.user.db, source, here)
        except EngineError as exc:
            self.log.info("%s: whether its volumes exist is not known: %s", self._log_name, exc)

    @contextlib.contextmanager
    def _records(self) -> Iterator[None]:
        """Log what the hub's database refuses: that alone is no reason to start nothing."""
        try:
            yield
        except sa.exc.SQLAlchemyError as exc:
            self.user.db.rollback()
            self.log.warning("%s: its volumes are not recorded: %s", self._log_name, exc)

    async def _prepare(
        self, found: Mapping[str, str], node_id: str, *, like_notebook: bool
    ) -> None:
        """Run the service until it has ended. Raises StartFailed, and EngineError."""
        request = await self._preparation(found, node_id, like_notebook=like_notebook)
        self._preparing = "shared" if self.object_id else "own"
        try:
            async with self._running(request):
                task = await self._wait_for_task(self._is_over)
        finally:
            self._preparing = ""
        if task.state != "complete":
            self.log.warning(
                "%s: its new volumes may be root's: task %s %s: %s",
                self._log_name,
                task.id,
                task.state,
                task.error,
            )
            return
        with self._records():
            for source in found:
                volume_nodes.remember_prepared(self.user.db, source, task.node_id)

    def _is_over(self, task: Task) -> bool:
        """Tell whether there is nothing left to wait for, and the notebook may be tried."""
        if task.phase is not Phase.ended:
            return False
        failure = tasks.start_failure(task, image=self.image, lasted_s=0)
        # An image without a shell runs notebooks all the same.
        return failure is None or failure.reason in ("exited", "failed")

    def _report(self, task: Task | None, node: str, lasted_s: float) -> None:
        if not self._preparing:
            super()._report(task, node, lasted_s)
        elif self._preparing == "shared":
            self._progress.add(85, f"Making a place for shared files on {node}")
        elif task is not None and task.phase is not Phase.starting:
            self._progress.add(9, f"Making a place for your files on {node}")
        else:
            percent, text = describe(task, node=node, image=self.image, lasted_s=lasted_s)
            self._progress.add(5 + percent // 20, text)

    # ---- its service ----------------------------------------------------------------------

    async def _preparation(
        self, found: Mapping[str, str], node_id: str, *, like_notebook: bool
    ) -> dict[str, Any]:
        """Return the arguments of docker-py's ``create_service``."""
        with using_options():
            request = await create_request(self, self._labels(), node_id=node_id)
        notebook = request["task_template"]
        spec = notebook["ContainerSpec"]
        own = self._local_volumes
        paths = [f"{'own' if it in own else 'shared'}:{path}" for it, path in found.items()]
        environ = [
            each for each in spec.get("Env") or () if each.startswith(("NB_UID=", "NB_GID="))
        ]
        container = ContainerSpec(
            self.image,
            command=["sh", "-c", _SCRIPT, "sh", await self._user_of(spec), *paths],
            env=environ,
            user="0",
            init=True,
            healthcheck=Healthcheck(test=["NONE"]),
            mounts=[mount for mount in _parsed(spec["Mounts"]) if mount.get("Source") in found],
            labels=self._preparation_labels(),
        )
        template = TaskTemplate(
            container,
            restart_policy=RestartPolicy(condition="none"),
            placement=notebook.get("Placement")
            if like_notebook
            else Placement(constraints=[f"node.id == {node_id}"]),
        )
        if like_notebook:
            # Where this finds a place the notebook does too.
            template["Resources"] = notebook.get("Resources") or {}
        return {
            "task_template": template,
            "name": fit(f"{self.object_name}-volumes", MAX_NAME),
            "labels": self._preparation_labels(),
        }

    def _preparation_labels(self) -> dict[str, str]:
        return {**self._labels(), labels.ROLE: labels.ROLE_PREPARE}

    async def _user_of(self, spec: Mapping[str, Any]) -> str:
        """Return whom the notebook's container runs as; empty: only its node's engine knows."""
        user = str(spec.get("User") or "")
        if user:
            return user
        try:
            image = await self._engine(
                "look at the image", "inspect_image", self.image, within_s=_LOOK_WITHIN_S
            )
        except EngineError:
            return ""
        return str((image.get("Config") or {}).get("User") or "0")

    @contextlib.asynccontextmanager
    async def _running(self, request: Mapping[str, Any]) -> AsyncIterator[None]:
        """Have the service as ``object_id`` in the block, and remove it behind that."""
        creating = asyncio.ensure_future(self._create_preparation(request))
        try:
            # Shielded: a cancelled start waits for what its request makes, and removes it.
            self.object_id = await asyncio.shield(creating)
            yield
        finally:
            self.object_id = ""
            await asyncio.shield(asyncio.ensure_future(self._remove_preparation(creating)))

    async def _create_preparation(self, request: Mapping[str, Any]) -> str:
        """Create the service, in the place of one that an earlier start has left."""
        name = request["name"]

        async def once() -> str:
            with engine_errors(f"create service {name}"):
                await self._use_logins()
                return str((await self.docker("create_service", **request))["ID"])

        for is_last in (False, True):
            try:
                return await retry.coroutine(self._left_s())(once)
            except EngineConflict:
                found = await self._engine(
                    f"look at service {name}", "inspect_service", name, within_s=REMOVE_WITHIN_S
                )
                if is_last or not self._is_own_preparation(found):
                    raise
                spawn_id = labels.of(found)[labels.SPAWN]
                if spawn_id == self.spawn_id:  # the answer was lost
                    return str(found["ID"])
                await self._remove(found["ID"], spawn_id, REMOVE_WITHIN_S, is_awaited=False)
        raise AssertionError("the last one returns or raises")

    def _is_own_preparation(self, service: Mapping[str, Any]) -> bool:
        held, mine = labels.of(service), self._preparation_labels()
        return all(held.get(key) == mine[key] for key in mine if key not in _OF_ONE_START)

    async def _remove_preparation(self, creating: asyncio.Future[str]) -> None:
        try:
            service_id = await creating
            await self._remove(service_id, self.spawn_id, REMOVE_WITHIN_S, is_awaited=False)
        except EngineError as exc:
            self.log.warning("%s: a service is left behind for now: %s", self._log_name, exc)


_OF_ONE_START = frozenset({labels.SPAWN, labels.COUNT})


def handed_over(mounts: Sequence[Any]) -> dict[str, str]:
    """Return the mount points, by source, of volumes whose owner may have to be set. Pure.

    What is read-only, or not on one node alone, is somebody else's to prepare; the image's home is
    the image's, unless the engine is kept from copying it.
    """
    found = {}
    for mount in _parsed(mounts):
        options = _parsed_one(mount.get("VolumeOptions") or {})
        driver = _parsed_one(options.get("DriverConfig") or {})
        path = str(mount.get("Target") or "").rstrip("/")
        if (
            mount.get("Type") == "volume"
            and mount.get("Source")
            and not mount.get("ReadOnly")
            and is_local_volume(driver.get("Name"), driver.get("Options"))
            and (path != IMAGE_HOME or options.get("NoCopy"))
        ):
            found[str(mount["Source"])] = path
    return found


_KEYS = ("Type", "Source", "Target", "ReadOnly", "VolumeOptions", "DriverConfig", "NoCopy")
_SPELLINGS = {key.lower(): key for key in (*_KEYS, "Name", "Options")}


def _parsed(mounts: Sequence[Any]) -> list[dict[str, Any]]:
    """Return mounts as the engine reads them: it takes texts, and keys in any case."""
    return [
        _parsed_one(Mount.parse_mount_string(mount) if isinstance(mount, str) else mount)
        for mount in mounts
    ]


def _parsed_one(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {_SPELLINGS.get(key.lower(), key): value for key, value in mapping.items()}
