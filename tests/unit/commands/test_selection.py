"""Which profile ``up`` uses, and the question before it replaces another one's deployment."""

import io

import pytest
from rich.console import Console

from jhswarmd import labels
from jhswarmd.commands import selection
from jhswarmd.credentials.generations import source_label, version_labels
from jhswarmd.deploy import secrets
from jhswarmd.deploy.profiles import profile, record
from jhswarmd.deploy.progress import Progress
from jhswarmd.errors import JhswarmdError, UsageError
from jhswarmd.settings.settings import Settings

MINE = "HOST=hub.example\nAUTHENTICATOR_ADMIN_USERS=ann\nMEM_LIMIT=2G\n"


class Api:
    """An engine's configs, secrets and services in memory."""

    def __init__(self):
        self.state = "active"
        self.held = {}
        self.hub = None
        self.lists = []

    def info(self):
        return {"Swarm": {"LocalNodeState": self.state}}

    def configs(self, filters):
        (label,) = [filters["label"]]
        key, _, value = label.partition("=")
        return [each for each in self.held.values() if labels.of(each).get(key) == value]

    def create_config(self, name, data, labels):
        assert data
        assert name not in self.held
        self.held[name] = {"ID": name, "Spec": {"Name": name, "Labels": labels}}

    def remove_config(self, id_):
        del self.held[id_]

    def services(self, filters):
        if self.hub is None:
            return []
        marks = {labels.STACK: self.hub.stack_name, labels.ROLE: "hub"}
        env = [f"{key}={value}" for key, value in self.hub.to_environ().items()]
        env.append("SINGLE_USER_IMAGE=localhost:5000/jhswarmd/singleuser:abc")
        container = {"Env": env, "Image": "i"}
        return [{"Spec": {"Labels": marks, "TaskTemplate": {"ContainerSpec": container}}}]

    def secrets(self, filters):
        return [
            {
                "ID": f"id-{number}",
                "CreatedAt": "2026-01-01T00:00:00",
                "Spec": {
                    "Name": f"users_g{number}",
                    "Labels": version_labels(
                        "jupyterhub",
                        "users",
                        number,
                        source_label([content], guessable=True),
                    ),
                },
            }
            for number, content in enumerate(self.lists, 1)
        ]


class Client:
    def __init__(self):
        self.api = Api()


@pytest.fixture
def folder(tmp_path):
    for name, text, users in (
        ("default", "AUTHENTICATOR_TYPE=pam\n", None),
        ("local", "HOST=localhost\n", "testuser:testpassword\n"),
        ("mine", MINE, "ann:a\nbob:b\n"),
    ):
        (tmp_path / f"{name}.env").write_text(text)
        if users:
            (tmp_path / name).mkdir()
            (tmp_path / name / "user_list.txt").write_text(users)
    return tmp_path


@pytest.fixture
def client(monkeypatch):
    held = [{"name": name, "source": "list"} for name in ("ann", "bob")]
    held.append({"name": "carol", "source": "added"})
    monkeypatch.setattr(selection.daemon_client, "call", lambda *args: {"accounts": held})
    return Client()


@pytest.fixture
def load(folder):
    return lambda name: profile.load(name, folder, {})


def deploy(client, loaded, *, recorded=True):
    """Create the record and secrets that ``up`` of this profile creates."""
    client.api.hub = loaded.settings
    if "users" in loaded.files:
        client.api.lists.append(loaded.files["users"])
    if recorded:
        record.write(client, loaded)


def confirm(client, wanted, answer=False):
    text, questions = io.StringIO(), []

    def may_replace(question):
        questions.append(question)
        return answer

    progress = Progress(Console(file=text, soft_wrap=True))
    try:
        selection.confirm(client, wanted, progress, may_replace)
    except UsageError as exc:
        return False, text.getvalue() + str(exc) + exc.remedy, questions
    return True, text.getvalue(), questions


# --- which profile ---


@pytest.mark.parametrize("state", ["inactive", "active"])
def test_a_new_swarm_gets_the_profile_for_new_deployments(client, folder, state):
    client.api.state = state
    assert selection.select(client, "local", folder).name == "local"


def test_without_a_name_the_recorded_profile_is_used_whether_it_runs_or_is_down(
    client, folder, load
):
    deploy(client, load("mine"))
    assert selection.select(client, "local", folder).name == "mine"
    client.api.hub = None
    assert selection.select(client, "local", folder).name == "mine"


def test_a_recorded_profile_without_its_files_is_not_replaced_by_another(client, folder, load):
    deploy(client, load("mine"))
    (folder / "mine.env").unlink()
    with pytest.raises(UsageError, match="has the profile 'mine', which cannot be used"):
        selection.select(client, "local", folder)


def test_an_unrecorded_deployment_counts_as_the_demo_only_if_it_is_identical(client, folder, load):
    deploy(client, load("local"), recorded=False)
    assert selection.select(client, "local", folder).name == "local"
    client.api.hub = load("mine").settings
    with pytest.raises(UsageError, match="is unknown"):
        selection.select(client, "local", folder)


def test_accounts_of_an_unrecorded_deployment_count_while_it_is_down(client, folder, load):
    deploy(client, load("mine"), recorded=False)
    client.api.hub = None
    with pytest.raises(UsageError, match="is unknown"):
        selection.select(client, "local", folder)


