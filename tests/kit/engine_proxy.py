"""A scriptable proxy between a program and the engine's unix socket.

It passes every request on, streams included, until a rule says otherwise, and records each call, so
that a test can say afterwards what was really done to the engine::

    with EngineProxy(engine.socket, tmp_path / "proxy.sock") as proxy:
        client = docker.APIClient(proxy.base_url)          # or DOCKER_HOST=proxy.base_url
        proxy.add(LoseAnswer(), "POST", r"/services/create", times=1)
        with proxy.fault(Answer(503, "no leader"), path=r"^/tasks"):
            ...                                            # every listing of tasks fails
        assert proxy.removed("services") == {orphan_id}
        assert proxy.removed("volumes") == set()

Rules are asked in the order in which they were added; the first that applies wins. ``path`` is a
regular expression, searched for in the path with its query but without the API's version. ``skip``
lets that many matching requests pass first, ``times`` ends the rule after that many,
``probability`` rolls the proxy's own dice (``seed``), ``when`` is asked with the ``Request``.

Faults:

===================== =============================================================================
``Delay``             wait before the request is sent, and after the engine's answer
``Cut``               close the connection, and send nothing to the engine
``LoseAnswer``        let the engine do it, then close the connection
``Answer``            answer in the engine's place; with ``applied`` the engine does it all the same
``Swallow``           never answer; with ``applied`` the engine does it all the same
``Truncate``          an answer that is well framed, but has only half of its body
``CutBody``           close the connection inside the body: inside a line of JSON, for a stream
``Silence``           pass the head of an answer on, and of its body nothing: a stream that is dead
``Throttle``          read the engine's answer slowly, as a slow reader does
===================== =============================================================================

``down`` takes the socket away and puts another one in its place; ``cut_streams`` ends what is open.
Connections that are taken over by another protocol (attach, exec) are not supported. The engine
that is silent as a whole is ``Lab.paused``. ``HubProxy`` does the same between daemon and hub.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_READS = ("GET", "HEAD")
_PIECE = 65536
_CLOSE_S = 10
#: What concerns one connection alone, and how a body is framed, is said anew on each side.
_OF_ONE_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


# --- faults ---


@dataclass(frozen=True)
class Delay:
    """Wait so many seconds before the request is sent, and after the engine has answered.

    With ``although_left`` it is sent even when the client has given it up by then.
    """

    before_s: float = 0.0
    after_s: float = 0.0
    although_left: bool = False


@dataclass(frozen=True)
class Cut:
    """Close the connection; the engine never hears of the request."""


@dataclass(frozen=True)
class LoseAnswer:
    """Let the engine answer, and close the connection instead of passing it on."""


@dataclass(frozen=True)
class Answer:
    """Answer with this status and message; with ``applied`` after the engine has done it.

    ``body`` is sent instead of a JSON object with the message.
    """

    status: int
    message: str = "injected by the test"
    applied: bool = False
    body: str | None = None


@dataclass(frozen=True)
class Swallow:
    """Never answer, until the client leaves; with ``applied`` after the engine has done it."""

    applied: bool = False


@dataclass(frozen=True)
class Truncate:
    """End the body after its first half, as if that were all of it."""


@dataclass(frozen=True)
class CutBody:
    """Close the connection after so many bytes of the body; None: inside its first piece."""

    after_bytes: int | None = None


@dataclass(frozen=True)
class Silence:
    """Pass the answer's head on and keep the connection open, but pass nothing of the body on."""


@dataclass(frozen=True)
class Throttle:
    """Read the answer in pieces of so many bytes, with a pause before each."""

    pause_s: float
    piece: int = 4096


Fault = Delay | Cut | LoseAnswer | Answer | Swallow | Truncate | CutBody | Silence | Throttle


# --- what is seen ---


@dataclass(frozen=True)
class Request:
    """A request of the client's. ``path`` has its query, and no version of the API."""

    method: str
    path: str
    target: str
    """The path as the client sent it."""
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def json(self) -> Any:
        """Return what the body says."""
        return json.loads(self.body)


@dataclass
class Call:
    """One request, and what became of it."""

    method: str
    path: str
    at_s: float
    """When it came, on ``time.monotonic``'s clock."""
    fault: Fault | None = None
    status: int | None = None
    """What the engine answered; None: it was not asked, or has not answered."""
    told: int | None = None
    """What the client was told; None: nothing, so far."""

    @property
    def is_write(self) -> bool:
        """Tell whether it may have changed something."""
        return self.method not in _READS


