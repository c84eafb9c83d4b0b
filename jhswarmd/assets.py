"""Where the files a deployment is made of are: the one module that knows.

In a checkout they lie at its top; in an installed wheel inside the package (see
``force-include`` in pyproject.toml).
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
_INSIDE_WHEEL = PACKAGE / "_assets"

#: Folder that holds ``stack.yml``, ``env``, ``hub_config``, ``dockerfiles`` and ``locks``.
ROOT = _INSIDE_WHEEL if _INSIDE_WHEEL.is_dir() else PACKAGE.parent

STACK_FILE = ROOT / "stack.yml"
ENV = ROOT / "env"
HUB_CONFIG = ROOT / "hub_config"
DOCKERFILES = ROOT / "dockerfiles"
LOCKS = ROOT / "locks"
