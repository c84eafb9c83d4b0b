"""``jhswarmd up``: from any state of this machine to a hub that answers.

Every step checks first and changes only what differs, so that the next run completes an
interrupted one, and a run with nothing to do takes seconds.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import docker
import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential
from urllib3.exceptions import InsecureRequestWarning

from jhswarmd import labels
from jhswarmd.accounts import published_password, user_list
from jhswarmd.api import daemon_client
from jhswarmd.commands import prepull, selection
from jhswarmd.credentials import generations, tls
from jhswarmd.deploy import config_check, exposure, preflight, secrets, stack, users
from jhswarmd.deploy.images import publish, registry
from jhswarmd.deploy.machine import local_engine
from jhswarmd.deploy.profiles import record
from jhswarmd.deploy.profiles.profile import LOCAL, LOCAL_HOSTS, Profile
from jhswarmd.deploy.progress import Progress
from jhswarmd.engine import registry_auth
from jhswarmd.engine.client import Engine
from jhswarmd.engine.errors import engine_errors
from jhswarmd.engine.registry_auth import Login
from jhswarmd.errors import JhswarmdError
from jhswarmd.settings.settings import PublishMode, Settings

#: Seconds for a healthy hub to answer on the published port.
HUB_ANSWER_TIMEOUT_S = 60.0
#: The address at which this machine reaches its own published ports.
LOCAL_ADDRESS = "127.0.0.1"


def up(
    profile: Profile,
    progress: Progress,
    connect: Callable[[], docker.DockerClient],
    may_replace: Callable[[str], bool] = lambda question: False,
) -> None:
    """Deploy ``profile``, or update its deployment to match it.

    ``connect`` returns a client of the engine, and is called after the profile was checked.
    ``may_replace`` is asked whether it may take the place of another profile. Raises JhswarmdError.
    """
    settings = profile.settings
    if warning := preflight.check_certificate(profile):
        progress.warn(f"{warning}. {preflight.SET_HOST}")
    _warn_of_list(profile, progress)
    _use_proxies(settings)
    client = connect()
    _use_logins(client, profile)
    local_engine.ensure_swarm(client, progress)
    selection.confirm(client, profile, progress, may_replace)
    mode = resolve_publish_mode(settings)
    preflight.check_ports(client, settings)
    for found in preflight.check_subnets(client, settings):
        progress.warn(f"{found}. {found.remedy}")
    profile = _with_registry(client, profile, progress, mode)
    settings = publish.pinned(client, settings)
    deployed = publish.list_deployed(client, settings.stack_name)
    built = publish.build(client, settings, progress, deployed)
    _create_secrets(client, profile, progress)
    with progress.step("Labelling the hub's node") as step:
        step.done(
            "done"
            if stack.label_hub_node(client, settings.stack_name)
            else "a node is already labelled"
        )
    rendered = _render(client, settings, built, mode)
    config_check.check(client, settings.stack_name, rendered, progress)
    with progress.step(f"Deploying the stack {settings.stack_name}") as step:
        stack.deploy(settings.stack_name, rendered, profile.files.get("registry_login"))
        record.write(client, profile)
        step.done(
            "ports in the routing mesh"
            if mode is PublishMode.ingress
            else "ports on the proxy's node only"
        )
    with progress.step("Waiting for hub, proxy and daemon") as step:
        stack.wait_healthy(client, settings.stack_name, step)
    _apply_users(client, profile, progress)
    secrets.remove_unused(client, settings.stack_name)
    with progress.step("Checking the hub through its published port") as step:
        step.done(_wait_answer(_published_at(client, settings, mode)))
    prepull.wait_after_up(client, settings.stack_name, progress)
    _print_summary(profile, progress, client)


def build(
    profile: Profile, progress: Progress, connect: Callable[[], docker.DockerClient]
) -> list[str]:
    """Build and push the images alone; returns what the registry then holds."""
    settings = profile.settings
    _use_proxies(settings)
    client = connect()
    _use_logins(client, profile)
    local_engine.ensure_swarm(client, progress)
    _with_registry(client, profile, progress, resolve_publish_mode(settings))
    deployed = publish.list_deployed(client, settings.stack_name)
    publish.build(client, settings, progress, deployed)
    return publish.list_registry(client, settings)


def render(profile: Profile) -> str:
    """Return the fully resolved stack file. Changes nothing.

    Raises JhswarmdError naming everything that is missing: secrets, node label, images.
    """
    settings = profile.settings
    client = local_engine.connect()
    _use_logins(client, profile)
    if login := registry.known_login(client, settings.registry):
        _use_logins(client, _with_login(profile, login))
    settings = publish.pinned(client, settings)
    built = publish.plan(client, settings, publish.list_deployed(client, settings.stack_name))
    missing = [f"the image {name}" for name in publish.list_missing(built)]
    live = _live_secrets(client, settings)
    missing += [
        f"the secret '{kind}'"
        for kind in secrets.required_names(uses_oauth=settings.uses_oauth)
        if kind not in live
    ]
    if not stack.hub_nodes(client, settings.stack_name):
        missing.append(f"a node with the label {labels.hub_node_label(settings.stack_name)}=true")
    if missing:
        raise JhswarmdError(
            f"The profile '{profile.name}' cannot be rendered yet",
            why="missing: " + ", ".join(missing),
            remedy=f"Run 'jhswarmd up --env {profile.name}', which creates what is missing.",
        )
    return _render(client, settings, built, resolve_publish_mode(settings))


def resolve_publish_mode(settings: Settings) -> PublishMode:
    """Return how ports are published: per the profile, else what the kernel supports."""
    if settings.publish_mode is not PublishMode.auto:
        return settings.publish_mode
    if settings.trusted_proxies:
        # The mesh hides client addresses.
        return PublishMode.host
    return PublishMode.ingress if local_engine.has_ipvs() else PublishMode.host


def _use_proxies(settings: Settings) -> None:
    """Use the profile's proxies for all downloads from here on (packages, bases, builds)."""
    os.environ.update(settings.proxy_environment)


