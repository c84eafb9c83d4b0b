"""A site's own files in ``conf.d``: what works, and what is refused with what to set instead."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.app import JupyterHub
from traitlets.config import Config

from jhswarmd import assets
from jhswarmd.errors import UsageError
from jhswarmd.hub import rehearsal, startup
from jhswarmd.hub.config import SiteRefused
from jhswarmd.settings import settings
from jhswarmd.settings.notebook_profiles import NotebookProfile
from jhswarmd.spawner import profile_form
from jhswarmd.spawner.swarm import SwarmSpawner
from tests.unit.conftest import SECRETS, Load

Site = Callable[..., Config]

#: A profile that sets what the files below set too.
PROFILE = {
    "MEM_LIMIT": "1G",
    "CPU_LIMIT": "1",
    "SHM_SIZE": "64M",
    "NOTEBOOK_DIR": "/home/jovyan",
    "NOTEBOOK_ARGS": "--of-the-profile",
    "DEFAULT_URL": "/lab",
    "START_TIMEOUT_S": "300",
}


@pytest.fixture
def site(load: Load, hub_config: Path) -> Site:
    """Load the configuration with the files ``10.py``, ``11.py``, ... in conf.d."""

    def load_with(*texts: str, **environ: str) -> Config:
        for number, text in enumerate(texts, start=10):
            (hub_config / "conf.d" / f"{number}.py").write_text(f"{text}\n")
        return load(**environ)

    return load_with


@pytest.fixture
def refused(site: Site) -> Callable[..., list[str]]:
    """Return the reasons for which these files are refused."""

    def refuse(*texts: str, **environ: str) -> list[str]:
        with pytest.raises(SiteRefused) as caught:
            site(*texts, **environ)
        return list(caught.value.faults)

    return refuse


def make_spawner(c: Config) -> SwarmSpawner:
    return SwarmSpawner(config=c, user=SimpleNamespace(name="ann"))


# ---- the last one wins --------------------------------------------------------------------------


@pytest.mark.parametrize("section", ["Spawner", "DockerSpawner", "SwarmSpawner"])
@pytest.mark.parametrize(
    ("option", "value", "seen"),
    [
        ("mem_limit", "'3G'", 3 * 1024**3),
        ("cpu_limit", "2.5", 2.5),
        ("image", "'reg/other:2'", "reg/other:2"),
        ("default_url", "'/tree'", "/tree"),
        ("shm_size", "'2G'", 2 * 1024**3),
        ("volumes", "{'x-{username}': '/x'}", {"x-{username}": "/x"}),
        ("cmd", "'start-singleuser.sh'", ["start-singleuser.sh"]),
        ("args", "['--of-the-site']", ["--of-the-site"]),
        ("notebook_dir", "'/home/x'", "/home/x"),
        ("start_timeout", "77", 77),
        ("http_timeout", "88", 88),
        ("cap_drop", "['ALL']", ["ALL"]),
        ("extra_placement_spec", "{'constraints': []}", {"constraints": []}),
        ("container_image", "'reg/other:3'", "reg/other:3"),
    ],
)
def test_a_sites_option_wins_over_the_profile_in_whichever_class(
    site: Site, section: str, option: str, value: str, seen: Any
) -> None:
    spawner = make_spawner(site(f"c.{section}.{option} = {value}", **PROFILE))
    assert getattr(spawner, option) == seen
    if option == "container_image":
        assert spawner.image == seen


def test_a_callable_wins_too(site: Site) -> None:
    spawner = make_spawner(site("c.Spawner.mem_limit = lambda spawner: '2G'", **PROFILE))
    assert spawner.mem_limit == 2 * 1024**3


def test_a_later_file_wins_in_whichever_class(site: Site) -> None:
    spawner = make_spawner(
        site("c.SwarmSpawner.mem_limit = '2G'", "c.Spawner.mem_limit = '3G'", **PROFILE)
    )
    assert spawner.mem_limit == 3 * 1024**3


def test_within_one_file_the_more_specific_class_wins_as_in_jupyterhub(site: Site) -> None:
    spawner = make_spawner(
        site("c.SwarmSpawner.mem_limit = '2G'\nc.Spawner.mem_limit = '3G'", **PROFILE)
    )
    assert spawner.mem_limit == 2 * 1024**3


@pytest.mark.parametrize("section", ["Spawner", "DockerSpawner", "SwarmSpawner"])
def test_what_is_added_to_ours_stands_beside_it(site: Site, section: str) -> None:
    c = site(
        f"c.{section}.volumes.update({{'x-{{username}}': '/x'}})\n"
        f"c.{section}.cap_drop.append('SETUID')",
        f"c.{section}.cap_drop.append('SETGID')",
        NOTEBOOK_DIR="/home/x",
    )
    spawner = make_spawner(c)
    assert spawner.volumes == {"jupyterhub-user-{username}": "/home/x", "x-{username}": "/x"}
    assert spawner.cap_drop[-2:] == ["SETUID", "SETGID"]
    assert "NET_RAW" in spawner.cap_drop


def test_what_a_user_chooses_wins_over_the_site(site: Site) -> None:
    spawner = make_spawner(site("c.Spawner.mem_limit = '2G'", **PROFILE))
    chosen = NotebookProfile(slug="x", title="X", mem_limit="5G")
    assert profile_form.changes(chosen, spawner) == {"mem_limit": 5 * 1024**3}


def test_options_of_the_authenticator_win_in_whichever_class(site: Site) -> None:
    c = site(
        "c.Authenticator.allowed_users = {'bea'}\nc.OAuthenticator.scope = ['mine']",
        AUTHENTICATOR_TYPE="github",
        OAUTH_CLIENT_ID="id",
        HOST="hub.example",
        OAUTH_CLIENT_SECRET_FILE_PATH="oauth_client_secret",
        AUTHENTICATOR_ALLOWED_USERS="ann",
        GITHUB_ALLOWED_ORGANIZATIONS="physics",
    )
    authenticator = JupyterHub(config=c).authenticator_class(config=c)
    assert authenticator.allowed_users == {"bea"}
    assert authenticator.scope == ["mine"]


def test_a_subclass_of_our_spawner_is_taken(site: Site) -> None:
    c = site(
        """
        from jhswarmd.spawner.swarm import SwarmSpawner
        class Ours(SwarmSpawner):
            pass
        c.JupyterHub.spawner_class = Ours
        c.Ours.mem_limit = "2G"
        """.replace("\n        ", "\n"),
        **PROFILE,
    )
    spawner = c.JupyterHub.spawner_class(config=c, user=SimpleNamespace(name="ann"))
    assert spawner.mem_limit == 2 * 1024**3


def test_callables_volumes_and_names_that_work_are_let_through(site: Site) -> None:
    site(
        """
