"""The hub's configuration, loaded as JupyterHub loads it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.app import JupyterHub
from jupyterhub.auth import PAMAuthenticator
from jupyterhub.crypto import CryptKeeper
from jupyterhub.httpclient import JupyterHubHTTPClient
from jupyterhub.roles import get_default_roles
from jupyterhub.scopes import scope_definitions
from traitlets.config import Config

from jhswarmd.errors import UsageError
from jhswarmd.hub.proxy import RotatingProxy
from jhswarmd.settings import settings
from jhswarmd.spawner.swarm import SwarmSpawner
from tests.unit.conftest import SECRETS, Load


def make_spawner(c: Config) -> SwarmSpawner:
    """Return ann's spawner as this configuration makes it."""
    return SwarmSpawner(config=c, user=SimpleNamespace(name="ann"))


def make_github(**changes: str) -> dict[str, str]:
    """Return the environment of a GitHub profile."""
    return {
        "AUTHENTICATOR_TYPE": "github",
        "OAUTH_CLIENT_ID": "id",
        "HOST": "hub.example",
        "OAUTH_CLIENT_SECRET_FILE_PATH": "oauth_client_secret",
        "AUTHENTICATOR_ALLOWED_USERS": "ann, bob",
        **changes,
    }


def test_every_option_that_is_set_exists(load: Load) -> None:
    c = load()
    for cls in (
        JupyterHub,
        JupyterHubHTTPClient,
        RotatingProxy,
        PAMAuthenticator,
        CryptKeeper,
        SwarmSpawner,
    ):
        unknown = {
            name
            for section in cls.section_names()
            if section in c
            for name in c[section]
            if name not in cls.class_traits(config=True)
        }
        assert not unknown


def test_notebooks_are_those_of_this_stack_and_hub(load: Load) -> None:
    spawner = make_spawner(load(STACK_NAME="lab"))
    assert spawner.stack == "lab"
    assert len(spawner.hub_id) == 32
    assert spawner.network_name == "lab_notebooks"
    assert spawner.image == "registry/notebook:1"


def test_the_hub_id_is_the_same_at_the_next_start(load: Load) -> None:
    assert load().SwarmSpawner.hub_id == load().SwarmSpawner.hub_id


def test_every_user_has_an_own_volume_at_the_notebooks_home(load: Load) -> None:
    c = load(STACK_NAME="lab", NOTEBOOK_DIR="/home/x")
    assert c.SwarmSpawner.volumes == {"lab-user-{username}": "/home/x"}


def test_limits_volumes_and_placement_come_from_the_profile(load: Load) -> None:
    c = load(
        MEM_LIMIT="2G",
        CPU_LIMIT="1.5",
        VOLUME_DRIVER="local",
        VOLUME_OPTIONS="type=nfs;o=addr=10.0.0.1,rw;device=:/export",
        NOTEBOOK_CONSTRAINTS="node.role == worker; node.labels.gpu == 1",
    )
    spawner = make_spawner(c)
    assert (spawner.mem_limit, spawner.cpu_limit) == (2 * 1024**3, 1.5)
    assert spawner.volume_driver_options["o"] == "addr=10.0.0.1,rw"
    assert spawner.extra_placement_spec == {
        "constraints": ["node.role == worker", "node.labels.gpu == 1"]
    }


def test_shared_volumes_and_the_policy_for_nodes_come_from_the_profile(load: Load) -> None:
    spawner = make_spawner(
        load(
            VOLUME_NODE_POLICY="relaxed",
            SHARED_VOLUMES="courses:/courses:ro; /data:/data:rw",
            SHARED_VOLUME_OPTIONS="device=:/export/{volume}",
        )
    )
    assert spawner.volume_node_policy == "relaxed"
    home, courses, data = spawner.mounts
    assert (home["Type"], home["Target"]) == ("volume", "/home/jovyan")
    assert (courses["Target"], courses["ReadOnly"]) == ("/courses", True)
    assert courses["VolumeOptions"]["DriverConfig"]["Options"] == {"device": ":/export/courses"}
    assert (data["Type"], data["Source"], data["ReadOnly"]) == ("bind", "/data", False)


