"""Which secrets `up` creates: missing and changed ones, nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from jhswarmd.credentials.generations import read
from jhswarmd.deploy import secrets
from jhswarmd.deploy.profiles.profile import Profile
from jhswarmd.deploy.secrets import GENERATED, KINDS, SecretVersion
from jhswarmd.settings.settings import Settings

USERS, COOKIE, TLS = (
    next(kind for kind in KINDS if name in kind.names)
    for name in ("users", "cookie_secret", "tls_cert")
)


def make_profile(**files):
    return Profile("site", Settings(), files, Path("env/site"))


def existing(kind, generation, source=GENERATED):
    name = f"jupyterhub_{kind}_g{generation}"
    return SecretVersion(f"id-{name}", name, kind, generation, source)


def everything(**sources):
    return [
        existing(name, 1, sources.get(name, GENERATED))
        for kind in KINDS
        if kind.generate
        for name in kind.names
    ]


def planned(profile, held):
    return {each.kind.names: each.generation for each in secrets.plan(profile, held)}


def test_a_new_swarm_gets_the_first_generation_of_every_generated_secret():
    assert planned(make_profile(), []) == {kind.names: 1 for kind in KINDS if kind.generate}


def test_nothing_is_created_when_all_secrets_exist():
    assert planned(make_profile(), everything()) == {}


@pytest.mark.parametrize("guessable", [True, False])
def test_a_label_matches_its_contents_and_no_others(guessable):
    label = secrets.source_label([b"one", b"two"], guessable=guessable)
    assert secrets.source_matches(label, [b"one", b"two"])
    assert not secrets.source_matches(label, [b"one", b"other"])


def test_a_guessable_content_has_a_new_label_each_time():
    labels = {secrets.source_label([b"alice:a"], guessable=True) for _ in range(2)}
    assert len(labels) == 2


def test_a_file_that_was_applied_is_not_applied_again():
    label = secrets.source_label([b"alice:a"], guessable=True)
    assert planned(make_profile(users=b"alice:a"), everything(users=label)) == {}


def test_a_changed_file_becomes_the_next_generation():
    held = [
        *everything(),
        existing("oauth_client_secret", 1, secrets.source_label([b"a"], guessable=True)),
    ]
    assert planned(make_profile(oauth_client_secret=b"b"), held) == {("oauth_client_secret",): 2}


def test_a_changed_user_list_is_merged_by_the_daemon_which_can_read_added_accounts():
    label = secrets.source_label([b"alice:a"], guessable=True)
    held = everything(users=label)
    assert planned(make_profile(users=b"alice:b"), held) == {}
    assert secrets.changed_users(make_profile(users=b"alice:b"), held) == b"alice:b"
    assert secrets.changed_users(make_profile(users=b"alice:a"), held) is None
    assert secrets.changed_users(make_profile(), held) is None
    assert planned(make_profile(users=b"alice:b"), []).get(("users",)) == 1


def test_a_supplied_secret_replaces_a_generated_one():
    assert planned(make_profile(cookie_secret=b"ab" * 32), everything()) == {("cookie_secret",): 2}


def rejected(kind, generation, *contents):
    label = secrets.source_label(contents, guessable=False)
    return replace(existing(kind, generation, label), rejected="hub does not start with it: 1")


def test_a_supplied_secret_that_was_rolled_back_is_not_created_by_each_up():
    profile = make_profile(cookie_secret=b"ab" * 32)
    held = [*everything(), rejected("cookie_secret", 2, b"ab" * 32)]
    assert planned(profile, held) == {}
    assert secrets.rolled_back(profile, held) == {"cookie_secret": "hub does not start with it: 1"}
    # Other content is tried, and the same content on explicit request.
    other = make_profile(cookie_secret=b"cd" * 32)
    assert planned(other, held) == {("cookie_secret",): 3}
    assert secrets.rolled_back(other, held) == {}
    (creation,) = secrets.plan(profile, held, retry_rejected=True)
    assert creation.generation == 3


def test_a_certificate_that_was_rolled_back_is_not_created_by_each_up():
    profile = make_profile(tls_cert=b"c", tls_key=b"k")
    held = [*everything(), *(rejected(kind, 2, b"c", b"k") for kind in ("tls_cert", "tls_key"))]
    assert planned(profile, held) == {}
    assert "ssl/cert.pem, ssl/key.pem" in secrets.rolled_back(profile, held)


def test_a_removed_file_changes_nothing():
    label = secrets.source_label([b"ab" * 32], guessable=False)
    assert planned(make_profile(), everything(cookie_secret=label)) == {}


def test_certificate_and_key_of_an_interrupted_run_are_recreated_together():
    held = [each for each in everything() if each.kind != "tls_cert"]
    assert planned(make_profile(), held) == {("tls_cert", "tls_key"): 2}
    held += [existing("tls_cert", 2), existing("tls_key", 2)]
    assert secrets.live_names(held, "jupyterhub")["tls_key"] == "jupyterhub_tls_key_g2"


def test_the_live_generation_is_the_newest_one_by_number():
    held = [existing("users", 9), existing("users", 10)]
    assert secrets.live_names(held, "jupyterhub") == {"users": "jupyterhub_users_g10"}


def test_no_label_reveals_content():
    for guessable in (True, False):
        assert "alice" not in secrets.source_label([b"alice:secret"], guessable=guessable)


def test_github_needs_its_client_secret_and_pam_does_not():
    assert "oauth_client_secret" in secrets.required_names(uses_oauth=True)
    assert "oauth_client_secret" not in secrets.required_names(uses_oauth=False)


def test_registry_logins_are_optional_and_recognised_by_a_slow_hash():
    for uses_oauth in (True, False):
        assert "registry_login" not in secrets.required_names(uses_oauth=uses_oauth)
    (creation,) = secrets.plan(make_profile(registry_login=b"{}"), everything())
    assert (creation.kind.names, creation.kind.guessable) == (("registry_login",), True)


def test_only_generations_older_than_the_live_one_are_removed():
    half_made = existing("daemon_token", 3)
    live = [existing(kind, 2) for kind in ("daemon_token", "culler_token", "crypt_key")]
    older = [existing("daemon_token", 1), existing("culler_token", 1)]
    assert secrets.superseded([half_made, *live, *older]) == older
    parts = [SecretVersion("a", "a", "users", 5, "", parts=2), existing("users", 4)]
    assert secrets.superseded(parts) == []


def certificate_for(*names, source=GENERATED):
    return [
        replace(existing(kind, 1, source), certificate_names=names)
        for kind in ("tls_cert", "tls_key")
    ]


@pytest.mark.parametrize(
    ("held", "generation"),
    [
        pytest.param(certificate_for("old.example", "localhost"), 2, id="for the former host"),
        pytest.param(certificate_for("hub.example", "localhost"), None, id="for this host"),
        pytest.param(certificate_for(), None, id="of an older version, not known"),
        pytest.param(certificate_for("old.example", source="x"), None, id="supplied once"),
    ],
)
def test_a_self_signed_certificate_follows_the_host(held, generation):
    profile = Profile("site", Settings(host="hub.example"), {}, Path("env/site"))
    others = [each for each in everything() if each.kind not in TLS.names]
    assert planned(profile, [*others, *held]).get(TLS.names) == generation


def test_the_names_of_a_certificate_are_labels_of_its_secrets(mocker):
    created = {}
    engine = mocker.patch("jhswarmd.deploy.secrets.Engine").return_value
    engine.create_secret.side_effect = lambda name, content, marks: created.update({name: marks})
    profile = Profile("site", Settings(host="hub.example"), {}, Path("env/site"))
    secrets.create(None, profile, secrets.Create(TLS, 1, None))
    shown = [
        read({"ID": "1", "CreatedAt": "", "Spec": {"Name": name, "Labels": marks}})
        for name, marks in created.items()
    ]
    assert [each.certificate_names[0] for each in shown] == ["hub.example"] * 2
