"""From the login page to a result in a notebook, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import SLOW_MS, Person
from tests.kit.lab import Lab


def test_plain_http_leads_to_https(engine: Lab, page: Page) -> None:
    page.goto(f"http://{engine.address}/hub/login")
    assert page.url.startswith(f"https://{engine.address}/")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_wrong_password_is_refused_with_a_message(testuser: Person) -> None:
    testuser.log_in("not-the-password")
    expect(testuser.page.get_by_text("Invalid username or password")).to_be_visible()
    expect(testuser.page.get_by_role("button", name="Sign in")).to_be_visible()


def test_notebook_computes(testuser: Person) -> None:
    testuser.log_in()
    testuser.open_lab()
    testuser.open_notebook()
    assert testuser.run_cell("6*7") == "42"


def test_login_form_leads_to_the_lab(testuser: Person) -> None:
    testuser.log_in(then="/user/testuser/lab")
    testuser.page.wait_for_url(re.compile(r"/user/testuser/lab"), timeout=SLOW_MS)
    menu = testuser.page.get_by_role("menuitem", name="File")
    expect(menu).to_be_visible(timeout=SLOW_MS)


def test_log_out_ends_the_login(testuser: Person) -> None:
    testuser.log_in()
    testuser.log_out()
    expect(testuser.page.get_by_role("button", name="Sign in")).to_be_visible()
    testuser.page.goto("/hub/home")
    expect(testuser.page.get_by_role("button", name="Sign in")).to_be_visible()


def test_file_survives_stop_and_start_of_the_server(testuser: Person) -> None:
    testuser.log_in()
    testuser.open_lab()
    testuser.open_notebook()
    written = testuser.run_cell("open('kept.txt', 'w').write('still here')")
    assert written == str(len("still here"))
    testuser.stop_server()
    testuser.open_lab()
    testuser.open_notebook()
    assert testuser.run_cell("open('kept.txt').read()") == "'still here'"


def test_screenshots_for_the_documentation(page: Page, screenshots: Path) -> None:
    alice = Person(page, "alice")
    page.set_viewport_size({"width": 1000, "height": 400})
    page.goto("/hub/login")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    page.screenshot(path=screenshots / "login.png")
    page.set_viewport_size({"width": 1000, "height": 560})
    alice.log_in()
    alice.decline_news()
    alice.open_lab()
    alice.open_notebook()
    user = 'import os\n\nos.environ["JUPYTERHUB_USER"], os.getcwd()'
    assert alice.run_cell(user) == "('alice', '/home/jovyan')"
    assert alice.run_cell("6 * 7") == "42"
    page.screenshot(path=screenshots / "notebook.png")
