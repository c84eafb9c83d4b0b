"""Foreign users of the stack's networks are distinguished from ours."""

import pytest

from jhswarmd import labels
from jhswarmd.deploy import networks

NETWORK = {"Id": "net", "Name": "jupyterhub_control"}


def service(name, *, target="net", stack=None, older=False):
    attached = [{"Target": target}]
    spec = {
        "Name": name,
        "Labels": {labels.STACK: stack} if stack else {},
        "TaskTemplate": {} if older else {"Networks": attached},
    }
    return {"Spec": {**spec, "Networks": attached} if older else spec}


def attachment(state="running", network="net"):
    attached = [{"Network": {"ID": network}, "Addresses": ["10.129.0.9/24"]}]
    return {"Status": {"State": state}, "NetworksAttachments": attached}


def users(*, services=(), tasks=(), containers=(), network=NETWORK):
    by_name = {name: {} for name in containers}
    return [user.name for user in networks.users_of(network, "hub", services, tasks, by_name)]


@pytest.mark.parametrize("target", ["net", "jupyterhub_control"])
@pytest.mark.parametrize("older", [False, True])
def test_a_foreign_service_is_listed(target, older):
    found = users(services=[service("prometheus", target=target, older=older)])
    assert found == ["the service prometheus"]


def test_ours_and_those_on_other_networks_are_not():
    own, other = service("hub_hub", stack="hub"), service("web", target="web")
    assert users(services=[own, other]) == []


def test_another_stack_of_ours_is_foreign():
    assert users(services=[service("x", stack="other")]) == ["the service x"]


def test_containers_are_listed_here_and_counted_on_other_nodes():
    here = {**NETWORK, "Containers": {"c1": {"Name": "probe"}, "c2": {"Name": "hub_hub.1.x"}}}
    tasks = [attachment(), attachment(), attachment("shutdown"), attachment(network="other")]
    found = users(network=here, containers=["probe"], tasks=tasks)
    assert found == ["the container probe", "1 containers on other nodes"]


def test_a_kept_network_is_reported_with_the_command_that_detaches_its_users():
    user = networks.users_of(NETWORK, "hub", [service("prometheus")], [], {})
    message = str(networks.Kept("jupyterhub_control", user))
    assert "the service prometheus" in message
    assert "docker service update --network-rm jupyterhub_control prometheus" in message
