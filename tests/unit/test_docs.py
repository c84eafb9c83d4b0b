"""The documentation tells of everything there is."""

import re

import pytest

from jhswarmd import assets
from jhswarmd.settings.settings import Settings

CONFIGURATION = (assets.ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
DOCUMENTS = [assets.ROOT / "README.md", *sorted((assets.ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("key", sorted(Settings.all_keys()))
def test_each_key_is_documented(key):
    assert f"`{key}`" in CONFIGURATION


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_each_link_and_picture_leads_somewhere(document):
    targets = re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8"))
    missing = [
        target
        for target in targets
        if not target.startswith("https://") and not (document.parent / target).exists()
    ]
    assert missing == []
