"""The documentation as pages: `tox -e site` writes them to `site/`.

The source is the repository itself, so that links work alike here, in an editor and on a code host. A
warning is an error: a link to a page or a heading that is not there, a page that no list names.
`NAVIGATION` is the order of the side bar; nothing about it stands in the pages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

NAVIGATION = {
    "Learn": ["docs/tutorial"],
    "Do": sorted(f"docs/howto/{page.stem}" for page in ROOT.glob("docs/howto/*.md")),
    "Look up": ["docs/cli", "docs/sdk", "docs/api", "docs/configuration", "CHANGELOG"],
    "Understand": [
        "docs/architecture",
        "docs/guarantees",
        "docs/reliability",
        "docs/decisions/README",
        "bench/README",
        "CONTRIBUTING",
    ],
}

project = "raftos"
copyright = "the authors of raftos"  # noqa: A001 - Sphinx wants this name
root_doc = "docs/README"
source_suffix = {".md": "markdown"}
include_patterns = ["CHANGELOG.md", "CONTRIBUTING.md", "bench/*.md", "docs/**.md"]
exclude_patterns = [".*", "build", "dist", "site"]

extensions = ["myst_parser"]
myst_heading_anchors = 4
highlight_language = "text"

html_theme = "furo"
html_title = "raftos"
html_copy_source = False
html_show_sphinx = False
html_static_path: list[str] = []


def add_navigation(_app: Any, name: str, source: list[str]) -> None:
    """Give the first page, and the list of decisions, the pages under them."""
    if name == root_doc:
        source[0] += "".join(_toctree(pages, caption) for caption, pages in NAVIGATION.items())
    elif name == "docs/decisions/README":
        stems = {page.stem for page in (ROOT / "docs" / "decisions").glob("*.md")} - {"README"}
        source[0] += _toctree([f"docs/decisions/{stem}" for stem in sorted(stems)])


def _toctree(pages: list[str], caption: str = "") -> str:
    options = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
    lines = "\n".join(f"/{page}" for page in pages)
    return f"\n\n```{{toctree}}\n{options}\n{lines}\n```\n"


def add_entrance(app: Any, error: Exception | None) -> None:
    """Lead from the folder to its first page."""
    if error is None:
        target = f"{root_doc}.html"
        page = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={target}">'
        entrance = f'{page}<title>raftos</title><a href="{target}">raftos</a>\n'
        (Path(app.outdir) / "index.html").write_text(entrance, encoding="utf-8")


def setup(app: Any) -> None:
    app.connect("source-read", add_navigation)
    app.connect("build-finished", add_entrance)
