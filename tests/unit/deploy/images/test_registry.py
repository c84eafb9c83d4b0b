"""Which registry is trusted, and how ours gets its login."""

import http.client
import io
from types import SimpleNamespace

import pytest
import requests
import urllib3
from rich.console import Console

from jhswarmd import labels
from jhswarmd.accounts import hashing
from jhswarmd.deploy.images import publish, registry
from jhswarmd.deploy.images.registry import _Answer
from jhswarmd.deploy.progress import Progress
from jhswarmd.engine.registry_auth import Login
from jhswarmd.errors import EngineOutOfSequence, JhswarmdError
from jhswarmd.settings.settings import Settings

LOGIN = Login("localhost:5000", "jhswarmd", "canary")
NAMED = Settings(registry="localhost:5000")
DEFAULT = Settings()


def service(port=5000, *, closed=True, role=labels.ROLE_REGISTRY):
    container = {"Image": "sha256:1", "Env": ["REGISTRY_AUTH=none", "OTHER=1"]}
    if closed:
        container = {
            "Env": registry._env_list(),
            "Secrets": [{"File": {"Name": name}} for name in ("htpasswd", "login")],
        }
    return {
        "ID": "r1",
        "Version": {"Index": 7},
        "Spec": {
            "Name": registry.SERVICE,
            "Labels": {labels.ROLE: role},
            "Mode": {"Replicated": {"Replicas": 1}},
            "TaskTemplate": {"ContainerSpec": container, "ForceUpdate": 2},
            "EndpointSpec": {"Ports": [{"PublishedPort": port}]},
        },
    }


class FakeEngine:
    """A swarm with or without the registry's service; records what is created and changed."""

    def __init__(self, *services):
        self.held = list(services)
        self.made = {}
        self.secret_list = []
        self.updated = None
        self.conflicts = []
        self.created = None
        self.api = self

    def services(self, filters):
        return [] if filters.get("label") == f"{labels.ROLE}=jhswarmd" else self.held

    def containers(self, filters):
        return []

    def secrets(self, filters):
        return self.secret_list

    def tasks(self, filters):
        return []

    def info(self):
        return {"Swarm": {"NodeID": "n1"}}

    def create_secret(self, name, content, labels):
        self.made[name] = content
        spec = {"Name": name, "Labels": labels}
        self.secret_list.append({"ID": f"id-{name}", "Spec": spec})
        return {"ID": f"id-{name}"}

    def remove_secret(self, secret_id):
        self.secret_list = [it for it in self.secret_list if it["ID"] != secret_id]

    def inspect_service(self, _):
        return self.held[0]

    def update_service(self, _id, _version, **spec):
        if self.conflicts:
            raise self.conflicts.pop()
        self.updated = spec

    def create_service(self, template, **options):
        self.created = template


@pytest.fixture
def answer(monkeypatch):
    """Set what the port answers, without a login and with one."""
    monkeypatch.setattr(publish, "build_local", lambda *_: "sha256:built")

    def give(plain, with_login=_Answer.OPEN):
        monkeypatch.setattr(
            registry, "_ask", lambda _registry, login=None: with_login if login else plain
        )

    return give


def ensure(engine, settings=DEFAULT):
    return registry.ensure(engine, settings, Progress(Console(file=io.StringIO())), "host")


@pytest.mark.parametrize(
    ("settings", "found", "messages"),
    [
        (DEFAULT, _Answer.OPEN, "is not ours"),
        (DEFAULT, _Answer.CLOSED, "is not ours"),
        (DEFAULT, _Answer.OTHER, "The registry's port is taken"),
        (DEFAULT, _Answer.SILENT, "The registry's port is taken"),
        (NAMED, _Answer.OTHER, "The registry's port is taken"),
        (NAMED, _Answer.SILENT, "The registry's port is taken"),
    ],
)
def test_another_listener_on_the_port_is_reported_with_the_key(answer, settings, found, messages):
    answer(found)
    engine = FakeEngine()
    with pytest.raises(JhswarmdError, match=messages) as raised:
        ensure(engine, settings)
    assert "REGISTRY=localhost:5001" in raised.value.remedy
    assert not engine.made
    assert engine.created is None


