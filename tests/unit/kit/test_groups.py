"""Tests that share an engine run in one worker, one engine after the other."""

import pytest

from tests.conftest import group_of


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/unit/test_x.py::test_it[trixie]", "unit"),
        ("tests/engine/test_spawner.py::test_it", "engine"),
        ("tests/engine/test_spawner.py::test_it[trixie]", "trixie"),
        ("tests/engine/test_stack.py::test_it[forky-service removed]", "forky"),
        ("tests/engine/test_stack.py::test_it[image_not_found-No such image]", "stack"),
        ("tests/browser/test_browser.py::test_it", "stack"),
        ("tests/cluster/test_nodes.py::test_it", "cluster"),
    ],
)
def test_group_follows_engine_and_folder(nodeid: str, group: str) -> None:
    assert group_of(nodeid) == group
