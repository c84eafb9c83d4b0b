"""The hub's part of a rotation: its way to the proxy, and what it drops in its database."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace

import pytest
from aiohttp import ClientResponseError, RequestInfo
from jupyterhub import orm
from jupyterhub.crypto import CryptKeeper
from jupyterhub.orm import utcnow
from traitlets.config import Config
from yarl import URL

from jhswarmd.hub import credentials
from jhswarmd.hub.credentials import Tokens
from jhswarmd.hub.proxy import RotatingProxy

KEYS = ["ab" * 32, "cd" * 32]


class Api:
    """A proxy's API that takes one token, which may change."""

    def __init__(self):
        self.token, self.asked = "old", []

    async def request(self, url, token, **options):
        self.asked.append(token)
        await asyncio.sleep(0)
        if token != self.token:
            info = RequestInfo(URL(url), "GET", {}, URL(url))
            raise ClientResponseError(info, (), status=403, message="Forbidden")
        return SimpleNamespace(body=b"{}")


@pytest.fixture
def api(monkeypatch):
    made = Api()
    monkeypatch.setattr("jhswarmd.hub.proxy.request", made.request)
    return made


@pytest.fixture
def proxy(api):
    return RotatingProxy(
        api_url="http://proxy:8001", auth_token="new", older_tokens=["old"], should_start=False
    )


def test_a_hub_with_a_newer_token_reaches_a_proxy_that_has_the_older_one_still(proxy, api):
    async def ask_often():
        await proxy.api_request("")
        assert api.asked == ["new", "old"]
        await proxy.api_request("")
        assert api.asked[2:] == ["old"]  # the one that works is kept
        api.token = "new"  # the proxy is led to the newer one
        await asyncio.gather(*(proxy.api_request("") for _ in range(5)))
        assert await proxy.takes("new")
        assert not await proxy.takes("old")

    asyncio.run(ask_often())


def test_a_proxy_that_takes_none_of_the_tokens_is_an_error_that_shows_none(proxy, api):
    api.token = "another"
    with pytest.raises(ClientResponseError) as caught:
        asyncio.run(proxy.api_request(""))
    assert caught.value.status == 403
    assert api.asked == ["new", "old"]
    assert "new" not in str(caught.value)


def test_the_proxy_is_asked_with_the_newest_token_and_with_older_ones(proxy, api):
    tokens = Tokens(["new", "old"], {})
    found = asyncio.run(credentials.look_at_proxy(proxy, tokens))
    assert found == {"takes_newest": False, "takes_older": True}
    api.token = "new"
    found = asyncio.run(credentials.look_at_proxy(proxy, tokens))
    assert found == {"takes_newest": True, "takes_older": False}
    # A proxy of the site's own has a way of its own.
    assert asyncio.run(credentials.look_at_proxy(object(), tokens))["takes_newest"]


def test_tokens_show_in_no_text():
    assert "secret" not in repr(Tokens(["secret"], {"jhswarmd": "secret"}))


@pytest.fixture
def db():
    session = orm.new_session_factory("sqlite:///:memory:")()
    for name in ("ann", "bob"):
        session.add(orm.User(name=name))
    session.add(orm.OAuthClient(identifier="jupyterhub"))
    session.commit()
    yield session
    session.close()


@pytest.fixture
def crypt_keeper():
    """Return what makes the hub's crypt keeper hold other keys."""

    def use(*keys):
        CryptKeeper.clear_instance()
        return CryptKeeper.instance(config=Config({"CryptKeeper": {"keys": list(keys)}}))

    yield use
    CryptKeeper.clear_instance()


def test_what_is_encrypted_can_be_read_without_the_older_key_afterwards(db, crypt_keeper):
    old = crypt_keeper(KEYS[0])
    ann, bob = orm.User.find(db, "ann"), orm.User.find(db, "bob")
    ann.encrypted_auth_state = old._encrypt({"token": "x"})
    bob.encrypted_auth_state = b"what no key can read"
    db.commit()
    crypt_keeper(KEYS[1], KEYS[0])
    assert asyncio.run(credentials.encrypt_anew(db)) == 1
    assert asyncio.run(credentials.encrypt_anew(db)) == 1  # again harms nothing
    assert crypt_keeper(KEYS[1])._decrypt(ann.encrypted_auth_state) == {"token": "x"}
    assert bob.encrypted_auth_state == b"what no key can read"


def test_only_the_tokens_of_now_work_for_our_services(db):
    service = orm.Service(name="jhswarmd")
    other = orm.Service(name="somebody-elses")
    db.add_all([service, other])
    db.commit()
    for token in ("the older token", "the newest token"):
        service.new_api_token(token)
    other.new_api_token("their token")
    tokens = Tokens([], {"jhswarmd": "the newest token", "idle-culler": "not there"})
    assert credentials.forget_superseded_tokens(db, tokens) == 1
    assert orm.APIToken.find(db, "the older token") is None
    assert orm.APIToken.find(db, "the newest token") is not None
    assert orm.APIToken.find(db, "their token") is not None
    assert credentials.forget_superseded_tokens(db, tokens) == 0


def test_logins_of_browsers_end_and_notebooks_own_tokens_and_newer_logins_stay(db):
    ann = orm.User.find(db, "ann")
    now = utcnow(with_tz=False)
    for name, session_id, age_s in (
        ("older login", "s1", 60),
        ("newer login", "s2", -60),
        ("of the server", None, 60),
    ):
        ann.new_api_token(f"{name} of ann's", session_id=session_id)
        token = orm.APIToken.find(db, f"{name} of ann's")
        token.created = now - timedelta(seconds=age_s)
    db.commit()
    assert asyncio.run(credentials.end_logins(db, now)) == 1
    assert orm.APIToken.find(db, "older login of ann's") is None
    assert orm.APIToken.find(db, "newer login of ann's") is not None
    assert orm.APIToken.find(db, "of the server of ann's") is not None


def test_logins_that_this_hub_gave_itself_stay(db):
    ann = orm.User.find(db, "ann")
    for name, created in (("before", -1), ("after", 1)):
        ann.new_api_token(f"{name} it began, ann's", session_id="s1")
        token = orm.APIToken.find(db, f"{name} it began, ann's")
        token.created = credentials.BEGAN_AT + timedelta(seconds=created)
    db.commit()
    assert asyncio.run(credentials.end_logins(db)) == 1
    assert orm.APIToken.find(db, "after it began, ann's") is not None
