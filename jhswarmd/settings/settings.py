"""Every key of a profile: its type, its default and the reason for it.

One model serves three readers: the CLI checks a profile with it, ``hub_config`` reads it from the
hub's environment and the daemon from its own. Keys are spelled in capitals in profiles and in
the environment, fields in lower case here. No key ever holds a secret: secrets are files of the
profile and Swarm secrets (``jhswarmd.deploy.secrets``).
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import string
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import PurePosixPath
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from jhswarmd import mount_targets
from jhswarmd.settings import notebook_profiles
from jhswarmd.settings.notebook_profiles import (
    LEAST_CORES,
    LEAST_MEMORY,
    Constraint,
    Limits,
    NotebookProfile,
    parse_bytes,
)

#: Where the engine mounts secrets in a container.
SECRETS_DIR = "/run/secrets"

#: What ``{...}`` may stand for in VOLUME_OPTIONS: dockerspawner's names for templates.
USER_TEMPLATES = frozenset(
    {
        "username",
        "safe_username",
        "raw_username",
        "servername",
        "raw_servername",
        "imagename",
        "prefix",
    }
)
#: What ``{...}`` may stand for in SHARED_VOLUME_OPTIONS.
SHARED_TEMPLATES = frozenset({"volume"})

#: Limits of a process that the engine takes (docker run --ulimit).
_ULIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
    *("rss", "rtprio", "rttime", "sigpending", "stack"),
)
_ULIMIT = re.compile(r"^(-1|\d+)(?::(-1|\d+))?$")
#: Labels of letters, digits and dashes, which an IPv4 address is made of, too (RFC 1123).
_HOST = re.compile(
    r"^(?=.{1,253}\Z)[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?)*\Z"
)
_IMAGE = re.compile(r"^[a-zA-Z0-9][^\s;=]*$")
#: What no single word holds: a path with it would be mounted just so.
_BLANK_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f]")
_CAPABILITY = re.compile(r"^(CAP_)?[A-Z][A-Z_]+$")

_VOLUME_NAME = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.-]+$")


class AuthenticatorType(str, Enum):
    """Who checks logins."""

    pam = "pam"
    github = "github"
    # As oauthenticator registers its classes.
    generic_oauth = "generic-oauth"
    auth0 = "auth0"
    azuread = "azuread"
    bitbucket = "bitbucket"
    cilogon = "cilogon"
    gitlab = "gitlab"
    globus = "globus"
    google = "google"


class PublishMode(str, Enum):
    """How the proxy's ports are published."""

    auto = "auto"
    ingress = "ingress"
    host = "host"


class BaseImages(str, Enum):
    """Where the bases of our images come from."""

    auto = "auto"
    community = "community"
    debian = "debian"


class VolumeNodePolicy(str, Enum):
    """What a start does when the node that holds the user's volume cannot be used."""

    strict = "strict"
    relaxed = "relaxed"


class RemovedUserServers(str, Enum):
    """What happens to the running server of a user whose account is removed."""

    keep = "keep"
    stop = "stop"


class SharedVolume(NamedTuple):
    """One mount that all notebooks have: a volume's name or a node's directory, and where."""

    source: str
    target: str
    mode: str


class LogFormat(str, Enum):
    """How the daemon writes its log."""

    text = "text"
    json = "json"


def _words(value: Any) -> Any:
    """Split ``a, b c`` at commas and white space."""
    if not isinstance(value, str):
        return value
    words = tuple(value.replace(",", " ").split())
    if any(word[0] in "#'\"" or word[-1] in "'\"" for word in words):
        raise ValueError(
            "must be words, separated by commas or blanks; quotes go around the whole value, and a "
            "comment behind them"
        )
    return words


def _command(value: Any) -> Any:
    """Split a command line as a shell would, without running one."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(shlex.split(value))
    except ValueError:
        raise ValueError(
            "is not a command line: a quote is not closed, or nothing follows a backslash"
        ) from None


def _lines(value: Any) -> Any:
    """Split ``a==b; c!=d`` at semicolons."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(";") if part.strip())
    return value