def test_users_choose_from_the_images_of_the_profile_by_title(load: Load) -> None:
    spawner = make_spawner(load(SINGLE_USER_IMAGES="Python=reg/py:1; R and Julia=reg/r:4"))
    form = asyncio.run(spawner.get_options_form())
    assert "R and Julia" in form
    assert asyncio.run(spawner.check_allowed("R and Julia")) == "reg/r:4"


def test_without_a_list_there_is_no_choice(load: Load) -> None:
    assert not asyncio.run(make_spawner(load()).get_options_form())


def test_limits_of_the_container_come_from_the_profile(load: Load) -> None:
    spawner = make_spawner(
        load(
            SHM_SIZE="1G",
            PIDS_LIMIT="500",
            ULIMITS="nofile=1024:4096; core=0",
            CAP_DROP="ALL",
            NO_NEW_PRIVILEGES="true",
            GENERIC_RESOURCES="NVIDIA-GPU=2",
        )
    )
    assert (spawner.shm_size, spawner.pids_limit) == (1024**3, 500)
    assert spawner.ulimits == {"nofile": "1024:4096", "core": "0"}
    assert spawner.cap_drop == ["ALL"]
    assert spawner.no_new_privileges is True
    assert spawner.generic_resources == {"NVIDIA-GPU": 2}


def test_a_profile_without_limits_sets_none(load: Load) -> None:
    spawner = make_spawner(load())
    assert spawner.mem_limit is None
    assert spawner.cpu_limit is None
    assert spawner.shm_size is None
    assert spawner.pids_limit is None
    assert [mount["Type"] for mount in spawner.mounts] == ["volume"]


