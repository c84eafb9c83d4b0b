"""A wrong password costs a pause, and nobody else's login waits for it."""

import asyncio

import pytest
from jupyterhub.auth import PAMAuthenticator as Upstream

from jhswarmd.hubext import auth


@pytest.mark.parametrize(("answer", "pauses"), [("alice", []), (None, [auth.WRONG_PASSWORD_S])])
def test_only_a_wrong_password_costs_a_pause(monkeypatch, answer, pauses):
    async def pam(self, handler, data):
        return answer

    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(Upstream, "authenticate", pam)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    login = auth.PAMAuthenticator().authenticate(None, {"username": "alice", "password": "x"})
    assert asyncio.run(login) == answer
    assert slept == pauses
