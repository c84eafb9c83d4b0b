"""Profiles: all errors are reported at once, with file and line."""

from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from jhswarmd import assets
from jhswarmd.credentials import tls
from jhswarmd.deploy.profiles import profile
from jhswarmd.errors import UsageError
from jhswarmd.settings.settings import Settings


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "default.env").write_text("AUTHENTICATOR_TYPE=pam\n")
    return tmp_path


def write(folder, name, text, **files):
    (folder / f"{name}.env").write_text(text)
    for path, content in files.items():
        target = folder / name / path.replace("__", "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())


def faults_of(name, folder):
    with pytest.raises(profile.ProfileError) as caught:
        profile.load(name, folder)
    return caught.value.faults


@pytest.mark.parametrize("name", ["default", "local"])
def test_the_shipped_profiles_are_valid(name):
    assert profile.load(name, assets.ENV).name == name


def test_a_profile_overlays_the_default_one(folder):
    (folder / "default.env").write_text("IDLE_TIMEOUT_S=60\nHOST=default.example\n")
    write(folder, "site", "HOST=hub.example\n", **{"user_list.txt": "alice:a\n"})
    loaded = profile.load("site", folder)
    assert (loaded.settings.host, loaded.settings.idle_timeout_s) == ("hub.example", 60)
    assert loaded.files == {"users": b"alice:a\n"}


def test_an_unknown_key_a_bad_number_and_a_missing_file_are_all_reported_with_their_lines(folder):
    write(folder, "site", "# mine\nHTTPS_PROT=1\n\nMEM_LIMIT=lots\nAUTHENTICATOR_TYPE=pam\n")
    path = folder / "site.env"
    assert faults_of("site", folder) == [
        f"{path}:2: unknown key HTTPS_PROT; did you mean HTTPS_PORT?",
        f"{path}:4: MEM_LIMIT: must be a size such as 512M or 2G",
        f"{path}:5: AUTHENTICATOR_TYPE=pam needs the file {folder / 'site' / 'user_list.txt'}",
    ]


def test_notebook_profiles_come_from_a_file_of_the_profile(folder):
    listed = "- slug: big\n  title: Big\n  mem_limit: 8G\n  cpu_limit: 2\n"
    files = {"user_list.txt": "alice:a\n", "notebook_profiles.yml": listed}
    write(folder, "site", "MEM_LIMIT=1G\n", **files)
    (big,) = profile.load("site", folder).settings.notebook_profiles
    assert (big.slug, big.mem_limit, big.cpu_limit) == ("big", 8 * 1024**3, 2)


LISTED = """\
- slug: small
  title: Small
  memlimit: 2G
- slug: big
  title: Big
  mem_limit: lots
  generic_resources:
    gpu: 0
- title: Nameless
"""


def test_each_error_of_the_list_is_reported_with_its_line_and_with_those_of_the_keys(folder):
    files = {"user_list.txt": "alice:a\n", "notebook_profiles.yml": LISTED}
    write(folder, "site", "HTTPS_PROT=1\n", **files)
    path = folder / "site" / "notebook_profiles.yml"
    assert sorted(faults_of("site", folder)) == sorted(
        [
            f"{folder / 'site.env'}:1: unknown key HTTPS_PROT; did you mean HTTPS_PORT?",
            f"{path}:3: memlimit: unknown key; did you mean mem_limit?",
            f"{path}:6: mem_limit: must be a size such as 512M or 2G",
            f"{path}:8: gpu: Input should be greater than 0",
            f"{path}:9: slug: Field required",
        ]
    )


@pytest.mark.parametrize(
    ("listed", "line", "messages"),
    [
        ("", 1, "valid list"),
        ("[]", 1, "at least 1 item"),
        ("- slug: a\n  title: [\n", 3, "is not valid YAML"),
        ("- slug: a\n  slug: b\n  title: A\n", 2, "duplicate key slug"),
        ("- {slug: a, title: A}\n- {slug: a, title: B}\n", 2, "slug: 'a' is there twice"),
        ("- &a [*a]\n", None, "contains itself"),
        ("- !!python/name:os.system\n", 1, "is not valid YAML"),
        ("- slug: \0\n", None, "is not valid YAML"),
        ("- {slug: a, title: A, mem_guarantee: 9G}\n", None, "for 'a' MEM_GUARANTEE is more"),
    ],
)
def test_an_unusable_list_is_refused(folder, listed, line, messages):
    files = {"user_list.txt": "alice:a\n", "notebook_profiles.yml": listed}
    write(folder, "site", "MEM_LIMIT=1G\n", **files)
    (fault,) = faults_of("site", folder)
    path = folder / "site" / "notebook_profiles.yml"
    assert fault.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert messages in fault


def test_the_list_is_not_a_key(folder):
    write(folder, "site", "NOTEBOOK_PROFILES=[]\n", **{"user_list.txt": "alice:a\n"})
    (fault,) = faults_of("site", folder)
    assert fault.startswith(f"{folder / 'site.env'}:1: NOTEBOOK_PROFILES is set by")


def test_a_line_without_an_equals_sign_is_reported(folder):
    write(folder, "site", "HOST\n", **{"user_list.txt": "alice:a\n"})
    assert faults_of("site", folder) == [f"{folder / 'site.env'}:1: not of the form KEY=value"]


def test_a_missing_profile_is_reported(folder):
    (fault, *_) = faults_of("nosuch", folder)
    assert fault.startswith(f"{folder / 'nosuch.env'}: file not found")


def test_a_name_that_leads_elsewhere_is_refused(folder):
    assert faults_of("../other", folder) == ["'../other' is not a valid profile name"]


def test_github_without_allowed_users_is_refused_with_the_reason(folder):
    text = "AUTHENTICATOR_TYPE=github\nOAUTH_CLIENT_ID=x\n"
    write(folder, "site", text, oauth_client_secret="s3cret")
    (fault,) = faults_of("site", folder)
    assert fault.startswith(f"{folder / 'site.env'}:1: ")
    assert "would let nobody in" in fault


@pytest.mark.parametrize("type_", ["github", "generic-oauth", "gitlab"])
def test_a_provider_without_its_id_and_secret_is_refused(folder, type_):
    write(folder, "site", f"AUTHENTICATOR_TYPE={type_}\nAUTHENTICATOR_ALLOWED_USERS=ann\n")
    faults = faults_of("site", folder)
    assert any("needs OAUTH_CLIENT_ID" in fault for fault in faults)
    assert any("oauth_client_secret" in fault for fault in faults)


@pytest.mark.parametrize(
    "url",
    [
        "http://hub.example/hub/oauth_callback",
        "https://other.example/hub/oauth_callback",
        "https://hub.example/",
    ],
)
def test_a_callback_that_does_not_lead_to_the_hub_is_refused(folder, url):
    text = (
        "AUTHENTICATOR_TYPE=github\nOAUTH_CLIENT_ID=x\nAUTHENTICATOR_ALLOWED_USERS=ann\n"
        f"HOST=hub.example\nOAUTH_CALLBACK_URL={url}\n"
    )
    write(folder, "site", text, oauth_client_secret="s3cret")
    (fault,) = faults_of("site", folder)
    assert fault.startswith(f"{folder / 'site.env'}:5: ")
    assert "https://hub.example/hub/oauth_callback" in fault


def test_all_users_of_github_are_too_many(folder):
    text = "AUTHENTICATOR_TYPE=github\nOAUTH_CLIENT_ID=x\nOAUTH_ALLOW_ALL=true\n"
    write(folder, "site", text, oauth_client_secret="s3cret")
    (fault,) = faults_of("site", folder)
    assert "everybody who has a GitHub account" in fault


def test_a_certificate_without_its_key_is_refused(folder):
    certificate, _ = tls.self_signed("hub.example")
    write(folder, "site", "", **{"user_list.txt": "a:a", "ssl__cert.pem": certificate})
    (fault,) = faults_of("site", folder)
    assert fault.startswith(f"{folder / 'site' / 'ssl/key.pem'}: is missing")


def test_a_key_of_another_certificate_is_refused(folder):
    certificate, _ = tls.self_signed("hub.example")
    _, key = tls.self_signed("hub.example")
    write(
        folder,
        "site",
        "",
        **{"user_list.txt": "a:a", "ssl__cert.pem": certificate, "ssl__key.pem": key},
    )
    (fault,) = faults_of("site", folder)
    assert "does not match the certificate" in fault


def write_certificate(folder, *, key, chain=b""):
    """Put a certificate that a CA has signed into the profile's folder."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in ("ca", "hub"))
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(ca)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(ca_key, hashes.SHA256())
    )
    pem_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem = certificate.public_bytes(Encoding.PEM)
    write(
        folder,
        "site",
        "",
        **{"user_list.txt": "a:a", "ssl__cert.pem": pem + chain, "ssl__key.pem": pem_key},
    )


def test_a_certificate_of_a_ca_with_its_chain_is_taken(folder):
    chain, _ = tls.self_signed("ca")
    write_certificate(folder, key=ec.generate_private_key(ec.SECP256R1()), chain=chain)
    profile.load("site", folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": lambda: rsa.generate_private_key(65537, 1024)}, "key too small"),
        ({"chain": tls.self_signed("ca")[0][:-40]}, "bad end line"),
    ],
)
def test_a_certificate_with_which_the_proxy_could_not_start_is_refused(folder, options, words):
    options = {"key": lambda: ec.generate_private_key(ec.SECP256R1()), **options}
    write_certificate(folder, **{**options, "key": options["key"]()})
    (fault,) = faults_of("site", folder)
    assert fault.startswith(f"{folder / 'site' / 'ssl/cert.pem'}: the proxy could not start")
    assert words in fault


def test_a_key_with_a_passphrase_is_refused(folder):
    certificate, key = tls.self_signed("hub.example")
    locked = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    files = {"user_list.txt": "a:a", "ssl__cert.pem": certificate, "ssl__key.pem": locked}
    write(folder, "site", "", **files)
    (fault,) = faults_of("site", folder)
    assert "is not a PEM key without a passphrase" in fault


@pytest.mark.parametrize("key", ["NOTEBOOKS_SUBNET", "CONTROL_SUBNET"])
@pytest.mark.parametrize("value", ["10.0.0.1/16", "fd00::/8", "lan"])
def test_what_is_no_subnet_is_refused(folder, key, value):
    write(folder, "site", f"{key}={value}\n", **{"user_list.txt": "a:a"})
    (fault,) = faults_of("site", folder)
    assert f"{key}: must be an IPv4 network, such as 10.128.0.0/16" in fault


def test_an_empty_secret_file_is_refused_and_a_short_cookie_secret_too(folder):
    files = {"user_list.txt": "a:a", "proxy_auth_token": "\n", "cookie_secret": "abc"}
    write(folder, "site", "", **files)
    faults = faults_of("site", folder)
    assert any("proxy_auth_token: is empty" in fault for fault in faults)
    assert any("hexadecimal digits, at least 64" in fault for fault in faults)
    assert not any("abc" in fault for fault in faults)


@pytest.mark.parametrize(
    ("file", "content", "messages"),
    [
        ("proxy_auth_token", "two words", "ASCII without blanks"),
        ("proxy_auth_token", "t\u00f6ken", "ASCII without blanks"),
        ("cookie_secret", "a" * 65, "an even number of hexadecimal digits"),
    ],
)
def test_a_secret_that_proxy_or_hub_cannot_start_with_is_refused(folder, file, content, messages):
    write(folder, "site", "", **{"user_list.txt": "a:a", file: content})
    (fault,) = faults_of("site", folder)
    assert messages in fault
    assert content not in fault


@pytest.mark.parametrize("host", ["hub.example.org", "localhost", "192.0.2.7", "a_b.example"])
def test_a_host_is_a_name_or_an_address(folder, host):
    write(folder, "site", f"HOST={host}", **{"user_list.txt": "a:a"})
    assert profile.load("site", folder).settings.host == host


@pytest.mark.parametrize(
    "host",
    [
        "https://hub.example.org",
        "hub.example.org:8443",
        "hub.example.org/x",
        "h\u00fcb.example",
        "-hub",
        "hub..example",
    ],
)
def test_a_host_is_nothing_else(folder, host):
    write(folder, "site", f"HOST={host}", **{"user_list.txt": "a:a"})
    (fault,) = faults_of("site", folder)
    assert "must be a host's name or IPv4 address alone" in fault


def test_a_profile_does_not_show_its_secrets(folder):
    write(folder, "site", "", **{"user_list.txt": "alice:pass-word"})
    assert "pass-word" not in repr(profile.load("site", folder))


@pytest.mark.parametrize(
    ("option", "environ", "name"),
    [
        ("a", {"JHSWARMD_ENV": "b", "DOCKER_JUPYTERHUB_LOCAL_ENV": "_c"}, "a"),
        (None, {"JHSWARMD_ENV": "b", "DOCKER_JUPYTERHUB_LOCAL_ENV": "_c"}, "b"),
        (None, {"DOCKER_JUPYTERHUB_LOCAL_ENV": "_c"}, "c"),
        (None, {"DOCKER_JUPYTERHUB_LOCAL_ENV": ""}, None),
        (None, {}, None),
    ],
)
def test_the_option_precedes_the_variable_which_precedes_the_older_switch(option, environ, name):
    assert profile.selected_name(option, environ) == name


@pytest.mark.parametrize("value", ["_local", "local", "_default"])
def test_the_older_switch_selects_neither_our_profiles_nor_a_demo_account(value):
    with pytest.raises(UsageError, match="does not select a profile here") as caught:
        profile.selected_name(None, {"DOCKER_JUPYTERHUB_LOCAL_ENV": value})
    assert "--env mine" in caught.value.remedy


CASES = {
    "18": (
        """\
export HOST=hub.example.org
export SINGLE_USER_IMAGE=registry.example.org:443/site/jupyterhub-user:0.27
export NOTEBOOK_DIR=/home/jovyan/nfs
export NOTEBOOK_COMMAND=start-singleuser.sh
export ROTATE_AFTER_DAYS='0'
""",
        {
            "host": "hub.example.org",
            "single_user_image": "registry.example.org:443/site/jupyterhub-user:0.27",
            "notebook_dir": "/home/jovyan/nfs",
            "notebook_command": ("start-singleuser.sh",),
            "rotate_after_days": 0,
        },
    ),
    "20": (
        """\
HOST=hub.example.org
AUTHENTICATOR_ADMIN_USERS=ann, bob   # the teachers
DEFAULT_URL=/lab                     # classic: /tree
NOTEBOOK_CONSTRAINTS=node.role == manager   # until we have workers
NOTEBOOK_DIR=/home/jovyan # the whole home
""",
        {
            "authenticator_admin_users": ("ann", "bob"),
            "default_url": "/lab",
            "notebook_constraints": ("node.role == manager",),
            "notebook_dir": "/home/jovyan",
        },
    ),
    "21": (
        """\
HOST=hub.example.org
AUTHENTICATOR_TYPE=github
OAUTH_CLIENT_ID=dd0000000000ec # of our GitHub app
GITHUB_ALLOWED_ORGANIZATIONS=physics # our organisation
AUTHENTICATOR_ALLOWED_USERS=ann # and the students
""",
        {
            "oauth_client_id": "dd0000000000ec",
            "github_allowed_organizations": ("physics",),
            "authenticator_allowed_users": ("ann",),
        },
    ),
    "01": (
        """\
SINGLE_USER_IMAGE=localhost:5000/site/jupyter-singleuser:latest
AUTHENTICATOR_ADMIN_USERS=ann
NOTEBOOK_DIR=/home/jovyan/work
""",
        {"authenticator_admin_users": ("ann",), "notebook_dir": "/home/jovyan/work"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_real_world_files_keep_their_meaning_and_a_comment_never_gets_into_a_value(folder, case):
    text, expected = CASES[case]
    write(folder, "mine", text, **{"user_list.txt": "ann:a\n", "oauth_client_secret": "s"})
    settings = profile.load("mine", folder, {}).settings
    assert {key: getattr(settings, key) for key in expected} == expected


def test_a_callback_on_another_host_says_which_key_to_set(folder):
    text = """\
OAUTH_CALLBACK_URL=https://192.168.99.101/hub/oauth_callback
OAUTH_CLIENT_ID=dd0000000000ec
OAUTH_CLIENT_SECRET_FILE_PATH=/srv/jupyterhub/jupyterhub_oauth_github_secret
AUTHENTICATOR_ADMIN_USERS=ann
AUTHENTICATOR_TYPE=github
"""
    write(folder, "mine", text, oauth_client_secret="s")
    (fault,) = faults_of("mine", folder)
    assert "HOST=192.168.99.101" in fault
    write(folder, "mine", text + "HOST=192.168.99.101\n")
    assert profile.load("mine", folder, {}).settings.host == "192.168.99.101"


def test_keys_of_the_compose_example_are_reported_with_their_equivalents(folder):
    keys = {
        "JUPYTERHUB_VERSION=1.0.0": "HUB_BASE_IMAGE",
        "DOCKER_NETWORK_NAME=jupyterhub-network": "NOTEBOOKS_SUBNET",
        "DOCKER_NOTEBOOK_IMAGE=jupyter/minimal-notebook:8ccdfc1da8d5": "SINGLE_USER_IMAGE",
        "LOCAL_NOTEBOOK_IMAGE=hub": "SINGLE_USER_IMAGE",
        "DOCKER_NOTEBOOK_DIR=.": "NOTEBOOK_DIR",
        "DOCKER_SPAWN_CMD=/home/opam/.local/bin/start-singleuser.sh": "NOTEBOOK_COMMAND",
        "DATA_VOLUME_HOST=jupyterhub-data": "volume",
        "DATA_VOLUME_CONTAINER=/data": "volume",
        "POSTGRES_DB=jupyterhub": "DATABASE_URL",
    }
    write(folder, "mine", "\n".join(keys), **{"user_list.txt": "ann:a\n"})
    faults = faults_of("mine", folder)
    assert len(faults) == len(keys)
    for number, (fault, (line, today)) in enumerate(zip(faults, keys.items(), strict=True), 1):
        assert fault.startswith(f"{folder / 'mine.env'}:{number}: unknown key {line.split('=')[0]}")
        assert today in fault.partition(": unknown key")[2]


def test_a_secret_in_the_file_is_reported_and_never_repeated(folder):
    text = """\
AUTHENTICATOR_TYPE=gitlab
OAUTH_CALLBACK_URL='http://localhost:8888/hub/oauth_callback'
OAUTH_CLIENT_ID='site-app'
OAUTH_CLIENT_SECRET='do-not-repeat-this'
MY_TOKEN=do-not-repeat-this
COOKIE_SECRET="do-not-repeat-this
"""
    write(folder, "mine", text)
    faults = faults_of("mine", folder)
    assert "do-not-repeat" not in str(faults)
    assert any(
        "OAUTH_CLIENT_SECRET" in each and "file oauth_client_secret" in each for each in faults
    )
    assert any("MY_TOKEN" in each and "keys do not hold secrets" in each for each in faults)
    assert any("OAUTH_CALLBACK_URL must be https://localhost" in each for each in faults)
    assert any("COOKIE_SECRET" in each and "not closed" in each for each in faults)


@pytest.mark.parametrize(
    "line",
    [
        'NOTEBOOK_DIR="/home/jovyan # the whole home"',
        "NOTEBOOK_DIR=/home/my files",
        "NOTEBOOK_DIR='/home/jovyan\n'",
        "NOTEBOOK_DIR=/home/jovyan#x",
        "NOTEBOOK_DIR=/",
        "NOTEBOOK_DIR=/home/../etc",
        "SHARED_VOLUMES=/srv/a b:/srv/x:ro",
        'SHARED_VOLUMES="a1:/srv/x # y:ro"',
        "STACK_NAME='jupyterhub\n'",
        "HOST='hub.example\n'",
        "ENGINE_SOCKET=/var/run/docker.sock (the default)",
        'AUTHENTICATOR_ADMIN_USERS="ann # the teacher"',
        "AUTHENTICATOR_ADMIN_USERS='ann', 'bob'",
        "AUTHENTICATOR_ADMIN_USERS=ann, 'bob'",
        "NOTEBOOK_ARGS=--title 'a # b'",
        "NOTEBOOK_CONSTRAINTS='node.role == manager # until'",
        "NOTEBOOK_CONSTRAINTS=node.role == manager, node.labels.x == y",
        "NOTEBOOK_CONSTRAINTS=node.rolle == manager",
        "OAUTH_CLIENT_ID='two words'",
    ],
)
def test_blanks_comments_and_line_ends_never_become_part_of_a_name_or_a_path(folder, line):
    write(folder, "mine", line.encode().decode("unicode_escape"), **{"user_list.txt": "a:a"})
    (fault,) = faults_of("mine", folder)
    assert fault.startswith(f"{folder / 'mine.env'}:1: ")


def test_values_of_the_default_profile_expand_variables_too(folder):
    (folder / "default.env").write_text("HOST=hub.example\n")
    write(folder, "mine", "STACK_NAME=${SITE}\nREGISTRY=$HOST:5000\n", **{"user_list.txt": "a:a"})
    settings = profile.load("mine", folder, {"SITE": "lab"}).settings
    assert (settings.stack_name, settings.registry) == ("lab", "hub.example:5000")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
def test_a_file_in_another_encoding_means_the_same(folder, encoding):
    write(folder, "mine", "", **{"user_list.txt": "a:a"})
    (folder / "mine.env").write_bytes("HOST=hub.example\r\nHTTPS_PORT=8443".encode(encoding))
    settings = profile.load("mine", folder, {}).settings
    assert (settings.host, settings.https_port) == ("hub.example", 8443)


def test_an_8_bit_encoding_is_reported(folder):
    write(folder, "mine", "", **{"user_list.txt": "a:a"})
    (folder / "mine.env").write_bytes("# f\u00fcr alle\nHOST=hub.example".encode("latin-1"))
    (fault,) = faults_of("mine", folder)
    assert "Latin-1 or Windows-1252" in fault


def test_settings_survive_a_round_trip_through_the_environment():
    settings = Settings.from_environ(
        {
            "MEM_LIMIT": "2G",
            "CPU_LIMIT": "",
            "NOTEBOOK_ARGS": "--one 'two three'",
            "NOTEBOOK_CONSTRAINTS": "node.role == worker; node.labels.x != y",
            "VOLUME_OPTIONS": "type=nfs;o=addr=10.0.0.1,rw",
            "AUTHENTICATOR_ADMIN_USERS": "alice, bob",
            "UNRELATED": "1",
        }
    )
    assert settings.mem_limit == 2 * 1024**3
    assert settings.cpu_limit is None
    assert settings.volume_options == {"type": "nfs", "o": "addr=10.0.0.1,rw"}
    assert Settings.from_environ(settings.to_environ()) == settings


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTP_PORT": "443"},
        {"HTTPS_PORT": "70000"},
        {"NOTEBOOKS_SUBNET": "10.129.0.0/16"},
        {"CONTROL_SUBNET": "here"},
        {"STACK_NAME": "Bad_Name"},
        {"CPU_LIMIT": "-1"},
        {"MEM_LIMIT": "0"},
        {"VOLUME_OPTIONS": "nfs"},
    ],
)
def test_values_that_cannot_work_are_refused(environ):
    with pytest.raises(ValueError, match="validation error"):
        Settings.from_environ(environ)


def test_errors_in_registry_logins_are_reported_without_the_logins(folder):
    files = {
        "user_list.txt": "alice:a\n",
        "registry_config.json": '{"auths": {"r": {"auth": "x"}}}',
    }
    write(folder, "site", "HOST=x\n", **files)
    (fault,) = faults_of("site", folder)
    assert fault.startswith(
        f"{folder / 'site' / 'registry_config.json'}: the entry of r has no login"
    )
