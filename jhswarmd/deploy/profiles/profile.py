"""Profiles: ``env/default.env`` overlaid by ``env/NAME.env``, and the files in ``env/NAME/``.

Reading one changes nothing. All errors are reported at once, each with its file and line; an error
never repeats the content of a secret file.
"""

from __future__ import annotations

import os
import re
import ssl
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import Field, TypeAdapter, ValidationError

from jhswarmd import assets
from jhswarmd.deploy.profiles import env_file, foreign_keys, yaml_lines
from jhswarmd.encodings import UndecodableError
from jhswarmd.engine import registry_auth
from jhswarmd.errors import UsageError
from jhswarmd.settings import notebook_profiles
from jhswarmd.settings.notebook_profiles import NotebookProfile
from jhswarmd.settings.settings import AuthenticatorType, Settings

_OLDER_SWITCH = "DOCKER_JUPYTERHUB_LOCAL_ENV"

DEFAULT = "default"
#: The demo profile among those tracked in git.
LOCAL = "local"
#: Host names under which only this machine's users reach the hub.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
_MENTIONED = re.compile(r"\b[A-Z][A-Z0-9_]{3,}\b")

_ENTRY_KEYS = frozenset(NotebookProfile.model_fields)
_PROFILES = TypeAdapter(Annotated[list[NotebookProfile], Field(min_length=1)])

#: Files in ``env/NAME/``; each becomes the Swarm secret of the same kind.
USER_LIST = "user_list.txt"
REGISTRY_CONFIG = "registry_config.json"
#: The choices of users; not a secret, so it is deployed with the keys.
NOTEBOOK_PROFILES = "notebook_profiles.yml"
_PROFILES_KEY = "NOTEBOOK_PROFILES"
SECRET_FILES = {
    "users": USER_LIST,
    "cookie_secret": "cookie_secret",
    "proxy_auth_token": "proxy_auth_token",
    "oauth_client_secret": "oauth_client_secret",
    "registry_login": REGISTRY_CONFIG,
    "tls_cert": "ssl/cert.pem",
    "tls_key": "ssl/key.pem",
}


class ProfileError(UsageError):
    """A profile has errors; each of ``faults`` names file and line."""

    def __init__(self, name: str, faults: list[str]) -> None:
        super().__init__(
            f"Profile '{name}' has {len(faults)} error{'s' if len(faults) > 1 else ''}",
            remedy="Fix them and run the command again; nothing was changed.",
        )
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join([self.what + ":", *(f"  {fault}" for fault in self.faults)])


@dataclass(frozen=True)
class Profile:
    """A checked profile.

    ``files`` maps a kind of secret (see ``SECRET_FILES``) to the content that the administrator
    supplied; kinds without a file are absent. ``folder`` holds those files.
    """

    name: str
    settings: Settings
    files: Mapping[str, bytes]
    folder: Path

    @property
    def user_list(self) -> Path:
        """The path of the user list, if there is one."""
        return self.folder / USER_LIST

    @property
    def is_demo(self) -> bool:
        """Whether published accounts do no harm.

        ``localhost`` is also the default of HOST, so the profile's name counts too.
        """
        return self.name == LOCAL and self.settings.host in LOCAL_HOSTS

    def __repr__(self) -> str:
        """Leave the content of secrets out."""
        return f"Profile({self.name!r}, files={sorted(self.files)})"


@dataclass(frozen=True)
class _Value:
    text: str
    where: str


