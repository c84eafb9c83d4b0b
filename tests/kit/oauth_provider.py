"""A provider of logins, as GitHub Enterprise and OpenID Connect have it, for the tests.

One server speaks both: GitHub's addresses below ``/login/oauth`` and ``/api/v3``, and those of
OpenID Connect below ``/oidc``. Whoever opens the page that asks for consent says on it who they
are. It checks what a provider checks: client id and secret, the callback's address, each code once,
the proof key of the exchange (PKCE). ``fault`` makes the next answers fail.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

CLIENT_ID = "the-hub"
CLIENT_SECRET = "canary-client-secret-" + secrets.token_hex(8)


@dataclass(frozen=True)
class Login:
    """A code that was given out, and what for."""

    user: str
    redirect_uri: str
    challenge: str


@dataclass
class Provider:
    """Serves on ``address`` until ``close``; ``members`` maps an organisation or team to users."""

    address: str = "127.0.0.1"
    members: dict[str, set[str]] = field(default_factory=dict)
    #: By the last part of a path ('access_token', 'user', 'members', ...): what happens instead.
    faults: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client_secret = CLIENT_SECRET
        self.codes: dict[str, Login] = {}
        self.tokens: dict[str, str] = {}
        self.asked: list[str] = []
        self.released = threading.Event()
        handler = type("Handler", (_Handler,), {"provider": self})
        self._server = ThreadingHTTPServer((self.address, 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is, for browsers and for the hub."""
        return f"http://{self.address}:{self._server.server_port}"

    def give_code(self, user: str, redirect_uri: str, challenge: str = "") -> str:
        """Return a code for ``user``, as after their consent."""
        code = secrets.token_hex(8)
        self.codes[code] = Login(user, redirect_uri, challenge)
        return code

    def close(self) -> None:
        """Stop serving."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    provider: Provider
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        form = {
            key: values[0] for key, values in parse_qs(self.rfile.read(length).decode()).items()
        }
        self.provider.asked.append(f"{self.command} {url.path}")
        for part, fault in self.provider.faults.items():
            if f"/{part}" in url.path:
                self._fail(fault)
                return
        for path, serve in self._pages():
            if url.path.startswith(path):
                serve(query, form)
                return
        self._json(404, {"message": "Not Found"})

    def _pages(self) -> Iterator[tuple[str, Callable[[dict[str, str], dict[str, str]], None]]]:
        yield "/login/oauth/authorize", self._ask_for_consent
        yield "/oidc/authorize", self._ask_for_consent
        yield "/consent", self._take_answer
        yield "/login/oauth/access_token", self._exchange
        yield "/oidc/token", self._exchange
        yield "/api/v3/user", self._tell_user
        yield "/oidc/userinfo", self._tell_user
        yield "/api/v3/orgs/", self._tell_membership

    def _fail(self, fault: str) -> None:
        if fault == "slow":
            self.provider.released.wait(60)
            self.close_connection = True
        elif fault == "bad code":
            words = {"error_description": "The code passed is incorrect or expired."}
            self._json(200, {"error": "bad_verification_code", **words})
        elif fault == "no json":
            self._answer(200, b"<html>all is well</html>", "text/html")
        elif fault == "no token":
            self._json(200, {"refresh_token": CLIENT_SECRET})
        else:
            self._json(int(fault), {"message": f"it broke, {CLIENT_SECRET}"})

    def _ask_for_consent(self, query: dict[str, str], form: dict[str, str]) -> None:
        if query["client_id"] != CLIENT_ID:
            self._answer(404, b"no such application", "text/plain")
            return
        hidden = "".join(
            f'<input type=hidden name="{name}" value="{html.escape(query.get(name, ""))}">'
            for name in ("redirect_uri", "state", "code_challenge")
        )
        page = f"""<!doctype html><title>Consent</title><h1>Let the hub know who you are?</h1>
            <form action=/consent method=get>{hidden}
            <label>User <input name=user></label>
            <button name=answer value=yes>Authorize</button>
            <button name=answer value=no>Cancel</button></form>"""
        self._answer(200, page.encode(), "text/html")

    def _take_answer(self, query: dict[str, str], form: dict[str, str]) -> None:
        answer = {"state": query["state"]}
        if query["answer"] == "yes":
            answer["code"] = self.provider.give_code(
                query["user"], query["redirect_uri"], query.get("code_challenge", "")
            )
        else:
            answer |= {
                "error": "access_denied",
                "error_description": "The user has denied your application access.",
            }
        self.send_response(302)
        self.send_header("Location", f"{query['redirect_uri']}?{urlencode(answer)}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _exchange(self, query: dict[str, str], form: dict[str, str]) -> None:
        login = self.provider.codes.pop(form.get("code", ""), None)
        basic = self.headers.get("Authorization", "").removeprefix("Basic ")
        client_id, _, secret = base64.b64decode(basic).decode().partition(":")
        given = (form.get("client_id", client_id), form.get("client_secret", secret))
        if given != (CLIENT_ID, self.provider.client_secret):
            words = {"error_description": "The client_id and/or client_secret are incorrect."}
            self._json(200, {"error": "incorrect_client_credentials", **words})
            return
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        proof = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            login is None
            or login.redirect_uri != form.get("redirect_uri")
            or (login.challenge and login.challenge != proof)
        ):
            self._fail("bad code")
            return
        token = "canary-access-token-" + secrets.token_hex(8)
        self.provider.tokens[token] = login.user
        self._json(200, {"access_token": token, "token_type": "bearer", "scope": "read:org"})

    def _user(self) -> str | None:
        _, _, token = self.headers.get("Authorization", "").partition(" ")
        return self.provider.tokens.get(token)

    def _tell_user(self, query: dict[str, str], form: dict[str, str]) -> None:
        user = self._user()
        if user is None:
            self._json(401, {"message": "Bad credentials"})
            return
        self._json(200, {"login": user, "preferred_username": user, "email": f"{user}@example.org"})

    def _tell_membership(self, query: dict[str, str], form: dict[str, str]) -> None:
        # /api/v3/orgs/ORG/members/USER, or /api/v3/orgs/ORG/teams/TEAM/members/USER
        parts = urlsplit(self.path).path.split("/")[4:]
        group = parts[0] if parts[1] == "members" else f"{parts[0]}:{parts[2]}"
        if self._user() is not None and parts[-1] in self.provider.members.get(group, ()):
            self._answer(204, b"", "text/plain")
        else:
            self._json(404, {"message": "Not Found"})

    def _json(self, status: int, content: Any) -> None:
        self._answer(status, json.dumps(content).encode(), "application/json")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
