"""The table of options in docs/spawner.md tells of every option there is, and tells the truth."""

from __future__ import annotations

import re

import dockerspawner
import pytest

from jhswarmd import assets
from jhswarmd.hub import checks
from jhswarmd.spawner.swarm import SwarmSpawner

DOCUMENT = (assets.ROOT / "docs" / "spawner.md").read_text(encoding="utf-8")
STOCK = {
    *dockerspawner.SwarmSpawner.class_trait_names(config=True),
    *dockerspawner.DockerSpawner.class_trait_names(config=True),
}
OURS = set(SwarmSpawner.class_trait_names(config=True)) - STOCK
VERDICTS = {"works", "no effect", "refused"}


def read_table() -> dict[str, str]:
    """Return what the table says of each option: works, no effect or refused."""
    section = DOCUMENT.split("## Every option of JupyterHub and dockerspawner\n")[1]
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", section.split("\n## ")[0], re.MULTILINE)
    return {option: verdict for cell, verdict in rows for option in re.findall(r"`(\w+)`", cell)}


TABLE = read_table()


@pytest.mark.parametrize("option", sorted(STOCK))
def test_each_option_that_is_published_has_a_verdict(option: str) -> None:
    assert TABLE.get(option) in VERDICTS


@pytest.mark.parametrize("option", sorted(OURS))
def test_each_option_of_ours_is_documented(option: str) -> None:
    assert f"`{option}`" in DOCUMENT or f"c.SwarmSpawner.{option}" in DOCUMENT


def test_the_table_tells_of_nothing_that_does_not_exist() -> None:
    assert TABLE.keys() <= STOCK


def test_what_is_said_to_be_refused_is() -> None:
    assert {option for option, verdict in TABLE.items() if verdict == "refused"} == set(
        checks.REFUSED
    )


def test_what_is_said_to_have_no_effect_is_warned_of() -> None:
    assert {option for option, verdict in TABLE.items() if verdict == "no effect"} == set(
        checks.NO_EFFECT
    )
