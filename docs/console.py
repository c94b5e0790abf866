"""Runs the documentation's console blocks and compares what they print with what is printed there.

In a `console` block a line that starts with `$ ` is a command, the lines up to the next one are its
output, both streams as a terminal shows them. Numbers differ from run to run and so do the roles of the
members, so two outputs are equal when their lines, with every number and spacing made alike, are the
same in some order.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from docs.markdown import Block

COMMAND_TIMEOUT_S = 60


@dataclass(frozen=True)
class Step:
    """One command of a console block, and the output the documentation shows for it."""

    command: str
    shown: str


def steps(block: Block) -> list[Step]:
    found: list[Step] = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command = f"{command}\n{more}"
        found.append(Step(command, shown))
    return found


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A RAFTOS_HOME of its own; a cluster that still runs at the end is stopped."""
    with tempfile.TemporaryDirectory(prefix="raftos-docs-") as folder:
        try:
            yield Path(folder)
        finally:
            run("raftos dev stop", Path(folder))


def environment(home: Path) -> dict[str, str]:
    """That of a user with an installed raftos, and a home of its own."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAFTOS_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{variables.get('PATH', '')}"
    return {**variables, "RAFTOS_HOME": str(home), "PATH": path, "COLUMNS": "110", "NO_COLOR": "1"}


def run(command: str, home: Path) -> tuple[int, str]:
    """The exit code and what a terminal would have shown."""
    done = subprocess.run(
        ["bash", "-c", command],
        env=environment(home),
        cwd=home,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=COMMAND_TIMEOUT_S,
        text=True,
    )
    return done.returncode, done.stdout


def alike(output: str) -> list[str]:
    """The lines with numbers, paths and spacing made alike, in an order of their own."""
    text = re.sub(r"~?/\S+", "/PATH", output)
    text = re.sub(r"\d+(\.\d+)?", "0", text)
    lines = (re.sub(r"[\s─━]+", " ", line).strip() for line in text.splitlines())
    return sorted(line for line in lines if line)
