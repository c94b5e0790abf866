"""Just enough Markdown to hold the documentation to its word: sections, code blocks and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Block:
    """A fenced code block; `line` is that of its opening fence."""

    file: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(file: Path, *languages: str) -> Iterator[Block]:
    """The code blocks of these languages, in order; a language is all that stands behind a fence."""
    opening: tuple[int, str] | None = None
    body: list[str] = []
    for at, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if opening is None and line.startswith("```"):
            opening, body = (at, line.removeprefix("```").strip()), []
        elif opening is not None and line.strip() == "```":
            number, language = opening
            if language in languages:
                yield Block(file, number, language, "".join(f"{line}\n" for line in body))
            opening = None
        else:
            body.append(line)


def sections(file: Path) -> dict[str, str]:
    """The text under each heading, without the headings below it. Lines of code blocks are no headings."""
    found: dict[str, list[str]] = {}
    title, fenced = "", False
    for line in file.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else re.match(r"#+ (.*)", line)
        if heading:
            title = heading[1].replace("`", "").strip()
        else:
            found.setdefault(title, []).append(line)
    return {title: "\n".join(lines) for title, lines in found.items()}


def links(file: Path) -> Iterator[str]:
    """Targets of the links that stay within the repository."""
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            yield target
