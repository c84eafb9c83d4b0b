"""Notebook profiles: from the file of the profile to the form in a real browser and the service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Person
from tests.kit.stack import Stack
from tests.kit.wait import wait_until

PROFILES = """\
- slug: small
  title: Small
  description: Python, for courses.
  default: true
  mem_limit: 1G
  cpu_limit: 1
- slug: large
  title: Large & "quick"
  description: For results that are awaited, at 5 $ an hour.
  mem_limit: 2G
  cpu_limit: 1.5
- slug: admins
  title: For admins
  admins_only: true
"""


@pytest.fixture(scope="module")
def form(stack: Stack) -> Iterator[None]:
    """The stack with profiles to choose from."""
    path = stack.env_dir / stack.profile / "notebook_profiles.yml"
    path.write_text(PROFILES)
    stack.up()
    yield
    path.unlink()
    stack.up()


def open_form(stack: Stack, page: Page, name: str) -> Person:
    person = Person(page, name)
    person.log_in()
    expect(page.get_by_role("button", name="Logout")).to_be_visible()
    if stack.notebooks(name):
        person.stop_server()
    page.goto("/hub/spawn")
    return person


def test_a_server_is_chosen_with_the_keyboard_and_has_its_limits(
    stack: Stack, form: None, page: Page
) -> None:
    testuser = open_form(stack, page, "testuser")
    group = page.get_by_role("group", name="Choose a server")
    small = group.get_by_role("radio", name="Small")
    large = group.get_by_role("radio", name='Large & "quick"')
    expect(small).to_be_checked()
    expect(small).to_have_accessible_description(
        "Python, for courses. 1 GiB of memory, 1 processor"
    )
    expect(page.get_by_text("For admins")).not_to_be_visible()
    small.focus()
    page.keyboard.press("ArrowDown")
    expect(large).to_be_checked()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Starting 'Large & \"quick\"'").first).to_be_attached()
    (service,) = wait_until(lambda: stack.notebooks("testuser"), 30)
    limits = service.attrs["Spec"]["TaskTemplate"]["Resources"]["Limits"]
    assert limits == {"NanoCPUs": 1_500_000_000, "MemoryBytes": 2 * 1024**3}
    page.wait_for_url(re.compile("/user/testuser/"))
    testuser.stop_server()


def test_screenshot_of_the_form_for_the_documentation(
    stack: Stack, form: None, page: Page, screenshots: Path
) -> None:
    page.set_viewport_size({"width": 900, "height": 400})
    open_form(stack, page, "alice")
    expect(page.get_by_role("radio", name="Small")).to_be_checked()
    page.screenshot(path=screenshots / "profiles.png")
