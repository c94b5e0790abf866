"""`raftos shell`: commands one after the other, without the word `raftos`.

At a terminal it is a prompt with history and completion; an error never ends it, and Ctrl-C ends only
the command that runs. Where stdin is not a terminal its lines are a script: it goes on after an error
too, and exits with the last code that was not 0. A command that reads stdin gets the rest of the script,
as in every shell.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from raftos.errors import ErrorBody
from raftos_cli.base import Command, Invocation, pass_invocation
from raftos_cli.output import report_error

if TYPE_CHECKING:
    from raftos_cli.shellprompt import Prompt

GREETING = "A command a line; `help` lists them, Tab completes, Ctrl-D leaves."
LEAVING = (["exit"], ["quit"])
BAD_USAGE = 2
INTERRUPTED = 130


@click.command(
    "shell",
    cls=Command,
    examples="""
        raftos shell
        raftos shell --context dev -o json
        echo status | raftos shell
    """,
)
@pass_invocation
def shell(run: Invocation) -> int:
    """Run commands from a prompt, or line by line from stdin.

    The common options given here hold for each command. At a prompt, errors and Ctrl-C only end the
    command at hand; `exit`, `quit` or Ctrl-D leave, with code 0. As a script it exits with the last
    code that was not 0, and Ctrl-C ends it; a line that begins with # is a comment.
    """
    if run.shell is not None:
        raise click.UsageError("This is a shell already; `exit` leaves it.")
    if sys.stdin.isatty() and sys.stdout.isatty():
        from raftos_cli.shellprompt import Prompt

        run.output.say(GREETING)
        _converse(run, Prompt(run))
        return 0
    return _obey(run)


def _converse(run: Invocation, prompt: Prompt) -> None:
    code = 0
    while True:
        try:
            words = parsed(prompt.ask(code))
            if words in LEAVING:
                return
            code = execute(run, words) if words else code
        except EOFError:
            return
        except KeyboardInterrupt:
            code = 0
        except ValueError as error:
            code = _misread(run, error)


def _obey(run: Invocation) -> int:
    """Do what stdin says; the last exit code that was not 0."""
    last = 0
    # Line by line from the buffer: what follows is left for a command that reads stdin itself.
    for line in iter(sys.stdin.buffer.readline, b""):
        try:
            words = parsed(line.decode(errors="surrogateescape"))
        except ValueError as error:
            last = _misread(run, error)
            continue
        if words in LEAVING:
            break
        last = (words and execute(run, words)) or last
        if last == INTERRUPTED:
            break
    return last


def parsed(line: str) -> list[str]:
    """The words of a line, none of a comment, without a leading `raftos`. Raises ValueError."""
    words = [] if line.lstrip().startswith("#") else shlex.split(line)
    return words[1:] if words[:1] == ["raftos"] else words


def execute(run: Invocation, words: list[str]) -> int:
    """Run one command with the options of this shell; its exit code."""
    from raftos_cli.main import root

    asks_for_help = words[0] == "help"
    with _own_signals():
        return root.run([*words[1:], "--help"] if asks_for_help else words, run)


def _misread(run: Invocation, error: ValueError) -> int:
    body = ErrorBody("invalid", f"this line cannot be read: {str(error).lower()}")
    report_error(body, as_json=run.format == "json", hint="close the quote, or put a backslash before it")
    return BAD_USAGE


@contextmanager
def _own_signals() -> Iterator[None]:
    """Let a command treat signals as it likes; afterwards they are the shell's again."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            with suppress(TypeError):  # A handler that Python did not set cannot be set again.
                signal.signal(number, handler)
