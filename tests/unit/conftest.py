"""The hub's configuration, loaded as JupyterHub loads it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from traitlets.config import Config, PyFileConfigLoader

from jhswarmd import assets
from jhswarmd.settings import settings

SECRETS = {
    "proxy_auth_token": "proxy-token-content",
    "daemon_token": "daemon-token-content",
    "culler_token": "culler-token-content",
    "cookie_secret": "c0" * 32,
    "crypt_key": "ab" * 32,
    "oauth_client_secret": "oauth-secret-content",
}

Load = Callable[..., Config]


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "secrets"
    directory.mkdir()
    for name, content in SECRETS.items():
        (directory / name).write_text(content + "\n")
    monkeypatch.setattr(settings, "SECRETS_DIR", str(directory))
    return directory


@pytest.fixture
def hub_config(tmp_path: Path) -> Path:
    return Path(shutil.copytree(assets.HUB_CONFIG, tmp_path / "hub_config"))


@pytest.fixture
def load(tmp_path: Path, hub_config: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    # The configuration sends our log lines to the hub's; other tests want them where they were.
    monkeypatch.setattr(logging.getLogger("jhswarmd"), "parent", logging.getLogger())

    def load_config(**environ: str) -> Config:
        for key in settings.Settings.all_keys():
            monkeypatch.delenv(key, raising=False)
        monkeypatch.setenv("SINGLE_USER_IMAGE", "registry/notebook:1")
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/hub.sqlite")
        for key, value in environ.items():
            monkeypatch.setenv(key, value)
        return PyFileConfigLoader("jupyterhub_config.py", str(hub_config)).load_config()

    return load_config