class Hooks:
    def before(self, spawner):
        pass
async def after(spawner, more=None):
    pass
c.Spawner.pre_spawn_hook = Hooks().before
c.Spawner.post_stop_hook = after
c.Spawner.auth_state_hook = None
c.Authenticator.post_auth_hook = lambda *arguments: arguments[-1]
c.Spawner.options_form = "<form>"
c.Spawner.extra_create_kwargs = lambda spawner: {"labels": {"x": "y"}}
c.SwarmSpawner.name_template = "{prefix}-{username}-{servername}"
c.DockerSpawner.volumes = {
    "home-{username}": {"bind": "/home/{raw_username}", "mode": "rw,z"},
    "/srv/{username}": "/srv",
}
c.SwarmSpawner.shared_volumes = {"xy": {"bind": "/x", "mode": "ro,nocopy"}}
c.Spawner.notebook_dir = "/home/{username}"
c.DockerSpawner.image = "Registry.example:5000/a/b-c:1.0_X@sha256:0123abcd"
c.DockerSpawner.extra_placement_spec = {"constraints": ["node.labels.x==y", "node.role != z"]}
c.DockerSpawner.extra_resources_spec = {"mem_limit": 2**30, "cpu_limit": 10**9}
c.Spawner.mem_limit = "4M"
c.Spawner.cpu_limit = 0.001
"""
    )
    site("c.SwarmSpawner.volume_driver = 'x/s3'\nc.Spawner.volumes = {'a/{username}': '/x'}")


def test_a_subclass_that_wants_a_whole_user_is_taken(site: Site) -> None:
    site(
        "from jhswarmd.spawner.swarm import SwarmSpawner\n"
        "class Ours(SwarmSpawner):\n"
        "    def __init__(self, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
        "        self.user.id\n"
        "c.JupyterHub.spawner_class = Ours\n"
        "c.Ours.mem_limit = '1G'\n"
    )


def test_options_of_a_provider_are_known(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site(
        "c.GitLabOAuthenticator.allowed_gitlab_groups = {'physics'}",
        AUTHENTICATOR_TYPE="gitlab",
        OAUTH_CLIENT_ID="id",
        HOST="hub.example",
        OAUTH_CLIENT_SECRET_FILE_PATH="oauth_client_secret",
    )
    assert not caplog.records


def test_a_subclass_of_our_spawner_may_do_no_more(refused: Callable[..., list[str]]) -> None:
    faults = refused(
        "from jhswarmd.spawner.swarm import SwarmSpawner\n"
        "class Ours(SwarmSpawner):\n    pass\n"
        "c.JupyterHub.spawner_class = Ours\n"
        "c.Ours.links = {'a': 'b'}\n"
        "c.Ours.hub_id = 'x'\n"
        "c.Ours.nosuch = 1\n"
    )
    assert len(faults) == 3


# ---- what the daemon depends on stays -----------------------------------------------------------


@pytest.mark.parametrize("how", [" = [{}]", ".append({})"])
def test_services_and_roles_of_the_site_stand_beside_ours(site: Site, how: str) -> None:
    service = "{'name': 'mine', 'url': 'http://mine:1', 'api_token': 'x' * 32}"
    role = "{'name': 'mine', 'services': ['mine'], 'scopes': ['list:users']}"
    c = site(
        f"c.JupyterHub.services{how.format(service)}\nc.JupyterHub.load_roles{how.format(role)}"
    )
    assert [each["name"] for each in c.JupyterHub.services] == ["jhswarmd", "mine"]
    assert [each["name"] for each in c.JupyterHub.load_roles] == ["jhswarmd", "mine", "admin"]


def test_pages_of_the_site_stand_beside_ours(site: Site) -> None:
    ours = len(site().JupyterHub.extra_handlers)
    c = site("from tornado import web\nc.JupyterHub.extra_handlers = [('/x', web.RequestHandler)]")
    assert len(c.JupyterHub.extra_handlers) == ours + 1


@pytest.mark.parametrize("how", [" = {}", ".update({})"])
def test_tornados_settings_of_the_site_keep_cookies_valid(site: Site, how: str) -> None:
    c = site(f"c.JupyterHub.tornado_settings{how.format({'headers': {'X': 'y'}})}")
    assert c.JupyterHub.tornado_settings["headers"] == {"X": "y"}
    assert c.JupyterHub.tornado_settings["cookie_secret"] == {0: b"\xc0" * 32}
    assert c.JupyterHub.tornado_settings["slow_spawn_timeout"] == 0


# ---- what cannot work ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("c.JupyterHub.spawner_class = 'dockerspawner.SwarmSpawner'", "leave it out"),
        ("c.JupyterHub.spawner_class = 'docker-swarm'", "leave it out"),
        ("c.JupyterHub.spawner_class = 'dockerspawner.DockerSpawner'", "leave it out"),
        ("c.JupyterHub.spawner_class = 'older.SwarmSpawner'", "not installed in the hub's image"),
        ("c.JupyterHub.spawner_class = 'simple'", "leave it out"),
        ("c.JupyterHub.spawner_class = 5", "leave it out"),
        ("c.JupyterHub.authenticator_class = 'none.Authenticator'", "AUTHENTICATOR_TYPE"),
        ("c.JupyterHub.authenticator_class = 'pam'", "AUTHENTICATOR_TYPE=pam"),
        ("c.JupyterHub.template_paths = ['/no/such']", "/no/such does not exist in the hub's"),
        ("c.JupyterHub.template_paths.append('templates')", "templates does not exist"),
        ("c.JupyterHub.logo_file = '/no/such.png'", "/no/such.png does not exist"),
        ("c.Spawner.extra_task_spec.update({'networks': ['x']})", "'jupyterhub_notebooks' alone"),
        ("c.Spawner.ip = '127.0.0.1'", "could not reach it"),
        ("c.Spawner.hub_connect_url = 'http://10.0.0.1:8081'", "http://hub:8081"),
        ("c.SwarmSpawner.extra_task_spec = {'networks': ['x']}", "'jupyterhub_notebooks' alone"),
        ("c.JupyterHub.authenticator_class = dict", "not an authenticator"),
        ("c.JupyterHub.proxy_class = 'configurable-http-proxy'", "leave it out"),
        ("c.JupyterHub.hub_ip = 'other'", "leave it out"),
        ("c.JupyterHub.hub_port = 8080", "http://hub:8081"),
        ("c.JupyterHub.hub_bind_url = 'http://127.0.0.1:8081'", "http://hub:8081"),
        ("c.JupyterHub.hub_connect_ip = 'other'", "http://hub:8081"),
        ("c.JupyterHub.hub_connect_url = 'http://other:8081'", "http://hub:8081"),
        ("c.JupyterHub.hub_connect_port = 9000", "http://hub:8081"),
        ("c.JupyterHub.base_url = '/jupyter/'", "HOST"),
        ("c.JupyterHub.bind_url = 'https://:8000/jupyter'", "HOST"),
        ("c.JupyterHub.hub_routespec = '/x/'", "leave it out"),
        ("c.JupyterHub.ip = '10.0.0.1'", "firewall"),
        ("c.JupyterHub.port = 8000", "HTTPS_PORT"),
        ("c.JupyterHub.public_url = 'https://elsewhere/'", "HOST"),
        ("c.JupyterHub.subdomain_host = 'https://x'", "HOST"),
        ("c.JupyterHub.ssl_key = '/x'", "ssl/key.pem"),
        ("c.JupyterHub.ssl_cert = '/x'", "ssl/cert.pem"),
        ("c.JupyterHub.db_url = 'sqlite:////data/x'", "DATABASE_URL"),
        ("c.JupyterHub.reset_db = True", "forget"),
        ("c.JupyterHub.cleanup_servers = True", "end all notebooks"),
        ("c.JupyterHub.cleanup_proxy = True", "cut off"),
        ("c.JupyterHub.cookie_secret = b'x' * 32", "file cookie_secret"),
        ("c.JupyterHub.cookie_secret_file = '/x'", "file cookie_secret"),
        ("c.JupyterHub.tornado_settings = {'cookie_secret': 'x'}", "file cookie_secret"),
        ("c.JupyterHub.tornado_settings.update({'key_version': 1})", "file cookie_secret"),
        ("c.JupyterHub.proxy_auth_token = 'x'", "file proxy_auth_token"),
        ("c.JupyterHub.proxy_cmd = ['x']", "leave it out"),
        ("c.JupyterHub.init_spawners_timeout = -1", "before it listens"),
        ("c.JupyterHub.generate_config = True", "leave it out"),
        ("c.JupyterHub.config_file = '/x.py'", "a file in conf.d"),
        ("c.JupyterHub.data_files_path = '/no/such'", "pages are not there"),
        ("c.JupyterHub.pid_file = '/no/such/x.pid'", "directory /no/such does not exist"),
        ("c.JupyterHub.extra_log_file = '/no/such/x.log'", "a file in /srv/jupyterhub"),
        ("c.JupyterHub.authenticator_class = 'x.DummyAuthenticator'", "Instead: 'dummy'"),
        ("c.Spawner.environment = ['A_TOKEN=abcdef']", "A_TOKEN=[hidden]"),
        ("c.JupyterHub.api_tokens = ['abcdef']", "api_tokens cannot be used: it takes a dict"),
        ("c.JupyterHub.concurrent_spawn_limit = 'many'", "expected an int"),
        ("c.ConfigurableHTTPProxy.should_start = True", "service of its own"),
        ("c.ConfigurableHTTPProxy.api_url = 'http://x:1'", "service of its own"),
        ("c.ConfigurableHTTPProxy.auth_token = 'x'", "file proxy_auth_token"),
        ("c.ConfigurableHTTPProxy.command = ['x']", "service of its own"),
        ("c.Proxy.should_start = True", "service of its own"),
        ("c.CryptKeeper.keys = ['x']", "file crypt_key"),
        ("c.PAMAuthenticator.service = 'login'", "leave it out"),
        ("c.LocalAuthenticator.create_system_users = True", "jhswarmd users add"),
        ("c.SwarmSpawner.stack = 'x'", "STACK_NAME"),
        ("c.Spawner.hub_id = 'x'", "leave it out"),
        ("c.Authenticator.admin_users = 5", "expected a set"),
        ("c.Spawner.mem_limit = 'much'", "mem_limit"),
        ("c.DockerSpawner.volumes = ['x']", "expected a dict"),
        ("c.SwarmSpawner.extra_container_spec = {'memory': 1}", "has no 'memory'"),
        ("c.SwarmSpawner.extra_placement_spec = {'constraint': []}", "Did you mean constraints"),
        ("c.SwarmSpawner.extra_resources_spec = {'mem': 1}", "has no 'mem'"),
        ("c.Spawner.extra_create_kwargs = {'task_template': {}}", "has no 'task_template'"),
        ("c.Spawner.extra_create_kwargs = {'user': 'x'}", "extra_container_spec = {'user': ...}"),
        ("c.DockerSpawner.extra_create_kwargs.update({'hostname': 'x'})", "{'hostname': ...}"),
        ("c.Spawner.extra_host_config = {'shm_size': '1g'}", "'shm_size': c.SwarmSpawner.shm_size"),
        ("c.Spawner.extra_host_config = {'runtime': 'nvidia'}", "GENERIC_RESOURCES"),
        ("c.DockerSpawner.extra_host_config.update({'network_mode': 'x'})", "own network"),
        ("c.Spawner.extra_host_config = {'x': 1}", "'x': c.SwarmSpawner.extra_container_spec"),
        ("c.Spawner.extra_host_config = lambda spawner: {}", "Instead: c.SwarmSpawner.extra_c"),
        ("c.Spawner.pre_spawn_hook = 'make_home'", "without quotes"),
        ("c.Spawner.pre_spawn_hook = lambda: None", "called with one argument"),
        ("c.DockerSpawner.post_stop_hook = lambda a, b: None", "called with one argument"),
        ("c.Authenticator.post_auth_hook = lambda a, b: b", "called with 3 arguments"),
        ("c.Spawner.options_form = lambda: ''", "called with one argument"),
        ("c.SwarmSpawner.mem_limit = lambda: '1G'", "called with one argument"),
        ("c.DockerSpawner.name_template = 'user/{username}'", "'user/user'"),
        ("c.DockerSpawner.name_template = 'x-{user}-{username}'", "one of {imagename}, {prefix}"),
        ("c.DockerSpawner.volumes = {'./x': '/home/jovyan'}", "no volumes that are called './x'"),
        ("c.DockerSpawner.volumes = {'~/x': '/home/jovyan'}", "absolute path of a directory"),
        ("c.DockerSpawner.volumes = {'x-{user}': '/home/jovyan'}", "nothing fills in 'x-{user}'"),
        ("c.DockerSpawner.volumes = {'/x/{username': '/home/jovyan'}", "nothing fills in"),
        ("c.DockerSpawner.volumes = {'xy': 'work'}", "cannot be mounted at 'work'"),
        ("c.DockerSpawner.volumes.update({'xy': '/data:ro'})", "{'bind': '/path', 'mode': 'ro'}"),
        ("c.DockerSpawner.volumes = {'xy': {'target': '/x'}}", "has no target"),
        ("c.DockerSpawner.volumes = {'xy': {'mode': 'ro'}}", "no path to be mounted at"),
        ("c.DockerSpawner.volumes = {'xy': {'bind': '/x', 'mode': 'readonly'}}", "mode readonly"),
        ("c.SwarmSpawner.shared_volumes = {'xy': {'bind': '/x', 'ro': True}}", "'xy' has no ro"),
        ("c.DockerSpawner.read_only_volumes = {'xy': None}", "no path to be mounted at"),
        ("c.DockerSpawner.volumes = {'xy': '/x', 'xz': '/x/'}", "are both mounted at /x/"),
        ("c.Spawner.shared_volumes = {'xy': '/home/jovyan'}", "are both mounted at /home/jovyan"),
        ("c.DockerSpawner.volume_driver_options = {'o': '{user}'}", "a template that nothing"),
        ("c.Spawner.notebook_dir = '/home/{user}'", "nothing fills in '/home/{user}'"),
        ("c.Spawner.default_url = '/lab/{user}'", "nothing fills in '/lab/{user}'"),
        ("c.DockerSpawner.image = 'Me/Mine:1'", "lower case"),
        ("c.DockerSpawner.image = 'mine:1 # comment'", "REGISTRY/NAME:TAG"),
        ("c.Spawner.cmd = 'start.sh --x'", "the list ['start.sh', '--x']"),
        ("c.Spawner.extra_placement_spec = {'constraints': 'node.role==x'}", "a list as"),
        ("c.Spawner.extra_placement_spec = {'constraints': ['node.role = x']}", "a list as"),
        ("c.Spawner.extra_resources_spec = {'mem_limit': '1G'}", "bytes, or c.SwarmSpawner.mem"),
        ("c.Spawner.extra_resources_spec = {'cpu_limit': 2}", "billionths of a core"),
        ("c.Spawner.mem_limit = 2", "with its unit, as '2G'"),
        ("c.Spawner.mem_guarantee = '512K'", "no less than 4 MiB"),
        ("c.Spawner.cpu_guarantee = 1e-9", "cores, as 0.5"),
    ],
)
def test_what_the_stack_depends_on_is_refused_with_what_to_set_instead(
    refused: Callable[..., list[str]], line: str, words: str
) -> None:
    (fault,) = refused(f"# first line\n{line}")
    assert fault.startswith("hub_config/conf.d/10.py, line 2: c.")
    assert words in fault


def test_what_is_the_case_anyway_is_let_through(site: Site) -> None:
    site(
        """
