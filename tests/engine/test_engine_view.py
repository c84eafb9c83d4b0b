"""The daemon's view of a real engine: secrets and specifications."""

from __future__ import annotations

import secrets as random

import docker
import pytest
from docker.types import SecretReference

from jhswarmd import generations, labels
from jhswarmd.engine import Engine
from jhswarmd.errors import EngineConflict, EngineError
from jhswarmd.reconcile import references
from tests.engine.conftest import CreateService
from tests.lab import Lab


@pytest.fixture
def view(engine: Lab) -> Engine:
    return Engine(docker.DockerClient(engine.base_url, version="auto"))


def test_a_service_is_led_to_the_next_generation_and_loses_nothing(
    engine: Lab, view: Engine, small_image: str, create_service: CreateService
) -> None:
    stack = f"view-{random.token_hex(4)}"

    def create(number: int) -> None:
        marks = generations.marks(stack, "users", number, generations.GENERATED)
        view.create_secret(labels.secret_name(stack, "users", number), b"content", marks)

    create(1)
    with pytest.raises(EngineConflict):
        create(1)
    (first,) = view.list_secrets(stack)
    service = create_service(
        small_image,
        name=stack,
        labels={"a": "b"},
        secrets=[SecretReference(first.id, first.name, filename="users", mode=0o400)],
        endpoint_spec={"Mode": "dnsrr"},
        update_config={"Order": "stop-first", "Monitor": 1_000_000_000},
    )
    create(2)
    held = view.list_secrets(stack)
    newest = generations.newest(held, "users")
    assert newest
    before = engine.client.api.inspect_service(service.id)["Spec"]
    assert view.change_service(stack, lambda spec: references.swap(spec, held, newest))
    assert not view.change_service(stack, lambda spec: references.swap(spec, held, newest))
    after = engine.client.api.inspect_service(service.id)["Spec"]
    (reference,) = after["TaskTemplate"]["ContainerSpec"]["Secrets"]
    (was,) = before["TaskTemplate"]["ContainerSpec"].pop("Secrets")
    assert reference == {**was, "SecretID": newest.secrets[0].id, "SecretName": f"{stack}_users_g2"}
    del after["TaskTemplate"]["ContainerSpec"]["Secrets"]
    assert after == before
    with pytest.raises(EngineError):
        view.remove_secret(newest.secrets[0].id)  # it is mounted
    view.remove_secret(first.id)
    service.remove()
    view.remove_secret(newest.secrets[0].id)