@pytest.mark.parametrize("found", [_Answer.OPEN, _Answer.CLOSED])
def test_a_registry_named_by_the_profile_is_the_sites_own(answer, found):
    answer(found)
    engine = FakeEngine()
    assert ensure(engine, NAMED) is None
    assert not engine.made


def test_a_service_of_that_name_without_our_label_is_not_ours(answer):
    answer(_Answer.OPEN)
    with pytest.raises(JhswarmdError, match="is not ours"):
        ensure(FakeEngine(service(role="")))


def test_a_new_registry_starts_with_a_login(answer, monkeypatch):
    answer(_Answer.NONE)
    engine = FakeEngine()
    answers = iter([_Answer.NONE, _Answer.OPEN, _Answer.CLOSED])
    monkeypatch.setattr(registry, "_ask", lambda *_: next(answers))
    login = ensure(engine)
    assert engine.made["jhswarmd-registry_login_g1"] == f"jhswarmd:{login.password}".encode()
    name, _, hashed = engine.made["jhswarmd-registry_htpasswd_g1"].decode().strip().partition(":")
    assert (name, hashed[:4]) == ("jhswarmd", "$2b$")
    assert hashing.is_hash_of(login.password, hashed)
    container = engine.created["ContainerSpec"]
    assert "REGISTRY_AUTH=htpasswd" in container["Env"]
    assert "REGISTRY_STORAGE_DELETE_ENABLED=false" in container["Env"]
    assert [each["File"]["Name"] for each in container["Secrets"]] == ["htpasswd", "login"]
    assert login.password not in str(engine.created)
    assert login.password not in repr(login)


def test_our_open_registry_gets_a_login(answer):
    answer(_Answer.CLOSED)
    engine = FakeEngine(service(closed=False))
    # A manager writes to the service as well.
    engine.conflicts = [EngineOutOfSequence("update out of sequence")]
    engine.create_secret("old", b"", {labels.GENERATION: "4"})
    login = ensure(engine)
    assert f"jhswarmd:{login.password}".encode() == engine.made["jhswarmd-registry_login_g5"]
    template = engine.updated["task_template"]
    assert template["ForceUpdate"] == 2
    container = template["ContainerSpec"]
    assert container["Image"] == "sha256:1"
    assert container["Env"] == ["OTHER=1", *registry._env_list()]
    assert [each["SecretName"] for each in container["Secrets"]] == [
        "jhswarmd-registry_htpasswd_g5",
        "jhswarmd-registry_login_g5",
    ]
    assert "id-old" not in [each["ID"] for each in engine.secret_list]


def test_a_known_login_is_kept_and_nothing_changes(answer, monkeypatch):
    answer(_Answer.CLOSED)
    monkeypatch.setattr(registry, "known_login", lambda *_: LOGIN)
    engine = FakeEngine(service())
    assert ensure(engine) is LOGIN
    assert not engine.made
    assert engine.updated is None


def test_a_login_that_the_registry_refuses_is_replaced(answer, monkeypatch):
    monkeypatch.setattr(registry, "known_login", lambda *_: LOGIN)
    monkeypatch.setattr(
        registry,
        "_ask",
        lambda _registry, login=None: (
            _Answer.OPEN if login and login is not LOGIN else _Answer.CLOSED
        ),
    )
    engine = FakeEngine(service())
    assert ensure(engine) is not LOGIN
    assert engine.updated is not None