c.JupyterHub.spawner_class = "jhswarmd.spawner.swarm.SwarmSpawner"
c.JupyterHub.hub_ip = ""
c.JupyterHub.hub_ip = "0.0.0.0"
c.JupyterHub.hub_port = 8081
c.JupyterHub.hub_bind_url = "http://0.0.0.0:8081"
c.JupyterHub.hub_connect_ip = "hub"
c.JupyterHub.base_url = "/"
c.JupyterHub.config_file = "jupyterhub_config.py"
c.JupyterHub.ip = "0.0.0.0"
c.JupyterHub.port = 8443
c.JupyterHub.db_url = c_db
c.JupyterHub.cleanup_servers = False
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://proxy:8001"
c.JupyterHub.log_level = 10
c.Authenticator.admin_users = ["ann"]
if c.JupyterHub.cookie_secret_file or c.Spawner.what_is_only_read:
    pass
""".replace("c_db", "__import__('os').environ['DATABASE_URL'].removeprefix('sqlite:///')"),
        HTTPS_PORT="8443",
    )


def test_secrets_are_not_repeated(refused: Callable[..., list[str]]) -> None:
    faults = refused(
        "c.JupyterHub.db_url = 'postgresql://u:hush@db/x'\n"
        "c.JupyterHub.cookie_secret = b'hush'\n"
        "c.ConfigurableHTTPProxy.auth_token = 'hush'\n"
        "c.JupyterHub.services = [{'name': 'jhswarmd', 'api_token': 'hush', 'x': 'hush'}]\n"
        "c.CryptKeeper.keys = ['hush']\n"
    )
    assert len(faults) == 6
    assert "hush" not in str(faults)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("c.Spawner.mem_limt = '1G'", "Did you mean c.Spawner.mem_limit"),
        ("c.JupyterHub.concurent_spawn_limit = 1", "Did you mean c.JupyterHub.concurrent_spawn"),
        ("c.Authenticator.admin_user = {'x'}", "Did you mean c.Authenticator.admin_users"),
        ("c.Spawnr.mem_limit = '1G'", "Did you mean c.Spawner?"),
        ("c.swarmspawner.mem_limit = '1G'", "Did you mean c.SwarmSpawner?"),
        ("c.JupyterHubApp.port = 1", "Did you mean c.JupyterHub?"),
        ("c.JupyterHub.SwarmSpawner.mem_limit = '1G'", "Instead: c.SwarmSpawner"),
        ("c.NotebookApp.shutdown_no_activity_timeout = 1", "--NotebookApp.shutdown_no_activity"),
        ("c.ServerApp.root_dir = '/x'", "NOTEBOOK_ARGS"),
        ("c.MappingKernelManager.cull_idle_timeout = 1", "jupyter_server_config.py"),
        ("c.NativeAuthenticator.open_signup = True", "nothing in the hub's image"),
        ("c.JupyterHub.allowed_users = {'x'}", "Did you mean c.Authenticator.allowed_users?"),
        ("c.Authenticator.concurrent_spawn_limit = 1", "c.JupyterHub.concurrent_spawn_limit?"),
        ("c.JupyterHub.start_timeout = 1", "Did you mean c.Spawner.start_timeout?"),
        ("c.KubeSpawner.cpu_limit = 2", "Instead: c.SwarmSpawner.cpu_limit"),
        ("c.KubeSpawner.profile_list = []", "Instead: c.SwarmSpawner.notebook_profiles"),
        ("c.KubeSpawner.storage_class = 'x'", "nothing in the hub's image is called KubeSpawner"),
        ("c.LocalProcessSpawner.shell = 'x'", "Did you mean c.LocalProcessSpawner.shell_cmd"),
    ],
)
def test_an_option_that_no_class_has_is_named(
    refused: Callable[..., list[str]], line: str, words: str
) -> None:
    (fault,) = refused(line)
    assert fault.startswith("hub_config/conf.d/10.py, line 1: c.")
    assert words in fault


@pytest.mark.parametrize(
    "line",
    ["c.LDAPAuthenticator.server_address = 'x'", "c.DockerSpawner.post_start_cmds = ['x']"],
)
def test_nothing_is_proposed_that_does_not_help(
    refused: Callable[..., list[str]], line: str
) -> None:
    (fault,) = refused(line)
    assert "Did you mean" not in fault


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("networks = ['x']", "network"),
        ("placement = ['node.role == worker']", "NOTEBOOK_CONSTRAINTS"),
        ("jupyterhub_service_name = 'x'", "leave it out"),
        ("service_prefix = 'x'", "c.SwarmSpawner.prefix"),
        ("use_user_options = True", "notebook_profiles"),
        ("resource_spec = {'mem_limit': 2**30}", "c.SwarmSpawner.mem_limit = 1073741824"),
        ("resource_spec = {'cpu_reservation': 5 * 10**8}", "c.SwarmSpawner.cpu_guarantee = 0.5"),
        ("resource_spec = {'mem_limit': '1G'}", "MEM_LIMIT"),
        ("images = [{'image': 'x'}]", "c.SwarmSpawner.notebook_profiles"),
        ("dockerimages = [{'image': 'x'}]", "c.SwarmSpawner.notebook_profiles"),
        ("configs = [{'config_name': 'x'}]", "c.SwarmSpawner.extra_container_spec"),
        ("log_driver = {'Name': 'x'}", "c.SwarmSpawner.extra_task_spec"),
        ("accelerators = ['0']", "GENERIC_RESOURCES"),
        ("enable_user_upload_install_files = True", "SINGLE_USER_IMAGE"),
        ("container_spec = {'Image': 'x'}", "c.SwarmSpawner.image"),
        ("container_spec = {'mounts': []}", "c.SwarmSpawner.volumes"),
        ("container_spec = {'mounts': [{'no_copy': True}]}", "c.SwarmSpawner.volume_no_copy"),
        ("container_spec = {'user': 'x'}", "c.SwarmSpawner.extra_container_spec"),
        ("container_spec = {}", "c.SwarmSpawner.image"),
    ],
)
def test_options_of_older_spawners_are_named_with_todays(
    refused: Callable[..., list[str]], line: str, words: str
) -> None:
    (fault,) = refused(f"c.SwarmSpawner.{line}")
    assert "is an option of an older spawner, and has no effect" in fault
    assert words in fault


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("{'name': 'x', 'command': ['no-such-command']}", "does not exist in the hub's image"),
        ("{'name': 'x', 'command': 'no-such-command'}", "does not exist in the hub's image"),
        ("{'name': 'x', 'command': ['python3', 'cull.py']}", "IDLE_TIMEOUT_S"),
        ("{'name': 'x', 'command': ['python3', '-u', 'cull.py']}", "script 'cull.py'"),
        ("{'name': 'x', 'command': ['/bin/sh', '/srv/x.sh', '--y']}", "script '/srv/x.sh'"),
        ("{'name': 'x', 'command': [sys.executable, '-m', 'no_such']}", "module 'no_such'"),
        ("{'name': 'x', 'command': ['sh'], 'cwd': '/no/such'}", "directory /no/such"),
        ("{'name': 'x', 'command': ['sh', 5]}", "hold strings alone, and no int"),
        ("{'name': 'x', 'command': ['sh'], 'environment': {'A': None}}", "and no NoneType"),
        ("{'name': 'x', 'command': ['sh'], 'user': 'no-such'}", "no user 'no-such'"),
        (
            "{'name': 'x', 'command': [sys.executable, __file__.replace('conf.d', 'x')]}",
            "imports no_such_module, which is not installed",
        ),
        ("{'name': 'x', 'url': 'http://127.0.0.1:9000'}", "http://hub:PORT"),
        ("{'name': 'x', 'api_toke': 'y'}", "Did you mean api_token"),
        ("{'name': 'jhswarmd', 'api_token': 'y'}", "another name"),
        ("{'name': 'x', 'command': ['no-such'], 'environment': 1, 'cwd': '.'}", "does not exist"),
        ("{'command': ['sh']}", "not a dict with a 'name'"),
    ],
)
@pytest.mark.parametrize("how", [" = [{}]", ".append({})"])
def test_a_service_that_cannot_run_is_named(
    refused: Callable[..., list[str]], hub_config: Path, service: str, words: str, how: str
) -> None:
    (hub_config / "x").mkdir()
    (hub_config / "x" / "10.py").write_text(
        "import os, beside, no_such_module.part\nfrom . import y\ntry:\n    import z\nexcept "
        "ImportError:\n    pass\n"
    )
    (hub_config / "x" / "beside.py").touch()
    (fault,) = refused(f"import sys\nc.JupyterHub.services{how.replace('{}', service)}")
    assert fault.startswith("hub_config/conf.d/10.py, line 2: ")
    assert words in fault


def test_a_service_that_can_run_is_let_through(site: Site, hub_config: Path) -> None:
    (hub_config / "cull.py").write_text("")
    site(
        f"""
