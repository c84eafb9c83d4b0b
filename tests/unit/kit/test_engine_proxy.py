"""The proxy of the fault tests, in front of a little engine that is none."""

import http.server
import json
import queue
import socketserver
import threading

import docker
import pytest
import requests
from docker.errors import APIError

from tests.kit.engine_proxy import (
    Answer,
    Cut,
    CutBody,
    Delay,
    EngineProxy,
    LoseAnswer,
    Silence,
    Swallow,
    Throttle,
    Truncate,
)
from tests.kit.wait import wait_until

LOST = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


class LittleEngineHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        path = self.path.partition("/v1.41")[2].split("?")[0]
        length = int(self.headers.get("Content-Length", 0))
        self.server.seen.append((self.command, path, self.rfile.read(length)))
        if path == "/events":
            return self._stream()
        body = json.dumps([{"ID": "a" * 5000}] if self.command == "GET" else {"ID": "made"})
        if self.command == "DELETE":
            self.send_response(204)
            self.end_headers()
            return None
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())
        return None

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while (number := self.server.events.get()) is not None:
                line = json.dumps({"number": number, "filling": "x" * 50}) + "\n"
                self.wfile.write(f"{len(line):x}\r\n{line}\r\n".encode())
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.has_left.set()

    do_GET = do_HEAD = do_POST = do_DELETE = _answer

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *args) -> None:
        pass


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture(name="engine")
def little_engine(tmp_path):
    server = _Server(str(tmp_path / "e.sock"), LittleEngineHandler)
    server.seen, server.events, server.has_left = [], queue.Queue(), threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.events.put(None)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(name="proxy")
def proxy_before_it(engine, tmp_path):
    with EngineProxy(engine.server_address, tmp_path / "p.sock") as made:
        yield made


@pytest.fixture
def client(proxy):
    made = docker.APIClient(proxy.base_url, version="1.41", timeout=5)
    yield made
    made.close()


def test_requests_pass_and_are_recorded(client, proxy, engine):
    assert client.services()[0]["ID"] == "a" * 5000
    assert client.remove_service("s1")
    client.create_service(docker.types.TaskTemplate(docker.types.ContainerSpec("image")))
    command, path, body = engine.seen[-1]
    assert (command, path) == ("POST", "/services/create")
    assert json.loads(body)["TaskTemplate"]["ContainerSpec"]["Image"] == "image"
    assert [(call.method, call.status, call.told) for call in proxy.calls] == [
        ("GET", 200, 200),
        ("DELETE", 204, 204),
        ("POST", 200, 200),
    ]
    assert len(proxy.writes) == 2
    assert proxy.removed("services") == {"s1"}
    assert proxy.removed("volumes") == set()


def test_a_head_has_no_body_and_the_connection_goes_on(client):
    for _ in range(2):
        assert client.head(client._url("/_ping")).status_code == 200
        assert client.services()


def test_a_stream_is_passed_on_as_it_comes(client, engine):
    stream = client.events(decode=True)
    for number in range(3):
        engine.events.put(number)
        assert next(stream)["number"] == number
    engine.events.put(None)
    assert list(stream) == []


def test_a_client_that_leaves_ends_the_stream_at_the_engine_too(client, engine, proxy):
    stream = client.events(decode=True)
    engine.events.put(1)
    next(stream)
    stream.close()
    client.close()

    def has_left() -> bool:
        engine.events.put(2)
        return engine.has_left.wait(0.01)

    wait_until(has_left, 5)
    assert proxy.cut_streams() == 0


def test_an_answer_is_made_up_and_the_engine_not_asked(client, proxy, engine):
    rule = proxy.add(Answer(503, "no leader"), "GET", r"^/services", times=1)
    with pytest.raises(APIError, match="no leader"):
        client.services()
    assert (rule.hits, engine.seen) == (1, [])
    assert client.services()


def test_a_request_is_applied_and_answered_by_an_error(client, proxy, engine):
    proxy.add(Answer(500, "deadline exceeded", applied=True), "DELETE")
    with pytest.raises(APIError, match="deadline exceeded"):
        client.remove_service("s1")
    assert [seen[:2] for seen in engine.seen] == [("DELETE", "/services/s1")]
    (call,) = proxy.writes
    assert (call.status, call.told) == (204, 500)
    assert proxy.removed("services") == {"s1"}


