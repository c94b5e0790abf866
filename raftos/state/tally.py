"""What the machine counts, and how much of it there may be.

A tally is a named number that commands change: how many keys there are, how many bytes are kept. It
follows the log exactly, so a limit on it refuses the same command on every member. In memory it is a
dictionary; what a turn changed is saved with the turn, in one row for each tally.

| tally             | counts                                                             |
|-------------------|--------------------------------------------------------------------|
| `state.bytes`     | what users keep: keys, values, texts, and a little for each row    |
| `events.dropped`  | the last revision whose events are no longer kept                  |
| `cluster.level`   | the feature level that is enabled, 0 before the first was          |
| `kv.keys`, ...    | what a domain names in `Domain.tallies`                            |

A tally whose limit is `UNLIMITED` is bookkeeping. Every other limit is a quota: operators list and set it.

Once `state.bytes` has reached its limit, commands that store something (`Domain.grows`) are refused as
`no_space`; reads and deletes go on, and writes again as soon as something was deleted. A command that is
taken may exceed the limit by its own size.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

SCHEMA = """
CREATE TABLE IF NOT EXISTS tallies (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL,
    most INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

STATE_BYTES = "state.bytes"
EVENTS_DROPPED = "events.dropped"
CLUSTER_LEVEL = "cluster.level"
MAX_STATE_BYTES = 8 * 2**30
ROW_BYTES = 64
"""What a row costs besides the user's own bytes, roughly."""

UNLIMITED = 2**62

DEFAULTS: Mapping[str, int] = {
    STATE_BYTES: MAX_STATE_BYTES,
    EVENTS_DROPPED: UNLIMITED,
    CLUSTER_LEVEL: UNLIMITED,
}

_LOAD = "SELECT name, value, most FROM tallies"
_ADD = "INSERT OR IGNORE INTO tallies VALUES (?, 0, ?)"
_SAVE = "UPDATE tallies SET value = ?, most = ? WHERE name = ?"


class Tallies:
    """The tallies of one machine, in the middle of a turn and as they were saved."""

    def __init__(self, db: sqlite3.Connection, defaults: Mapping[str, int]) -> None:
        db.executemany(_ADD, sorted({**DEFAULTS, **defaults}.items()))
        self._db = db
        self.values: dict[str, int] = {}
        self.most: dict[str, int] = {}
        for name, value, most in db.execute(_LOAD):
            self.values[name] = value
            self.most[name] = most
        self.commit()

    def save(self) -> None:
        """Write what the turn changed."""
        values, most = self._saved
        if self.values != values or self.most != most:
            changed = [
                (self.values[name], limit, name)
                for name, limit in self.most.items()
                if self.values[name] != values[name] or limit != most[name]
            ]
            self._db.executemany(_SAVE, changed)

    def commit(self) -> None:
        self._saved = self.copy()

    def rollback(self) -> None:
        self.restore(self._saved)

    def copy(self) -> tuple[dict[str, int], dict[str, int]]:
        return dict(self.values), dict(self.most)

    def restore(self, copied: tuple[dict[str, int], dict[str, int]]) -> None:
        # In place: the context of a turn holds both.
        values, most = copied
        self.values.clear()
        self.values.update(values)
        self.most.clear()
        self.most.update(most)
