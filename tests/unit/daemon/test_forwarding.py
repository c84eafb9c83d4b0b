"""A command reaches the daemon that has the leader, whichever was asked; nobody else's does."""

import io

import pytest
import requests
from requests.adapters import BaseAdapter

from jhswarmd.api import control_socket
from jhswarmd.api.web_server import Web
from jhswarmd.daemon.forwarding import Forwarder
from jhswarmd.daemon.leader import Leader
from jhswarmd.errors import JhswarmdError
from tests.kit.fakes import FakeEngine

TOKEN = "t0ken-of-the-daemons"


def fail(arguments):
    raise JhswarmdError("It cannot be done", why="it is Monday", remedy="Wait.")


class Network(BaseAdapter):
    """Carries requests to a site without a socket; ``down`` is raised instead."""

    def __init__(self, site):
        super().__init__()
        self.site = site
        self.down = None
        self.urls = []

    def send(self, request, **kwargs):
        self.urls.append(request.url)
        if self.down:
            raise self.down
        body = (request.body or "").encode()
        said = {}
        environ = {
            "PATH_INFO": request.path_url,
            "REQUEST_METHOD": request.method,
            "QUERY_STRING": "",
            "CONTENT_LENGTH": request.headers.get("Content-Length", ""),
            "HTTP_AUTHORIZATION": request.headers.get("Authorization", ""),
            "wsgi.input": io.BytesIO(body),
        }
        content = self.site._answer(environ, lambda status, headers: said.update(status=status))
        response = requests.Response()
        response.status_code = int(said["status"][:3])
        response._content = b"".join(content)
        response.request, response.url = request, request.url
        return response

    def close(self):
        pass


@pytest.fixture
def network():
    there = {"where": lambda arguments: {"node": "there", **arguments}, "fail": fail}
    site = Web("127.0.0.1", lambda: "", port=0, token=TOKEN, handlers=there)
    yield Network(site)
    site._server.server_close()


def make_relay(engine, network, token=TOKEN):
    """Return the commands of the daemon on node-1, which has looked where the hub is."""
    session = requests.Session()
    session.mount("http://", network)
    leader = Leader(engine, "jupyterhub")
    leader.refresh()
    forwarder = Forwarder(engine, leader, "jupyterhub", token, session)
    return forwarder.wrap({"where": lambda arguments: {"node": "here"}, "fail": fail})


def make_standby(address="10.131.0.9"):
    engine = FakeEngine()
    engine.hub_node = "node-2"
    engine.addresses = {"node-2": address} if address else {}
    return engine


def test_the_active_one_answers_by_itself(network):
    assert make_relay(FakeEngine(), network)["where"]({}) == {"node": "here"}
    assert network.urls == []


def test_a_standby_asks_the_daemon_on_the_hubs_node_over_the_control_network(network):
    engine = make_standby()
    answer = make_relay(engine, network)["where"]({"n": 1})
    assert answer == {"node": "there", "n": 1}
    assert network.urls == ["http://10.131.0.9:9108/ctl"]
    assert engine.calls == ["read_task_address jupyterhub_jhswarmd node-2 jupyterhub_control"]


def test_while_the_hub_is_nowhere_each_daemon_answers_by_itself(network):
    engine = make_standby()
    engine.hub_node = None
    assert make_relay(engine, network)["where"]({}) == {"node": "here"}


def test_an_error_of_the_active_one_reaches_who_asked_in_full(network):
    with pytest.raises(JhswarmdError) as caught:
        make_relay(make_standby(), network)["fail"]({})
    error = caught.value
    assert (error.what, error.why, error.remedy) == ("It cannot be done", "it is Monday", "Wait.")


def test_no_daemon_on_the_hubs_node_is_said(network):
    with pytest.raises(JhswarmdError, match="No daemon runs on the hub's node"):
        make_relay(make_standby(address=None), network)["where"]({})


def test_no_answer_is_said_without_token_and_arguments(network):
    network.down = requests.ConnectionError(f"token {TOKEN}")
    with pytest.raises(JhswarmdError, match="ConnectionError") as caught:
        make_relay(make_standby(), network)["where"]({"password": "hunter2"})
    said = f"{caught.value!r} {caught.value} {caught.value.remedy} {caught.value.__cause__}"
    assert TOKEN not in said
    assert "hunter2" not in said
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("token", ["", "another", TOKEN + "x", "grüße"])
def test_without_the_token_no_command_is_run(network, token):
    said = {}
    environ = {
        "PATH_INFO": "/ctl",
        "REQUEST_METHOD": "POST",
        "HTTP_AUTHORIZATION": f"token {token}",
        "CONTENT_LENGTH": "2",
        "wsgi.input": io.BytesIO(b"{}"),
    }
    network.site._answer(environ, lambda status, headers: said.update(status=status))
    assert said["status"] == "403 Forbidden"


def test_a_site_that_has_no_token_runs_no_command():
    site = Web("127.0.0.1", lambda: "", port=0, handlers={"where": lambda arguments: {}})
    said = {}
    environ = {"PATH_INFO": "/ctl", "REQUEST_METHOD": "POST", "HTTP_AUTHORIZATION": "token "}
    site._answer(environ, lambda status, headers: said.update(status=status))
    site._server.server_close()
    assert said["status"] == "403 Forbidden"


@pytest.mark.parametrize(
    ("method", "length", "status"),
    [
        ("GET", "2", "400"),
        ("POST", "-1", "400"),
        ("POST", str(control_socket.MAX_REQUEST + 1), "413"),
    ],
)
def test_a_bad_request_is_refused_before_it_is_read(network, method, length, status):
    said = {}
    environ = {
        "PATH_INFO": "/ctl",
        "REQUEST_METHOD": method,
        "HTTP_AUTHORIZATION": f"token {TOKEN}",
        "CONTENT_LENGTH": length,
    }
    network.site._answer(environ, lambda status, headers: said.update(status=status))
    assert said["status"].startswith(status)
