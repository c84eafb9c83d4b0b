"""Logins at a provider: who is let in, and what everybody else reads."""

import asyncio
import logging
from types import SimpleNamespace

import pytest
from tornado import web
from tornado.httpclient import AsyncHTTPClient
from traitlets.config import Config

from jhswarmd.hub import oauth
from tests.kit.oauth_provider import CLIENT_ID, CLIENT_SECRET, Provider

CALLBACK = "https://hub.example/hub/oauth_callback"
GROUPS = {"physics": {"ann"}, "biology:lab-2": {"bea"}}


@pytest.fixture
def provider():
    made = Provider(members={group: set(users) for group, users in GROUPS.items()})
    yield made
    made.close()


@pytest.fixture
def github(provider):
    c = Config()
    c.OAuthenticator.client_id = CLIENT_ID
    c.OAuthenticator.client_secret = CLIENT_SECRET
    c.OAuthenticator.oauth_callback_url = CALLBACK
    c.OAuthenticator.enable_pkce = False
    c.OAuthenticator.allowed_users = {"cleo"}
    c.OAuthenticator.http_request_kwargs = {"connect_timeout": 1, "request_timeout": 0.5}
    c.Authenticator.admin_users = {"adam"}
    c.Authenticator.enable_auth_state = True
    c.GitHubOAuthenticator.github_url = provider.url
    c.GitHubOAuthenticator.allowed_organizations = set(GROUPS)
    return oauth.authenticator_class("github")(config=c)


class Arguments:
    """The part of a request's handler that a login needs."""

    def __init__(self, authenticator=None, **arguments):
        self.authenticator = authenticator
        self.log = logging.getLogger("handler")
        self._arguments = arguments

    def get_argument(self, name, default=None):
        return self._arguments.get(name, default)

    def get_state_cookie(self):
        return ""

    def get_state_url(self):
        return "x"


def run(authenticator, coroutine):
    async def with_a_client_of_this_loop():
        authenticator.http_client = AsyncHTTPClient(force_instance=True)
        try:
            return await coroutine
        finally:
            authenticator.http_client.close()

    return asyncio.run(with_a_client_of_this_loop())


def log_in(authenticator, provider, user):
    handler = Arguments(code=provider.give_code(user, CALLBACK))
    return run(authenticator, authenticator.get_authenticated_user(handler, None))


def refused(authenticator, provider, user="cleo"):
    with pytest.raises(web.HTTPError) as caught:
        log_in(authenticator, provider, user)
    return caught.value.status_code, caught.value.get_message()


class Session:
    """A database session that remembers what is deleted."""

    def __init__(self):
        self.deleted = []

    def delete(self, thing):
        self.deleted.append(thing)

    def commit(self):
        pass


AT_A_NOTEBOOK = SimpleNamespace(session_id="a browser's")
OF_A_SERVER = SimpleNamespace(session_id=None)


def refresh(authenticator, model, db=None):
    async def get_auth_state():
        return model["auth_state"]

    tokens = SimpleNamespace(api_tokens=[AT_A_NOTEBOOK, OF_A_SERVER])
    user = SimpleNamespace(
        name=model["name"], get_auth_state=get_auth_state, orm_user=tokens, db=db or Session()
    )
    return run(authenticator, authenticator.refresh_user(user))


@pytest.mark.parametrize("user", ["cleo", "ann", "bea", "adam"])
def test_users_members_of_organisations_and_teams_and_admins_are_let_in(github, provider, user):
    model = log_in(github, provider, user)
    assert model["name"] == user
    assert bool(model["admin"]) is (user == "adam")


def test_who_is_not_let_in_reads_why(github, provider):
    status, words = refused(github, provider, "mallory")
    assert status == 403
    assert "GitHub knows you as mallory" in words
    assert "administrator" in words


