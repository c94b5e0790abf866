"""A real terminal of 80 columns for a program: what is typed goes in, what a person would see comes out."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import pyte

RAFTOS = (sys.executable, "-c", "from raftos_cli.main import main; main()")
PATIENCE_S = 15.0
CTRL_C, CTRL_D, CTRL_U, TAB = "\x03", "\x04", "\x15", "\t"
COLUMNS, LINES = 80, 24


class _Screen(pyte.Screen):
    """A screen that answers when a program asks where the cursor is."""

    def __init__(self, answer: Callable[[bytes], Any]) -> None:
        super().__init__(COLUMNS, LINES)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data.encode())


class Terminal:
    """A program in a terminal of its own. A context manager; it ends the program."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (LINES, COLUMNS))
        kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS"}}
        self._process = subprocess.Popen(
            # A session with this terminal as its own, so that Ctrl-C reaches the program alone.
            [sys.executable, "-c", _LEADER, *command],
            env={**kept, "TERM": "xterm-256color", **(environment or {})},
            cwd=directory,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._screen = _Screen(lambda data: os.write(self._master, data))
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # All of its session: what a shell has begun outlives the shell, and zsh's then never rests.
        while running := _of_session(self._process.pid):
            for process in running:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.01)
        self._process.wait()
        os.close(self._master)

    @property
    def seen(self) -> str:
        """The screen as it is now, without the blanks at the ends of lines."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait_for(self, text: str, count: int = 1) -> str:
        """The screen, once `text` is to be seen `count` times. Raises AssertionError."""
        return self.wait_until(lambda seen: seen.count(text) >= count, f"{count} times {text!r}")

    def wait_for_end(self, text: str) -> str:
        """The screen, once `text` is the last that is to be seen. Raises AssertionError."""
        return self.wait_until(lambda seen: seen.endswith(text), f"{text!r} at the end")

    def press_until_end(self, key: str, text: str) -> None:
        """Press a key, as a person would again if nothing happens, until `text` is the last to be seen."""
        for _ in range(3):
            self.type(key)
            with suppress(AssertionError):
                self.wait_until(lambda seen: seen.endswith(text), within_s=PATIENCE_S / 3)
                return
        self.wait_for_end(text)

    def wait_until(self, holds: Callable[[str], bool], what: str = "it", within_s: float = PATIENCE_S) -> str:
        """The screen, once it `holds`. Raises AssertionError."""
        deadline_s = time.monotonic() + within_s
        while not holds(self.seen):
            assert time.monotonic() < deadline_s, f"no {what} in:\n{self.seen}\n{self.raw!r}"
            self._read(0.1)
        return self.seen

    def end(self) -> int:
        """Read to the end of the program and return its exit code. Raises AssertionError."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self._read(0.1) or self._process.poll() is None:
            assert time.monotonic() < deadline_s, f"it goes on:\n{self.seen}"
        return self._process.wait()

    def _read(self, wait_s: float) -> bool:
        """Take in what the program writes, if it does within the time."""
        if not select.select([self._master], [], [], wait_s)[0]:
            return False
        with suppress(OSError):  # EIO: the program has closed the terminal.
            if data := os.read(self._master, 65536):
                self.raw += data
                self._stream.feed(data)
                return True
        return False


def _of_session(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


_LEADER = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def shown(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Terminal:
    """Run a program to its end in a terminal; what it left there."""
    with Terminal(command, environment) as terminal:
        terminal.end()
    return terminal
