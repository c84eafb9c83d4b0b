"""Which node a home allows, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from docker.types import DriverConfig, Mount
from hypothesis import given
from hypothesis import strategies as st
from jupyterhub import orm
from pydantic import ValidationError

from jhswarmd.errors import JhswarmdError
from jhswarmd.settings.settings import Settings
from jhswarmd.spawner import volume_nodes
from jhswarmd.spawner.volume_mounts import Node, NodePlacement, mounts, place, read_node, render
from jhswarmd.spawner.volume_nodes import VolumeNode
from jhswarmd.spawner.volume_ownership import handed_over


def make_node(
    name: str, *, id: str = "", state: str = "ready", availability: str = "active"
) -> Node:
    return Node(id=id or f"id-{name}", name=name, state=state, availability=availability)


def make_holder(name: str) -> VolumeNode:
    return VolumeNode(node_id=f"id-{name}", name=name)


A, B, C = (make_node(name) for name in "abc")
DOWN = make_node("a", state="down")
DRAINED = make_node("a", availability="drain")
BACK = make_node("a", id="id-new")


# ---- the choice ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "nodes", "strict", "relaxed"),
    [
        pytest.param("", [A, B], None, None, id="a volume that nobody has may go anywhere"),
        pytest.param("a", [A, B], A, A, id="its node gets it back"),
        pytest.param("a", [DOWN, B], "refused", None, id="its node is down"),
        pytest.param("a", [DRAINED, B], "refused", None, id="its node is drained"),
        pytest.param("a", [B], "refused", None, id="its node is gone"),
        pytest.param("ab", [DOWN, B, C], "refused", B, id="a later one has it too"),
        pytest.param("ab", [A, B], A, A, id="the first one is back"),
        pytest.param("ab", [DOWN, C], "refused", None, id="both are gone"),
        pytest.param("a", [DOWN, BACK, B], "refused", BACK, id="it is back under another id"),
    ],
)
def test_a_home_decides_where_its_notebook_may_run(
    names: str, nodes: list[Node], strict: Any, relaxed: Any
) -> None:
    holders = [make_holder(name) for name in names]
    is_strict = place(holders, nodes, is_strict=True)
    assert ("refused" if is_strict.is_refused else is_strict.node) == strict
    is_relaxed = place(holders, nodes, is_strict=False)
    assert not is_relaxed.is_refused
    assert is_relaxed.node == relaxed


nodes = st.lists(
    st.builds(
        Node,
        id=st.sampled_from(["1", "2", "3"]),
        name=st.sampled_from(["a", "b"]),
        state=st.sampled_from(["ready", "down", "unknown", "disconnected", "new-in-some-version"]),
        availability=st.sampled_from(["active", "pause", "drain"]),
    ),
    unique_by=lambda node: node.id,
)
some_holders = st.lists(
    st.builds(
        VolumeNode, node_id=st.sampled_from(["1", "2", "3"]), name=st.sampled_from(["a", "b"])
    ),
    unique_by=lambda holder: holder.node_id,
    min_size=1,
)


@given(holders=some_holders, nodes=nodes)
def test_strict_never_starts_anything_without_the_files(
    holders: list[VolumeNode], nodes: list[Node]
) -> None:
    choice = place(holders, nodes, is_strict=True)
    assert choice.is_refused or choice.node == next(
        node for node in nodes if node.id == holders[0].node_id and node.is_usable
    )


@given(holders=some_holders, nodes=nodes)
def test_relaxed_always_says_when_the_files_are_elsewhere(
    holders: list[VolumeNode], nodes: list[Node]
) -> None:
    choice = place(holders, nodes, is_strict=False)
    has_files = choice.node is not None and choice.node.id == holders[0].node_id
    assert (choice.lost is None) == has_files
    assert bool(choice.problem) != has_files


@pytest.mark.parametrize(
    ("node", "words"),
    [(DOWN, "down"), (DRAINED, "maintained"), (None, "no longer part")],
    ids=["down", "drained", "gone"],
)
def test_what_is_wrong_with_a_node_is_said_in_words(node: Node | None, words: str) -> None:
    choice = place([make_holder("a")], [node] if node else [], is_strict=True)
    assert words in choice.problem


def test_strict_tells_the_administrator_when_the_node_may_be_back() -> None:
    assert "another id" in place([make_holder("a")], [BACK], is_strict=True).advice


def test_a_node_that_tells_little_is_taken_for_unknown() -> None:
    node = read_node({"ID": "x"})
    assert node == Node(id="x", name="x", state="unknown", availability="active")
    assert not node.is_usable


def test_without_memory_nothing_is_chosen() -> None:
    assert place([], [], is_strict=True) == NodePlacement()


# ---- the memory ---------------------------------------------------------------------------------


@pytest.fixture
def session() -> Iterator[Any]:
    session = orm.new_session_factory("sqlite:///:memory:")()
    yield session
    session.close()


def test_nothing_is_known_of_a_new_volume(session: Any) -> None:
    assert volume_nodes.list_nodes(session, "v") == []


def test_nodes_are_told_in_the_order_in_which_they_came_to_hold_it(session: Any) -> None:
    for name in "cab":
        volume_nodes.remember(session, "v", make_holder(name))
    volume_nodes.remember(session, "other", make_holder("x"))
    volume_nodes.remember(session, "v", make_holder("c"))
    assert [each.name for each in volume_nodes.list_nodes(session, "v")] == list("cab")


def test_a_node_is_forgotten_for_one_volume_alone(session: Any) -> None:
    for volume in ("v", "w"):
        volume_nodes.remember(session, volume, make_holder("a"))
    volume_nodes.forget(session, "v", "id-a")
    assert volume_nodes.list_nodes(session, "v") == []
    assert volume_nodes.list_nodes(session, "w") == [make_holder("a")]


def test_what_is_remembered_is_committed(session: Any) -> None:
    volume_nodes.remember(session, "v", make_holder("a"))
    session.rollback()
    assert volume_nodes.list_nodes(session, "v") == [make_holder("a")]


def test_jupyterhub_takes_a_database_with_our_table_for_its_own(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/hub.sqlite"
    session = orm.new_session_factory(url)()
    volume_nodes.remember(session, "v", make_holder("a"))
    session.close()
    again = orm.new_session_factory(url)()
    assert volume_nodes.list_nodes(again, "v") == [make_holder("a")]
    again.close()


# ---- templates and keys -------------------------------------------------------------------------


def test_templates_are_filled_in() -> None:
    options = {"device": ":/export/{username}", "o": "addr=nfs.example,rw", "n": 1}
    assert render(options, {"username": "ann"}, "x")["device"] == ":/export/ann"


@pytest.mark.parametrize("name", ["bob,uid=0", "bob\nx", "bob\x00"])
def test_a_name_that_could_add_mount_options_is_refused_where_it_is_used(name: str) -> None:
    names = {"username": "bob", "raw_username": name}
    assert render({"o": "username={username}"}, names, "x") == {"o": "username=bob"}
    with pytest.raises(JhswarmdError, match="the_option") as caught:
        render({"o": "username={raw_username}"}, names, "the_option")
    assert name not in str(caught.value)


@pytest.mark.parametrize("value", ["{user}", "{}", "{0}", "{username", "}"])
def test_a_template_that_nothing_fills_is_an_error(value: str) -> None:
    with pytest.raises(JhswarmdError, match="the_option"):
        render({"device": value}, {"username": "ann"}, "the_option")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("VOLUME_OPTIONS", "device=:/export/{user}", r"\{username\}"),
        ("VOLUME_OPTIONS", "device=:/export/{", "no template"),
        ("NOTEBOOK_CONSTRAINTS", "nonsense", "constraints such as"),
        ("NOTEBOOK_CONSTRAINTS", "node.role == worker; node.labels.a = b", "constraints such as"),
        ("NOTEBOOK_CONSTRAINTS", "node.labels.a ==", "constraints such as"),
        ("VOLUME_OPTIONS", "device=:/{volume}", r"\{username\}"),
        ("SHARED_VOLUME_OPTIONS", "device=:/{username}", r"\{volume\}"),
        ("VOLUME_NODE_POLICY", "sometimes", "strict"),
        ("SHARED_VOLUMES", "data:/data", "must be mounts"),
        ("SHARED_VOLUMES", "data:/data:rx", "must be mounts"),
        ("SHARED_VOLUMES", "data:data:ro", "not a valid mount target"),
        ("SHARED_VOLUMES", "data:/:ro", "not a valid mount target"),
        ("SHARED_VOLUMES", "data:/a/../home:ro", "not a valid mount target"),
        ("SHARED_VOLUMES", "../data:/data:ro", "neither a volume's name"),
        ("SHARED_VOLUMES", "/data/../etc:/data:ro", "neither a volume's name"),
        ("SHARED_VOLUMES", "a1:/data:ro; a2:/data/:rw", "named twice"),
        ("SHARED_VOLUMES", "a1:/one:ro; a1:/two:rw", "named twice"),
        ("SHARED_VOLUMES", "data:/home/jovyan:ro", "NOTEBOOK_DIR"),
    ],
)
def test_a_wrong_key_is_refused_with_the_reason(key: str, value: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings.from_environ({key: value})


def test_the_documented_examples_are_right_and_travel_to_the_hub() -> None:
    settings = Settings.from_environ(
        {
            "VOLUME_OPTIONS": "type=nfs;o=addr=nfs.example,rw;device=:/export/{username}",
            "SHARED_VOLUMES": "courses:/srv/courses:ro; /data/exchange:/srv/exchange:rw",
            "SHARED_VOLUME_OPTIONS": "type=nfs;o=addr=nfs.example,ro;device=:/export/{volume}",
            "VOLUME_NODE_POLICY": "relaxed",
        }
    )
    assert settings.shared_volumes == (
        ("courses", "/srv/courses", "ro"),
        ("/data/exchange", "/srv/exchange", "rw"),
    )
    assert Settings.from_environ(settings.to_environ()) == settings


# ---- what a new volume gets from the image ------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "no_copy", "is_kept"),
    [("rw", False, False), ("rw", True, True), ("ro,nocopy", False, True)],
)
def test_a_volume_stays_as_it_is_when_it_is_to(mode: str, no_copy: bool, is_kept: bool) -> None:
    (mount,) = mounts(
        {"v": {"bind": "/v", "mode": mode}},
        driver="",
        options={},
        stack="s",
        user="u",
        per_user=(),
        no_copy=no_copy,
    )
    assert bool(mount["VolumeOptions"].get("NoCopy")) is is_kept
    assert mount["ReadOnly"] is ("ro" in mode)


@pytest.mark.parametrize(
    ("mount", "found"),
    [
        pytest.param(Mount("/work", "w"), {"w": "/work"}, id="a new volume"),
        pytest.param(Mount("/srv/x/", "x"), {"x": "/srv/x"}, id="a slash at its end"),
        pytest.param(Mount("/home/jovyan", "h"), {}, id="the image's home"),
        pytest.param(
            Mount("/home/jovyan", "h", no_copy=True), {"h": "/home/jovyan"}, id="not copied"
        ),
        pytest.param(Mount("/home/jovyan/work", "w"), {"w": "/home/jovyan/work"}, id="below it"),
        pytest.param(Mount("/work", "w", read_only=True), {}, id="read-only"),
        pytest.param(Mount("/work", "/srv/work", type="bind"), {}, id="a directory of the node"),
        pytest.param(Mount("/work", None), {}, id="without a name"),
        pytest.param(
            Mount("/work", "w", driver_config=DriverConfig("local", {"type": "nfs"})),
            {},
            id="an export",
        ),
        pytest.param(
            Mount("/work", "w", driver_config=DriverConfig("netshare")), {}, id="another driver"
        ),
        pytest.param(
            {"type": "volume", "source": "w", "target": "/work"}, {"w": "/work"}, id="lower case"
        ),
        pytest.param("w:/work:rw", {"w": "/work"}, id="a text"),
        pytest.param(Mount("/dev/shm", None, type="tmpfs"), {}, id="memory"),
    ],
)
def test_only_new_volumes_of_one_node_may_have_to_be_handed_over(mount: Any, found: Any) -> None:
    assert handed_over([mount]) == found


def test_what_was_handed_over_is_remembered_for_each_node() -> None:
    session = orm.new_session_factory("sqlite:///:memory:")()
    assert volume_nodes.list_prepared(session, "v") == frozenset()
    for node in ("n1", "n2", "n1"):
        volume_nodes.remember_prepared(session, "v", node)
    assert volume_nodes.list_prepared(session, "v") == {"n1", "n2"}
    volume_nodes.forget_prepared(session, "v", "n1")
    assert volume_nodes.list_prepared(session, "v") == {"n2"}
    session.close()
