"""Chromium, driven by Playwright, and what a person does in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.kit.lab import LabError, install_missing
from tests.kit.stack import USERS, Stack

#: Quiet on the network, and content without a graphics card, a desktop or a sandboxing kernel.
_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_SIZE = {"width": 1280, "height": 800}
#: A first start on two busy cores: container, server, JupyterLab's own scripts, kernel.
SLOW_MS = 90_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; Playwright gives it a fresh profile directory.

    Not for the whole session: while Playwright is there this thread can run no event loop.
    """
    try:
        install_missing({"chromium": "chromium"})
    except LabError as exc:
        pytest.fail(f"no browser: {exc}", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def page(stack: Stack, browser: Browser) -> Iterator[Page]:
    """A page of a browser that nobody has used before; paths are the deployed hub's."""
    context = browser.new_context(
        base_url=stack.url, ignore_https_errors=True, viewport=_SIZE, color_scheme="light"
    )
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    # Chromium gives up what it loads when a network of the machine comes or goes, as those of the
    # suite's other engines do.
    page.add_locator_handler(page.get_by_text("ERR_NETWORK_CHANGED"), lambda: page.reload())
    yield page
    context.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    page = getattr(item, "funcargs", {}).get("page")
    if report.failed and page and not page.is_closed():
        seen = page.locator("body").aria_snapshot()
        report.sections.append(("page", f"{page.url}\n{seen}"))
    return report


class Person:
    """What somebody does with the hub in a browser. Waiting is Playwright's own."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name

    def log_in(self, password: str | None = None, then: str = "/hub/home") -> None:
        """Fill in the login form and send it."""
        self.page.goto(f"/hub/login?next={then}")
        self.page.get_by_role("textbox", name="Username").fill(self.name)
        password = USERS[self.name] if password is None else password
        self.page.get_by_role("textbox", name="Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()

    def log_out(self) -> None:
        """Press the hub's own button."""
        self.page.goto("/hub/home")
        self.page.get_by_role("button", name="Logout").click()

    def open_lab(self) -> None:
        """Open JupyterLab, starting the server if need be, and wait for its launcher."""
        self.page.goto(f"/hub/spawn/{self.name}?next=/user/{self.name}/lab?reset")
        expect(self._launcher()).to_be_visible(timeout=SLOW_MS)

    def decline_news(self) -> None:
        """Answer JupyterLab's question about news, whenever it comes: it covers the page."""
        question = self.page.get_by_text("notified about official Jupyter news")
        answer = self.page.get_by_role("button", name="No", exact=True)
        self.page.add_locator_handler(question, lambda: answer.click())

    def open_notebook(self) -> None:
        """Make a new notebook and wait for its kernel: a cell run before that is lost."""
        self._launcher().click()
        kernel = self.page.get_by_role("button", name=re.compile(r"^Python 3 .*\| Idle$"))
        expect(kernel).to_be_visible(timeout=SLOW_MS)

    def run_cell(self, code: str) -> str:
        """Run code in the notebook's last cell and return its result."""
        cells = self.page.locator(".jp-Notebook .jp-CodeCell")
        number = cells.count()
        cell = cells.nth(number - 1)
        cell.get_by_role("textbox").click()
        self.page.keyboard.insert_text(code)
        self.page.keyboard.press("Shift+Enter")
        result = cell.locator(".jp-OutputArea-executeResult .jp-OutputArea-output")
        expect(result).to_be_visible(timeout=SLOW_MS)
        return result.inner_text().strip()

    def stop_server(self) -> None:
        """Press Stop My Server and wait until the hub offers to start it."""
        self.page.goto("/hub/home")
        self.page.get_by_role("button", name="Stop My Server").click()
        start = self.page.get_by_role("button", name="Start My Server")
        expect(start).to_be_visible(timeout=SLOW_MS)

    def _launcher(self) -> Locator:
        main = self.page.get_by_role("region", name="main area content")
        return main.get_by_role("button", name=re.compile("^Python 3")).first


@pytest.fixture
def testuser(page: Page) -> Person:
    """The user of the profile that everybody tries first."""
    return Person(page, "testuser")


@pytest.fixture(scope="session")
def screenshots(request: pytest.FixtureRequest) -> Path:
    """Folder that ``--screenshots`` names; without the option the test is skipped."""
    folder = request.config.getoption("--screenshots")
    if folder is None:
        pytest.skip("takes pictures only with --screenshots DIR")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
