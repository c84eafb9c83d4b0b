"""A service is compared with its deployment."""

import pytest

from jhswarmd import labels
from jhswarmd.deploy import drift

OURS = "localhost:5000/jhswarmd/hub:abc@sha256:" + "1" * 64
OTHER = "localhost:5000/jhswarmd/hub:abc@sha256:" + "2" * 64
TAG = "localhost:5000/jhswarmd/hub:abc"


def template(image):
    return {"ContainerSpec": {"Image": image}}


def service(image=OURS, deployed=OURS, update=""):
    spec = {"Labels": {labels.IMAGE: deployed} if deployed else {}, "TaskTemplate": template(image)}
    return {"Spec": spec, "UpdateStatus": {"State": update}}


def task(image=OURS, desired="running"):
    return {"Spec": template(image), "DesiredState": desired}


@pytest.mark.parametrize(
    ("service", "tasks", "expected"),
    [
        pytest.param(service(), [task()], "", id="as deployed"),
        pytest.param(service(), [], "", id="nothing runs"),
        pytest.param(service(TAG, deployed=""), [task(TAG)], "by tag", id="an older deployment"),
        pytest.param(service(TAG, deployed=TAG), [task(TAG)], "by tag", id="a tag on record"),
        pytest.param(service(deployed=""), [task()], "not recorded", id="no record"),
        pytest.param(service(OTHER), [task(OTHER)], f"{OTHER} runs", id="another image"),
        pytest.param(service(), [task(OTHER)], f"{OTHER} runs", id="another task"),
        pytest.param(service(), [task(OTHER, "shutdown"), task()], "", id="one that ends"),
        pytest.param(service(update="updating"), [task(OTHER)], "", id="an update"),
        pytest.param(service(OTHER, update="updating"), [], f"{OTHER} runs", id="update to it"),
    ],
)
def test_running_images_are_compared_with_the_deployed_ones(service, tasks, expected):
    message = drift.describe(service, tasks)
    assert expected in message
    assert bool(message) == bool(expected)