def selected_name(option: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the profile's name: ``--env``, else ``JHSWARMD_ENV``, else the older switch.

    None: no profile is selected. In the older deployment, ``DOCKER_JUPYTERHUB_LOCAL_ENV=_NAME``
    selected a site's own untracked file, so it never selects one of our profiles. Raises UsageError
    if it would.
    """
    if option:
        return option
    if environ.get("JHSWARMD_ENV"):
        return environ["JHSWARMD_ENV"]
    older = environ.get(_OLDER_SWITCH, "")
    name = older.lstrip("_")
    if name in (DEFAULT, LOCAL):
        raise UsageError(
            f"{_OLDER_SWITCH}={older} does not select a profile here",
            why=f"it used to select your own file, but the profile '{name}' is now part of the "
            "project"
            + (", with a demo account whose password is published" if name == LOCAL else ""),
            remedy="Save your own keys as env/mine.env, with env/mine/user_list.txt, and use "
            f"'--env mine' or JHSWARMD_ENV=mine. Unset {_OLDER_SWITCH}.",
        )
    return name or None


def profile_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder with the site's profiles.

    ``JHSWARMD_ENV_DIR``, else ``env`` in the working directory, else the one in this package.
    """
    if environ.get("JHSWARMD_ENV_DIR"):
        return Path(environ["JHSWARMD_ENV_DIR"])
    here = Path("env")
    return here if here.is_dir() else assets.ENV


def load(name: str, folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> Profile:
    """Read and check the profile ``name``; ``environ`` is for variables in its values.

    Raises ProfileError with all errors at once.
    """
    folder = folder or profile_dir()
    if not _NAME.match(name):
        raise ProfileError(name, [f"'{name}' is not a valid profile name"])
    faults: list[str] = []
    values: dict[str, _Value] = {}
    for path in _env_files(name, folder, faults):
        earlier = {key: value.text for key, value in values.items()}
        values.update(_read_env_file(path, environ, earlier, faults))
    values.update(_read_notebook_profiles(folder / name / NOTEBOOK_PROFILES, faults))
    settings = _check_keys(values, faults)
    files = _read_secret_files(folder / name, faults)
    _check_files(name, folder, values, files, faults)
    if faults or settings is None:
        raise ProfileError(name, faults)
    return Profile(name, settings, files, folder / name)


def _env_files(name: str, folder: Path, faults: list[str]) -> list[Path]:
    """Return the files to read, in ascending precedence; ours replace those that a site lacks."""
    paths = []
    for stem in dict.fromkeys((DEFAULT, name)):
        found = [path / f"{stem}.env" for path in (folder, assets.ENV)]
        existing = [path for path in found if path.is_file()]
        if existing:
            paths.append(existing[0])
        else:
            faults.append(f"{found[0]}: file not found; start from a copy of env/local.env")
    return paths


def _read_env_file(
    path: Path, environ: Mapping[str, str], earlier: Mapping[str, str], faults: list[str]
) -> dict[str, _Value]:
    values: dict[str, _Value] = {}
    try:
        entries, errors = env_file.read(path, environ, earlier)
    except OSError as exc:
        faults.append(f"{path}: cannot be read: {exc.strerror}")
        return values
    except UndecodableError as exc:
        faults.append(f"{path}: cannot be read: {exc}")
        return values
    found = [(error.line, error.message) for error in errors]
    for key, entry in entries.items():
        if key == _PROFILES_KEY:
            found.append((entry.line, f"{key} is set by the profile's file {NOTEBOOK_PROFILES}"))
        elif key not in Settings.all_keys():
            hint = foreign_keys.hint(key) or _did_you_mean(key.upper(), Settings.all_keys())
            found.append((entry.line, f"unknown key {key}{hint}"))
        else:
            values[key] = _Value(entry.value, f"{path}:{entry.line}")
    faults.extend(f"{path}:{line}: {message}" for line, message in sorted(found))
    return values


def _did_you_mean(key: str, known: frozenset[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _check_keys(values: Mapping[str, _Value], faults: list[str]) -> Settings | None:
    try:
        return Settings.from_environ({key: value.text for key, value in values.items()})
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_context=False):
            message = error["msg"].removeprefix("Value error, ")
            if error["loc"]:
                key = str(error["loc"][0]).upper()
            else:  # keys that conflict: the first one in the message
                named = [word for word in _MENTIONED.findall(message) if word in values]
                key = named[0] if named else ""
            where = values[key].where if key in values else "profile"
            faults.append(f"{where}: {key + ': ' if error['loc'] else ''}{message}")
        return None


def _read_notebook_profiles(path: Path, faults: list[str]) -> dict[str, _Value]:
    """Read and check the notebook profiles, if there are any."""
    if not path.exists():
        return {}
    try:
        document = yaml_lines.read(path)
    except yaml_lines.YamlError as exc:
        faults.extend(exc.faults)
        return {}
    try:
        profiles = _PROFILES.validate_python(document.data)
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_context=False):
            message = error["msg"].removeprefix("Value error, ")
            if error["type"] == "extra_forbidden":
                message = f"unknown key{_did_you_mean(str(error['loc'][-1]), _ENTRY_KEYS)}"
            faults.append(f"{document.where(error['loc'])}: {message}")
        return {}
    found = notebook_profiles.faults(profiles)
    faults.extend(f"{document.where((each.entry, each.key))}: {each.message}" for each in found)
    return {} if found else {_PROFILES_KEY: _Value(notebook_profiles.spell(profiles), str(path))}


def _read_secret_files(folder: Path, faults: list[str]) -> dict[str, bytes]:
    files = {}
    for kind, name in SECRET_FILES.items():
        path = folder / name
        if not path.exists():
            continue
        try:
            content = path.read_bytes()
        except OSError as exc:
            faults.append(f"{path}: cannot be read: {exc.strerror}")
            continue
        if kind not in ("users", "registry_login"):
            if not content.strip():
                faults.append(f"{path}: is empty; remove it, and one is generated")
                continue
            if kind not in ("tls_cert", "tls_key"):
                content = content.strip()
        files[kind] = content
    return files


#: The required form of a file's content. A token is the second word of a header (RFC 9110).
_FORMS = {
    "cookie_secret": (
        rb"(?:[0-9a-fA-F]{2}){32,}",
        "an even number of hexadecimal digits, at least 64 (openssl rand -hex 32)",
    ),
    "proxy_auth_token": (rb"[\x21-\x7e]+", "ASCII without blanks (openssl rand -hex 32)"),
}


def _check_files(
    name: str,
    folder: Path,
    values: Mapping[str, _Value],
    files: Mapping[str, bytes],
    faults: list[str],
) -> None:
    """Check for missing or invalid files, whether or not the keys are valid."""
    type_ = values.get("AUTHENTICATOR_TYPE", _Value("pam", f"{folder / name}.env"))
    if type_.text != AuthenticatorType.pam and "oauth_client_secret" not in files:
        path = folder / name / SECRET_FILES["oauth_client_secret"]
        faults.append(f"{type_.where}: AUTHENTICATOR_TYPE={type_.text} needs the file {path}")
    if type_.text == AuthenticatorType.pam and "users" not in files and name != DEFAULT:
        path = folder / name / USER_LIST
        faults.append(f"{type_.where}: AUTHENTICATOR_TYPE=pam needs the file {path}")
    for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if one in files and other not in files:
            path = folder / name / SECRET_FILES[other]
            faults.append(f"{path}: is missing, but {SECRET_FILES[one]} exists")
    for kind, (pattern, what) in _FORMS.items():
        if kind in files and not re.fullmatch(pattern, files[kind]):
            faults.append(f"{folder / name / SECRET_FILES[kind]}: must be {what}")
    if "registry_login" in files:
        path = folder / name / REGISTRY_CONFIG
        errors = registry_auth.faults(files["registry_login"])
        faults.extend(f"{path}: {each}" for each in errors)
    if "tls_cert" in files and "tls_key" in files:
        _check_tls_pair(folder / name, files, faults)


def _check_tls_pair(folder: Path, files: Mapping[str, bytes], faults: list[str]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            certificate = x509.load_pem_x509_certificate(files["tls_cert"])
    except ValueError:
        faults.append(f"{folder / SECRET_FILES['tls_cert']}: is not a PEM certificate")
        return
    try:
        key = load_pem_private_key(files["tls_key"], password=None)
    except (ValueError, TypeError):
        faults.append(f"{folder / SECRET_FILES['tls_key']}: is not a PEM key without a passphrase")
        return
    if certificate.public_key() != key.public_key():
        faults.append(
            f"{folder / SECRET_FILES['tls_key']}: does not match the certificate; it must be "
            f"the key of the first one in {SECRET_FILES['tls_cert']}, the hub's own"
        )
        return
    why = _why_unusable(folder / SECRET_FILES["tls_cert"], folder / SECRET_FILES["tls_key"])
    if why:
        faults.append(
            f"{folder / SECRET_FILES['tls_cert']}: the proxy could not start with it ({why}); it "
            "takes whole files in PEM form, RSA keys of 2048 bits or more, and signatures of "
            "SHA-256 or better"
        )


def _why_unusable(certificate: Path, key: Path) -> str:
    """Return what OpenSSL has against a certificate with its chain and key; empty: nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # What OpenSSL in the proxy is built with; a host may be laxer.
    context.set_ciphers("DEFAULT:@SECLEVEL=2")
    try:
        context.load_cert_chain(certificate, key, password=b"")
    except ssl.SSLError as exc:
        return (exc.reason or str(exc)).lower().replace("_", " ")
    return ""
