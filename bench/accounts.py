"""How soon a great number of accounts works: a deployed stack, its real PAM, logins by the form."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import requests

from bench.deployed import deployed
from bench.figures import BARE, OURS, Figure, Target
from bench.measure import Report, timed
from bench.site import BenchError
from jhswarmd.accounts.hashing import hash_password
from tests.kit.lab import Lab
from tests.kit.stack import LoginRefused, Stack, log_in

#: Seconds between two tries to log in. A refused one is answered two seconds later
#: (hub/auth.py), so tries do not wait for each other.
_TRY_EVERY_S = 0.2
#: Seconds after which an account should work, whatever is measured.
_PATIENCE_S = 60.0
#: Hashes passwords as one of two processes: what both cores can do, without threads of ours.
_HASH_ALONE = (
    "import sys; from jhswarmd.accounts.hashing import hash_password\n"
    "for line in sys.stdin: hash_password(line.rstrip())"
)
_CORES = 2


def accounts(lab: Lab, number: int, rounds: int, report: Report) -> tuple[list[Figure], list[str]]:
    """Give a deployed stack ``number`` accounts; returns figures, and facts in words."""
    live = Figure(
        "accounts-hashed",
        f"{number:,} hashed accounts, from their secret to a login",
        Target(worst_s=3.0),
    )
    plain = Figure(
        "accounts-plain",
        f"{number:,} plain passwords, until a login; bare: two processes hash them",
        Target(ratio=1.2),
    )
    facts = []
    with contextlib.ExitStack() as undo:
        stack = undo.enter_context(deployed(lab, report))
        hashed = hash_password("one password for all")
        others = "".join(f"user{each:05}:{hashed}\n" for each in range(number - 1))
        for turn in range(rounds):
            report(f"{number:,} hashed accounts {turn + 1}/{rounds}", 1)
            # Each turn brings one account that was not there before.
            name, password = f"probe{turn}", secrets.token_hex(8)
            path = stack.env_dir / "hashed.txt"
            path.write_text(f"{others}{name}:{hash_password(password)}\n")
            with _FirstSecret(lab) as first:
                begun_at = time.perf_counter()
                process = stack.start_cli("users", "set", str(path))
                made_at = first.wait()
                live.add(OURS, _logged_in_at(stack, name, password) - made_at)
                _end(process)
                facts.append(
                    f"'users set' with {number:,} hashed accounts, until the daemon is back with "
                    f"them: {time.perf_counter() - begun_at:.1f} s"
                )
        report(f"{number:,} plain passwords: two processes hash them", 1)
        passwords = [secrets.token_hex(8) for _ in range(number)]
        with timed(plain, BARE):
            _hash_alone(passwords)
        report(f"{number:,} plain passwords", 1)
        path = stack.env_dir / "plain.txt"
        path.write_text("".join(f"user{i:05}:{each}\n" for i, each in enumerate(passwords)))
        begun_at = time.perf_counter()
        with _FirstSecret(lab) as first:
            process = stack.start_cli("users", "set", str(path))
            first.wait(within_s=3600)
            plain.add(OURS, _logged_in_at(stack, "user00000", passwords[0]) - begun_at)
            _end(process)
    return [live, plain], facts[-1:]


def _end(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=_PATIENCE_S)
    if process.returncode:
        raise BenchError(f"the accounts were not taken: {output}")


def _hash_alone(passwords: list[str]) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", _HASH_ALONE], stdin=subprocess.PIPE, text=True)
        for _ in range(_CORES)
    ]
    for number, process in enumerate(processes):
        assert process.stdin
        process.stdin.write("".join(f"{each}\n" for each in passwords[number::_CORES]))
        process.stdin.close()
    if any(process.wait() for process in processes):
        raise BenchError("passwords could not be hashed")


class _FirstSecret:
    """Tells when the next secret is created, by the engine's own events."""

    def __init__(self, lab: Lab) -> None:
        self._stream = lab.client.api.events(filters={"type": "secret"}, decode=True)
        self._made_at: float | None = None
        self._is_made = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _FirstSecret:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.close()
        self._thread.join()

    def _run(self) -> None:
        for event in self._stream:
            if event["Action"] == "create":
                self._made_at = time.perf_counter()
                self._is_made.set()
                return

    def wait(self, within_s: float = _PATIENCE_S) -> float:
        """Return when it was created, on the clock ``perf_counter``."""
        if not self._is_made.wait(within_s) or self._made_at is None:
            raise BenchError("no secret was created")
        return self._made_at


def _logged_in_at(stack: Stack, name: str, password: str) -> float:
    """Try to log in, again and again; return when it was first granted."""
    deadline = time.perf_counter() + _PATIENCE_S
    granted: list[float] = []

    def attempt(session: requests.Session) -> None:
        with contextlib.suppress(LoginRefused, requests.RequestException), session:
            log_in(session, stack.url, name, password)
            granted.append(time.perf_counter())

    with ThreadPoolExecutor(32) as pool:
        for _ in _ticks(deadline):
            if granted:
                return min(granted)
            pool.submit(attempt, stack.session())
    raise BenchError(f"{name} could not log in within {_PATIENCE_S:g} s")


def _ticks(deadline: float) -> Iterator[None]:
    while time.perf_counter() < deadline:
        yield
        time.sleep(_TRY_EVERY_S)