@pytest.mark.parametrize(
    ("part", "fault", "status", "words"),
    [
        ("access_token", "500", 503, "does not answer at the moment"),
        ("access_token", "slow", 503, "does not answer at the moment"),
        ("access_token", "bad code", 403, "did not accept this login"),
        ("access_token", "401", 403, "did not accept this login"),
        ("access_token", "no json", 503, "does not answer at the moment"),
        ("access_token", "no token", 502, "gave no valid login"),
        ("user", "500", 503, "does not answer at the moment"),
        ("user", "401", 403, "did not accept this login"),
    ],
)
def test_a_provider_that_fails_is_told_in_words_and_nothing_it_sent(
    github, provider, caplog, part, fault, status, words
):
    caplog.set_level(logging.DEBUG)
    provider.faults[part] = fault
    got_status, got_words = refused(github, provider)
    assert got_status == status
    assert words in got_words
    assert caplog.text, "the administrator reads nothing"
    for text in (got_words, caplog.text):
        assert CLIENT_SECRET not in text
        assert "canary" not in text


def test_a_wrong_client_secret_lets_nobody_in(github, provider):
    provider.client_secret = "another"
    assert refused(github, provider)[0] == 403


def test_a_membership_that_nobody_can_tell_is_not_taken_for_none(github, provider):
    provider.faults["members"] = "500"
    status, words = refused(github, provider, "ann")
    assert status == 503
    assert "does not answer" in words


def test_a_provider_that_is_gone_is_told_in_words(github, provider):
    github.userdata_url = github.token_url = "http://127.0.0.1:1/"
    assert refused(github, provider)[0] == 503


def test_a_login_goes_on_while_the_provider_fails(github, provider):
    model = log_in(github, provider, "ann")
    for part, fault in (("user", "500"), ("user", "429"), ("members", "503"), ("user", "no json")):
        provider.faults = {part: fault}
        assert refresh(github, model) is True
    provider.faults = {}
    assert refresh(github, model)["name"] == "ann"


def test_a_login_ends_when_its_user_is_no_longer_a_member(github, provider):
    model = log_in(github, provider, "ann")
    db = Session()
    assert refresh(github, model, db)["name"] == "ann"
    assert db.deleted == []
    provider.members["physics"].clear()
    assert refresh(github, model, db) is False
    assert db.deleted == [AT_A_NOTEBOOK]


def test_a_login_ends_when_its_token_was_revoked(github, provider):
    model = log_in(github, provider, "ann")
    provider.tokens.clear()
    assert refresh(github, model) is False


@pytest.mark.parametrize(
    ("fault", "goes_on"), [("500", True), ("no json", True), ("no token", False), ("400", False)]
)
def test_a_refresh_token_ends_a_login_only_by_a_definite_no(
    github, provider, caplog, fault, goes_on
):
    model = log_in(github, provider, "ann")
    model["auth_state"]["refresh_token"] = "canary-refresh-token"
    provider.tokens.clear()
    provider.faults = {"access_token": fault}
    with caplog.at_level("DEBUG"):
        assert refresh(github, model) is goes_on
    assert "Error using refresh_token" in caplog.text
    for canary in ("canary-refresh-token", CLIENT_SECRET):
        assert canary not in caplog.text


@pytest.mark.parametrize(
    ("error", "status"), [("access_denied", 403), ("redirect_uri_mismatch", 502), ("<script>", 502)]
)
def test_a_refusal_at_the_provider_is_told_in_our_own_words(github, caplog, error, status):
    handler = Arguments(github, error=error, error_description="Call 555-1234 <script>")
    with pytest.raises(web.HTTPError) as caught:
        oauth.ClearCallback.check_error(handler)
    assert caught.value.status_code == status
    assert "GitHub" in caught.value.get_message()
    assert "<script>" not in caught.value.get_message() + caplog.text


def test_any_class_of_oauthenticator_keeps_its_options():
    c = Config()
    c.GitLabOAuthenticator.allowed_gitlab_groups = {"physics"}
    gitlab = oauth.authenticator_class("gitlab")(config=c)
    assert gitlab.allowed_gitlab_groups == {"physics"}
    assert isinstance(gitlab, oauth.ClearLogin)