@pytest.mark.parametrize("first", [_Answer.SILENT, _Answer.NONE])
def test_while_ours_starts_only_an_http_response_proves_another_listener(monkeypatch, first):
    monkeypatch.setattr(registry, "known_login", lambda *_: LOGIN)
    answers = iter([first, first, first, _Answer.OPEN, _Answer.CLOSED])
    monkeypatch.setattr(registry, "_ask", lambda *_: next(answers))
    assert ensure(FakeEngine(service())) is LOGIN
    monkeypatch.setattr(registry, "_ask", lambda *_: _Answer.OTHER)
    with pytest.raises(JhswarmdError, match="The registry's port is taken"):
        ensure(FakeEngine(service()))


def test_a_registry_that_never_answers_is_an_error_with_the_key(monkeypatch):
    monkeypatch.setattr(registry, "known_login", lambda *_: LOGIN)
    monkeypatch.setattr(registry, "_READY_TIMEOUT_S", 0)
    monkeypatch.setattr(registry, "_ask", lambda *_: _Answer.SILENT)
    with pytest.raises(JhswarmdError, match="does not answer") as raised:
        ensure(FakeEngine(service()))
    assert "REGISTRY" in raised.value.remedy
    assert "canary" not in str(raised.value) + raised.value.remedy


def test_our_login_is_sent_to_no_other_registry():
    for other in ("registry.example:5000", "localhost:5001", "registry.example"):
        assert registry.known_login(FakeEngine(service()), other) is None


def protocol_error(message, cause):
    return requests.ConnectionError(urllib3.exceptions.ProtocolError(message, cause))


def response(status, headers):
    made = requests.Response()
    made.status_code = status
    made.headers.update(headers)
    return made


OURS = {"Docker-Distribution-Api-Version": "registry/2.0"}


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (requests.ConnectionError("[Errno 111] Connection refused"), _Answer.NONE),
        (requests.ConnectTimeout(), _Answer.NONE),
        (
            protocol_error(
                "Connection aborted.",
                http.client.RemoteDisconnected("Remote end closed connection without response"),
            ),
            _Answer.SILENT,
        ),
        (
            protocol_error("Connection aborted.", ConnectionResetError(104, "reset by peer")),
            _Answer.SILENT,
        ),
        (
            protocol_error("Connection aborted.", http.client.BadStatusLine("SSH-2.0-x")),
            _Answer.SILENT,
        ),
        (requests.ReadTimeout(), _Answer.SILENT),
        (response(200, OURS), _Answer.OPEN),
        (response(401, OURS), _Answer.CLOSED),
        (response(200, {}), _Answer.OTHER),
        (response(404, {}), _Answer.OTHER),
        (response(301, {"Location": "https://x/"}), _Answer.OTHER),
    ],
)
def test_answers_are_classified(monkeypatch, outcome, expected):
    def get(_url, **options):
        assert options["allow_redirects"] is False
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    class Session(SimpleNamespace):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(publish, "session", lambda _: Session(get=get))
    assert registry._ask("localhost:5000") is expected


class Containers(FakeEngine):
    """The registry's service, a daemon's, and what their containers on this node hold."""

    def __init__(self, files):
        super().__init__(service())
        self.files = files

    def services(self, filters):
        if filters.get("label") == f"{labels.ROLE}=jhswarmd":
            return [{"ID": "d1"}]
        return self.held

    def containers(self, filters):
        name = filters["label"].rpartition("=")[2]
        return [{"Id": name}] if name in self.files else []


@pytest.mark.parametrize(
    ("files", "password"),
    [
        ({"r1": b"jhswarmd:one"}, "one"),
        ({"d1": registry.registry_auth.merge(None, LOGIN)}, "canary"),
        ({"r1": b"", "d1": registry.registry_auth.merge(None, LOGIN)}, "canary"),
        ({"d1": b'{"auths": {}}'}, None),
        ({"d1": b"no json"}, None),
        ({}, None),
    ],
)
def test_the_login_is_read_from_a_container_on_this_node(monkeypatch, files, password):
    engine = Containers(files)
    monkeypatch.setattr(registry.streams, "run", lambda _api, container, *_, **__: files[container])
    login = registry.known_login(engine, "localhost:5000")
    assert (login.password if login else None) == password
