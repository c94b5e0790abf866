"""Deletes keys whose time-to-live is over.

A key is named with the revision it was seen at, so one that was written again meanwhile stays. Large
plans are split, so that no command becomes a large log entry.
"""

from __future__ import annotations

from collections.abc import Iterator

from raftos.control.view import View
from raftos.state.command import Command
from raftos.state.domain import MAX_ROWS
from raftos.state.domains import kv

MAX_KEYS_BYTES = 256 * 1024


def plan(view: View) -> list[Command]:
    return [kv.Expire(keys=keys) for keys in _split(view.expiring)]


def _split(keys: tuple[kv.Seen, ...]) -> Iterator[tuple[kv.Seen, ...]]:
    part: list[kv.Seen] = []
    size_bytes = 0
    for seen in keys:
        key_bytes = len(seen.key.encode())
        if part and (len(part) == MAX_ROWS or size_bytes + key_bytes > MAX_KEYS_BYTES):
            yield tuple(part)
            part, size_bytes = [], 0
        part.append(seen)
        size_bytes += key_bytes
    if part:
        yield tuple(part)
