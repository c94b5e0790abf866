"""Runs the documentation's console blocks and compares what they print with what is printed there.

In a `console` block a line that starts with `$ ` is a command, the lines up to the next one are its
output, both streams as a terminal shows them. Numbers differ from run to run and so do the roles of the
members, so two outputs are equal when their lines, with every number and spacing made alike, are the
same in some order.

A block of a `console second terminal` follows something: its command runs beside the blocks after it, and
what it printed by the end of the page is its output (stdout alone).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from docs.markdown import ROOT, Block, blocks

CONSOLE = "console"
SECOND_TERMINAL = "console second terminal"
COMMAND_TIMEOUT_S = 60
FOLLOWED_TIMEOUT_S = 20.0
QUIET_S = 1.0


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


@dataclass(frozen=True)
class Played:
    """What a step printed when it was run now."""

    block: Block
    step: Step
    code: int
    output: str


def pages() -> list[Path]:
    """Every page for users that has console blocks, the README first."""
    found = [ROOT / "README.md", ROOT / "docs" / "tutorial.md", *sorted(ROOT.glob("docs/howto/*.md"))]
    return [page for page in found if any(blocks(page, CONSOLE))]


def play(page: Path, home: Path) -> Iterator[Played]:
    """Run the blocks of a page in order; a how-to begins with a cluster that runs already."""
    if page.parent.name == "howto":
        code, output = run("raftos dev start --detach", home)
        if code:
            raise RuntimeError(output)
    with ExitStack() as terminals:
        beside: list[tuple[Block, Step, Follower]] = []
        for block in blocks(page, CONSOLE, SECOND_TERMINAL):
            for step in steps(block):
                if block.language == SECOND_TERMINAL:
                    follower = terminals.enter_context(following(step.command, home))
                    # What it follows had begun before: it says so before the reader goes on.
                    follower.printed(1)
                    beside.append((block, step, follower))
                else:
                    yield Played(block, step, *run(step.command, home))
        for block, step, follower in beside:
            yield Played(block, step, 0, follower.printed(len(step.shown.splitlines())))


class Follower:
    """A command that runs beside others, and the file it prints to."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def printed(self, lines: int) -> str:
        """Its output once it has so many lines and no more come, or after `FOLLOWED_TIMEOUT_S`."""
        deadline = time.monotonic() + FOLLOWED_TIMEOUT_S
        output, since = self._read(), time.monotonic()
        while (now := time.monotonic()) < deadline:
            if (latest := self._read()) != output:
                output, since = latest, now
            if len(output.splitlines()) >= lines and now - since >= QUIET_S:
                break
            time.sleep(0.05)
        return output

    def _read(self) -> str:
        return self._file.read_text(encoding="utf-8")


@contextmanager
def following(command: str, home: Path) -> Iterator[Follower]:
    """Run a command until the end of the block, and then interrupt it as Ctrl-C does."""
    with tempfile.NamedTemporaryFile(dir=home, prefix="terminal-") as file:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            env=environment(home),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Follower(Path(file.name))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(COMMAND_TIMEOUT_S)


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
