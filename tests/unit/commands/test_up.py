"""The warnings of `up` about a profile, before it changes anything."""

import io
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from rich.console import Console

from jhswarmd.accounts.hashing import hash_password
from jhswarmd.commands import up
from jhswarmd.credentials import tls
from jhswarmd.credentials.generations import SecretVersion
from jhswarmd.deploy.profiles.profile import Profile
from jhswarmd.deploy.progress import Progress
from jhswarmd.settings.settings import Settings

HASHED = f"ann:{hash_password('a')}\n"
PUBLISHED = "testuser:testpassword\n"
GITHUB = {
    "authenticator_type": "github",
    "oauth_client_id": "x",
    "authenticator_allowed_users": "ann",
}


def warnings_for(users, name="mine", **keys):
    text = io.StringIO()
    profile = Profile(name, Settings(**keys), {"users": users.encode()}, Path("env") / name)
    up._warn_of_list(profile, Progress(Console(file=text, soft_wrap=True)))
    return text.getvalue()


@pytest.mark.parametrize(
    ("users", "name", "keys", "expected"),
    [
        pytest.param(HASHED, "mine", {}, [], id="hashes"),
        pytest.param(HASHED + "bea:b\n", "mine", {}, ["1 plain-text passwords"], id="plain"),
        pytest.param(PUBLISHED, "mine", {}, ["published", "plain-text"], id="published"),
        pytest.param(
            f"testuser:{hash_password('testpassword')}\n", "mine", {}, ["published"], id="its hash"
        ),
        pytest.param("testuser:own\n", "mine", {}, ["plain-text"], id="its own password"),
        pytest.param(PUBLISHED, "local", {}, [], id="to try out"),
        pytest.param(
            PUBLISHED, "local", {"host": "hub.example"}, ["published", "plain-text"], id="not local"
        ),
        pytest.param(PUBLISHED, "mine", GITHUB, [], id="not in use"),
    ],
)
def test_published_and_plain_passwords_are_warned_of(users, name, keys, expected):
    text = warnings_for(users, name, **keys)
    assert text.count("warning") == len(expected)
    for part in expected:
        assert part in text
    assert "testpassword" not in text


def issued_by_a_ca():
    """A certificate signed by another one."""
    now = datetime.now(timezone.utc)
    key = ec.generate_private_key(ec.SECP256R1())
    subject, issuer = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("hub", "A CA")
    )
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    builder = builder.public_key(key.public_key()).serial_number(1)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("files", "source", "is_self_signed"),
    [
        pytest.param({}, "generated", True, id="ours"),
        pytest.param({}, "sha256:x", False, id="of an earlier profile"),
        pytest.param({"tls_cert": tls.self_signed("hub")[0]}, "sha256:x", True, id="own"),
        pytest.param({"tls_cert": issued_by_a_ca()}, "sha256:x", False, id="a CA's"),
    ],
)
def test_only_a_self_signed_certificate_counts_as_self_signed(files, source, is_self_signed):
    held = [SecretVersion(kind, kind, kind, 1, source) for kind in ("tls_cert", "tls_key")]
    profile = Profile("mine", Settings(), files, Path("env/mine"))
    assert up._is_self_signed(profile, held) is is_self_signed
