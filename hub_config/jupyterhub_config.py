"""The hub's configuration: assembly only.

Everything comes from the environment (the keys of the profile) and from the files of secrets.
Do not edit it: what a site adds goes into conf.d, which is read last and wins.
"""

import os
from pathlib import Path

from aiohttp import ClientTimeout

from jhswarmd import labels
from jhswarmd.hub import admins, auth, config, credentials, identity, oauth, startup
from jhswarmd.hub.handlers import REPORT_SCOPE, handlers
from jhswarmd.settings.settings import RemovedUserServers, Settings

c = get_config()
settings = Settings.from_environ(os.environ)
config.log_with_the_hub()

# ---- the hub and its proxy --------------------------------------------------------------------

c.JupyterHub.log_level = settings.log_level
c.JupyterHub.db_url = settings.database_url
# Of what rotates each generation that is still accepted is mounted; the newest one is used.
config.use_cookie_secrets(c)
c.CryptKeeper.keys = config.read_keys("crypt_key")

c.JupyterHub.hub_ip = "0.0.0.0"  # noqa: S104 - its networks are the stack's own
c.JupyterHub.hub_port = 8081
# An alias on both networks, for the proxy and the notebooks.
c.JupyterHub.hub_connect_ip = "hub"
if settings.public_url or settings.host != "localhost":
    # Else any name leads to it, each node's included, and the hub goes by what the browser says.
    c.JupyterHub.public_url = f"{settings.url}/"

# The proxy is a service of its own: connections and notebooks outlive a restart of the hub.
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://proxy:8001"
proxy_tokens = list(config.read_generations("proxy_auth_token").values())
c.JupyterHub.proxy_class = "jhswarmd.hub.proxy.RotatingProxy"
c.ConfigurableHTTPProxy.auth_token, *c.RotatingProxy.older_tokens = proxy_tokens
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.cleanup_servers = False
# A restarted proxy has a new address where the kernel has no IPVS.
# Servers that are slow to answer must not take each other's connections.
c.JupyterHubHTTPClient.connector_options = {"use_dns_cache": False, "limit": 0}
c.JupyterHubHTTPClient.session_options = {"timeout": ClientTimeout(total=30)}
# Show the progress page at once.
c.JupyterHub.tornado_settings["slow_spawn_timeout"] = 0

# ---- who may do what --------------------------------------------------------------------------

hub_id = identity.load_hub_id(settings.database_url)
service_tokens = {"jhswarmd": config.read_secret("daemon_token")}
if config.has_secret("culler_token"):
    service_tokens["idle-culler"] = config.read_secret("culler_token")
c.JupyterHub.extra_handlers = handlers(
    hub_id,
    credentials.Tokens(proxy_tokens, service_tokens),
    stops_removed=settings.removed_user_servers is RemovedUserServers.stop,
)

config.add_service(
    c,
    "jhswarmd",
    token=service_tokens["jhswarmd"],
    scopes=["list:users", "read:servers", "read:hub", "proxy", REPORT_SCOPE],
)
if settings.idle_timeout_s and "idle-culler" in service_tokens:
    # The daemon runs it: as a process of the hub it would get its token by environment.
    config.add_service(
        c,
        "idle-culler",
        token=service_tokens["idle-culler"],
        scopes=["list:users", "read:users:activity", "read:servers", "delete:servers"],
    )

c.Authenticator.admin_users = set(settings.authenticator_admin_users)
if settings.uses_oauth:
    c.JupyterHub.authenticator_class = oauth.authenticator_class(settings.authenticator_type.value)
    c.OAuthenticator.client_id = settings.oauth_client_id
    c.OAuthenticator.client_secret = config.read_secret(settings.oauth_client_secret_file_path)
    c.OAuthenticator.oauth_callback_url = settings.callback_url
    c.OAuthenticator.allowed_users = set(settings.authenticator_allowed_users)
    c.OAuthenticator.allow_all = settings.oauth_allow_all
    for option in ("authorize_url", "token_url", "userdata_url", "username_claim"):
        if getattr(settings, f"oauth_{option}"):
            c.OAuthenticator[option] = getattr(settings, f"oauth_{option}")
    if settings.oauth_scope:
        c.OAuthenticator.scope = list(settings.oauth_scope)
    if settings.proxy_environment:
        c.OAuthenticator.http_client = oauth.ProxiedClient()
    # Somebody waits for the page behind these requests.
    c.OAuthenticator.http_request_kwargs = {"connect_timeout": 5, "request_timeout": 10}
    # What the provider gave is kept, encrypted with the crypt key, to ask it again later.
    c.Authenticator.enable_auth_state = True
    c.GitHubOAuthenticator.github_url = settings.github_url.rstrip("/")
    if settings.github_allowed_organizations:
        c.GitHubOAuthenticator.allowed_organizations = set(settings.github_allowed_organizations)
        # Without it only public members are known.
        c.GitHubOAuthenticator.scope = list({"read:org", *settings.oauth_scope})
