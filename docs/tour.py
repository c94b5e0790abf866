"""Runs the documentation's console blocks and writes down what they print: `python -m docs.tour [PAGE...]`.

Without pages it renews all of them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from docs import console
from docs.console import Played
from docs.markdown import Block


def renewed(block: Block, played: list[Played]) -> str:
    """The block with the output its commands give now."""
    parts = []
    for one in played:
        lines = [line.rstrip() for line in one.output.splitlines()]
        parts.append("\n".join([f"$ {one.step.command}", *lines]) + "\n")
    return f"```{block.language}\n{''.join(parts)}```"


def play(page: Path) -> None:
    """Run a page and write it anew; ends the program when a command fails."""
    played: dict[Block, list[Played]] = {}
    with console.temporary_home() as home:
        for one in console.play(page, home):
            if one.code:
                sys.exit(f"{one.block}: $ {one.step.command}\nended with {one.code}\n{one.output}")
            played.setdefault(one.block, []).append(one)
    text = page.read_text(encoding="utf-8")
    for block, steps in played.items():
        text = text.replace(f"```{block.language}\n{block.text}```", renewed(block, steps))
    text = re.sub(r"/tmp/raftos-docs-\w+", "~/.local/state/raftos", text)  # noqa: S108 - the home of this run
    page.write_text(text, encoding="utf-8")


def main() -> None:
    wanted = [Path(name).resolve() for name in sys.argv[1:]]
    for page in wanted or console.pages():
        play(page)


if __name__ == "__main__":
    main()