def test_two_deployments_need_a_name(client, folder, load):
    deploy(client, load("mine"))
    client.api.hub = load("mine").settings.model_copy(update={"stack_name": "other"})
    with pytest.raises(UsageError, match="2 deployments"):
        selection.select(client, "local", folder)


def test_an_engine_without_an_answer_is_not_a_new_swarm(client, folder, monkeypatch):
    def fail(**_):
        raise JhswarmdError("no manager")

    monkeypatch.setattr(client.api, "configs", fail)
    with pytest.raises(JhswarmdError, match="no manager"):
        selection.select(client, "local", folder)


def test_a_named_profile_is_checked_before_the_engine_is_contacted(monkeypatch, folder):
    monkeypatch.setenv("JHSWARMD_ENV_DIR", str(folder))
    assert selection.load("mine", "local", lambda: pytest.fail("asked")).name == "mine"


# --- confirmation ---


def test_another_profile_shows_the_changes_and_needs_a_confirmation(client, load):
    deploy(client, load("mine"))
    done, text, questions = confirm(client, load("local"))
    assert (done, len(questions)) == (False, 1)
    for part in (
        "has the profile 'mine', not 'local'",
        "accounts added: testuser (the password of testuser is published)",
        "accounts removed: ann, bob",
        "AUTHENTICATOR_ADMIN_USERS: ann -> (default)",
        "MEM_LIMIT: 2147483648 -> (default)",
        "HOST: hub.example -> (default)",
        "make up ENV=mine",
        "--env local --yes",
    ):
        assert part in text
    assert "carol" not in text
    assert "SINGLE_USER_IMAGE" not in text
    done, text, _ = confirm(client, load("local"), answer=True)
    assert done
    assert "accounts removed: ann, bob" in text


def test_a_deployment_that_is_down_or_without_a_daemon_needs_a_confirmation_too(
    client, load, monkeypatch
):
    deploy(client, load("mine"))

    def silent(*_):
        raise JhswarmdError("no daemon")

    monkeypatch.setattr(selection.daemon_client, "call", silent)
    for hub in (client.api.hub, None):
        client.api.hub = hub
        done, text, _ = confirm(client, load("local"))
        assert not done
        assert "the list of 'local' replaces the one applied last (testuser)" in text


def test_the_same_profile_needs_no_confirmation_and_its_changes_are_shown(client, folder, load):
    deploy(client, load("mine"))
    assert confirm(client, load("mine")) == (True, "", [])
    (folder / "mine.env").write_text(MINE + "CPU_LIMIT=2\n")
    done, text, questions = confirm(client, load("mine"))
    assert (done, questions) == (True, [])
    assert "CPU_LIMIT: (default) -> 2.0" in text


def test_a_new_deployment_needs_no_confirmation(client, load):
    assert confirm(client, load("mine")) == (True, "", [])


def test_an_unrecorded_deployment_needs_a_confirmation_only_for_changes(client, load):
    deploy(client, load("mine"), recorded=False)
    assert confirm(client, load("mine")) == (True, "", [])
    done, text, questions = confirm(client, load("local"))
    assert (done, len(questions)) == (False, 1)
    assert "is not recorded; 'local' changes it" in text


def test_a_running_hub_with_unreadable_keys_needs_a_confirmation(client, load):
    deploy(client, load("local"), recorded=False)
    client.api.hub = Settings.model_construct(
        **{**Settings().__dict__, "http_port": 0, "stack_name": "jupyterhub"}
    )
    done, text, _ = confirm(client, load("local"))
    assert not done
    assert "cannot be read" in text


def test_values_that_may_contain_a_login_are_not_shown():
    before = Settings(volume_options={"o": "username=x,password=hidden"})
    after = Settings(oauth_token_url="https://me:hidden@x.example/")
    lines = selection.key_changes(before, after)
    assert len(lines) == 2
    assert "hidden" not in str(lines)


# --- the record ---


def test_the_record_has_the_name_and_no_key(client, load):
    loaded = load("mine")
    record.write(client, loaded)
    (config,) = client.api.held.values()
    assert labels.of(config)["jhswarmd.profile"] == "mine"
    assert "hub.example" not in str(config)
    found = record.read(client, "jupyterhub")
    assert found.is_of(loaded)
    assert not found.is_of(load("local"))


def test_the_newest_record_counts_and_older_ones_are_removed(client, load):
    record.write(client, load("mine"))
    record.write(client, load("mine"))
    assert list(client.api.held) == ["jupyterhub_profile_g1"]
    record.write(client, load("local"))
    assert list(client.api.held) == ["jupyterhub_profile_g2"]
    assert record.read(client, "jupyterhub").profile == "local"
    record.remove(client, "other")
    assert client.api.held
    record.remove(client, "jupyterhub")
    assert record.read(client, "jupyterhub") is None


def test_secrets_of_the_profile_that_replace_those_in_use_are_listed(client, folder, load):
    deploy(client, load("mine"))
    (folder / "local" / "proxy_auth_token").write_text("t")
    _, text, _ = confirm(client, load("local"))
    assert "replace the secrets in use: proxy_auth_token" in text
    assert secrets.plan(load("local"), [])