def _use_logins(client: docker.DockerClient, profile: Profile) -> None:
    """Add the profile's logins for pulls from, pushes to and queries of registries."""
    if "registry_login" in profile.files:
        registry_auth.add(client.api, profile.files["registry_login"])


def _with_registry(
    client: docker.DockerClient, profile: Profile, progress: Progress, mode: PublishMode
) -> Profile:
    """Ensure that the registry answers; return the profile with the login that it needs."""
    login = registry.ensure(client, profile.settings, progress, mode.value)
    if login is None:
        return profile
    profile = _with_login(profile, login)
    _use_logins(client, profile)
    return profile


def _with_login(profile: Profile, login: Login) -> Profile:
    """Add a login to those of the site: the nodes receive all of them in one secret."""
    logins = registry_auth.merge(profile.files.get("registry_login"), login)
    return replace(profile, files={**profile.files, "registry_login": logins})


def _live_secrets(client: docker.DockerClient, settings: Settings) -> Mapping[str, str]:
    stack_name = settings.stack_name
    return secrets.live_names(secrets.list_existing(client, stack_name), stack_name)


def _render(
    client: docker.DockerClient, settings: Settings, built: publish.Images, mode: PublishMode
) -> str:
    name = settings.stack_name
    existing = secrets.list_existing(client, name)
    return stack.render(
        settings,
        stack.Placeholders(
            hub_image=built.hub,
            proxy_image=built.proxy,
            single_user_image=built.singleuser,
            publish_mode=mode,
            secrets=secrets.live_names(existing, name),
            numbered=secrets.for_hub(existing, Engine(client).read_stack_services(name)),
        ),
    )


def _create_secrets(client: docker.DockerClient, profile: Profile, progress: Progress) -> None:
    with progress.step("Secrets") as step:
        existing = secrets.list_existing(client, profile.settings.stack_name)
        creations = secrets.plan(profile, existing)
        for creation in creations:
            secrets.create(client, profile, creation, step.update)
        created = ", ".join(name for each in creations for name in each.kind.names)
        step.done(f"created {created}" if created else "all exist")
    for files, why in secrets.rolled_back(profile, existing).items():
        progress.warn(
            f"{files} of the profile was tried before and rolled back ({why}): the older secret "
            "stays in use. Replace the file, or remove it"
        )


def _apply_users(client: docker.DockerClient, profile: Profile, progress: Progress) -> None:
    """Have the daemon merge a changed user list into the accounts.

    Only the daemon can read the accounts: changes made with 'jhswarmd users' since are kept.
    """
    name = profile.settings.stack_name
    content = secrets.changed_users(profile, secrets.list_existing(client, name))
    if content is None:
        return
    if not user_list.parse(content).entries:
        # Truncated, or in another encoding: all logins would end.
        progress.warn(
            f"{profile.user_list} has no usable account: the accounts are unchanged. "
            f"'jhswarmd users check {profile.user_list}' shows why. To remove single accounts, use "
            "'jhswarmd users remove'"
        )
        return
    with progress.step(f"Accounts of {profile.user_list}") as step:
        text = users.hash_list(content, step.update)
        source = generations.source_label([content], guessable=True)
        answer = users.change(client, name, "merge", list=text, source=source)
        if answer["generation"] is not None:
            users.wait_mounted(client, name, answer["generation"])
            stack.wait_healthy(client, name, step)
    for line in users.describe(answer):
        progress.note(f"Accounts: {line}")


