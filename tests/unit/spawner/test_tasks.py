"""The table of task states, and when a start is hopeless."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jhswarmd.spawner import tasks
from jhswarmd.spawner.progress import describe
from jhswarmd.spawner.tasks import (
    NO_NODE_GRACE_S,
    Phase,
    Task,
    exit_status,
    newest,
    node_down,
    read_task,
    start_failure,
    too_slow,
)


def make_raw(**changes: Any) -> dict[str, Any]:
    """Return a running task as engine 20.10.24 lists it, with ``changes`` to its status."""
    return {
        "ID": "task1",
        "CreatedAt": changes.pop("CreatedAt", "2026-01-01T00:00:00.1Z"),
        "NodeID": "node1",
        "Status": {
            "State": "running",
            "Message": "started",
            "ContainerStatus": {"ContainerID": "c0ffee", "PID": 7, "ExitCode": 0},
            **changes,
        },
        "NetworksAttachments": [
            {
                "Network": {"ID": "net1", "Spec": {"Name": "hub_notebooks"}},
                "Addresses": ["10.128.0.7/16"],
            },
            {"Network": {"ID": "net2", "Spec": {"Name": "other"}}, "Addresses": None},
        ],
    }


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        *(
            (state, Phase.starting)
            for state in (
                "new",
                "pending",
                "assigned",
                "accepted",
                "preparing",
                "ready",
                "starting",
            )
        ),
        ("running", Phase.running),
        *(
            (state, Phase.ended)
            for state in ("complete", "failed", "shutdown", "rejected", "orphaned", "remove")
        ),
        ("a state of a later engine", Phase.starting),
        ("", Phase.starting),
    ],
)
def test_every_state_has_its_phase(state: str, phase: Phase) -> None:
    assert read_task(make_raw(State=state)).phase is phase


@pytest.mark.parametrize("raw", [{}, {"Status": None}, {"Status": {}, "NetworksAttachments": None}])
def test_a_task_that_the_engine_has_not_filled_in_is_alive(raw: dict[str, Any]) -> None:
    assert exit_status(read_task(raw)) is None


def test_an_anonymous_volume_has_no_source() -> None:
    mounts = [{"Type": "volume", "Target": "/data"}, {"Type": "volume", "Source": "home"}]
    task = read_task({**make_raw(), "Spec": {"ContainerSpec": {"Mounts": mounts}}})
    assert task.local_volumes == {"home"}


@pytest.mark.parametrize(
    ("desired", "is_told_to_end"),
    [("running", False), ("shutdown", True), ("remove", True), ("of a later engine", False)],
)
def test_a_task_that_swarm_wants_to_end_is_alive_until_more_is_known(
    desired: str, is_told_to_end: bool
) -> None:
    task = read_task({**make_raw(), "DesiredState": desired})
    assert task.is_told_to_end is is_told_to_end
    assert exit_status(task) is None


@pytest.mark.parametrize(
    ("state", "has_files", "may_pass"),
    [
        ("assigned", False, True),
        ("preparing", False, True),
        # The next start goes to where the volume was made first.
        ("starting", False, False),
        ("preparing", True, False),
    ],
)
def test_a_start_moves_on_from_a_lost_node_only_while_no_files_are_there(
    state: str, has_files: bool, may_pass: bool
) -> None:
    found = node_down(Task("1", state), node="n1", has_files=has_files)
    assert found.may_pass is may_pass


def test_a_service_without_a_task_is_alive() -> None:
    assert exit_status(newest([])) is None


def test_states_are_read_in_any_case() -> None:
    assert read_task(make_raw(State="RUNNING")).phase is Phase.running


def test_addresses_are_found_by_name_and_by_id_of_the_network() -> None:
    task = read_task(make_raw())
    assert task.addresses == {"hub_notebooks": "10.128.0.7", "net1": "10.128.0.7"}


def test_the_task_created_last_counts() -> None:
    old = make_raw(CreatedAt="2026-01-01T00:00:00Z", State="shutdown")
    new = make_raw(CreatedAt="2026-01-02T00:00:00Z")
    assert [newest(order) for order in ([old, new], [new, old])] == [read_task(new)] * 2


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"State": "complete"}, 0),
        ({"State": "failed", "ContainerStatus": {"ContainerID": "c", "ExitCode": 137}}, 137),
        (
            {"State": "rejected", "Err": "No such image: x", "ContainerStatus": {"ExitCode": 0}},
            "rejected: No such image: x",
        ),
        (
            {"State": "failed", "Err": "starting container failed"},
            "failed: starting container failed",
        ),
        ({"State": "orphaned", "ContainerStatus": None}, "orphaned"),
    ],
)
def test_an_ended_task_tells_how_it_ended(status: dict[str, Any], expected: int | str) -> None:
    assert exit_status(read_task(make_raw(**status))) == expected


STARTED = {"ContainerID": "c", "ExitCode": 128}
NO_NODE = "no suitable node "


@pytest.mark.parametrize(
    ("state", "err", "container", "reason", "words"),
    [
        ("rejected", "No such image: x:1", None, "image_not_found", "image x:1 was not found"),
        (
            "failed",
            "task: non-zero exit (3)",
            {"ContainerID": "c", "ExitCode": 3},
            "exited",
            "exit code 3",
        ),
        ("complete", "", STARTED, "exited", "exited right after"),
        ("failed", "starting container failed: no user x", STARTED, "failed", "could not start"),
        ("rejected", "something new", None, "rejected", "could not start"),
        (
            "rejected",
            'invalid mount config for type "bind": bind source path does not exist: /x',
            None,
            "mount",
            "cannot be reached from node box",
        ),
        (
            "failed",
            "starting container failed: error while mounting volume '/v': failed to mount local "
            "volume: mount :/export/ann:/v: no such file or directory",
            STARTED,
            "mount",
            "cannot be reached from node box",
        ),
        (
            "rejected",
            "assigned node no longer meets constraints",
            None,
            "node_changed",
            "Node box",
        ),
        ("rejected", "network lab_notebooks not found", None, "network_missing", "Node box"),
        (
            "failed",
            "starting container failed: No such network: lab_notebooks",
            None,
            "network_missing",
            "Node box",
        ),
        (
            "pending",
            f"{NO_NODE}(insufficient resources on 1 node)",
            None,
            "no_node",
            "not enough|has enough",
        ),
        (
            "pending",
            f"{NO_NODE}(scheduling constraints not satisfied on 3 nodes)",
            None,
            "no_node",
            "may run",
        ),
    ],
)
def test_hopeless_starts_are_told_apart_and_explained(
    state: str, err: str, container: Any, reason: str, words: str
) -> None:
    task = read_task(make_raw(State=state, Err=err, ContainerStatus=container))
    found = start_failure(task, image="x:1", lasted_s=NO_NODE_GRACE_S, node="box")
    assert found is not None
    assert found.reason == reason
    assert re.search(words, found.message)
    assert found.message.endswith("administrator.")
    assert err in found.detail


def test_only_a_network_that_a_node_does_not_know_yet_is_worth_another_try() -> None:
    errors = ["network x not found", "No such network: x", "No such image: x", "anything else"]
    found = [
        start_failure(Task("t", "rejected", error=error), image="x", lasted_s=0) for error in errors
    ]
    assert [each.may_pass for each in found if each] == [True, True, False, False]


@pytest.mark.parametrize("err", ["(insufficient resources on 1 node)", "(unsupported platform)"])
def test_a_home_that_leaves_one_node_only_is_named_when_that_node_cannot(err: str) -> None:
    task = Task("t", "pending", error=f"{NO_NODE}{err}")
    found = start_failure(task, image="x:1", lasted_s=NO_NODE_GRACE_S, home_node="box")
    assert found is not None
    assert found.message.startswith("Your files are on node box, which ")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (None, "no place"),
        (Task("t", "pending"), "no place"),
        (Task("t", "preparing", node_id="n"), "Node box is still pulling the image x:1"),
        (Task("t", "starting", node_id="n"), "Node box does not start"),
    ],
)
def test_a_start_that_takes_too_long_says_what_it_was_waiting_for(
    task: Task | None, words: str
) -> None:
    found = too_slow(task, node="box", image="x:1", start_timeout_s=300)
    assert words in found.message
    assert "300 s" in found.detail


def test_a_failure_gives_the_administrator_the_engines_own_words() -> None:
    task = read_task(make_raw(State="rejected", Err="invalid mount config", ContainerStatus=None))
    found = start_failure(task, image="x:1", lasted_s=0)
    assert found is not None
    assert "invalid mount config" in found.detail
    assert "invalid mount config" not in found.message


_DATA = "/var/lib/docker/volumes/home-ann/_data"
_ERROR = f"error while mounting volume '{_DATA}': "
_NFS = f"{_ERROR}failed to mount local volume: mount :/export/ann:{_DATA}, data: addr=nfs: "


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (
            'invalid mount config for type "bind": bind source path does not exist: /opt/data/ann',
            "make it there",
        ),
        (
            f"starting container failed: {_NFS}no such file or directory",
            "not there",
        ),
        (
            f"starting container failed: {_NFS}connection refused",
            "does not answer",
        ),
        (f"{_NFS}connection timed out", "does not answer"),
        (
            f"{_NFS}permission denied",
            "does not let that node",
        ),
        (f"{_NFS}no such device", "nfs-common"),
        (
            f"failed to populate volume: {_NFS}no such device",
            "nfs-common",
        ),
        (
            f"{_ERROR}error resolving passed in network volume "
            "address: lookup nfs.example on 10.0.0.2:53: no such host",
            "cannot resolve",
        ),
        (
            f"failed to copy file info for {_DATA}: failed to chown {_DATA}: lchown {_DATA}: "
            "operation not permitted",
            "VOLUME_NO_COPY=true",
        ),
        # As 26.1 and 28.5 say it.
        (
            f"failed to chmod on {_DATA}: chmod {_DATA}: operation not permitted",
            "VOLUME_NO_COPY=true",
        ),
        (
            "starting container failed: failed to create task for container: failed to create shim "
            "task: OCI runtime create failed: runc create failed: unable to start container "
            'process: error during container init: error mounting "/opt" to rootfs at "/file": '
            "mount src=/opt, dst=/file, dstFd=/proc/thread-self/fd/14, flags=MS_BIND|MS_REC: not a "
            "directory: Are you trying to mount a directory onto a file (or vice-versa)?",
            "not a directory",
        ),
        (f"chown {_DATA}: operation not permitted", "VOLUME_NO_COPY=true"),
        (
            "create home-ann: conflict: volume name must be unique: volume already exists",
            "with another driver",
        ),
        ('create home-ann: invalid option: "devise"', "SHARED_VOLUME_OPTIONS"),
        ('create home-ann: invalid option key: "devise"', "SHARED_VOLUME_OPTIONS"),
        ('create home-ann: missing required option: "device"', "SHARED_VOLUME_OPTIONS"),
        (f"stat {_DATA}: stale NFS file handle", "mount it again"),
        ("VolumeDriver.Mount: error mounting ann: permission denied", "does not let that node"),
        (
            'create ann: error looking up volume plugin "netshare": plugin "netshare" not found',
            "driver is not installed",
        ),
        (
            "starting container failed: OCI runtime create failed: container_linux.go:380: "
            "starting container process caused: process_linux.go:545: container init caused: "
            'rootfs_linux.go:76: mounting "/opt/file" to rootfs at "/srv" caused: not a directory',
            "not a directory",
        ),
        (
            "failed to create task for container: failed to create shim task: OCI runtime create "
            'failed: runc create failed: unable to start container process: error mounting "/opt" '
            'to rootfs at "/srv": mkdirat: read-only file system',
            "mode ro",
        ),
    ],
)
def test_files_that_a_node_cannot_mount_are_the_reason_and_the_log_says_what_to_do(
    error: str, advice: str
) -> None:
    for state in ("rejected", "failed"):
        task = read_task(make_raw(State=state, Err=error, ContainerStatus=None))
        found = start_failure(task, image="x:1", lasted_s=0, node="box")
        assert found is not None
        assert found.reason == "mount"
        assert "cannot be reached from node box" in found.message
        assert error in found.detail
        assert advice in found.detail


def test_a_driver_that_no_node_has_is_a_matter_of_files_too() -> None:
    task = Task("t", "pending", error="no suitable node (missing plugin on 1 node)")
    found = start_failure(task, image="x:1", lasted_s=NO_NODE_GRACE_S)
    assert found is not None
    assert found.reason == "mount"
    assert "VOLUME_DRIVER" in found.detail


def test_a_login_among_the_options_of_a_mount_is_not_shown() -> None:
    error = f"{_NFS}username=ann,password=hunter2hunter2: permission denied"
    task = read_task(make_raw(State="rejected", Err=error, ContainerStatus=None))
    found = start_failure(task, image="x:1", lasted_s=0)
    assert found is not None
    assert "hunter2" not in found.detail


def test_a_lack_of_nodes_is_believed_only_when_it_lasts() -> None:
    task = Task("t", "pending", error="no suitable node (insufficient resources on 1 node)")
    assert start_failure(task, image="x:1", lasted_s=NO_NODE_GRACE_S - 0.1) is None


@pytest.mark.parametrize("task", [None, Task("t", "preparing"), Task("t", "running")])
def test_what_may_still_succeed_is_no_failure(task: Task | None) -> None:
    assert start_failure(task, image="x:1", lasted_s=1e6) is None


def test_progress_only_grows_on_the_way_to_a_running_notebook() -> None:
    way = [
        None,
        Task("t", "pending"),
        Task("t", "assigned", node_id="n"),
        Task("t", "preparing", node_id="n"),
        Task("t", "starting", node_id="n"),
        Task("t", "running", node_id="n"),
    ]
    percents = [describe(task, node="box", image="x:1")[0] for task in way]
    assert percents == sorted(percents)
    assert percents[-1] < 100


PREPARING = Task("t", "preparing", node_id="n")


def test_a_long_pull_names_node_and_image_and_counts_the_seconds() -> None:
    told = [
        describe(PREPARING, node="box", image="x:1", lasted_s=lasted_s)[1]
        for lasted_s in (0, 4.9, 5, 9.9, 10, 31, 39, 119, 121, 179, 600)
    ]
    assert told[0] == told[1] == "Preparing on box"
    assert told[2] == told[3] == "Preparing on box, which pulls x:1 if it has not got it yet (5 s)"
    counted = [re.findall(r"\((\d+) s\)", text) for text in told[4:]]
    assert counted == [["10"], ["30"], ["30"], ["110"], ["120"], ["150"], ["600"]]


@given(st.floats(min_value=0, max_value=1e5), st.floats(min_value=0, max_value=1e5))
def test_a_long_pull_moves_the_bar_and_never_past_the_next_state(one: float, other: float) -> None:
    first, second = (
        describe(PREPARING, node="box", image="x:1", lasted_s=lasted_s)[0]
        for lasted_s in sorted((one, other))
    )
    starting = describe(Task("t", "starting", node_id="n"), node="box", image="x:1")[0]
    assert 30 <= first <= second < starting


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('Head "http://r/v2/x": no basic auth credentials', "registry_refused"),
        ("unauthorized: authentication required", "registry_refused"),
        ("denied: requested access to the resource is denied", "registry_refused"),
        ("manifest unknown: manifest unknown", "image_not_found"),
        ("dial tcp: connection refused", "image_not_found"),
        ("", "image_not_found"),
    ],
)
def test_a_missing_image_is_explained_by_what_its_registry_says(words, reason):
    missing = tasks.StartFailure(reason="image_not_found", message="m", detail="d")
    failure = tasks.why_no_image(missing, image="r/x:1", words=words)
    assert failure.reason == reason
    assert words in failure.detail
    assert words not in failure.message or not words
