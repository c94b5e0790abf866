"""`/docs` in a real browser, on a real cluster. Needs chromium; continuous integration installs it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docs import browser, console

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A cluster of three members, in a RAFTOS_HOME of its own."""
    if browser.executable() is None and "CI" not in os.environ:
        pytest.skip(browser.NEEDED)
    with console.temporary_home() as folder:
        code, output = console.run("raftos dev start --detach", folder)
        assert code == 0, output
        yield folder


def printed(command: str, home: Path) -> str:
    code, output = console.run(command, home)
    assert code == 0, output
    return output.strip()


@dataclass
class Visit:
    """The page as it was opened, with everything it asked for and complained of since."""

    page: Page
    endpoint: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self) -> None:
        page = self.page
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{self.endpoint}/docs")
        page.locator(".opblock").first.wait_for()


@pytest.fixture
def visit(home: Path) -> Iterator[Visit]:
    """`/docs` of the first member, just opened."""
    member = json.loads(printed("raftos dev status -o json", home))["nodes"][0]
    with browser.page() as page:
        visit = Visit(page, member["endpoint"])
        visit.open()
        yield visit


def test_the_page_shows_the_api_and_asks_nobody_else(visit: Visit) -> None:
    """Offline: every request goes to this member, and the browser has nothing to complain of."""
    shown = visit.page.locator(".opblock-summary-path").all_text_contents()
    assert {path.replace("\u200b", "") for path in shown} >= {"/v1/kv/put", "/v1/status", "/livez"}
    elsewhere = [url for url in visit.asked if not url.startswith((f"{visit.endpoint}/", "data:"))]
    assert not elsewhere
    assert not visit.complaints


def test_what_is_tried_out_really_happens(visit: Visit, home: Path) -> None:
    """A write sent from the page is there for everybody, and the page shows the real answer."""
    browser.authorize(visit.page, printed("raftos token show", home))
    operation = browser.try_out(visit.page, "kv", "kv_put")
    answer = operation.locator(".live-responses-table .response")
    assert answer.locator(".response-col_status").text_content() == "200"
    assert '"version": 1' in (answer.locator(".highlight-code").first.text_content() or "")
    assert printed("raftos kv get greeting", home) == "hello"
    assert not visit.complaints


def test_without_the_secret_the_page_is_told_so(visit: Visit) -> None:
    """Looking is free, doing is not."""
    operation = browser.try_out(visit.page, "kv", "kv_list")
    answer = operation.locator(".live-responses-table .response")
    assert answer.locator(".response-col_status").text_content() == "401"
    assert "unauthorized" in (answer.text_content() or "")


def test_the_secret_is_stored_nowhere(visit: Visit, home: Path) -> None:
    """It is forgotten with the tab."""
    browser.authorize(visit.page, printed("raftos token show", home))
    assert visit.page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0


def test_the_picture_in_the_documentation_is_small() -> None:
    """`python -m docs.screenshots` renews it."""
    picture = Path(__file__).parents[2] / "docs" / "images" / "api-docs.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 200_000