def _pairs(value: Any) -> Any:
    """Parse ``key=value;key=value``; a value may hold commas (NFS options do)."""
    if not isinstance(value, str):
        return value
    pairs = [part.strip() for part in value.split(";") if part.strip()]
    if any("=" not in pair for pair in pairs):
        raise ValueError("must be key=value pairs, separated by semicolons")
    return {key.strip(): val.strip() for key, val in (pair.split("=", 1) for pair in pairs)}


def _shared_volumes(value: Any) -> Any:
    """Parse ``name:/path:ro; /directory/of/the/node:/path:rw``."""
    if not isinstance(value, str):
        return value
    mounts = []
    for part in (part.strip() for part in value.split(";")):
        if not part:
            continue
        pieces = tuple(piece.strip() for piece in part.split(":"))
        if len(pieces) != 3 or pieces[2] not in ("ro", "rw"):
            raise ValueError(f"must be mounts such as name:/path:ro or name:/path:rw, not '{part}'")
        mounts.append(_shared_volume(*pieces))
    return tuple(mounts)


def _shared_volume(source: str, target: str, mode: str) -> SharedVolume:
    if not _VOLUME_NAME.match(source) and not _is_plain_path(source):
        raise ValueError(f"'{source}' is neither a volume's name nor an absolute path")
    if not _is_plain_path(target) or target == "/":
        raise ValueError(f"'{target}' is not a valid mount target (an absolute path other than /)")
    return SharedVolume(source, mount_targets.canonical(target), mode)


def _is_plain_path(path: str) -> bool:
    return (
        path.startswith("/")
        and ".." not in PurePosixPath(path).parts
        and not _BLANK_OR_CONTROL.search(path)
    )


def _check_templates(options: Mapping[str, str], known: Collection[str]) -> None:
    """Raise ValueError for a template that nothing fills: users would share what it names."""
    for key, value in options.items():
        try:
            used = {
                field for _, field, _, _ in string.Formatter().parse(value) if field is not None
            }
        except ValueError as exc:
            raise ValueError(f"'{key}={value}' is no template: {exc}") from exc
        if not used <= set(known):
            names = ", ".join(f"{{{name}}}" for name in sorted(known))
            raise ValueError(f"'{key}={value}' may use {names}; write other braces as {{{{ or }}}}")


def _optional(value: Any) -> Any:
    return None if value == "" else value


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
Command = Annotated[tuple[str, ...], BeforeValidator(_command)]
Constraints = Annotated[tuple[Constraint, ...], BeforeValidator(_lines)]
Pairs = Annotated[dict[str, str], BeforeValidator(_pairs)]
SharedVolumes = Annotated[tuple[SharedVolume, ...], BeforeValidator(_shared_volumes)]
Size = Annotated[Annotated[int, Field(gt=0)] | None, BeforeValidator(parse_bytes)]
Memory = Annotated[Annotated[int, Field(ge=LEAST_MEMORY)] | None, BeforeValidator(parse_bytes)]
Profiles = Annotated[tuple[NotebookProfile, ...], BeforeValidator(notebook_profiles.parse)]
Cores = Annotated[Annotated[float, Field(ge=LEAST_CORES)] | None, BeforeValidator(_optional)]
Port = Annotated[int, Field(ge=1, le=65535)]
HeaderSize = Annotated[Annotated[int, Field(ge=8192, le=65536)], BeforeValidator(parse_bytes)]