def test_notebooks_cannot_pose_as_another_in_their_network(load: Load) -> None:
    assert "NET_RAW" in make_spawner(load()).cap_drop


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ULIMITS", "files=1", "is none of core"),
        ("SINGLE_USER_IMAGES", "Python=", "Title=image"),
        ("SINGLE_USER_IMAGES", "=py:1", "Title=image"),
        ("SINGLE_USER_IMAGES", "py:1", "key=value"),
        ("ULIMITS", "nofile=many", "must be a number"),
        ("CAP_DROP", "net-raw", "is not a capability"),
        ("GENERIC_RESOURCES", "gpu=0", "a name and a number"),
        ("GENERIC_RESOURCES", "gpu=GPU-1", "a name and a number"),
        ("PIDS_LIMIT", "0", "greater than 0"),
        ("SHM_SIZE", "big", "512M"),
    ],
)
def test_a_wrong_limit_is_refused_with_the_reason(key: str, value: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings.Settings.from_environ({key: value})


def test_limits_travel_to_the_hub_as_they_were_written() -> None:
    written = settings.Settings.from_environ(
        {"ULIMITS": "nofile=1:2", "CAP_DROP": "ALL", "PIDS_LIMIT": "9", "NO_NEW_PRIVILEGES": "1"}
    )
    assert settings.Settings.from_environ(written.to_environ()) == written
    nothing_dropped = settings.Settings.from_environ({"CAP_DROP": "", "PIDS_LIMIT": ""})
    assert settings.Settings.from_environ(nothing_dropped.to_environ()) == nothing_dropped


def test_the_hub_keeps_proxy_and_notebooks_when_it_stops(load: Load) -> None:
    c = load()
    assert c.JupyterHub.cleanup_servers is False
    assert c.JupyterHub.cleanup_proxy is False
    assert c.ConfigurableHTTPProxy.should_start is False


def test_secrets_are_read_from_files_without_their_newline(load: Load) -> None:
    c = load()
    assert c.ConfigurableHTTPProxy.auth_token == SECRETS["proxy_auth_token"]
    assert c.CryptKeeper["keys"] == [SECRETS["crypt_key"]]
    assert c.JupyterHub.cookie_secret_file.endswith("/cookie_secret")
    assert c.JupyterHub.tornado_settings["cookie_secret"] == {0: b"\xc0" * 32}
    assert c.JupyterHub.tornado_settings["key_version"] == 0


def test_all_generations_that_are_mounted_are_taken_and_the_newest_is_used(
    load: Load, secrets: Path
) -> None:
    for kind in ("cookie_secret", "proxy_auth_token", "crypt_key"):
        content = (secrets / kind).read_text()
        (secrets / kind).unlink()
        for number in (2, 9, 10):
            (secrets / f"{kind}_g{number}").write_text(content.replace("c0", f"{number:02}"))
    (secrets / "proxy_auth_token_g10").write_text("ten\n")
    (secrets / "crypt_key_g9").write_text("cd" * 32)
    c = load()
    tornado = c.JupyterHub.tornado_settings
    assert c.JupyterHub.cookie_secret_file.endswith("/cookie_secret_g10")
    assert tornado["key_version"] == 10
    assert set(tornado["cookie_secret"]) == {2, 9, 10}
    assert tornado["cookie_secret"][9] == b"\x09" * 32
    assert tornado["slow_spawn_timeout"] == 0
    assert c.ConfigurableHTTPProxy.auth_token == "ten"
    assert c.RotatingProxy.older_tokens == [SECRETS["proxy_auth_token"]] * 2
    assert c.CryptKeeper["keys"] == ["ab" * 32, "cd" * 32, "ab" * 32]


def test_a_cookie_secret_that_is_no_hexadecimal_is_named_and_not_repeated(
    load: Load, secrets: Path
) -> None:
    (secrets / "cookie_secret").write_text("a password of somebody")
    with pytest.raises(UsageError, match="not hexadecimal") as caught:
        load()
    assert "somebody" not in str(caught.value) + str(caught.value.__cause__)


def test_the_daemon_may_do_what_it_needs_and_no_more(load: Load) -> None:
    c = load()
    assert [service["name"] for service in c.JupyterHub.services] == ["jhswarmd"]
    role, admin = c.JupyterHub.load_roles
    assert admin == {"name": "admin", "users": []}
    assert role["services"] == ["jhswarmd"]
    needed = {"list:users", "read:servers", "read:hub", "proxy", "custom:jhswarmd:report"}
    assert set(role["scopes"]) == needed


def test_the_culler_gets_its_token_only_when_servers_may_be_idle_too_long(load: Load) -> None:
    names = [service["name"] for service in load(IDLE_TIMEOUT_S="3600").JupyterHub.services]
    assert names == ["jhswarmd", "idle-culler"]


def test_without_a_culler_token_there_is_no_culler(load: Load, secrets: Path) -> None:
    (secrets / "culler_token").unlink()
    names = [service["name"] for service in load(IDLE_TIMEOUT_S="3600").JupyterHub.services]
    assert names == ["jhswarmd"]


def test_all_scopes_exist_in_this_jupyterhub(load: Load) -> None:
    *roles, _ = load(IDLE_TIMEOUT_S="3600").JupyterHub.load_roles
    assert {scope for role in roles for scope in role["scopes"]} <= set(scope_definitions)
    assert not {role["name"] for role in roles} & {role["name"] for role in get_default_roles()}


def test_a_missing_secret_is_named(load: Load, secrets: Path) -> None:
    (secrets / "daemon_token").unlink()
    with pytest.raises(UsageError, match="daemon_token"):
        load()


def test_an_empty_proxy_token_is_refused(load: Load, secrets: Path) -> None:
    (secrets / "proxy_auth_token").write_text("\n")
    with pytest.raises(UsageError, match="proxy_auth_token is empty"):
        load()


def test_pam_lets_in_the_accounts_of_the_list_alone(load: Load) -> None:
    c = load(AUTHENTICATOR_ADMIN_USERS="ann")
    assert c.JupyterHub.authenticator_class == "jhswarmd.hub.auth.PAMAuthenticator"
    assert c.PAMAuthenticator.service == "jhswarmd"
    assert c.PAMAuthenticator.allowed_groups == {"jhswarmd"}
    assert c.Authenticator.admin_users == {"ann"}
    assert "allow_all" not in c.Authenticator


def test_github_lets_in_whom_the_profile_names(load: Load) -> None:
    c = load(**make_github(GITHUB_ALLOWED_ORGANIZATIONS="physics"))
    app = JupyterHub(config=c)
    authenticator = app.authenticator_class(config=c)
    assert authenticator.allowed_users == {"ann", "bob"}
    assert authenticator.allowed_organizations == {"physics"}
    assert "read:org" in authenticator.scope
    assert authenticator.client_secret == SECRETS["oauth_client_secret"]


def test_github_enterprise_is_asked_at_its_own_address(load: Load) -> None:
    c = load(**make_github(GITHUB_URL="https://git.example/"))
    authenticator = JupyterHub(config=c).authenticator_class(config=c)
    assert authenticator.github_api == "https://git.example/api/v3"
    assert authenticator.token_url == "https://git.example/login/oauth/access_token"


def test_a_provider_is_sent_back_to_the_hubs_own_address(load: Load) -> None:
    c = load(**make_github())
    authenticator = JupyterHub(config=c).authenticator_class(config=c)
    assert authenticator.oauth_callback_url == "https://hub.example/hub/oauth_callback"
    assert authenticator.enable_auth_state


def test_openid_connect_takes_its_addresses_from_the_profile(load: Load) -> None:
    c = load(
        **make_github(
            AUTHENTICATOR_TYPE="generic-oauth",
            OAUTH_AUTHORIZE_URL="https://id.example/authorize",
            OAUTH_TOKEN_URL="https://id.example/token",
            OAUTH_USERDATA_URL="https://id.example/userinfo",
            OAUTH_USERNAME_CLAIM="preferred_username",
            OAUTH_SCOPE="openid, email",
        )
    )
    authenticator = JupyterHub(config=c).authenticator_class(config=c)
    assert authenticator.token_url == "https://id.example/token"
    assert authenticator.userdata_url == "https://id.example/userinfo"
    assert authenticator.username_claim == "preferred_username"
    assert authenticator.scope == ["openid", "email"]
    assert authenticator.allowed_users == {"ann", "bob"}
    assert not authenticator.allow_all


def test_the_sites_files_are_read_last_and_in_order(load: Load, hub_config: Path) -> None:
    (hub_config / "conf.d" / "20.py").write_text("c.SwarmSpawner.default_url = '/tree'\n")
    (hub_config / "conf.d" / "10.py").write_text("c.SwarmSpawner.default_url = '/no'\n")
    assert load(DEFAULT_URL="/lab").SwarmSpawner.default_url == "/tree"


def test_a_site_adds_a_service_beside_ours(load: Load, hub_config: Path) -> None:
    (hub_config / "conf.d" / "a.py").write_text(
        "c.JupyterHub.services.append({'name': 'mine', 'url': 'http://mine:1'})\n"
    )
    assert [service["name"] for service in load().JupyterHub.services] == ["jhswarmd", "mine"]


def test_options_of_dockerspawner_keep_their_names(load: Load, hub_config: Path) -> None:
    (hub_config / "conf.d" / "a.py").write_text(
        "c.DockerSpawner.extra_create_kwargs = {'mode': 1}\n"
    )
    assert make_spawner(load()).extra_create_kwargs == {"mode": 1}


def test_the_older_container_spec_is_refused_with_todays_option(
    load: Load, hub_config: Path
) -> None:
    (hub_config / "conf.d" / "a.py").write_text(
        "c.SwarmSpawner.container_spec = {'Image': 'x', 'args': ['y']}\n"
    )
    with pytest.raises(UsageError, match=r"c\.SwarmSpawner\.image.*c\.SwarmSpawner\.cmd"):
        load()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("c.DockerSpawner.extra_host_config = {'privileged': True}", "no such thing for services"),
        ("c.DockerSpawner.links = {'db': 'db'}", "common network"),
        ("c.SwarmSpawner.mounts = [{'source': 'a', 'target': '/a'}]", "c.SwarmSpawner.volumes"),
        ("c.DockerSpawner.mounts.append({'source': 'a', 'target': '/a'})", "c.SwarmSpawner.vol"),
        ("c.Spawner.post_start_cmd = 'echo'", "start script"),
        ("c.DockerSpawner.remove = False", "cannot be started again"),
        ("c.JupyterHub.internal_ssl = True", "hub's node alone"),
        ("c.SwarmSpawner.escape = lambda name: name.replace('.', '-')", "'a-b' and 'a.b' the same"),
        ("c.DockerSpawner.escape = lambda name: 'x'", "would share services and volumes"),
        ("c.SwarmSpawner.name_template = 'notebook'", "must hold {username}"),
        (
            "c.DockerSpawner.escape = 'legacy'; "
            "c.SwarmSpawner.volumes = {'{username}': '/h', '{username}-data': '/d'}",
            "may give two users one volume",
        ),
        (
            "c.DockerSpawner.escape = 'legacy'; "
            "c.SwarmSpawner.volumes = {'{username}-{servername}': '/h'}",
            "may give two users one volume",
        ),
        (
            "c.JupyterHub.allow_named_servers = True; "
            "c.DockerSpawner.name_template = '{prefix}-{username}'",
            "must hold {servername}",
        ),
        ("c.SwarmSpawner.notebook_profiles = [{'slug': 'x'}]", "title Field required"),
        ("c.SwarmSpawner.notebook_profiles = 5", "c.SwarmSpawner.notebook_profiles"),
    ],
)
def test_what_cannot_work_on_swarm_stops_the_hub_with_the_reason(
    load: Load, hub_config: Path, line: str, words: str
) -> None:
    (hub_config / "conf.d" / "a.py").write_text(f"{line}\n")
    with pytest.raises(UsageError, match=re.escape(words)):
        load()


