"""The prompt of `raftos shell`: which cluster, how the last command ended, history and completion.

The only file that imports prompt_toolkit.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style

from raftos.client import contexts
from raftos.errors import RaftosError
from raftos_cli.base import Invocation
from raftos_cli.completing import Typed, offers
from raftos_cli.main import root
from raftos_cli.output import coloured

HISTORY = "shell_history"
OWN_WORDS = ("help", "exit", "quit")
STYLE = Style.from_dict({"cluster": "ansicyan bold", "code": "ansired"})


class Prompt:
    """Asks for one line after the other."""

    def __init__(self, run: Invocation) -> None:
        self._run = run
        self._has_colour = coloured(sys.stdout)
        self._session: PromptSession[str] = PromptSession(
            history=_history(),
            completer=Offers(run),
            complete_while_typing=False,
            complete_in_thread=True,
            style=STYLE if self._has_colour else None,
            color_depth=None if self._has_colour else ColorDepth.DEPTH_1_BIT,
        )

    def ask(self, code: int) -> str:
        """A line; `code` is how the last one ended. Raises EOFError, KeyboardInterrupt."""
        return self._session.prompt(self._text(code))

    def _text(self, code: int) -> StyleAndTextTuples:
        ended: StyleAndTextTuples = [("class:code", f" [{code}]")] if code else []
        return [("class:cluster", self._cluster()), *ended, ("", "> ")]

    def _cluster(self) -> str:
        """The context, asked anew each time: `dev start` and `context use` change it."""
        if self._run.endpoints:
            return self._run.endpoints[0]
        if self._run.context:
            return self._run.context
        try:
            return contexts.load().current or "no cluster"
        except RaftosError:
            return "no cluster"


class Offers(Completer):
    """What the command line would complete, and the few words that only a shell has."""

    def __init__(self, run: Invocation) -> None:
        self._run = run

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        typed = Typed.of(line)
        start = typed.at - len(line)
        own = [] if typed.words else [word for word in OWN_WORDS if word.startswith(typed.word)]
        if typed.words[:1] in (["help"], ["raftos"]):
            del typed.words[0]
        for item in offers(root, Invocation(self._run), typed):
            if item.type == "plain":
                # The space ends the word, so that the next one can be typed at once, as in bash.
                word = f"{shlex.quote(str(item.value))} "
                yield Completion(word, start, item.value, display_meta=item.help)
            else:
                yield from _paths(typed.word, complete_event, only_directories=item.type == "dir")
        yield from (Completion(word, start) for word in own)


def _paths(word: str, event: CompleteEvent, *, only_directories: bool) -> Iterable[Completion]:
    completer = PathCompleter(only_directories=only_directories, expanduser=True)
    return completer.get_completions(Document(word), event)


class PrivateHistory(FileHistory):
    """What was typed, for this user alone; a line that begins with a space is not kept."""

    def store_string(self, string: str) -> None:
        # A full disk must not end the shell.
        with suppress(OSError):
            if not string.startswith(" "):
                super().store_string(string)


def _history() -> History:
    """The lines of earlier shells, or, where nothing can be kept, those of this one."""
    file: Path = contexts.home() / HISTORY
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        click.echo(f"No history is kept: {error.strerror}: {file}", err=True)
        return InMemoryHistory()
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return PrivateHistory(str(file))
