"""A browser without a screen, for tests and pictures of the pages a member serves.

Debian's chromium does, driven by playwright; nothing is downloaded. The browser is told to call nobody, so
whatever it asks for was asked for by the page.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

NEEDED = "chromium is not installed; on Debian: apt-get install chromium"

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 20_000


def executable() -> str | None:
    """Where chromium is, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def page(*, width: int = 1280, height: int = 900) -> Iterator[Page]:
    """An empty page. Raises FileNotFoundError without chromium."""
    from playwright.sync_api import sync_playwright

    path = executable()
    if path is None:
        raise FileNotFoundError(NEEDED)
    with sync_playwright() as driver, driver.chromium.launch(executable_path=path, args=_FLAGS) as browser:
        opened = browser.new_page(viewport={"width": width, "height": height})
        opened.set_default_timeout(TIMEOUT_MS)
        yield opened


def authorize(docs: Page, secret: str) -> None:
    """Do what a user does on `/docs` to send the secret along."""
    docs.click("button.authorize")
    docs.fill(".auth-container input", secret)
    docs.click(".auth-container button.authorize")
    docs.click(".auth-container button.btn-done")


def try_out(docs: Page, tag: str, name: str) -> Locator:
    """Open an operation of `/docs`, send its example, and wait for what the member says."""
    operation = docs.locator(f"#operations-{tag}-{name}")
    operation.locator(".opblock-summary-control").click()
    operation.locator("button.try-out__btn").click()
    operation.locator("button.execute").click()
    operation.locator(".live-responses-table .response").wait_for()
    return operation
