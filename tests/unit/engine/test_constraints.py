"""Which nodes take notebooks."""

import pytest

from jhswarmd.engine.constraints import eligible_nodes


def make_node(name="n1", *, state="ready", availability="active", role="worker", **held):
    return {
        "ID": f"id-{name}",
        "Spec": {"Role": role, "Availability": availability, "Labels": held},
        "Description": {
            "Hostname": name,
            "Platform": {"OS": "linux", "Architecture": "x86_64"},
            "Engine": {"Labels": {"rack": "4"}},
        },
        "Status": {"State": state, "Addr": "10.1.2.3"},
    }


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(make_node(state="down"), id="down"),
        pytest.param(make_node(state="unknown"), id="not known yet"),
        pytest.param(make_node(availability="drain"), id="drained"),
        pytest.param(make_node(availability="pause"), id="paused"),
    ],
)
def test_a_node_that_takes_no_tasks_is_not_counted(node):
    assert eligible_nodes([node, make_node("n2")], ()) == ["n2"]


@pytest.mark.parametrize(
    ("constraint", "is_met"),
    [
        ("node.id == id-n1", True),
        ("node.id != id-n1", False),
        ("node.hostname==N1", True),
        ("node.hostname == n2", False),
        ("node.role == worker", True),
        ("node.role != Worker", False),
        ("node.platform.os == linux", True),
        ("node.platform.arch == aarch64", False),
        ("node.labels.disk == SSD", True),
        ("node.labels.disk != ssd", False),
        # As Swarm does: case counts in a label's name, and one that is missing is empty.
        ("node.labels.Disk == ssd", False),
        ("node.labels.gpu == true", False),
        ("node.labels.gpu != true", True),
        ("engine.labels.rack == 4", True),
        ("node.ip == 10.1.0.0/16", True),
        ("node.ip != 10.1.2.3", False),
        # Not understood: no reason to leave a node out.
        ("node.ip == nonsense", True),
        ("node.colour == red", True),
        ("nonsense", True),
    ],
)
def test_constraints_mean_what_they_mean_to_swarm(constraint, is_met):
    assert eligible_nodes([make_node(disk="ssd")], [constraint]) == (["n1"] if is_met else [])


def test_every_constraint_must_be_met():
    nodes = [make_node("n1", disk="ssd"), make_node("n2", disk="ssd", role="manager")]
    assert eligible_nodes(nodes, ["node.labels.disk == ssd", "node.role == worker"]) == ["n1"]
    assert eligible_nodes(nodes, ()) == ["n1", "n2"]