class Settings(BaseModel):
    """The keys of a profile, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack_name: str = Field("jupyterhub", pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")
    """Name of the stack; services, networks, secrets and volumes begin with it."""
    host: str = Field("localhost", min_length=1)
    """Name under which browsers reach the hub; goes into a self-signed certificate."""
    http_port: Port = 80
    """Published port that redirects to HTTPS."""
    https_port: Port = 443
    """Published port of the hub."""
    public_url: str = ""
    """Where browsers reach the hub behind a TLS proxy of the site, as ``https://NAME[:PORT]``;
    empty: at ``host`` and ``https_port``."""
    trusted_proxies: Words = ()
    """Addresses and subnets (IPv4) of the site's own proxies, as the hub's node sees them: what
    they say of browsers in forwarded headers is believed, and nobody else's."""
    upload_timeout_s: int = Field(21600, ge=0)
    """Seconds for one request, its body included: an upload from a slow line; 0: no limit."""
    max_header_size: HeaderSize = 65536
    """Bytes of all headers of a request. More than 64K hub and notebooks refuse themselves."""
    publish_mode: PublishMode = PublishMode.auto
    """``ingress``: any node answers (needs IPVS); ``host``: the proxy's node alone; ``auto``: the
    first where the kernel has IPVS."""

    http_proxy: str = ""
    https_proxy: str = ""
    """Proxies of the site, as ``http://NAME:PORT``: for builds, the hub's requests to providers,
    and notebooks. Never with a login: they stand in the services' specifications."""
    no_proxy: Words = ()
    """Names, domains and subnets to reach without them, besides the stack's own."""

    registry: str = Field("localhost:5000", min_length=1)
    """Registry the nodes pull our images from. The default is a service of our own."""
    base_images: BaseImages = BaseImages.auto
    """``auto`` takes the community images where they can be pulled, else a Debian base."""
    hub_base_image: str = "quay.io/jupyterhub/jupyterhub:6.1.1"
    singleuser_base_image: str = "quay.io/jupyter/base-notebook:hub-6.1.1"
    single_user_image: str = ""
    """Image of the notebooks; empty: the one that we build."""

    single_user_images: Pairs = {}
    """What users may choose from, as ``Title=image; Other title=image:tag``; empty: no choice."""
    pin_images: bool = False
    """Whether ``up`` replaces the tags of these images by what their registries say they are."""

    notebook_profiles: Profiles = ()
    """What users may choose from, with limits: the content of ``notebook_profiles.yml``, never
    written as a key. Empty: no choice."""

    authenticator_type: AuthenticatorType = AuthenticatorType.pam
    authenticator_admin_users: Words = ()
    authenticator_allowed_users: Words = ()
    """Who may log in at a provider. With PAM the list of accounts says it."""
    oauth_client_id: str = ""
    oauth_client_secret_file_path: str = f"{SECRETS_DIR}/oauth_client_secret"
    """Path inside the hub's container; the host's file is ``env/NAME/oauth_client_secret``."""
    oauth_callback_url: str = ""
    """Empty: ``https://HOST/hub/oauth_callback``, which is what the provider must know too."""
    oauth_authorize_url: str = ""
    oauth_token_url: str = ""
    oauth_userdata_url: str = ""
    """The three addresses of a provider of OpenID Connect (``generic-oauth``)."""
    oauth_username_claim: str = ""
    """What of the provider's answer is the user's name; empty: the class's own default."""
    oauth_scope: Words = ()
    """What is asked of the provider; empty: the class's own default."""
    oauth_allow_all: bool = False
    """Whether everybody whom the provider knows may log in; at github.com that is the world."""
    github_url: str = "https://github.com"
    """Another value: a GitHub Enterprise server."""
    github_allowed_organizations: Words = ()

    notebook_command: Command = ("jupyterhub-singleuser",)
    notebook_args: Command = ()
    notebook_dir: str = Field("/home/jovyan", pattern=r"^/")
    """Where the user's volume is mounted: the whole home, so that whatever a user saves stays."""
    default_url: str = "/lab"
    mem_limit: Memory = None
    mem_guarantee: Memory = None
    cpu_limit: Cores = None
    cpu_guarantee: Cores = None
    volume_driver: str = "local"
    volume_options: Pairs = {}
    """Driver options as ``key=value;key=value``, for example an NFS export. ``{username}`` and
    the other names of ``USER_TEMPLATES`` are filled in for each user."""
    volume_no_copy: bool = False
    """Whether a new volume stays as it is. Else the engine gives it content and owner of the
    image's directory at the mount point, which an NFS export with root_squash refuses."""
    volume_node_policy: VolumeNodePolicy = VolumeNodePolicy.strict
    """When the node that holds a user's local volume cannot be used: ``strict`` starts nothing,
    because an empty home looks like lost work; ``relaxed`` starts elsewhere, over an empty one."""
    shared_volumes: SharedVolumes = ()
    """What all notebooks mount besides: ``name:/path:ro; /directory/of/the/node:/path:rw``. The
    mode must be said: everybody could change, or delete, what is mounted ``rw``."""
    shared_volume_driver: str = "local"
    shared_volume_options: Pairs = {}
    """Driver options of shared volumes; ``{volume}`` is the name of each."""
    shared_volume_no_copy: bool = False
    """The same as VOLUME_NO_COPY, for shared volumes."""
    shm_size: Size = None
    """Size of /dev/shm; empty: the engine's 64M, which is little for parallel Python."""
    pids_limit: Annotated[int, Field(gt=0)] | None = None
    """Processes and threads of a notebook. Libraries start a thread for each core of the node."""
    ulimits: Pairs = {}
    """As ``nofile=4096; core=0``, or ``nofile=1024:4096`` for soft and hard."""
    cap_drop: Words = ("NET_RAW", "MKNOD")
    """Capabilities that are taken away: with NET_RAW a notebook could pose as another in their
    common network, and none needs to make devices. ``ALL`` suits images that never run as root."""
    no_new_privileges: bool = False
    """Whether sudo and the like gain nothing. Off, because images may offer sudo, and because
    the engine has it for services from API 1.44 (25.0) on."""
    generic_resources: Pairs = {}
    """What a node must have to give, as ``NVIDIA-GPU=1``, in whole numbers."""
    notebook_constraints: Constraints = ()
    """Placement constraints as ``node.labels.x == y; node.role == worker``."""
    start_timeout_s: int = Field(300, ge=10)
    """Seconds a start may take: a first pull of a large image takes minutes."""
    idle_timeout_s: int = Field(0, ge=0)
    """Seconds without activity after which a server is stopped; 0: never."""

    notebooks_subnet: str = "10.128.0.0/16"
    """The engine's default of a /24 is full at about 100 notebooks."""
    control_subnet: str = "10.129.0.0/24"
    """A subnet of its own; by it the proxy knows on which address its API may listen."""

    database_url: str = Field("sqlite:////srv/jupyterhub/jupyterhub.sqlite", pattern=r"^sqlite:///")
    """SQLite, on a volume that pins the hub to its node."""
    resync_interval_s: float = Field(30, gt=0)
    """Seconds between full passes of the daemon, with jitter; events do the work in between."""
    accounts_wait_s: int = Field(15, ge=0)
    """Seconds a starting hub waits for its accounts before it starts without them."""
    removed_user_servers: RemovedUserServers = RemovedUserServers.keep
    """Running servers of users who are removed from the list: ``keep``, because work may be in
    them; ``stop``. Their volumes stay either way."""
    rotate_after_days: float = Field(90, ge=0)
    """Days after which the keys and tokens of hub, proxy and daemon are replaced; 0: never by
    itself. With jitter: up to a tenth earlier."""
    quiet_hours: str = Field("2-5", pattern=r"^([01]?\d|2[0-3])-([01]?\d|2[0-4])$")
    """Hours of the day, in UTC, in which that may happen: the hub's pages are away for seconds."""
    log_level: str = Field("INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")
    log_format: LogFormat = LogFormat.text
    engine_socket: str = Field("/var/run/docker.sock", pattern=r"^/")
    """Path of the engine's socket on the nodes that run hub and daemon."""

    @field_validator("*")
    @classmethod
    def _is_one_word(cls, value: Any) -> Any:
        # Every key that is text of its own (no list, no command) is one word.
        if type(value) is str and _BLANK_OR_CONTROL.search(value):
            raise ValueError("must be one word, without blanks and control characters")
        return value

    @field_validator("notebook_dir")
    @classmethod
    def _is_mountable(cls, value: str) -> str:
        if not _is_plain_path(value) or value.rstrip("/") == "":
            raise ValueError("must be an absolute path to mount something at, without '..'")
        return mount_targets.canonical(value)

    @field_validator("oauth_client_secret_file_path")
    @classmethod
    def _is_where_it_lands(cls, value: str) -> str:
        return mount_targets.canonical(value)

    @field_validator("host")
    @classmethod
    def _is_host(cls, value: str) -> str:
        if not _HOST.match(value):
            raise ValueError(
                f"'{value}' must be a host's name or IPv4 address alone, in ASCII (no https://, no "
                "port: HTTPS_PORT)"
            )
        return value

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, value: str) -> str:
        if not value:
            return value
        value = value.rstrip("/")
        scheme, _, rest = value.partition("://")
        value = f"{scheme.lower()}://{rest}"
        try:
            parts = urlsplit(value)
            origin = f"{parts.scheme}://{parts.netloc}"
            port, name = parts.port, parts.hostname or ""
        except ValueError:
            origin, port, name = "", None, ""
        if not (value == origin and value.startswith("https://") and _HOST.match(name)) or (
            parts.username or parts.netloc.endswith(":")
        ):
            raise ValueError(
                "must be https://NAME or https://NAME:PORT, without a path: the address that "
                "browsers use. By plain HTTP passwords could be read on the way"
            )
        return f"https://{name}" + (f":{port}" if port not in (None, 443) else "")

    @field_validator("http_proxy", "https_proxy")
    @classmethod
    def _is_proxy(cls, value: str) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value if "://" in value else f"http://{value}")
            is_one = bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/")
        except ValueError:
            is_one = False
        if not is_one or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise ValueError("must be the address of a proxy, such as http://proxy.example:3128")
        if "@" in parts.netloc:
            raise ValueError(
                "must not hold a user's name or password, which everybody could read in the "
                "services and in each notebook: let a proxy on a node of the site add them"
            )
        return f"{parts.scheme}://{parts.netloc}"

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            networks = [ipaddress.IPv4Network(each) for each in value]
        except ValueError as exc:
            raise ValueError(
                f"must be IPv4 addresses or networks, such as 10.0.0.7 and 10.0.8.0/24 ({exc})"
            ) from exc
        if any(network.prefixlen < 8 for network in networks):
            raise ValueError("would believe the headers of half the world; name single proxies")
        return tuple(map(str, networks))

    @field_validator("notebooks_subnet", "control_subnet")
    @classmethod
    def _is_subnet(cls, value: str) -> str:
        try:
            ipaddress.IPv4Network(value)
        except ValueError as exc:
            raise ValueError(f"must be an IPv4 network, such as 10.128.0.0/16 ({exc})") from exc
        return value

    @field_validator("volume_options")
    @classmethod
    def _is_for_users(cls, value: dict[str, str]) -> dict[str, str]:
        _check_templates(value, USER_TEMPLATES)
        return value

    @field_validator("shared_volume_options")
    @classmethod
    def _is_for_volumes(cls, value: dict[str, str]) -> dict[str, str]:
        _check_templates(value, SHARED_TEMPLATES)
        return value

    @field_validator("pids_limit", mode="before")
    @classmethod
    def _is_optional(cls, value: Any) -> Any:
        return _optional(value)

    @field_validator("single_user_images")
    @classmethod
    def _are_images(cls, value: dict[str, str]) -> dict[str, str]:
        for title, image in value.items():
            if not title or not _IMAGE.match(image):
                raise ValueError(f"'{title}={image}' must be Title=image")
        return value

    @field_validator("ulimits")
    @classmethod
    def _are_ulimits(cls, value: dict[str, str]) -> dict[str, str]:
        for name, limit in value.items():
            if name not in _ULIMITS:
                raise ValueError(f"'{name}' is none of {', '.join(_ULIMITS)}")
            if not _ULIMIT.match(limit):
                raise ValueError(f"'{name}={limit}' must be a number, or soft:hard")
        return value

    @field_validator("cap_drop")
    @classmethod
    def _are_capabilities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _CAPABILITY.match(name):
                raise ValueError(f"'{name}' is not a capability; write NET_RAW, or ALL")
        return value

    @field_validator("generic_resources")
    @classmethod
    def _are_counted(cls, value: dict[str, str]) -> dict[str, str]:
        for name, count in value.items():
            if not name or not count.isdecimal() or not int(count):
                raise ValueError(f"'{name}={count}' must be a name and a number, as NVIDIA-GPU=1")
        return value

    @field_validator("shared_volumes")
    @classmethod
    def _has_no_doubles(cls, value: tuple[SharedVolume, ...]) -> tuple[SharedVolume, ...]:
        for what in ("source", "target"):
            named = [getattr(each, what) for each in value]
            doubles = sorted({name for name in named if named.count(name) > 1})
            if doubles:
                raise ValueError(f"{doubles[0]} is named twice")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if ipaddress.IPv4Network(self.notebooks_subnet).overlaps(
            ipaddress.IPv4Network(self.control_subnet)
        ):
            raise ValueError("NOTEBOOKS_SUBNET and CONTROL_SUBNET overlap")
        if self.notebook_dir.rstrip("/") in (each.target for each in self.shared_volumes):
            raise ValueError("SHARED_VOLUMES mounts something over NOTEBOOK_DIR, the users' home")
        limits = Limits(self.mem_limit, self.mem_guarantee, self.cpu_limit, self.cpu_guarantee)
        for fault in limits.faults():
            raise ValueError(fault)
        for wrong in notebook_profiles.faults(self.notebook_profiles):
            raise ValueError(f"NOTEBOOK_PROFILES: {wrong.message}")
        for profile in self.notebook_profiles:
            for fault in limits.of(profile).faults():
                raise ValueError(f"NOTEBOOK_PROFILES: for '{profile.slug}' {fault}")
        if self.http_port == self.https_port:
            raise ValueError("HTTP_PORT and HTTPS_PORT are the same")
        if self.trusted_proxies and not self.public_url:
            raise ValueError("TRUSTED_PROXIES needs PUBLIC_URL: where browsers reach the hub")
        if self.trusted_proxies and self.publish_mode is PublishMode.ingress:
            raise ValueError(
                "TRUSTED_PROXIES needs PUBLISH_MODE=host: the routing mesh hides who connects"
            )
        if self.uses_oauth:
            self._check_oauth()
        return self

    def _check_oauth(self) -> None:
        kind = self.authenticator_type
        needed = {"OAUTH_CLIENT_ID": self.oauth_client_id}
        if kind is AuthenticatorType.generic_oauth:
            needed |= {
                "OAUTH_AUTHORIZE_URL": self.oauth_authorize_url,
                "OAUTH_TOKEN_URL": self.oauth_token_url,
                "OAUTH_USERDATA_URL": self.oauth_userdata_url,
            }
        missing = [key for key, value in needed.items() if not value]
        if missing:
            raise ValueError(f"AUTHENTICATOR_TYPE={kind.value} needs {' and '.join(missing)}")
        callback = urlsplit(self.callback_url)
        public = urlsplit(self.url).hostname
        if (
            callback.scheme != "https"
            or callback.hostname != public
            or callback.path != "/hub/oauth_callback"
        ):
            named = callback.hostname or ""
            other = named != public and _HOST.match(named) and not self.public_url
            raise ValueError(
                f"OAUTH_CALLBACK_URL must be https://{public}/hub/oauth_callback, of the "
                f"{'PUBLIC_URL' if self.public_url else 'HOST'} that browsers use: the provider "
                "sends them there" + (f"; if that is {named}, set HOST={named}" if other else "")
            )
        is_github = kind is AuthenticatorType.github
        if (
            is_github
            and self.oauth_allow_all
            and self.github_url.rstrip("/").endswith("github.com")
        ):
            raise ValueError("OAUTH_ALLOW_ALL would let in everybody who has a GitHub account")
        # The other classes have rules of their own, which a site sets in conf.d.
        if kind in (AuthenticatorType.github, AuthenticatorType.generic_oauth) and not (
            self.authenticator_allowed_users
            or self.authenticator_admin_users
            or self.github_allowed_organizations
            or self.oauth_allow_all
        ):
            raise ValueError(
                f"AUTHENTICATOR_TYPE={kind.value} would let nobody in: set "
                "AUTHENTICATOR_ALLOWED_USERS, AUTHENTICATOR_ADMIN_USERS"
                f" or {'GITHUB_ALLOWED_ORGANIZATIONS' if is_github else 'OAUTH_ALLOW_ALL'}"
            )

    @property
    def uses_oauth(self) -> bool:
        """Whether people log in at a provider, not with a password of ours."""
        return self.authenticator_type is not AuthenticatorType.pam

    @property
    def callback_url(self) -> str:
        """Where the provider sends browsers back to."""
        return self.oauth_callback_url or f"{self.url}/hub/oauth_callback"

    @property
    def notebook_images(self) -> tuple[str, ...]:
        """Every image that a notebook may be started from, each once; without our own, which
        only a build names."""
        named = (
            self.single_user_image,
            *self.single_user_images.values(),
            *(profile.image for profile in self.notebook_profiles),
        )
        return tuple(dict.fromkeys(image for image in named if image))

    @property
    def proxy_environment(self) -> dict[str, str]:
        """What tells programs of the site's proxies, as they know it; empty without any.

        Never for what belongs to the stack: a proxy outside does not reach it.
        """
        found = {"HTTP_PROXY": self.http_proxy, "HTTPS_PROXY": self.https_proxy}
        if not any(found.values()):
            return {}
        own = ("localhost", "127.0.0.1", "::1", "hub", "proxy", "jhswarmd")
        names = (self.host, urlsplit(self.url).hostname or "")
        subnets = (self.control_subnet, self.notebooks_subnet)
        found["NO_PROXY"] = ",".join(dict.fromkeys((*own, *names, *subnets, *self.no_proxy)))
        # Both spellings are in use, and curl knows http_proxy in lower case alone.
        return {
            spelled: value
            for key, value in found.items()
            if value
            for spelled in (key, key.lower())
        }

    @property
    def url(self) -> str:
        """Where browsers find the hub."""
        if self.public_url:
            return self.public_url
        port = "" if self.https_port == 443 else f":{self.https_port}"
        return f"https://{self.host}{port}"

    @classmethod
    def all_keys(cls) -> frozenset[str]:
        """Return all keys as profiles spell them."""
        return frozenset(name.upper() for name in cls.model_fields)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read the keys that are present; whatever else is there is none of ours.

        Raises pydantic's ValidationError.
        """
        present = {key.lower(): environ[key] for key in cls.all_keys() & environ.keys()}
        return cls.model_validate(present)

    def to_environ(self) -> dict[str, str]:
        """Return what ``from_environ`` reads back as the same settings; defaults are left out."""
        environ = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value == type(self).model_fields[name].default:
                continue
            environ[name.upper()] = _spell(name, value)
        return environ


def _spell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Enum):
        return str(value.value)
    if name == "notebook_profiles":
        return notebook_profiles.spell(value)
    if isinstance(value, dict):
        return ";".join(f"{key}={val}" for key, val in value.items())
    if name == "shared_volumes":
        return "; ".join(":".join(each) for each in value)
    if isinstance(value, tuple):
        if name in ("notebook_command", "notebook_args"):
            return shlex.join(value)
        return ("; " if name == "notebook_constraints" else ",").join(value)
    return str(value)
