"""A headless Chromium for tests: import the fixtures `browser` and `watched_page` into a conftest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, TimeoutError, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class WatchedPage:
    """A page, and everything that its console called an error or that its scripts threw."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        """What a reader sees there; unusual spaces become plain ones."""
        shown = self.page.locator(selector).inner_text()
        return shown.replace("\u202f", " ").replace("\u00a0", " ")

    def wait_for_text(self, selector: str, part: str, *, within_ms: float) -> None:
        """Until the text at `selector` contains `part`; fails with the text that stood there instead."""
        script = """([selector, part]) => {
            const shown = document.querySelector(selector)?.innerText ?? "";
            return shown.replace(/[\\u202f\\u00a0]/g, " ").includes(part);
        }"""
        try:
            self.page.wait_for_function(script, arg=[selector, part], timeout=within_ms, polling=50)
        except TimeoutError as error:
            raise AssertionError(f"{selector} does not say {part!r} but {self.text(selector)!r}") from error


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Skips, and says how to get one, where there is no Chromium."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("NO CHROMIUM, the page is NOT tested: install Debian's with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def watched_page(browser: Browser) -> Iterator[WatchedPage]:
    """A fresh profile on a desktop screen in UTC."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, timezone_id="UTC", locale="en-GB")
    watched = WatchedPage(context.new_page())

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            watched.errors.append(f"{message.text} ({message.location.get('url', '')})")

    watched.page.on("console", note)
    watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
    yield watched
    context.close()