else:
    c.JupyterHub.authenticator_class = "jhswarmd.hub.auth.PAMAuthenticator"
    c.PAMAuthenticator.service = "jhswarmd"
    c.PAMAuthenticator.open_sessions = False
    # The group of the accounts that the daemon made from the list.
    c.PAMAuthenticator.allowed_groups = {"jhswarmd"}
    # Who is removed from the list is logged out, and the tokens that they made end too.
    c.Authenticator.auth_refresh_age = auth.REFRESH_AGE_S
    c.Authenticator.auth_refresh_strict = True

# ---- notebooks --------------------------------------------------------------------------------

c.JupyterHub.spawner_class = "jhswarmd.spawner.swarm.SwarmSpawner"
c.SwarmSpawner.stack = settings.stack_name
c.SwarmSpawner.hub_id = hub_id
c.SwarmSpawner.count_spawn = identity.SpawnCounter()
c.SwarmSpawner.prefix = settings.stack_name
c.SwarmSpawner.image = settings.single_user_image
if settings.single_user_images:
    c.SwarmSpawner.allowed_images = settings.single_user_images
c.SwarmSpawner.notebook_profiles = [
    profile.model_dump(exclude_defaults=True) for profile in settings.notebook_profiles
]
c.SwarmSpawner.network_name = labels.network_name(settings.stack_name, "notebooks")
c.SwarmSpawner.cmd = list(settings.notebook_command)
c.SwarmSpawner.args = list(settings.notebook_args)
c.SwarmSpawner.notebook_dir = settings.notebook_dir
c.SwarmSpawner.default_url = settings.default_url
c.SwarmSpawner.volumes = {f"{settings.stack_name}-user-{{username}}": settings.notebook_dir}
c.SwarmSpawner.volume_driver = settings.volume_driver
c.SwarmSpawner.volume_driver_options = settings.volume_options
c.SwarmSpawner.volume_no_copy = settings.volume_no_copy
c.SwarmSpawner.volume_node_policy = settings.volume_node_policy.value
c.SwarmSpawner.shared_volumes = {
    volume.source: {"bind": volume.target, "mode": volume.mode}
    for volume in settings.shared_volumes
}
c.SwarmSpawner.shared_volume_driver = settings.shared_volume_driver
c.SwarmSpawner.shared_volume_driver_options = settings.shared_volume_options
c.SwarmSpawner.shared_volume_no_copy = settings.shared_volume_no_copy
c.SwarmSpawner.mem_limit = settings.mem_limit
c.SwarmSpawner.mem_guarantee = settings.mem_guarantee
c.SwarmSpawner.cpu_limit = settings.cpu_limit
c.SwarmSpawner.cpu_guarantee = settings.cpu_guarantee
c.SwarmSpawner.shm_size = settings.shm_size
c.SwarmSpawner.pids_limit = settings.pids_limit
c.SwarmSpawner.ulimits = settings.ulimits
c.SwarmSpawner.cap_drop = list(settings.cap_drop)
c.SwarmSpawner.no_new_privileges = settings.no_new_privileges
c.SwarmSpawner.generic_resources = {
    name: int(count) for name, count in settings.generic_resources.items()
}
if settings.notebook_constraints:
    c.SwarmSpawner.extra_placement_spec = {"constraints": list(settings.notebook_constraints)}
c.SwarmSpawner.start_timeout = settings.start_timeout_s
# For one that is slow to answer when it starts. One that runs is never stopped for its silence.
c.SwarmSpawner.http_timeout = 60
startup.keep_silent_servers()
startup.keep_going_without_services()
c.SwarmSpawner.during_check = startup.checking
# From the hub's own environment; what a site sets as 'environment' adds to them.
c.SwarmSpawner.env_keep = list(settings.proxy_environment)

# ---- what the site adds -----------------------------------------------------------------------

config.add_site(c, Path(__file__).parent / "conf.d", settings)
admins.declare(c)
