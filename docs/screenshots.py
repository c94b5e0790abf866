"""Renews the pictures of the documentation from a real cluster: `python -m docs.screenshots`.

Needs chromium. A secret that a page shows is overwritten before the picture is taken.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docs import browser, console
from docs.markdown import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = ROOT / "docs" / "images"
MOST_BYTES = 200_000

_OVERWRITE = """secret => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        texts.currentNode.data = texts.currentNode.data.replaceAll(secret, "SECRET");
    }
}"""


def said(command: str, home: Path) -> str:
    """What a command prints; ends the program when it fails."""
    code, output = console.run(command, home)
    if code:
        sys.exit(f"$ {command}\nended with {code}\n{output}")
    return output.strip()


def take_api_docs(page: Page, endpoint: str, secret: str, target: Path) -> None:
    """`/docs` with `kv.put` as it was just tried out."""
    page.goto(f"{endpoint}/docs")
    browser.authorize(page, secret)
    operation = browser.try_out(page, "kv", "kv_put")
    page.fill(".operation-filter-input", "kv")
    page.locator(".opblock-tag-section").nth(1).wait_for(state="detached")
    page.evaluate(_OVERWRITE, secret)
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    answered = operation.locator(".live-responses-table").bounding_box()
    assert answered is not None
    height = answered["y"] + answered["height"] + 20
    page.screenshot(path=target, full_page=True, clip={"x": 0, "y": 0, "width": 1280, "height": height})


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    target = FOLDER / "api-docs.png"
    with console.temporary_home() as home, browser.page() as page:
        said("raftos dev start --detach", home)
        member = json.loads(said("raftos dev status -o json", home))["nodes"][0]
        take_api_docs(page, member["endpoint"], said("raftos token show", home), target)
    size_bytes = target.stat().st_size
    if size_bytes > MOST_BYTES:
        sys.exit(f"{target} has {size_bytes} bytes, more than {MOST_BYTES}")
    print(f"wrote {target.relative_to(ROOT)}, {size_bytes} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
