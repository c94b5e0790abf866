"""Checks that built pages load nothing from elsewhere: `python -m docs.offline FOLDER`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "video": "src"}
LINK_RELATIONS_ONLY_NAMED = {"canonical", "license", "next", "prev", "search", "index"}
ELSEWHERE = re.compile(r"(?:https?:)?//")


class Loads(HTMLParser):
    """What a page has the browser fetch by itself; links to follow are no matter."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        target = given.get(LOADED.get(tag, "")) or ""
        if ELSEWHERE.match(target) and given.get("rel") not in LINK_RELATIONS_ONLY_NAMED:
            self.found.append(target)


def loads_from_elsewhere(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".html":
        page = Loads()
        page.feed(text)
        yield from page.found
    else:
        yield from re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^)"']+)""", text)


def main() -> None:
    folder = Path(sys.argv[1])
    pages = sorted([*folder.rglob("*.html"), *folder.rglob("*.css")])
    if not pages:
        sys.exit(f"there are no pages in {folder}")
    wrong = [f"{page}: {target}" for page in pages for target in loads_from_elsewhere(page)]
    if wrong:
        sys.exit("\n".join(["these pages load from elsewhere:", *wrong]))
    print(f"{len(pages)} pages and style sheets load nothing from elsewhere")


if __name__ == "__main__":
    main()