import sys
c.JupyterHub.services = [
    {{"name": "one", "command": [sys.executable, "-m", "jupyterhub_idle_culler", "--x=1.5"]}},
    {{"name": "two", "command": ["sh", "-c", "sleep 1.5"]}},
    {{"name": "three", "command": ["python3", "cull.py"], "cwd": {str(hub_config)!r}}},
    {{"name": "four", "url": "http://hub:9000", "api_token": "x"}},
]
"""
    )


@pytest.mark.parametrize(("is_managed", "is_named"), [(True, True), (False, False)])
def test_a_service_that_does_not_run_does_not_end_the_hub(
    site: Site, monkeypatch: pytest.MonkeyPatch, is_managed: bool, is_named: bool
) -> None:
    async def fail(app: Any, name: str, service: Any, ssl_context: Any) -> bool:
        return False

    said: list[str] = []
    monkeypatch.setattr(startup, "_start_a_service", fail)
    monkeypatch.setattr(startup.log, "error", lambda words, name: said.append(words % name))
    app = JupyterHub(config=site())
    assert asyncio.run(app.start_service("x", SimpleNamespace(managed=is_managed)))
    assert ("The service x does not run" in str(said)) is is_named


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\nc.Spawner.x =", "line 2: SyntaxError: invalid syntax"),
        ("x = 1\nimport no_such_module", "line 2: ModuleNotFoundError: No module named 'no_such"),
        ("def f():\n    return 1 / 0\n\nf()", "line 2: ZeroDivisionError: division by zero"),
        ("open('/no/such')", "line 1: FileNotFoundError"),
        ("exit()", "line 1: it ends the hub (SystemExit)"),
        ("raise KeyboardInterrupt", "line 1: it ends the hub (KeyboardInterrupt)"),
        ("raise OSError('token=abcdef')", "line 1: OSError: token=[hidden]"),
        (
            "import os\nos.environ['NOTEBOOK']",
            "line 2: KeyError: 'NOTEBOOK': the hub's environment",
        ),
        ("raise SystemExit(1)", "line 1: it ends the hub"),
        ("c.JupyterHub.port = tpyo", "line 1: NameError: name 'tpyo' is not defined"),
    ],
)
def test_a_file_that_does_not_load_is_named_with_its_line(
    refused: Callable[..., list[str]], text: str, words: str
) -> None:
    (fault,) = refused(text)
    assert fault.startswith(f"hub_config/conf.d/10.py, {words}")


def test_all_faults_of_all_files_are_said_in_one_go(
    refused: Callable[..., list[str]],
) -> None:
    faults = refused(
        "c.JupyterHub.port = 1\nc.Spawner.x = 1\nc.SwarmSpawner.links = {'a': 'b'}",
        "import no_such",
        "c.JupyterHub.spawner_class = 'simple'\nc.Spawner.networks = []",
    )
    assert [re.sub(":.*", "", fault) for fault in faults] == [
        f"hub_config/conf.d/{place}"
        for place in (
            *("10.py, line 1", "10.py, line 2", "10.py, line 3"),
            *("11.py, line 1", "12.py, line 1", "12.py, line 2"),
        )
    ]


# ---- what works, and should be known ------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("c.DockerSpawner.hub_ip_connect = 'x'", "has no effect"),
        ("c.DockerSpawner.remove_containers = True", "has no effect"),
        ("c.JupyterHub.admin_access = True", "is outdated"),
        ("c.JupyterHub.extra_log_file = '/tmp/x'", "is outdated"),
        ("c.Authenticator.whitelist = {'ann'}", "is outdated"),
        ("c.DockerSpawner.container_image = 'x'", "is outdated"),
        ("c.PAMAuthenticator.allowed_groups = {'staff'}", "groups without members"),
        ("c.LocalAuthenticator.admin_groups.add('wheel')", "groups without members"),
        ("c.GitLabOAuthenticator.allowed_gitlab_groups = {'x'}", "not what the hub uses"),
        ("c.SystemUserSpawner.run_as_root = True", "not what the hub uses"),
        ("c.SwarmSpawner.read_only_volumes = {'/etc/shadow': '/etc/shadow'}", "/etc/shadow"),
        ("c.Spawner.volumes = {'/': '/host'}", "every user / of the node"),
        ("c.DockerSpawner.volumes = {'/var/run/docker.sock': '/x'}", "engine's socket"),
        ("c.JupyterHub.trusted_alt_names = ['DNS:x']", "belongs to c.JupyterHub.internal_ssl"),
        ("c.Authenticator.delete_invalid_users = True", "nobody is forgotten"),
        ("c.Authenticator.auth_refresh_age = 0", "logged in until they log out"),
        ("c.PAMAuthenticator.auth_refresh_age = 3600", "logged in for up to 3600 s"),
        ("c.JupyterHub.authenticator_class = 'dummy'", "any name they like"),
        ("c.JupyterHub.authenticator_class = 'shared-password'", "user_list.txt"),
        ("c.Authenticator.allowed_users = {'ann'}", "keeps nobody out"),
        ("c.JupyterHub.cookie_max_age_days = 30", "no effect beyond 14 days"),
        ("c.Spawner.notebook_dir = '/srv/work'", "/srv/work, which is in none of"),
        ("c.DockerSpawner.volumes = {'x-{username}': '/x'}", "/home/jovyan, which is in none of"),
        ("c.SwarmSpawner.volumes = {}", "/home/jovyan, which is in none of"),
    ],
)
def test_what_means_nothing_or_too_much_is_warned_of(
    site: Site, caplog: pytest.LogCaptureFixture, line: str, words: str
) -> None:
    site(line)
    assert words in caplog.text


def test_a_file_that_is_not_read_is_warned_of(
    site: Site, hub_config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (hub_config / "conf.d" / "jupyterhub_config").write_text("c.Spawner.mem_limit = '1G'\n")
    site()
    assert "conf.d/jupyterhub_config is not read" in caplog.text
    assert "README" not in caplog.text


def test_a_conf_d_may_be_missing(load: Load, hub_config: Path) -> None:
    shutil.rmtree(hub_config / "conf.d")
    load()


def test_a_directory_of_files_is_warned_of(
    site: Site, hub_config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, file in (("site", "10.py"), ("pages", "login.html")):
        (hub_config / "conf.d" / name).mkdir()
        (hub_config / "conf.d" / name / file).touch()
    site()
    assert "conf.d/site is a directory, whose files are not read" in caplog.text
    assert "conf.d/pages" not in caplog.text


def test_nothing_is_warned_of_without_reason(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site(
        "c.Spawner.notebook_dir = '/home/x/work'\n"
        "c.JupyterHub.template_paths = ['/srv/jupyterhub/templates', '/']\n"
        "c.SwarmSpawner.extra_task_spec = {'networks': ['x', 'jupyterhub_notebooks']}\n"
        "c.JupyterHub.cookie_max_age_days = 7\n"
        "c.Authenticator.auth_refresh_age = 30\n"
        "c.Spawner.volumes = {'home-{username}': '/home/x', '/data': '/data', "
        "'/var/lib/homes/{username}': '/y'}\n"
        "c.PAMAuthenticator.allowed_groups = set()\nc.Authenticator.allowed_users = {'ann'}"
    )
    assert not caplog.records


def test_an_error_of_ours_is_logged_in_words_without_a_traceback(
    site: Site, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    site()
    log = logging.getLogger("JupyterHub")
    try:
        raise UsageError("what", remedy="what to do")
    except UsageError:
        log.exception("")
    assert "what\nwhat to do" in caplog.text
    assert "Traceback" not in caplog.text


# ---- tried out beforehand -----------------------------------------------------------------------


@pytest.fixture
def rehearse(
    load: Load, hub_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Run the rehearsal with one file in conf.d, as a process of its own."""
    monkeypatch.setattr(rehearsal, "CONFIG", hub_config / "jupyterhub_config.py")
    asked = json.dumps({"secrets": sorted(SECRETS), "absent": ["/no/volume"]})
    monkeypatch.setattr(sys, "argv", ["rehearsal", asked])

    def run(text: str, loads_within_s: int = 60, **environ: str) -> dict[str, Any]:
        load(**environ)  # sets the environment
        (hub_config / "conf.d" / "10.py").write_text(text)
        monkeypatch.setattr(settings, "SECRETS_DIR", str(tmp_path / "placeholders"))
        monkeypatch.setattr(rehearsal, "LOADS_WITHIN_S", loads_within_s)
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            # Newer Pythons warn of a fork beside threads: the child uses none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                os.dup2(writer, 1)
                rehearsal.main()
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader, "rb") as output:
            written = output.read()
        assert os.waitpid(pid, 0)[1] == 0
        report: dict[str, Any] = json.loads(written)
        return report

    return run