def test_all_that_cannot_work_is_said_at_once(load: Load, hub_config: Path) -> None:
    (hub_config / "conf.d" / "a.py").write_text(
        "c.DockerSpawner.links = {'a': 'b'}\nc.SwarmSpawner.post_start_cmd = 'echo'\n"
    )
    with pytest.raises(UsageError, match=r"(?s)c\.DockerSpawner\.links.*SwarmSpawner\.post_start"):
        load()


def test_what_means_nothing_or_works_is_let_through(load: Load, hub_config: Path) -> None:
    (hub_config / "conf.d" / "a.py").write_text(
        """
c.DockerSpawner.remove = True
c.DockerSpawner.links = {}
c.DockerSpawner.mounts = []
c.SwarmSpawner.post_start_cmd = False
c.SwarmSpawner.escape = "legacy"
c.SwarmSpawner.volumes = {"home-{username}": "/h", "data-{username}": "/d", "/x/{username}/y": "/y"}
c.SwarmSpawner.name_template = "{prefix}-{username}"
c.JupyterHub.internal_ssl = False
c.SwarmSpawner.notebook_profiles = [{"slug": "x", "title": "X", "mem_limit": "1G"}]
"""
    )
    (profile,) = make_spawner(load()).notebook_profiles
    assert profile.mem_limit == 1024**3