@pytest.mark.parametrize(("fault", "reached"), [(Cut(), 0), (LoseAnswer(), 1)])
def test_a_connection_is_cut_before_or_after_the_engine_has_done_it(
    client, proxy, engine, fault, reached
):
    proxy.add(fault, "DELETE", times=1)
    with pytest.raises(LOST):
        client.remove_service("s1")
    assert len(engine.seen) == reached
    assert proxy.removed("services") == ({"s1"} if reached else set())
    client.remove_service("s1")


@pytest.mark.parametrize(("fault", "reached"), [(Swallow(), 0), (Swallow(applied=True), 1)])
def test_a_request_is_never_answered(proxy, engine, fault, reached):
    client = docker.APIClient(proxy.base_url, version="1.41", timeout=0.2)
    proxy.add(fault, "DELETE")
    with pytest.raises((requests.Timeout, *LOST)):
        client.remove_service("s1")
    assert len(engine.seen) == reached
    client.close()


def test_half_a_json_is_framed_as_if_it_were_whole(client, proxy):
    with (
        proxy.fault(Truncate(), path="^/services"),
        pytest.raises(requests.exceptions.JSONDecodeError),
    ):
        client.services()
    assert client.services()


def test_a_body_is_cut_after_so_many_bytes(client, proxy):
    proxy.add(CutBody(after_bytes=100), path="^/services")
    with pytest.raises(LOST):
        client.services()


def test_a_stream_is_cut_inside_a_line(client, proxy, engine):
    proxy.add(CutBody(after_bytes=100), path="^/events")
    stream = client.events()
    for number in range(3):
        engine.events.put(number)
    got = b"".join(stream)  # docker-py takes a lost connection for the end
    assert len(got) == 100
    assert not got.endswith(b"\n")


def test_a_silent_stream_stays_open_until_it_is_cut(client, proxy, engine):
    with proxy.fault(Silence(), path="^/events"):
        stream = client.events(decode=True)
    lines = []
    ended = threading.Event()

    def read() -> None:
        lines.extend(stream)
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    engine.events.put(1)
    assert client.services()  # others are not concerned
    assert not ended.is_set()
    assert proxy.cut_streams("^/events") == 1
    assert ended.wait(5)
    reader.join()
    assert lines == []


def test_delays_and_slow_reading_lose_nothing(client, proxy):
    proxy.add(Delay(before_s=0.01, after_s=0.01), times=1)
    proxy.add(Throttle(pause_s=0.001, piece=1000))
    for _ in range(2):
        assert client.services()[0]["ID"] == "a" * 5000


def test_rules_skip_count_roll_dice_and_ask(client, proxy):
    def fails() -> bool:
        try:
            client.services()
        except APIError:
            return True
        return False

    with proxy.fault(Answer(500), skip=1, times=2):
        assert [fails() for _ in range(4)] == [False, True, True, False]
    with proxy.fault(Answer(500), when=lambda request: "filters" in request.path):
        assert not fails()
        with pytest.raises(APIError):
            client.services(filters={"name": "x"})
    with proxy.fault(Answer(500), probability=0.5) as rule:
        failed = sum(fails() for _ in range(40))
        assert 0 < failed == rule.hits < 40
    rule.wait_hit(0)
    with pytest.raises(AssertionError, match="not hit"):
        rule.wait_hit(0.01, hits=1000)


def test_an_engine_that_is_away_or_whose_socket_is_replaced(client, proxy):
    assert client.services()
    with proxy.down(), pytest.raises(requests.ConnectionError):
        client.services()
    assert client.services()


def test_nothing_listens_behind_the_proxy(tmp_path):
    with EngineProxy(tmp_path / "nobody.sock", tmp_path / "p.sock") as proxy:
        client = docker.APIClient(proxy.base_url, version="1.41", timeout=5)
        with pytest.raises(requests.ConnectionError):
            client.services()
        assert proxy.calls[0].status is None
        client.close()
