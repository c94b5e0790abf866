"""Queries on a connection of their own, which cannot write.

A reader sees what was last saved, never half a turn, and does not hold the writer up. It may live on
another thread than the machine, but is used by one thread at a time. When the state is replaced by another
file, a reader finishes what it does in the old one and goes over at its next query, on its own thread.

A query is bounded twice: its SELECT names the most rows it returns, and a budget of SQLite's virtual
machine steps ends one that searches too much. Steps and not seconds, because they are the same on a
slow machine: a query that works once works always.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raftos.errors import InvalidInput, NotReady, RaftosError
from raftos.state import events, storage
from raftos.state.command import Command, Query
from raftos.state.domain import Ask, Domain, Due, limits_of
from raftos.state.place import Place

STEPS_PER_TICK = 10_000
MOST_TICKS = 1_000
"""Ten million steps: about a second."""


class Reader:
    """Answers queries from one member's state. Made by `Machine.reader`."""

    def __init__(self, place: Place, domains: Sequence[Domain]) -> None:
        self._ask: dict[type, Ask] = {}
        for domain in domains:
            self._ask.update(domain.queries)
        self._due: list[Due] = [domain.due for domain in domains if domain.due]
        self._validate = limits_of(domains)
        self._ticks = 0
        self._place = place
        self._path: Path | None = place.path
        """The file that is open; None after one could not be opened."""
        self._db = self._opened()

    def query(self, query: Query) -> Any:
        """The answer as the domain's Struct. Raises NotFound, InvalidInput, NotReady (disk trouble)."""
        self._ticks = 0
        kind = type(query)
        try:
            self._validate[kind](query)
            self._follow()
            return self._ask[kind](self._db, query)
        except sqlite3.Error as error:
            raise self._sentence(query, error) from error

    def due(self, now_ms: int) -> list[Command]:
        """What the domains want proposed because it is `now_ms` of cluster time. Raises NotReady."""
        self._ticks = 0
        try:
            self._follow()
            return [command for due in self._due for command in due(self._db, now_ms)]
        except sqlite3.Error as error:
            raise NotReady(f"this member cannot read its state: {error}") from error

    def events(self, after_revision: int, most_bytes: int) -> events.Page:
        """The events kept after a revision, about `most_bytes` of them. Raises NotReady."""
        self._ticks = 0
        try:
            self._follow()
            return events.page(self._db, after_revision, most_bytes)
        except sqlite3.Error as error:
            raise NotReady(f"this member cannot read its events: {error}; ask another member") from error

    def _follow(self) -> None:
        """Go over to the file that holds the state now, if it is another one."""
        while self._place.path != self._path:
            self._db.close()
            self._path = self._place.path
            try:
                self._db = self._opened()
                # SQLite opens the rest of a database only when it is read.
                self._db.execute("SELECT 1 FROM machine").fetchone()
            except sqlite3.Error:
                # Replaced once more meanwhile: then the next one is tried.
                if self._place.path == self._path:
                    self._path = None
                    raise

    def _opened(self) -> sqlite3.Connection:
        assert self._path is not None
        db = storage.connect_reader(self._path)
        db.set_progress_handler(self._tick, STEPS_PER_TICK)
        return db

    def _sentence(self, query: Query, error: sqlite3.Error) -> RaftosError:
        tag = type(query).__struct_config__.tag
        if self._ticks > MOST_TICKS:
            return InvalidInput(f"{tag} searches too many rows; ask for less at once")
        return NotReady(f"this member cannot read its state: {error}; ask another member")

    def _tick(self) -> bool:
        self._ticks += 1
        return self._ticks > MOST_TICKS

    def close(self) -> None:
        self._db.close()
