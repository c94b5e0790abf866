"""`raftos status --watch`: the status again and again, whatever becomes of the cluster.

On a terminal it is drawn in place, on the second screen that editors use; the last one stays on the first
screen. In a pipe one follows the other, each under a line with the time; in JSON each is one line.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from raftos.errors import RaftosError
from raftos_cli.base import Invocation
from raftos_cli.status import STATUS_TIMEOUT_S, remarks, status_lines, status_of

# What terminals understand (ECMA-48, and the private modes of xterm).
ENTER = "\x1b[?1049h\x1b[?25l"
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME = "\x1b[H"
CLEAR_LINE = "\x1b[K"
CLEAR_BELOW = "\x1b[J"

Value = dict[str, Any]
Draw = Callable[[Value, RaftosError | None], None]


def watch(run: Invocation, interval_s: float) -> None:
    """Show the status every `interval_s` seconds until interrupted. Raises what waiting does not cure."""
    limit_s = run.chosen_timeout_s or STATUS_TIMEOUT_S
    with run.client(timeout_s=limit_s) as client, _drawing(run, interval_s) as draw:
        while True:
            began_s = time.monotonic()
            draw(*status_of(client, run))
            time.sleep(max(interval_s - (time.monotonic() - began_s), 0))


@contextmanager
def _drawing(run: Invocation, interval_s: float) -> Iterator[Draw]:
    if run.output.as_json:
        yield lambda value, _error: run.output.line(value, str)
    elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        with _in_place(interval_s) as draw:
            yield draw
    else:
        yield _append


def _append(value: Value, error: RaftosError | None) -> None:
    click.echo("\n".join([f"--- {time.strftime('%H:%M:%S')}", *_lines(value, error)]))


@contextmanager
def _in_place(interval_s: float) -> Iterator[Draw]:
    last: list[str] = []

    def draw(value: Value, error: RaftosError | None) -> None:
        last[:] = _lines(value, error)
        title = f"Every {interval_s:g} s, at {time.strftime('%H:%M:%S')}; Ctrl-C ends"
        height = shutil.get_terminal_size().lines
        shown = [title, "", *last][:height]
        click.echo(HOME + "\n".join(line + CLEAR_LINE for line in shown) + CLEAR_BELOW, nl=False)

    click.echo(ENTER, nl=False)
    try:
        yield draw
    finally:
        click.echo(LEAVE + "\n".join(last))


def _lines(value: Value, error: RaftosError | None) -> list[str]:
    """One status with what there is to say about it, as wide as the terminal."""
    said = remarks(value) if error is None else [f"Error: {error.message}"]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    wrapped = [line for sentence in said for line in textwrap.wrap(sentence, width)]
    return [*status_lines(value), *([""] if wrapped else []), *wrapped]
