"""Keys of other deployments' env files, and their equivalents here. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

_IMAGE = "set SINGLE_USER_IMAGE"
_DATABASE = "the hub's database is SQLite, in a volume of the stack (DATABASE_URL)"
_DATA = "the hub's data is in the stack's own volume, and needs no key"
_OAUTH_SECRET = "put its value into the profile's file oauth_client_secret"  # noqa: S105

#: By key, as named in examples for Docker and Compose, and in older versions of this deployment.
_EQUIVALENTS: Mapping[str, str] = {
    "JUPYTERHUB_VERSION": "set HUB_BASE_IMAGE, to an image of that version",
    "HUB_IMAGE": "set HUB_BASE_IMAGE",
    "JUPYTERHUB_IMAGE": "set HUB_BASE_IMAGE",
    "DOCKER_NETWORK_NAME": "networks are created with the stack; set NOTEBOOKS_SUBNET and "
    "CONTROL_SUBNET for their addresses",
    "DOCKER_NOTEBOOK_IMAGE": _IMAGE,
    "DOCKER_JUPYTER_IMAGE": _IMAGE,
    "DOCKER_SPAWN_IMAGE": _IMAGE,
    "LOCAL_NOTEBOOK_IMAGE": _IMAGE,
    "NOTEBOOK_IMAGE": _IMAGE,
    "SINGLEUSER_IMAGE": _IMAGE,
    "DOCKER_NOTEBOOK_DIR": "set NOTEBOOK_DIR",
    "DOCKER_SPAWN_CMD": "set NOTEBOOK_COMMAND",
    "SPAWN_CMD": "set NOTEBOOK_COMMAND",
    "DATA_VOLUME_HOST": _DATA,
    "DATA_VOLUME_CONTAINER": _DATA,
    "DB_VOLUME_HOST": _DATABASE,
    "DB_VOLUME_CONTAINER": _DATABASE,
    "COMPOSE_PROJECT_NAME": "set STACK_NAME",
    "DOMAIN": "set HOST",
    "HOSTNAME": "set HOST",
    "JUPYTERHUB_HOST": "set HOST",
    "JUPYTERHUB_PORT": "set HTTPS_PORT",
    "HUB_PORT": "set HTTPS_PORT",
    "PORT": "set HTTPS_PORT",
    "JUPYTERHUB_ADMIN": "set AUTHENTICATOR_ADMIN_USERS",
    "JUPYTERHUB_ADMINS": "set AUTHENTICATOR_ADMIN_USERS",
    "ADMIN_USERS": "set AUTHENTICATOR_ADMIN_USERS",
    "ALLOWED_USERS": "set AUTHENTICATOR_ALLOWED_USERS",
    "WHITELIST": "set AUTHENTICATOR_ALLOWED_USERS",
    "JUPYTERHUB_AUTHENTICATOR": "set AUTHENTICATOR_TYPE",
    "AUTHENTICATOR_CLASS": "set AUTHENTICATOR_TYPE",
    "GITHUB_CLIENT_ID": "set OAUTH_CLIENT_ID",
    "OAUTH_CLIENT_SECRET": _OAUTH_SECRET,
    "GITHUB_CLIENT_SECRET": _OAUTH_SECRET,
    "GITHUB_ORGANIZATION_WHITELIST": "set GITHUB_ALLOWED_ORGANIZATIONS",
    "CONFIGPROXY_AUTH_TOKEN": "it is generated; put your own into the profile's file "
    "proxy_auth_token",
    "JPY_COOKIE_SECRET": "it is generated; put your own into the profile's file cookie_secret",
    "JUPYTERHUB_CRYPT_KEY": "it is generated, and needs no key",
    "SSL_KEY": "put the file into the profile as ssl/key.pem",
    "SSL_CERT": "put the file into the profile as ssl/cert.pem",
    "MEMORY_LIMIT": "set MEM_LIMIT",
    "DOCKER_JUPYTERHUB_LOCAL_ENV": "choose a profile with --env NAME or JHSWARMD_ENV",
}
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CRYPT_KEY|API_KEY|PRIVATE_KEY")


def hint(key: str) -> str:
    """Return what to do instead of using ``key``, as a suffix for a message; empty: unknown."""
    name = key.upper()
    if name in _EQUIVALENTS:
        return f": {_EQUIVALENTS[name]}"
    if name.startswith(("POSTGRES_", "MYSQL_")):
        return f": {_DATABASE}"
    for ending in ("_CLIENT_SECRET", "_CLIENT_ID"):
        if name.endswith(ending):
            equivalent = _OAUTH_SECRET if ending == "_CLIENT_SECRET" else "set OAUTH_CLIENT_ID"
            return f": {equivalent}"
    if _SECRET.search(name):
        return ": keys do not hold secrets; secrets have files (docs/configuration.md)"
    return ""