@dataclass
class Rule:
    """When a fault happens; see the module. ``hits`` counts how often it has."""

    fault: Fault
    method: str | None = None
    path: str = ""
    times: int | None = None
    skip: int = 0
    probability: float = 1.0
    when: Callable[[Request], bool] = lambda request: True
    hits: int = 0
    _hit: threading.Condition = field(default_factory=threading.Condition, repr=False)

    def applies(self, request: Request, dice: random.Random) -> bool:
        """Tell whether the fault happens to this request, and count it."""
        if self.method not in (None, request.method) or not re.search(self.path, request.path):
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        if not self.when(request):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.probability < 1.0 and dice.random() >= self.probability:
            return False
        with self._hit:
            self.hits += 1
            self._hit.notify_all()
        return True

    def wait_hit(self, timeout_s: float, hits: int = 1) -> None:
        """Return once it has happened so often. Raises AssertionError when it does not."""
        with self._hit:
            if not self._hit.wait_for(lambda: self.hits >= hits, timeout_s):
                raise AssertionError(f"{self}: not hit {hits} times within {timeout_s:g} s")


# --- the proxy ---


class EngineProxy:
    """Listens on ``path`` and passes on to ``engine_socket``; one thread, however many clients."""

    def __init__(self, engine_socket: str | Path, path: str | Path, seed: int = 0) -> None:
        self._engine_socket = str(engine_socket)
        self.path = Path(path)
        self.calls: list[Call] = []
        """Every request, reads included, in the order of their coming."""
        self._dice = random.Random(seed)
        self._rules: tuple[Rule, ...] = ()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine-proxy")
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()
        self._streams: dict[asyncio.Task[Any], str] = {}

    @property
    def base_url(self) -> str:
        """The proxy's address as DOCKER_HOST spells it."""
        return f"unix://{self.path}"

    def __enter__(self) -> EngineProxy:
        self._thread.start()
        try:
            self._run(self._listen())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut every connection and remove the socket."""
        self._run(self._stop_listening())
        self._run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- rules ---

    def add(self, fault: Fault, method: str | None = None, path: str = "", **when: Any) -> Rule:
        """Add a rule (see ``Rule``) behind the others, and return it."""
        rule = Rule(fault, method, path, **when)
        with self._lock:
            self._rules = (*self._rules, rule)
        return rule

    def remove(self, *rules: Rule) -> None:
        """Take rules away. What they hold back already stays held back."""
        with self._lock:
            self._rules = tuple(each for each in self._rules if each not in rules)

    @contextlib.contextmanager
    def fault(
        self, fault: Fault, method: str | None = None, path: str = "", **when: Any
    ) -> Iterator[Rule]:
        """Have a rule for a block."""
        rule = self.add(fault, method, path, **when)
        try:
            yield rule
        finally:
            self.remove(rule)

    def cut_streams(self, path: str = "") -> int:
        """Cut the connections whose request is being answered now; returns how many."""

        async def cut() -> int:
            found = [task for task, at in self._streams.items() if re.search(path, at)]
            for task in found:
                task.cancel()
            return len(found)

        return self._run(cut())

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Take the socket away for a block, as an engine does that is stopped."""
        self._run(self._stop_listening())
        try:
            yield
        finally:
            self._run(self._listen())

    # --- the record ---

    @property
    def writes(self) -> list[Call]:
        """The calls that may have changed something."""
        return [call for call in list(self.calls) if call.is_write]

    def find(self, method: str, path: str) -> list[Call]:
        """Return the calls with this method whose path has a match of the expression."""
        found = (call for call in list(self.calls) if call.method == method)
        return [call for call in found if re.search(path, call.path)]

    def removed(self, kind: str) -> set[str]:
        """Return what of a kind (``services``, ``volumes``) the engine was asked to remove.

        Whether it answered or not: names or ids, as the client gave them. A prune counts as
        the name ``prune``.
        """
        removed = {
            call.path.split("?")[0].removeprefix(f"/{kind}/")
            for call in self.find("DELETE", rf"^/{kind}/")
            if not isinstance(call.fault, Cut) and (call.status or 500) != 404
        }
        return removed | {"prune" for _ in self.find("POST", rf"^/{kind}/prune")}

    # --- one connection ---

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CLOSE_S)

    async def _connect(self, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self._engine_socket, limit=limit)

    async def _listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def _stop_listening(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        if self.path.name:
            self.path.unlink(missing_ok=True)
        tasks = set(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        client = _Side(reader, writer)
        try:
            while (request := await _read_request(client)) and await self._handle(client, request):
                pass
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # one of the two has gone, or we are to close
        finally:
            self._connections.discard(task)
            client.close()

    async def _handle(self, client: _Side, request: Request) -> bool:
        """Answer one request; tell whether the connection goes on."""
        with self._lock:
            rules = self._rules
        rule = next((each for each in rules if each.applies(request, self._dice)), None)
        fault = rule.fault if rule else None
        call = Call(request.method, request.path, time.monotonic(), fault)
        self.calls.append(call)
        task = asyncio.current_task()
        assert task
        self._streams[task] = request.path
        # A client that leaves must not leave its request, maybe a stream, behind.
        leaving = asyncio.ensure_future(client.left())
        working = asyncio.ensure_future(self._answer(client, request, call))
        try:
            awaited = {leaving, working}
            if isinstance(fault, Delay) and fault.although_left:
                awaited = {working}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            return working.done() and working.result()
        finally:
            del self._streams[task]
            for each in (leaving, working):
                each.cancel()
            await asyncio.gather(leaving, working, return_exceptions=True)

    async def _answer(self, client: _Side, request: Request, call: Call) -> bool:
        fault = call.fault
        if isinstance(fault, Cut):
            return False
        if isinstance(fault, Delay):
            await asyncio.sleep(fault.before_s)
        if isinstance(fault, (Answer, Swallow)) and not fault.applied:
            return await self._make_up(client, fault, call)
        piece = fault.piece if isinstance(fault, Throttle) else _PIECE
        engine = _Side(*await self._connect(piece), piece)
        try:
            await engine.send(_head(request))
            await engine.send(request.body)
            status, headers = await _read_head(engine)
            call.status = int(status.split()[1])
            has_body = request.method != "HEAD" and call.status not in (204, 304)
            body = _body_of_answer(engine, headers) if has_body else _pieces()
            if isinstance(fault, LoseAnswer):
                await _all_of(body)
                return False
            if isinstance(fault, (Answer, Swallow)):
                await _all_of(body)
                return await self._make_up(client, fault, call)
            if isinstance(fault, Delay):
                await asyncio.sleep(fault.after_s)
            call.told = call.status
            return await _pass_on(client, status, headers, body, fault, has_body=has_body)
        finally:
            engine.close()

    async def _make_up(self, client: _Side, fault: Answer | Swallow, call: Call) -> bool:
        if isinstance(fault, Swallow):
            await asyncio.Event().wait()  # until the client leaves
        assert isinstance(fault, Answer)
        call.told = fault.status
        told = json.dumps({"message": fault.message}) if fault.body is None else fault.body
        text = told.encode()
        kind = "text/html" if told.startswith("<") else "application/json"
        await client.send(
            f"HTTP/1.1 {fault.status} Injected\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(text)}\r\n\r\n".encode()
            + text
        )
        return True


class HubProxy(EngineProxy):
    """The same between a program and the hub: listens on ``address`` and passes on to ``hub``.

    Both are (host, port); ``hub`` may be changed when the hub has moved.
    """

    def __init__(self, hub: tuple[str, int], address: tuple[str, int], seed: int = 0) -> None:
        super().__init__("", "", seed)
        self.hub = hub
        self._address = address

    async def _connect(self, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.hub, limit=limit)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, *self._address)


class _Side:
    """One end: bytes that were read ahead to see whether the peer is still there are kept."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece: int = _PIECE
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._piece = piece
        self._ahead = b""

    async def left(self) -> None:
        """Return when the peer closes. What it sends meanwhile is kept for the next read."""
        while piece := await self._reader.read(self._piece):
            self._ahead += piece

    async def read_until(self, end: bytes) -> bytes:
        """Return what comes up to ``end``, with it. Raises EOFError."""
        while end not in self._ahead:
            self._ahead += await self._more()
        found, _, self._ahead = self._ahead.partition(end)
        return found + end

    async def read_piece(self, most: int) -> bytes:
        """Return what is there, as soon as there is something. Raises EOFError."""
        if not self._ahead:
            self._ahead = await self._more()
        piece, self._ahead = self._ahead[:most], self._ahead[most:]
        return piece

    async def _more(self) -> bytes:
        piece = await self._reader.read(self._piece)
        if not piece:
            raise EOFError("the peer has closed")
        return piece

    async def send(self, content: bytes) -> None:
        """Send, and wait while the peer does not keep up."""
        if content:
            self._writer.write(content)
            await self._writer.drain()

    def close(self) -> None:
        """Close at once."""
        self._writer.transport.abort()


async def _read_request(client: _Side) -> Request | None:
    try:
        start, headers = await _read_head(client)
    except EOFError:
        return None
    method, target, _ = start.split(" ", 2)
    body = await _all_of(_body(client, headers))
    path = re.sub(r"^/v\d+\.\d+(?=/)", "", target)
    return Request(method, path, target, tuple(headers), body)


async def _read_head(side: _Side) -> tuple[str, list[tuple[str, str]]]:
    lines = (await side.read_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:] if line)
    return lines[0], [(key, value.strip()) for key, _, value in pairs]


def _head(request: Request) -> bytes:
    start = f"{request.method} {request.target} HTTP/1.1"
    kept = [f"{key}: {value}" for key, value in request.headers if key.lower() not in _OF_ONE_HOP]
    kept += [f"Content-Length: {len(request.body)}", "Connection: close"]
    return "\r\n".join((start, *kept, "", "")).encode("latin-1")


async def _body(side: _Side, headers: list[tuple[str, str]]) -> AsyncIterator[bytes]:
    """Yield the pieces of a body as they come. Without a frame there is none."""
    facts = {key.lower(): value for key, value in headers}
    if facts.get("transfer-encoding", "").lower() == "chunked":
        while left := int((await side.read_until(b"\r\n")).split(b";")[0], 16):
            while left:
                piece = await side.read_piece(left)
                left -= len(piece)
                yield piece
            await side.read_until(b"\r\n")
        await side.read_until(b"\r\n")  # Docker sends no trailers
        return
    left = int(facts.get("content-length", 0))
    while left:
        piece = await side.read_piece(left)
        left -= len(piece)
        yield piece


async def _body_of_answer(engine: _Side, headers: list[tuple[str, str]]) -> AsyncIterator[bytes]:
    if {key.lower() for key, _ in headers} & {"transfer-encoding", "content-length"}:
        async for piece in _body(engine, headers):
            yield piece
        return
    with contextlib.suppress(EOFError):
        while True:
            yield await engine.read_piece(_PIECE)


async def _all_of(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in body])


async def _pass_on(
    client: _Side,
    status: str,
    headers: list[tuple[str, str]],
    body: AsyncIterator[bytes],
    fault: Fault | None,
    *,
    has_body: bool,
) -> bool:
    """Send an answer to the client piece by piece, and tell whether the connection goes on."""
    lengths = [value for key, value in headers if key.lower() == "content-length"]
    if isinstance(fault, Truncate):
        whole = await _all_of(body)
        lengths, body = [str(len(whole) // 2)], _pieces(whole[: len(whole) // 2])
    kept = [f"{key}: {value}" for key, value in headers if key.lower() not in _OF_ONE_HOP]
    is_chunked = has_body and not lengths
    kept += [f"Content-Length: {lengths[0]}"] if lengths else []
    kept += ["Transfer-Encoding: chunked"] if is_chunked else []
    await client.send("\r\n".join((status, *kept, "", "")).encode("latin-1"))
    left = fault.after_bytes if isinstance(fault, CutBody) else None
    async for piece in body:
        if isinstance(fault, Silence):
            continue
        if isinstance(fault, Throttle):
            await asyncio.sleep(fault.pause_s)
        is_last = isinstance(fault, CutBody) and (left is None or left <= len(piece))
        if is_last:
            piece = piece[: len(piece) // 2 if left is None else left]
        elif left is not None:
            left -= len(piece)
        framed = f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if is_chunked else piece
        await client.send(framed if piece else b"")
        if is_last:
            return False
    if isinstance(fault, Silence):
        await asyncio.Event().wait()
    if is_chunked:
        await client.send(b"0\r\n\r\n")
    return True


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
