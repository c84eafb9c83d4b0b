"""A self-signed certificate for a hub that was given none, and what one says that it was given."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Browsers refuse server certificates that live longer than this.
LIFETIME = timedelta(days=397)


def self_signed(host: str, now: datetime | None = None) -> tuple[bytes, bytes]:
    """Return a new certificate for ``host`` and localhost, and its key, both in PEM form.

    Nothing touches the disk.
    """
    now = now or datetime.now(timezone.utc)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of a cluster differ; a certificate from the future helps nobody.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), pem_key


def expires_at(certificate: bytes) -> datetime:
    """Return when a certificate in PEM form ends, in UTC. Raises ValueError."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def begins_at(certificate: bytes) -> datetime:
    """Return from when on a certificate in PEM form is valid, in UTC. Raises ValueError."""
    return x509.load_pem_x509_certificate(certificate).not_valid_before_utc


def is_self_signed(certificate: bytes) -> bool:
    """Tell whether the first certificate of a PEM file vouches for itself. Raises ValueError."""
    found = x509.load_pem_x509_certificate(certificate)
    return found.issuer == found.subject


def names_of(certificate: bytes) -> list[str]:
    """Return the names and addresses that a certificate in PEM form is for. Raises ValueError.

    These are its alternative names: browsers look at no others.
    """
    extensions = x509.load_pem_x509_certificate(certificate).extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]


def is_for(host: str, names: Iterable[str]) -> bool:
    """Tell whether a certificate for ``names`` is one for ``host``. Pure.

    An asterisk stands for the first part of a name, and for no more.
    """
    host = host.lower().removesuffix(".")
    _, _, domain = host.partition(".")
    return not {host, f"*.{domain}"}.isdisjoint(name.lower() for name in names)


def _names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for each in dict.fromkeys((host, "localhost", "127.0.0.1")):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(each)))
        except ValueError:
            names.append(x509.DNSName(each))
    return names
