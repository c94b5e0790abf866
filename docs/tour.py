"""Runs the README's tour and writes down what it really printed: `python -m docs.tour`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from docs import console
from docs.markdown import ROOT, Block, blocks

README = ROOT / "README.md"


def played(block: Block, home: Path) -> str:
    """The block with the output its commands give now."""
    parts = []
    for step in console.steps(block):
        code, output = console.run(step.command, home)
        if code:
            sys.exit(f"{block}: $ {step.command}\nended with {code}\n{output}")
        lines = [line.rstrip() for line in output.splitlines()]
        parts.append("\n".join([f"$ {step.command}", *lines]) + "\n")
    return "".join(parts)


def main() -> None:
    text = README.read_text(encoding="utf-8")
    with console.temporary_home() as home:
        for block in blocks(README, "console"):
            text = text.replace(f"```console\n{block.text}```", f"```console\n{played(block, home)}```")
    text = re.sub(r"/tmp/raftos-docs-\w+", "~/.local/state/raftos", text)  # noqa: S108 - the home of this run
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
