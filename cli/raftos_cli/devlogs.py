"""The logs of a local cluster's members: their last lines, following them, and reading them well.

A daemon logs one JSON object a line. Shown to people, a line becomes `12:30:01 warning  event  key=value`;
what is no JSON object (a traceback of the interpreter itself) is shown as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

BLOCK_BYTES = 64 * 1024
POLL_S = 0.1
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def last_lines(file: Path, count: int) -> list[str]:
    """The last `count` lines of a file, read from its end; none if it does not exist."""
    if count == 0 or not file.exists():
        return []
    with file.open("rb") as log:
        position, tail = log.seek(0, 2), b""
        while position > 0 and tail.count(b"\n") <= count:
            step = min(BLOCK_BYTES, position)
            position = log.seek(position - step)
            tail = log.read(step) + tail
    return tail.decode(errors="replace").splitlines()[-count:]


class Follower:
    """Whole lines as they are appended to a file, from its present end."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.position = file.stat().st_size if file.exists() else 0

    def fresh(self) -> list[str]:
        """The lines appended since the last call; a line still being written waits for its end."""
        if not self.file.exists():
            return []
        with self.file.open("rb") as log:
            if log.seek(0, 2) < self.position:
                self.position = 0
            log.seek(self.position)
            added = log.read()
        whole = added[: added.rfind(b"\n") + 1]
        self.position += len(whole)
        return whole.decode(errors="replace").splitlines()


def follow(follower: Follower) -> Iterator[str]:
    """Lines for ever, until the caller is interrupted."""
    while True:
        yield from follower.fresh()
        time.sleep(POLL_S)


def fields_of(line: str) -> dict[str, Any] | None:
    """The fields of a structured line, or None."""
    try:
        return _decode(line)
    except msgspec.MsgspecError:
        return None


def readable(line: str) -> str:
    """A line for people."""
    fields = fields_of(line)
    if fields is None:
        return line
    clock = str(fields.get("timestamp", ""))[11:19]
    return f"{clock} {fields.get('level', 'info'):<8} {_happening(fields)}".strip()


def _happening(fields: dict[str, Any]) -> str:
    """The event and what belongs to it."""
    known = {"timestamp", "level", "event", "member"}
    rest = " ".join(f"{name}={value}" for name, value in fields.items() if name not in known)
    return f"{fields.get('event', '')}  {rest}".strip()


def alarm(line: str) -> str | None:
    """What a line says, if it is one that somebody has to look at: an error, or worse."""
    fields = fields_of(line)
    if fields is None or fields.get("level") not in {"error", "critical"}:
        return None
    return _happening(fields)


def last_words(file: Path) -> str:
    """Why a daemon ended, as its log tells it: its last line, or that there is none."""
    lines = [line for line in last_lines(file, 20) if line.strip()]
    if not lines:
        return "it left no message"
    fields = fields_of(lines[-1])
    return str(fields.get("event", lines[-1])) if fields else lines[-1]
