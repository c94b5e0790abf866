"""Data to stdout, messages to stderr, and never a mixture.

A command hands over its data twice: as the value that `-o json` prints, and as a function that makes
the table, which is called only when a table is wanted. A table fits 80 columns on a terminal and is
never cut when it goes to a pipe; colour appears only on a terminal and where NO_COLOR is not set.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import click
import msgspec

# The colour of a state says how much attention it needs.
STYLES = {
    "alive": "green",
    "running": "green",
    "leader": "bold",
    "joining": "yellow",
    "paused": "yellow",
    "unreachable": "yellow",
    "down": "red",
    "dead": "red",
    "removed": "red",
}
GAP = 2
PIPE_COLUMNS = 10_000
"""Wide enough that nothing is cut or wrapped where another program reads."""


class Column(msgspec.Struct, frozen=True):
    """A column of a table: `number` aligns right, `wraps` keeps long text whole over several lines."""

    title: str
    number: bool = False
    wraps: bool = False


class Output:
    """Where one command writes."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def data(self, value: Any, text: Callable[[], str | None]) -> None:
        """Print `value` as JSON, or what `text()` returns (None when it printed by itself)."""
        if self.as_json:
            click.echo(to_json(value))
        elif (line := text()) is not None:
            click.echo(line)

    def line(self, value: Any, text: Callable[[], str]) -> None:
        """Print one item of what has no end: one line, written at once, JSON or `text()`."""
        click.echo(msgspec.json.encode(value) if self.as_json else text())

    def remark(self, message: str) -> None:
        """One line about what happens meanwhile, only for people who are watching it."""
        if sys.stderr.isatty():
            self.say(message)

    def say(self, message: str) -> None:
        """One line for people, on stderr; silent with `-o json`, where only data and errors matter."""
        if not self.as_json:
            click.echo(message, err=True)


def to_json(value: Any) -> str:
    """JSON on one line for programs, indented for people at a terminal."""
    encoded = msgspec.json.encode(value)
    return (msgspec.json.format(encoded, indent=2) if sys.stdout.isatty() else encoded).decode()


def one_line(text: str) -> str:
    """Text of others, which may hold anything, as part of a line."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def check_reader() -> None:
    """Raise BrokenPipeError if whoever read stdout has gone: found out before there is more to write."""
    poll = select.poll()
    try:
        poll.register(sys.stdout, 0)
    except OSError:  # No real file, as in a test of the command line.
        return
    if any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0)):
        raise BrokenPipeError


def coloured(stream: TextIO) -> bool:
    """Whether what is written there may have colour: a terminal's reader may, unless NO_COLOR says no."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def report_error(body: msgspec.Struct, *, as_json: bool, hint: str | None = None) -> None:
    """The error on stderr; under it, for people, what to do next."""
    if as_json:
        click.echo(msgspec.json.encode({"error": body}), err=True)
        return
    label = _styled("Error:", fg="red", bold=True)
    click.echo(f"{label} {msgspec.structs.asdict(body)['message']}", err=True)
    if hint is not None:
        click.echo(_styled(f"Hint: {hint}", dim=True), err=True)


def _styled(text: str, **style: Any) -> str:
    return click.style(text, **style) if coloured(sys.stderr) else text


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout: titles, then one line a row; nothing but the titles when there is no row."""
    for line in table_lines(columns, rows):
        click.echo(line, color=True)  # What is in the line was decided for this very stdout.


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The lines of a table as they fit stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(
        highlight=False,
        width=None if sys.stdout.isatty() else PIPE_COLUMNS,
        color_system="auto" if coloured(sys.stdout) else None,
    )
    texts = [[one_line(cell(value)) for value in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    for column, width in zip(columns, _widths(columns, texts, console.width), strict=True):
        table.add_column(
            column.title,
            width=width,
            justify="right" if column.number else "left",
            overflow="fold" if column.wraps else "ellipsis",
            no_wrap=not column.wraps,
        )
    for row in texts:
        table.add_row(*(Text(text, style=STYLES.get(text, "")) for text in row))
    with console.capture() as captured:
        console.print(table, crop=False)
    return [line.rstrip() for line in captured.get().splitlines()]


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """How wide each column gets: what is missing is taken from the widest texts, never from numbers."""
    from rich.cells import cell_len

    cells = [[column.title, *(row[index] for row in rows)] for index, column in enumerate(columns)]
    widths = [max(map(cell_len, column)) for column in cells]
    texts = [index for index, column in enumerate(columns) if not column.number]
    missing = sum(widths) + GAP * (len(columns) - 1) - room
    for _ in range(missing):
        widest = max(texts, key=lambda index: widths[index])
        widths[widest] = max(widths[widest] - 1, 1)
    return widths


def cell(value: Any) -> str:
    """The text of one cell; what is not known is a dash."""
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