def test_a_rehearsal_finds_nothing_wrong_with_ours(
    rehearse: Callable[[str], dict[str, Any]],
) -> None:
    report = rehearse("print('what a file prints is no report')")
    assert report == {"faults": [], "warnings": [], "network": "jupyterhub_notebooks"}


@pytest.mark.parametrize(
    "line",
    [
        "c.JupyterHub.load_groups = {'physics': {'users': ['ann', 'bea']}, 'maths': ['ann']}",
        "c.JupyterHub.load_roles = [{'name': 'helpers', 'scopes': ['list:users'], 'users': ['a']}]",
        "c.JupyterHub.load_roles = [{'name': 'admin', 'users': ['ann']}]",
        "c.Authenticator.admin_users = {'ann'}\nc.Authenticator.delete_invalid_users = True",
    ],
)
def test_users_of_the_configuration_need_no_account_when_the_hub_starts(
    rehearse: Callable[[str], dict[str, Any]], line: str
) -> None:
    assert rehearse(line)["faults"] == []


@pytest.mark.parametrize("kind", ["github", "gitlab", "google", "generic-oauth"])
def test_a_rehearsal_finds_nothing_wrong_with_providers(
    rehearse: Callable[..., dict[str, Any]], kind: str
) -> None:
    report = rehearse(
        "",
        AUTHENTICATOR_TYPE=kind,
        HOST="hub.example",
        OAUTH_CLIENT_ID="id",
        OAUTH_CLIENT_SECRET_FILE_PATH="oauth_client_secret",
        OAUTH_AUTHORIZE_URL="https://id.example/authorize",
        OAUTH_TOKEN_URL="https://id.example/token",
        OAUTH_USERDATA_URL="https://id.example/userinfo",
        AUTHENTICATOR_ALLOWED_USERS="ann",
    )
    assert report["faults"] == report["warnings"] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("c.Spawner.links = {'a': 'b'}", "common network"),
        ("c.JupyterHub.load_roles = [{'name': 'abc', 'scopes': ['no:such']}]", "no:such"),
        ("c.JupyterHub.load_roles = [{'name': 'X'}]", "Invalid role name"),
    ],
)
def test_a_rehearsal_reports_what_only_jupyterhub_can_tell(
    rehearse: Callable[[str], dict[str, Any]], text: str, words: str
) -> None:
    (fault,) = rehearse(text)["faults"]
    assert words in fault