def _warn_of_list(profile: Profile, progress: Progress) -> None:
    accounts = user_list.parse(profile.files.get("users", b""))
    for refusal in accounts.refused:
        progress.warn(f"{profile.user_list}, {refusal}; the other lines are used")
    if profile.is_demo or profile.settings.uses_oauth:
        return
    if published_password.has_published_password(accounts):
        progress.warn(
            f"{profile.user_list} has testuser with its published password: anyone who can reach "
            "the hub can log in. Set another one ('jhswarmd users passwd testuser'), or remove "
            "that line and the account ('jhswarmd users remove testuser')"
        )
    if plain := users.count_plain(accounts):
        progress.warn(
            f"{profile.user_list} has {plain} plain-text passwords: 'jhswarmd users "
            f"convert {profile.user_list}' replaces them with hashes"
        )


def _nodes(client: docker.DockerClient) -> list[dict[str, Any]]:
    with engine_errors("list the nodes"):
        found: list[dict[str, Any]] = client.api.nodes()
    return found


def _is_published(client: docker.DockerClient, profile: Profile) -> bool:
    """Return whether the published password works; only the daemon knows all accounts."""
    # While the daemon does not know them yet, the list is the best guess.
    listed = published_password.has_published_password(
        user_list.parse(profile.files.get("users", b""))
    )
    try:
        daemon = daemon_client.call_with_retry(client, profile.settings.stack_name, "status")
    except JhswarmdError:
        return listed
    reported = daemon["accounts"]["has_published_password"]
    return listed if reported is None else bool(reported)


def _published_at(client: docker.DockerClient, settings: Settings, mode: PublishMode) -> str:
    """Return the URL of the proxy's published port: on every node, or only on its task's node."""
    address = LOCAL_ADDRESS
    if mode is PublishMode.host:
        engine = Engine(client)
        node = engine.read_newest_task_node(labels.service_name(settings.stack_name, "proxy"))
        if node and node != engine.read_node_id():
            with engine_errors("inspect the proxy's node"):
                address = client.api.inspect_node(node)["Status"]["Addr"]
    return f"https://{address}:{settings.https_port}"


def _wait_answer(base_url: str) -> str:
    """Return the URL at which the hub answers, once it does. Raises JhswarmdError on timeout."""
    url = f"{base_url}/hub/health"

    def ask() -> None:
        # The certificate is for the profile's host, and often self-signed. This only checks
        # that the hub answers, and sends no secret.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)
            with requests.Session() as session:
                session.trust_env = False  # the shell's proxy cannot reach this machine
                session.get(url, verify=False, timeout=5).raise_for_status()

    try:
        Retrying(
            retry=retry_if_exception_type(requests.RequestException),
            stop=stop_after_delay(HUB_ANSWER_TIMEOUT_S),
            wait=wait_exponential(multiplier=0.1, max=1),
            reraise=True,
        )(ask)
    except requests.RequestException as exc:
        raise JhswarmdError(
            f"The hub is healthy, but does not answer at {url}",
            why=str(exc),
            remedy="See 'docker service logs' of the proxy, and check whether a firewall drops "
            "connections to that port.",
        ) from exc
    return url


def _is_self_signed(profile: Profile, existing: Sequence[generations.SecretVersion]) -> bool:
    """Return whether the certificate in use is known to be self-signed.

    A certificate supplied by another profile cannot be read back.
    """
    if "tls_cert" in profile.files:
        return tls.is_self_signed(profile.files["tls_cert"])
    current = generations.newest(existing, *secrets.TLS.names)
    return current is not None and current.source == generations.GENERATED


def _print_summary(profile: Profile, progress: Progress, client: docker.DockerClient) -> None:
    settings = profile.settings
    answering_at = exposure.answering_at(settings.https_port, _nodes(client))
    is_open = not settings.uses_oauth and _is_published(client, profile)
    progress.note("")
    progress.note(f"The hub is at {settings.url}")
    if settings.uses_oauth:
        progress.note(
            f"Log in with an account of the provider ({settings.authenticator_type.value})."
        )
    elif profile.name == LOCAL and is_open:
        progress.note(f"Log in as testuser with the password {published_password.PASSWORD}.")
    else:
        names = user_list.parse(profile.files.get("users", b"")).entries
        progress.note(
            f"Log in with one of the {len(names)} accounts of {profile.user_list}."
            if names
            else "There are no accounts yet: create env/NAME/user_list.txt and use --env NAME."
        )
    if _is_self_signed(profile, secrets.list_existing(client, settings.stack_name)):
        progress.note("Its certificate is self-signed: the browser asks once for confirmation.")
    if is_open and (answering_at or settings.host not in LOCAL_HOSTS):
        warning = exposure.warning(settings.https_port, answering_at)
        progress.warn(warning[0].upper() + warning[1:])
    elif answering_at:
        progress.note(
            f"Port {settings.https_port} is reachable at {exposure.shorten(answering_at)}; a login "
            "is required."
        )
    else:
        progress.note(f"Port {settings.https_port} is only reachable from this machine.")
    progress.note("Next: 'jhswarmd status' shows its health, 'jhswarmd down' stops it.")
