"""What the engine makes of a rendered file: a value of a profile arrives as it is."""

from collections.abc import Iterator

import pytest

from jhswarmd.deploy import secrets
from jhswarmd.deploy.stack import Placeholders, render
from jhswarmd.settings.settings import PublishMode, Settings
from tests.kit.lab import Lab

NAME = "odd-values"
#: By key, which the hub's and the daemon's containers get as they are.
ODD = {
    "NOTEBOOK_ARGS": "'a: b' '#c' '{d}' '$HOME ${HOME} $$' 'e\nf' '\"g\"' \"it's\" '\u00fc \\ \t'",
    "OAUTH_CLIENT_ID": "1e3",
    "OAUTH_USERNAME_CLAIM": "0o17",
    "DEFAULT_URL": "${STACK_NAME}",
    "VOLUME_DRIVER": "yes",
    "SINGLE_USER_IMAGES": "A: {b} # c=r/a:1",
}


@pytest.fixture
def deployed(engine: Lab) -> Iterator[Settings]:
    settings = Settings.from_environ(
        {
            "STACK_NAME": NAME,
            "NOTEBOOKS_SUBNET": "10.201.0.0/16",
            "CONTROL_SUBNET": "10.202.0.0/24",
            "HTTPS_PORT": "18443",
            "HTTP_PORT": "18080",
            **ODD,
        }
    )
    names = {name: f"{NAME}_{name}" for kind in secrets.KINDS for name in kind.names}
    for name in names.values():
        engine.client.secrets.create(name=name, data=b"x")
    values = Placeholders("no/hub:1", "no/proxy:1", "no/notebook:1", PublishMode.host, names)
    argv = ["docker", "stack", "deploy", "--resolve-image", "never", "-c", "-", NAME]
    try:
        engine.run(argv, input=render(settings, values))
        yield settings
    finally:
        engine.run(["docker", "stack", "rm", NAME])
        for secret in engine.client.secrets.list(filters={"name": f"{NAME}_"}):
            secret.remove()


def test_odd_values_reach_the_containers_as_they_are(engine: Lab, deployed: Settings) -> None:
    for role in ("hub", "jhswarmd"):
        spec = engine.client.api.inspect_service(f"{NAME}_{role}")["Spec"]["TaskTemplate"]
        environ = dict(each.split("=", 1) for each in spec["ContainerSpec"]["Env"])
        assert Settings.from_environ({**environ, "SINGLE_USER_IMAGE": ""}) == deployed