def test_a_file_that_does_not_end_is_named_with_its_line(
    rehearse: Callable[..., dict[str, Any]],
) -> None:
    (fault,) = rehearse("while True:\n    pass", loads_within_s=1)["faults"]
    assert re.match(r".*10.py, line [12]: TimeoutError: loading takes longer than 1 s", fault)


@pytest.mark.parametrize(
    "text",
    [
        "open('/no/volume/settings.json')",
        "int(open(SECRET).read(), 8)",
        "import _socket; _socket.socket().connect(('127.0.0.1', 1))",
        "import socket; socket.getaddrinfo('directory.invalid', 389)",
    ],
)
def test_what_a_file_needs_of_the_running_hub_is_no_fault(
    rehearse: Callable[[str], dict[str, Any]], tmp_path: Path, text: str
) -> None:
    report = rehearse(text.replace("SECRET", repr(str(tmp_path / "placeholders" / "daemon_token"))))
    assert report["faults"] == []
    (warning,) = report["warnings"]
    assert "which the running hub has" in warning


def test_pages_that_cannot_be_shown_are_named(
    rehearse: Callable[[str], dict[str, Any]], hub_config: Path
) -> None:
    pages = hub_config / "pages"
    pages.mkdir()
    line = f"c.JupyterHub.template_paths = [{str(pages)!r}]"
    (pages / "login.html").write_text("{% extends 'templates/login.html' %}\n{% if x %}")
    (fault,) = rehearse(line)["faults"]
    assert fault.startswith(f"{pages}/login.html, line 2: TemplateSyntaxError: Unexpected end")
    (pages / "login.html").write_text("{% extends 'templates/login.html' %}")
    assert rehearse(line)["faults"] == []


