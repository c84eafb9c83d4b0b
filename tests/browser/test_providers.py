"""Logins at a provider in a real browser: GitHub Enterprise, and OpenID Connect."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Person
from tests.kit.hygiene_kit import secret_words, shown_in
from tests.kit.lab import Lab
from tests.kit.oauth_provider import CLIENT_ID, CLIENT_SECRET, Provider
from tests.kit.stack import UP_S, Stack, write_profile


@pytest.fixture(scope="module")
def provider(engine: Lab) -> Iterator[Provider]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((engine.address, 9))  # sends nothing; tells our address towards the lab
        address = probe.getsockname()[0]
    members = {"physics": {"ann"}, "biology": {"tina", "tom"}, "biology:lab-2": {"tina"}}
    made = Provider(address, members=members)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_faults(provider: Provider) -> Iterator[None]:
    yield
    provider.faults.clear()
    provider.client_secret = CLIENT_SECRET


def deploy(stack: Stack, name: str, **keys: object) -> None:
    """Bring the suite's stack up with logins at the provider."""
    common = {"HOST": stack.lab.address, "OAUTH_CLIENT_ID": CLIENT_ID, "RESYNC_INTERVAL_S": 5}
    write_profile(stack.env_dir, name, **common, **keys)
    (stack.env_dir / name / "oauth_client_secret").write_text(CLIENT_SECRET)
    stack.cli("up", "--env", name, "--yes", timeout_s=UP_S)


@pytest.fixture(scope="module")
def github(stack: Stack, provider: Provider) -> Iterator[Stack]:
    deploy(
        stack,
        "github",
        AUTHENTICATOR_TYPE="github",
        GITHUB_URL=provider.url,
        GITHUB_ALLOWED_ORGANIZATIONS="physics, biology:lab-2",
        AUTHENTICATOR_ALLOWED_USERS="bea",
        AUTHENTICATOR_ADMIN_USERS="adam",
    )
    yield stack
    stack.up()


@pytest.fixture(scope="module")
def oidc(github: Stack, provider: Provider) -> Stack:
    deploy(
        github,
        "oidc",
        AUTHENTICATOR_TYPE="generic-oauth",
        OAUTH_AUTHORIZE_URL=f"{provider.url}/oidc/authorize",
        OAUTH_TOKEN_URL=f"{provider.url}/oidc/token",
        OAUTH_USERDATA_URL=f"{provider.url}/oidc/userinfo",
        OAUTH_USERNAME_CLAIM="preferred_username",
        OAUTH_SCOPE="openid",
        OAUTH_ALLOW_ALL="true",
        # As sites have it that come from the older deployment: in the volume of the hub.
        OAUTH_CLIENT_SECRET_FILE_PATH="/srv/jupyterhub/jupyterhub_oauth_secret",
    )
    return github


def log_in(page: Page, user: str, answer: str = "Authorize") -> None:
    """Go from the hub's page to the provider's, say who one is there, and come back."""
    page.goto("/hub/login?next=/hub/home")
    page.get_by_role("link", name="Sign in with").or_(
        page.get_by_role("button", name="Sign in with")
    ).click()
    page.get_by_label("User").fill(user)
    page.get_by_role("button", name=answer).click()


def expect_home(page: Page, user: str) -> None:
    expect(page.get_by_role("link", name="Home")).to_be_visible()
    expect(page.get_by_text(user, exact=True).first).to_be_visible()


@pytest.mark.parametrize("user", ["ann", "bea", "tina"])
def test_a_member_of_an_organisation_or_team_and_a_named_user_get_in(
    github: Stack, page: Page, user: str
) -> None:
    log_in(page, user)
    expect_home(page, user)
    expect(page.get_by_role("link", name="Admin")).to_be_hidden()


def test_somebody_from_github_runs_a_notebook(github: Stack, page: Page) -> None:
    log_in(page, "ann")
    expect_home(page, "ann")
    ann = Person(page, "ann")
    ann.open_lab()
    ann.open_notebook()
    assert ann.run_cell("6*7") == "42"
    ann.stop_server()


def test_an_admin_gets_the_admins_page(github: Stack, page: Page) -> None:
    log_in(page, "adam")
    expect_home(page, "adam")
    expect(page.get_by_role("link", name="Admin")).to_be_visible()


@pytest.mark.parametrize(
    "user",
    [
        pytest.param("mallory", id="a stranger"),
        pytest.param("tom", id="of the organisation, and not of the team"),
    ],
)
def test_who_is_not_let_in_reads_why(github: Stack, page: Page, user: str) -> None:
    log_in(page, user)
    expect(page.get_by_text(f"GitHub knows you as {user}, but {user} is not")).to_be_visible()
    page.goto("/hub/home")
    expect(page.get_by_role("link", name="Home")).to_be_hidden()


def test_who_cancels_reads_how_to_go_on(github: Stack, page: Page) -> None:
    log_in(page, "ann", answer="Cancel")
    expect(page.get_by_text("You did not allow this hub to ask GitHub")).to_be_visible()


@pytest.mark.parametrize(
    ("part", "fault", "words"),
    [
        ("access_token", "bad code", "GitHub did not accept this login"),
        ("access_token", "500", "GitHub does not answer at the moment"),
        ("user", "slow", "GitHub does not answer at the moment"),
        ("access_token", "no token", "gave no valid login"),
    ],
)
def test_a_provider_that_fails_gives_a_clear_page(
    github: Stack, page: Page, provider: Provider, part: str, fault: str, words: str
) -> None:
    provider.faults[part] = fault
    log_in(page, "ann")
    expect(page.get_by_text(words)).to_be_visible()
    assert "canary" not in page.content()
    provider.faults.clear()
    log_in(page, "ann")
    expect_home(page, "ann")


def test_what_the_provider_gave_is_kept_encrypted_and_in_no_log(
    github: Stack, page: Page, provider: Provider
) -> None:
    log_in(page, "ann")
    expect_home(page, "ann")
    database = "/srv/jupyterhub/jupyterhub.sqlite"
    stored, content = github.container("hub").exec_run(["cat", database])
    assert stored == 0
    assert b"ann" in content
    assert provider.tokens
    for secret in (CLIENT_SECRET, *provider.tokens):
        assert secret.encode() not in content
        for role in ("hub", "proxy", "jhswarmd"):
            assert secret not in github.log(role)


def test_no_secret_of_a_provider_shows_anywhere(
    engine: Lab, github: Stack, page: Page, provider: Provider
) -> None:
    log_in(page, "ann")
    expect_home(page, "ann")
    words = secret_words(github) | {("access token", token) for token in provider.tokens}
    assert ("oauth_client_secret", CLIENT_SECRET) in words
    assert len(provider.tokens) > 0
    assert shown_in(engine, github, words) == set()


def test_openid_connect_is_a_matter_of_the_profile(oidc: Stack, page: Page) -> None:
    log_in(page, "olga")
    expect_home(page, "olga")
