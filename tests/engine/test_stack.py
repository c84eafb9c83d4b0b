"""What a deployed stack promises, one promise a test; destructive ones last."""

from __future__ import annotations

import pytest

from jhswarmd import labels
from tests.stack import Stack


@pytest.mark.parametrize("role", ["hub", "proxy", "jhswarmd"])
def test_service_runs_with_its_labels(stack: Stack, role: str) -> None:
    spec = stack.service(role).attrs["Spec"]
    assert spec["Labels"][labels.STACK_NAMESPACE] == stack.name
    assert spec["Labels"][labels.STACK] == stack.name
    assert spec["Labels"][labels.ROLE] == role
    assert stack.container(role).attrs["State"]["Health"]["Status"] == "healthy"
