"""A service is led to another generation of a secret, and stays as it is otherwise."""

import copy

from jhswarmd.credentials import secret_mounts
from jhswarmd.credentials.generations import Generation, SecretVersion, newest


def secret(kind, generation, parts=1):
    name = f"jupyterhub_{kind}_g{generation}"
    return SecretVersion(f"id-{name}", name, kind, generation, "", parts=parts)


def reference(held, target=None):
    file = {"Name": target or held.kind, "UID": "7", "GID": "8", "Mode": 0o400}
    return {"SecretID": held.id, "SecretName": held.name, "File": file}


def make_spec(*mounted):
    container = {"Image": "i", "Secrets": [reference(each) for each in mounted]}
    return {"Name": "s", "TaskTemplate": {"ContainerSpec": container, "ForceUpdate": 3}}


def mounted(spec):
    return [each["SecretName"] for each in spec["TaskTemplate"]["ContainerSpec"]["Secrets"]]


OLD, NEW, TOKEN = secret("users", 1), secret("users", 2), secret("daemon_token", 1)
PARTS = [secret("users", 3, parts=2), secret("users_2", 3, parts=2)]
EVERYTHING = [OLD, NEW, TOKEN, *PARTS]


def test_a_reference_is_led_to_the_wanted_generation_and_keeps_owner_mode_and_target():
    spec = make_spec(TOKEN, OLD)
    before = copy.deepcopy(spec)
    swapped = secret_mounts.with_mounts(spec, EVERYTHING, Generation(2, (NEW,)))
    assert mounted(swapped) == ["jupyterhub_daemon_token_g1", "jupyterhub_users_g2"]
    assert swapped["TaskTemplate"]["ContainerSpec"]["Secrets"][1] == reference(NEW)
    assert swapped["TaskTemplate"]["ForceUpdate"] == 3
    assert spec == before


def test_nothing_is_changed_when_the_service_mounts_it_already_or_nothing_of_ours():
    assert (
        secret_mounts.with_mounts(make_spec(TOKEN, NEW), EVERYTHING, Generation(2, (NEW,))) is None
    )
    assert secret_mounts.with_mounts(make_spec(), EVERYTHING, Generation(2, (NEW,))) is None


def test_what_a_service_has_lost_is_mounted_as_its_others_are():
    swapped = secret_mounts.with_mounts(make_spec(TOKEN), EVERYTHING, Generation(2, (NEW,)))
    assert mounted(swapped) == ["jupyterhub_daemon_token_g1", "jupyterhub_users_g2"]
    assert swapped["TaskTemplate"]["ContainerSpec"]["Secrets"][1] == reference(NEW)
    cookie = secret("cookie_secret", 4)
    wanted = Generation(4, (cookie,))
    swapped = secret_mounts.with_mounts(make_spec(TOKEN), [TOKEN, cookie], wanted, is_numbered=True)
    assert swapped["TaskTemplate"]["ContainerSpec"]["Secrets"][0] == reference(
        cookie, "cookie_secret_g4"
    )


def test_where_somebody_elses_secret_is_in_its_place_nothing_is_mounted():
    spec = make_spec(TOKEN)
    theirs = reference(SecretVersion("id-theirs", "theirs", "", 0, ""), "/run/secrets/users")
    spec["TaskTemplate"]["ContainerSpec"]["Secrets"].append(theirs)
    assert secret_mounts.with_mounts(spec, EVERYTHING, Generation(2, (NEW,))) is None


def test_more_parts_are_mounted_beside_and_fewer_are_left_out():
    more = secret_mounts.with_mounts(make_spec(TOKEN, OLD), EVERYTHING, newest(EVERYTHING, "users"))
    assert mounted(more)[1:] == ["jupyterhub_users_2_g3", "jupyterhub_users_g3"]
    targets = [each["File"]["Name"] for each in more["TaskTemplate"]["ContainerSpec"]["Secrets"]]
    assert targets == ["daemon_token", "users_2", "users"]
    fewer = secret_mounts.with_mounts(more, EVERYTHING, Generation(2, (NEW,)))
    assert mounted(fewer) == ["jupyterhub_daemon_token_g1", "jupyterhub_users_g2"]


def test_a_target_with_a_path_stays_and_a_part_lies_beside_it():
    spec = make_spec(OLD)
    spec["TaskTemplate"]["ContainerSpec"]["Secrets"][0]["File"]["Name"] = "/srv/keys/users"
    swapped = secret_mounts.with_mounts(spec, EVERYTHING, newest(EVERYTHING, "users"))
    targets = [each["File"]["Name"] for each in swapped["TaskTemplate"]["ContainerSpec"]["Secrets"]]
    assert targets == ["/srv/keys/users_2", "/srv/keys/users"]


def test_kinds_that_change_together_are_swapped_together():
    held = [secret(kind, number) for kind in ("tls_cert", "tls_key") for number in (1, 2)]
    spec = make_spec(held[0], held[2], TOKEN)
    swapped = secret_mounts.with_mounts(spec, [*held, TOKEN], newest(held, "tls_cert", "tls_key"))
    assert mounted(swapped) == [
        "jupyterhub_daemon_token_g1",
        "jupyterhub_tls_cert_g2",
        "jupyterhub_tls_key_g2",
    ]
