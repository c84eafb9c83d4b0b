"""The rendered stack.yml meets the requirements for the services."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from jhswarmd.deploy import secrets
from jhswarmd.deploy import stack as stacks
from jhswarmd.deploy.stack import Placeholders, render
from jhswarmd.errors import JhswarmdError
from jhswarmd.settings.settings import PublishMode, Settings


def placeholders(mode=PublishMode.host, **extra):
    kinds = [name for kind in secrets.KINDS for name in kind.names]
    names = {name: f"jupyterhub_{name}_g3" for name in kinds}
    return Placeholders("r/hub:1", "r/proxy:1", "r/singleuser:1", mode, {**names, **extra})


def rendered(settings=None, mode=PublishMode.host):
    return yaml.safe_load(render(settings or Settings(), placeholders(mode)))


def test_hub_proxy_and_daemon_are_its_services():
    assert set(rendered()["services"]) == {"hub", "proxy", "jhswarmd"}


def test_nothing_is_left_unresolved():
    assert "${" not in render(Settings(), placeholders())


def test_mounts_are_in_the_order_that_an_update_by_hand_leaves():
    # docker's command line sorts them so; in another order the next 'up' would restart the hub.
    for service in rendered()["services"].values():
        mounts = [(each["source"], each["target"]) for each in service.get("volumes", [])]
        assert mounts == sorted(mounts)


@pytest.mark.parametrize(
    ("mode", "endpoint"), [(PublishMode.host, "dnsrr"), (PublishMode.ingress, "vip")]
)
def test_virtual_addresses_are_used_with_the_mesh(mode, endpoint):
    services = rendered(mode=mode)["services"]
    assert {port["mode"] for port in services["proxy"]["ports"]} == {mode.value}
    assert {each["deploy"]["endpoint_mode"] for each in services.values()} == {endpoint}


def test_notebook_profiles_reach_the_hub_verbatim():
    title = "R & \"Julia\": $HOME, 'ü'\\ {x}"
    settings = Settings.from_environ(
        {"NOTEBOOK_PROFILES": json.dumps([{"slug": "r", "title": title, "mem_limit": "1G"}])}
    )
    environment = rendered(settings)["services"]["hub"]["environment"]
    # As 'docker stack deploy' reads it.
    listed = environment["NOTEBOOK_PROFILES"].replace("$$", "$")
    (profile,) = Settings.from_environ({"NOTEBOOK_PROFILES": listed}).notebook_profiles
    assert (profile.title, profile.mem_limit) == (title, 1024**3)


#: What YAML, compose or a template would make something else of.
ODD = [
    "a: b",
    "a #b",
    "#a",
    "{a: b}",
    "[a, b]",
    "'a'",
    '"a"',
    "a\nb",
    "- a",
    "1e3",
    "0o17",
    "1_000",
    "1:30",
    "yes",
    "y",
    "null",
    "~",
    "",
    "2026-01-01",
    "$HOME ${HOME} $$",
    "${STACK_NAME}",
    "*a",
    "&a",
    "!a",
    "%a",
    "a\\b",
    "tab\there",
    "\u00fc\u4e2d\U0001f600",
]


@pytest.mark.parametrize("odd", ODD)
def test_a_value_is_never_read_as_yaml_nor_as_a_template(odd):
    """Neither in the environment, nor where stack.yml refers to it."""
    settings = Settings.model_construct(
        **{**Settings().__dict__, "default_url": odd, "engine_socket": odd, "stack_name": odd}
    )
    document = yaml.load(render(settings, placeholders()), yaml.BaseLoader)
    hub = document["services"]["hub"]
    assert hub["environment"]["DEFAULT_URL"].replace("$$", "$") == odd
    (bind,) = [each for each in hub["volumes"] if each["type"] == "bind"]
    assert bind["source"].replace("$$", "$") == odd
    assert hub["deploy"]["labels"]["jhswarmd.stack"].replace("$$", "$") == odd
    assert set(document["services"]) == {"hub", "proxy", "jhswarmd"}


@pytest.mark.parametrize("odd", ODD)
def test_every_yaml_parser_reads_a_value_as_text(odd):
    settings = Settings.model_construct(**{**Settings().__dict__, "default_url": odd})
    lines = render(settings, placeholders()).splitlines()
    for line in lines:
        if line.strip().startswith("DEFAULT_URL:"):
            assert line.partition(": ")[2].startswith('"')


def test_ports_remain_numbers():
    (https, http) = rendered(Settings(https_port=8443, http_port=8080))["services"]["proxy"][
        "ports"
    ]
    assert (https["published"], http["published"]) == (8443, 8080)


def test_each_secret_is_external_its_live_generation_and_readable_only_by_its_owner():
    document = rendered()
    for name, secret in document["secrets"].items():
        assert secret == {"external": True, "name": f"jupyterhub_{name}_g3"}
    for service in document["services"].values():
        for reference in service["secrets"]:
            assert reference["mode"] == 0o400
            assert reference["uid"] in ("0", "10001")


def test_hub_and_proxy_stop_before_they_start_again():
    for role in ("hub", "proxy"):
        assert rendered()["services"][role]["deploy"]["update_config"]["order"] == "stop-first"


def test_the_hub_is_pinned_to_the_node_that_holds_its_volume():
    constraints = rendered()["services"]["hub"]["deploy"]["placement"]["constraints"]
    assert "node.labels.jhswarmd.jupyterhub.hub == true" in constraints


def test_the_daemon_runs_on_every_manager_and_reaches_only_the_control_network():
    daemon = rendered()["services"]["jhswarmd"]
    assert daemon["deploy"]["mode"] == "global"
    assert daemon["deploy"]["placement"]["constraints"] == ["node.role == manager"]
    assert daemon["networks"] == ["control"]


def test_hub_and_daemon_get_the_keys_of_the_profile():
    settings = Settings(idle_timeout_s=600, notebook_args=("--x=$HOME",))
    for role in ("hub", "jhswarmd"):
        environment = rendered(settings)["services"][role]["environment"]
        assert environment["IDLE_TIMEOUT_S"] == "600"
        # 'docker stack deploy' reads '$$' as '$'.
        assert environment["NOTEBOOK_ARGS"] == "'--x=$$HOME'"


def test_the_client_secret_is_mounted_only_for_a_provider():
    github = Settings(
        authenticator_type="github",
        oauth_client_id="x",
        authenticator_allowed_users=("alice",),
    )
    assert "oauth_client_secret" in rendered(github)["secrets"]
    assert "oauth_client_secret" not in rendered()["secrets"]


def test_registry_logins_are_mounted_in_hub_and_daemon_if_there_are_any():
    mounts = {
        role: [each["target"] for each in service["secrets"]]
        for role, service in rendered()["services"].items()
    }
    assert [role for role in mounts if "registry_login" in mounts[role]] == ["hub", "jhswarmd"]
    values = placeholders()
    without = {kind: name for kind, name in values.secrets.items() if kind != "registry_login"}
    text = render(Settings(), dataclasses.replace(values, secrets=without))
    assert "registry_login" not in text


def test_the_published_ports_are_those_of_the_profile():
    ports = rendered(Settings(http_port=8080, https_port=8443))["services"]["proxy"]["ports"]
    assert [(port["target"], port["published"]) for port in ports] == [(8000, 8443), (8080, 8080)]


def test_a_missing_secret_is_reported():
    values = Placeholders("h", "p", "s", PublishMode.host, {})
    with pytest.raises(JhswarmdError, match="SECRET_USERS"):
        render(Settings(), values)


def test_docker_reads_the_logins_from_memory(mocker):
    folders = []

    def run(command, env, pass_fds, **_):
        assert "--with-registry-auth" in command
        folders.append(Path(env["DOCKER_CONFIG"]))
        # As the command would: in another process, and by that path.
        shown = subprocess.check_output(
            [sys.executable, "-c", f"print(open('{folders[0]}/config.json').read())"],
            pass_fds=pass_fds,
            text=True,
        )
        assert shown == '{"auths": {}}\n'
        assert (folders[0] / "config.json").is_symlink()
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    real = SimpleNamespace(run=run)
    mocker.patch.object(stacks, "subprocess", real)
    stacks.deploy("jupyterhub", "services: {}", b'{"auths": {}}')
    assert folders
    assert not folders[0].exists()


def test_the_proxy_knows_the_public_url_and_the_trusted_proxies():
    settings = Settings(
        public_url="https://hub.example.org", trusted_proxies="192.0.2.1 10.0.0.0/8"
    )
    environment = rendered(settings)["services"]["proxy"]["environment"]
    assert environment["PUBLIC_URL"] == "https://hub.example.org"
    assert environment["TRUSTED_PROXIES"] == "192.0.2.1/32 10.0.0.0/8"
    assert environment["UPLOAD_TIMEOUT_S"] == "21600"
    assert environment["MAX_HEADER_SIZE"] == "65536"


@pytest.mark.parametrize(
    ("stderr", "runs"),
    [
        ("Error response from daemon: rpc error: code = Unknown desc = update out of sequence", 2),
        ("Error response from daemon: invalid service", 1),
    ],
)
def test_a_deployment_that_swarm_overtook_is_repeated_and_no_other(monkeypatch, stderr, runs):
    seen = []

    def run(argv, **options):
        seen.append(options["input"])
        is_second = len(seen) > 1
        return subprocess.CompletedProcess(argv, not is_second, "", "" if is_second else stderr)

    monkeypatch.setattr(stacks, "_run_docker", run)
    if runs == 1:
        with pytest.raises(JhswarmdError, match="'docker stack deploy' failed"):
            stacks.deploy("jupyterhub", "services: {}")
    else:
        stacks.deploy("jupyterhub", "services: {}")
    assert seen == ["services: {}"] * runs
