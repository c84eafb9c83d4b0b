"""Options whose value the stack depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from traitlets.config import Config

from jhswarmd.hub.checks.common import (
    COOKIES,
    HUB,
    LEAVE_OUT,
    PAM,
    PROXY,
    SPAWNER,
    Classes,
    refusal,
)
from jhswarmd.hub.site_config import Site
from jhswarmd.settings.settings import Settings

_PORTS = "HTTPS_PORT and HTTP_PORT in the profile"
_TLS = "the files ssl/cert.pem and ssl/key.pem of the profile"
_HUB_ADDRESS = "proxy, daemon, health check and notebooks reach the hub at http://hub:8081"
_PROXY_SERVICE = "the stack's proxy is a service of its own, which the hub does not start"

#: By sections and option: why a value other than ours cannot be, what to set instead, and which
#: values mean the same as ours. Empty values: none does.
OPTIONS: Sequence[tuple[Sequence[str], str, str, str, tuple[Any, ...]]] = (
    (HUB, "hub_ip", "the hub listens on all addresses of its container", LEAVE_OUT, ("",)),
    (HUB, "hub_port", _HUB_ADDRESS, LEAVE_OUT, ()),
    (
        HUB,
        "hub_bind_url",
        _HUB_ADDRESS,
        LEAVE_OUT,
        ("", "http://:8081", "http://0.0.0.0:8081", "http://:8081/", "http://0.0.0.0:8081/"),
    ),
    (HUB, "hub_connect_ip", _HUB_ADDRESS, LEAVE_OUT, ()),
    (HUB, "hub_connect_port", _HUB_ADDRESS, LEAVE_OUT, (0, 8081)),
    (
        HUB,
        "hub_connect_url",
        _HUB_ADDRESS,
        LEAVE_OUT,
        ("", "http://hub:8081", "http://hub:8081/"),
    ),
    (
        HUB,
        "base_url",
        "health check, daemon and callbacks expect the hub at /",
        "a host name of its own (HOST in the profile)",
        ("/", ""),
    ),
    (
        HUB,
        "hub_routespec",
        "paths that are not a notebook's go to the hub",
        LEAVE_OUT,
        ("/",),
    ),
    (
        HUB,
        "ip",
        "the proxy's published ports are open on all addresses of a node",
        "a firewall",
        ("", "0.0.0.0", "*"),  # noqa: S104 - what people write, not what we listen on
    ),
    (HUB, "port", f"{_PROXY_SERVICE}; it listens where the profile says", _PORTS, ()),
    (
        HUB,
        "bind_url",
        f"{_PROXY_SERVICE}; it listens where the profile says",
        f"HOST, {_PORTS}",
        (),
    ),
    (HUB, "public_url", "'up' and the daemon go by the profile", "HOST and HTTPS_PORT", ("",)),
    (
        HUB,
        "subdomain_host",
        "the stack's proxy does not route by host name",
        f"{LEAVE_OUT}: all is served at HOST",
        ("",),
    ),
    (HUB, "ssl_key", "TLS ends at the proxy, which is a service of its own", _TLS, ("",)),
    (HUB, "ssl_cert", "TLS ends at the proxy, which is a service of its own", _TLS, ("",)),
    (
        HUB,
        "db_url",
        "the hub's identity is kept in the database that the profile names",
        "DATABASE_URL in the profile",
        (),
    ),
    (
        HUB,
        "reset_db",
        "each start of the hub would forget users and notebooks",
        LEAVE_OUT,
        (False,),
    ),
    (
        HUB,
        "cleanup_servers",
        "each restart of the hub would end all notebooks",
        f"{LEAVE_OUT}; 'jhswarmd down' ends them",
        (),
    ),
    (
        HUB,
        "cleanup_proxy",
        "each restart of the hub would cut off all notebooks",
        LEAVE_OUT,
        (),
    ),
    (HUB, "cookie_secret", COOKIES, "the file cookie_secret of the profile", ()),
    (HUB, "cookie_secret_file", COOKIES, "the file cookie_secret of the profile", ()),
    (HUB, "proxy_auth_token", COOKIES, "the file proxy_auth_token of the profile", ()),
    (HUB, "proxy_api_ip", _PROXY_SERVICE, LEAVE_OUT, ("", "proxy")),
    (HUB, "proxy_api_port", _PROXY_SERVICE, LEAVE_OUT, (0, 8001)),
    (HUB, "proxy_cmd", _PROXY_SERVICE, LEAVE_OUT, ()),
    (HUB, "debug_proxy", _PROXY_SERVICE, LEAVE_OUT, (False,)),
    (
        HUB,
        "internal_ssl",
        "it does not work on Swarm: a notebook's certificate would be on the hub's node alone",
        "'encrypted' among the overlay network's driver_opts",
        (False,),
    ),
    (
        HUB,
        "config_file",
        "the hub reads its own file and conf.d alone",
        "a file in conf.d",
        ("jupyterhub_config.py",),
    ),
    (HUB, "generate_config", "the hub would write a file and end", LEAVE_OUT, (False,)),
    (HUB, "generate_certs", "the hub would write files and end", LEAVE_OUT, (False,)),
    (HUB, "show_config", "the hub would print it and end", LEAVE_OUT, (False,)),
    (HUB, "show_config_json", "the hub would print it and end", LEAVE_OUT, (False,)),
    (PROXY, "should_start", _PROXY_SERVICE, LEAVE_OUT, ()),
    (PROXY, "api_url", _PROXY_SERVICE, LEAVE_OUT, ("http://proxy:8001/",)),
    (PROXY, "auth_token", COOKIES, "the file proxy_auth_token of the profile", ()),
    (PROXY, "older_tokens", COOKIES, "the file proxy_auth_token of the profile", ()),
    (PROXY, "command", _PROXY_SERVICE, LEAVE_OUT, ()),
    (PROXY, "command_umask", _PROXY_SERVICE, LEAVE_OUT, ()),
    (PROXY, "debug", _PROXY_SERVICE, LEAVE_OUT, (False,)),
    (PROXY, "pid_file", _PROXY_SERVICE, LEAVE_OUT, ()),
    (("CryptKeeper",), "keys", COOKIES, "the file crypt_key of the profile", ()),
    (SPAWNER, "stack", "it says whose the notebooks are", "STACK_NAME in the profile", ()),
    (SPAWNER, "hub_id", "it says whose the notebooks are", LEAVE_OUT, ()),
    (SPAWNER, "count_spawn", "it tells an older copy of the hub's database", LEAVE_OUT, ()),
    (PAM, "service", "the daemon delivers accounts for this PAM service", LEAVE_OUT, ()),
    (
        SPAWNER,
        "hub_connect_url",
        _HUB_ADDRESS,
        LEAVE_OUT,
        ("", None, "http://hub:8081", "http://hub:8081/", "http://hub:8081/hub/"),
    ),
    (
        PAM,
        "create_system_users",
        "the accounts are those that the daemon delivers",
        "'jhswarmd users add'",
        (False,),
    ),
)


def changed(base: Config, site: Site, classes: Classes, settings: Settings) -> Iterator[str]:
    """Yield which of these options the site sets to another value."""
    same = {"port": (settings.https_port,), "db_url": _same_database(settings.database_url)}
    for sections, option, why, instead, allowed in OPTIONS:
        ours = [base[name][option] for name in sections if name in base and option in base[name]]
        for given in site.given(classes.with_subclasses(sections), option):
            if not any(
                type(given.value) is type(value) and given.value == value
                for value in (*ours, *allowed, *same.get(option, ()))
            ):
                yield refusal(given, why, instead)


def _same_database(url: str) -> tuple[str, ...]:
    """Return how JupyterHub lets people spell the same database."""
    return (url, url.removeprefix("sqlite:///"))