@pytest.mark.parametrize(
    ("line", "can"),
    [("", False), ("c.Authenticator.allow_all = True", True), ("c.X.allowed_users = {'a'}", True)],
)
def test_a_rehearsal_warns_when_nobody_may_log_in(
    rehearse: Callable[[str], dict[str, Any]], line: str, can: bool
) -> None:
    report = rehearse(
        "from jupyterhub.auth import Authenticator\n"
        "class X(Authenticator):\n    pass\n"
        f"c.JupyterHub.authenticator_class = X\n{line}"
    )
    assert report["faults"] == []
    assert ("nobody but administrators may log in" in str(report["warnings"])) is not can


def test_a_rehearsal_tells_the_network_of_the_notebooks(
    rehearse: Callable[[str], dict[str, Any]],
) -> None:
    assert rehearse("c.DockerSpawner.network_name = 'mine'")["network"] == "mine"
    report = rehearse("c.DockerSpawner.network_name = 'mine'\nc.JupyterHub.port = 1")
    assert (len(report["faults"]), report["network"]) == (1, "mine")


def test_the_image_has_the_configuration_where_a_rehearsal_looks() -> None:
    recipe = (assets.DOCKERFILES / "hub" / "Dockerfile").read_text(encoding="utf-8")
    assert f'"{rehearsal.CONFIG}"' in recipe


# ---- the documentation --------------------------------------------------------------------------

_DOCUMENTS = [*sorted((assets.ROOT / "docs").glob("*.md")), assets.HUB_CONFIG / "conf.d" / "README"]
#: Lines that are indented or fenced, and set an option.
_BLOCKS = re.compile(r"^(?:(?:    .*)?\n)+|^```\w*\n(?:.*\n)*?^```", re.MULTILINE)
EXAMPLES = [
    pytest.param(textwrap.dedent(block.strip("\n").strip("`")), id=f"{path.name}-{number}")
    for path in _DOCUMENTS
    for number, block in enumerate(_BLOCKS.findall(path.read_text(encoding="utf-8")))
    if re.search(r"^\s*c\.\w+\.\w+", block, re.MULTILINE)
]


def test_there_are_examples_in_the_documentation() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_of_the_documentation_works(site: Site, example: str) -> None:
    c = site(example, **PROFILE)
    spawner = make_spawner(c)
    for option, value in re.findall(r"^c\.\w*Spawner\.(\w+) = (.*)$", example, re.MULTILINE):
        alone = make_spawner(Config(SwarmSpawner={option: eval(value)}))
        assert getattr(spawner, option) == getattr(alone, option)