def test_profiles_of_the_file_reach_the_spawner(load: Load) -> None:
    listed = (
        '[{"slug":"x","title":"X $1","mem_limit":1073741824,"constraints":["node.role == worker"]}]'
    )
    (profile,) = make_spawner(load(NOTEBOOK_PROFILES=listed)).notebook_profiles
    assert (profile.title, profile.mem_limit, profile.constraints) == (
        "X $1",
        2**30,
        ("node.role == worker",),
    )


def test_a_name_other_than_localhost_is_the_public_url(load: Load) -> None:
    assert load(HOST="hub.example", HTTPS_PORT="8443").JupyterHub.public_url == (
        "https://hub.example:8443/"
    )
    assert "public_url" not in load().JupyterHub


def test_no_secret_shows_in_the_environment_or_the_log(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:

    caplog.set_level("DEBUG")
    load()
    shown = repr(dict(os.environ)) + caplog.text
    assert not [content for content in SECRETS.values() if content in shown]


def test_our_own_log_lines_go_where_the_hubs_go(load: Load) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    hub_log = logging.getLogger("JupyterHub")
    hub_log.addHandler(handler)
    try:
        load()
        logging.getLogger("jhswarmd.retry").warning("a line of ours")
    finally:
        hub_log.removeHandler(handler)
    assert lines == ["a line of ours"]


def test_a_profile_that_is_wrong_stops_the_hub(load: Load) -> None:
    error: type[Any] = ValueError  # pydantic's ValidationError is one
    with pytest.raises(error, match="mem_limit"):
        load(MEM_LIMIT="much")
