"""Logins of registries: docker's own form is read, and nothing of it is given away."""

import base64
import json
from types import SimpleNamespace

import pytest
from docker.auth import AuthConfig, get_config_header

from jhswarmd.engine import registry_auth
from jhswarmd.errors import UsageError

AUTH = base64.b64encode(b"robot:pass:word").decode()


def config(**auths):
    return json.dumps({"auths": auths}).encode()


def client(**auths):
    config = AuthConfig({"auths": auths})
    return SimpleNamespace(_auth_configs=config, credstore_env=None)


def sent(api, registry):
    """What docker-py sends to the engine for an image of this registry."""
    header = get_config_header(api, registry)
    return json.loads(base64.urlsafe_b64decode(header)) if header else None


def test_a_login_that_docker_wrote_is_sent_for_its_registry_alone():
    api = client()
    registry_auth.add(api, config(**{"r.example:5000": {"auth": AUTH}}))
    login = sent(api, "r.example:5000")
    assert (login["username"], login["password"]) == ("robot", "pass:word")
    assert sent(api, "other.example") is None


def test_the_public_hub_is_known_by_its_old_address():
    api = client()
    registry_auth.add(api, config(**{"https://index.docker.io/v1/": {"auth": AUTH}}))
    assert sent(api, "docker.io")["username"] == "robot"


def test_an_identity_token_is_passed_on():
    api = client()
    registry_auth.add(api, config(**{"r.example": {"auth": "", "identitytoken": "canary"}}))
    assert sent(api, "r.example")["identitytoken"] == "canary"


def test_a_profile_adds_to_the_logins_of_the_machine_and_wins():
    api = client(**{"mine.example": {"username": "me"}, "r.example": {"username": "me"}})
    registry_auth.add(api, config(**{"r.example": {"auth": AUTH}}))
    assert sent(api, "mine.example")["username"] == "me"
    assert sent(api, "r.example")["username"] == "robot"


def test_a_file_is_read_anew_and_what_left_it_is_forgotten(tmp_path):
    path, api = tmp_path / "logins", client()
    path.write_bytes(config(**{"old.example": {"auth": AUTH}}))
    registry_auth.use_file(api, path)
    assert sent(api, "old.example")
    path.write_bytes(config(**{"new.example": {"auth": AUTH}}))
    registry_auth.use_file(api, path)
    assert (sent(api, "old.example"), bool(sent(api, "new.example"))) == (None, True)


def test_without_a_file_nothing_changes(tmp_path):
    api = client(**{"mine.example": {"username": "me"}})
    registry_auth.use_file(api, tmp_path / "none")
    assert sent(api, "mine.example")


def test_a_broken_file_is_an_error_and_no_empty_list_of_logins(tmp_path):
    path, api = tmp_path / "logins", client(**{"r.example": {"username": "me"}})
    path.write_bytes(b'{"auths": {"r.example": {"auth": "canary')
    with pytest.raises(UsageError) as caught:
        registry_auth.use_file(api, path)
    assert "canary" not in f"{caught.value} {caught.value.__context__}"
    assert sent(api, "r.example")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not valid JSON, line 1"),
        (b'{"auths":\n{"canary": }}', "is not valid JSON, line 2"),
        (b"\xff\xfe", "is not valid JSON"),
        (b'["canary"]', 'has no "auths"'),
        (b'{"credsStore": "pass"}', 'has no "auths"'),
        (config(**{"r.example": {"auth": "canary!"}}), "r.example has no login"),
        (config(**{"r.example": {"auth": base64.b64encode(b"canary").decode()}}), "r.example"),
        (config(**{"r.example": {"username": "canary", "password": "canary"}}), "r.example"),
        (config(**{"r.example": "canary"}), "r.example"),
        (b'{"auths": {"r.example": {}}, "credsStore": "pass"}', "credential helper"),
    ],
)
def test_what_is_wrong_is_named_without_its_content(content, words):
    (fault,) = registry_auth.faults(content)
    assert words in fault
    assert "canary" not in fault


def test_no_logins_at_all_is_a_list_too():
    assert registry_auth.faults(b'{"auths": {}}') == []


def test_a_login_is_merged_into_those_of_the_site():
    login = registry_auth.Login("localhost:5000", "jhswarmd", "canary")
    merged = registry_auth.merge(config(**{"r.example": {"auth": AUTH}}), login)
    assert merged == registry_auth.merge(config(**{"r.example": {"auth": AUTH}}), login)
    logins = registry_auth.read(merged)
    assert logins.keys() == {"r.example", "localhost:5000"}
    assert logins["localhost:5000"]["password"] == "canary"
    assert registry_auth.read(registry_auth.merge(None, login)).keys() == {"localhost:5000"}
    assert "canary" not in repr(login)
