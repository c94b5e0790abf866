"""What watchers are told, kept for a while.

An event says what changed, not the new content: a watcher reads what it wants to know. All events
of a command carry its revision. The events of one log entry are stored as one blob row, a msgpack
array of `[revision, event]`, because a row for each command would cost most of the throughput.

Events are dropped once they are older than the last 100 000 revisions, or than 24 hours of cluster
time. Dropping happens while applying, at fixed log indexes, so that all members hold the same rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    log_index INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    last_revision INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
"""

KEEP_REVISIONS = 100_000
KEEP_MS = 24 * 3_600_000
SWEEP_INDEXES = 64
"""Old rows are dropped at every log index that this divides."""
SWEEP_ROWS = 1_000

_INSERT = "INSERT INTO events VALUES (?, ?, ?, ?)"
_OLD = """
    SELECT max(log_index) FROM (
        SELECT log_index, last_revision, time_ms FROM events ORDER BY log_index LIMIT ?
    ) WHERE last_revision <= ? OR time_ms < ?
"""
_DELETE = "DELETE FROM events WHERE log_index <= ?"


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="type"):
    """Base of every event. Subclasses set `tag="domain.what_happened"`."""


Stamped = tuple[int, Event]
"""An event with the revision of its command."""

_encode = msgspec.msgpack.Encoder().encode
EMPTY = _encode([])


def encode_events(events: Sequence[Stamped]) -> bytes:
    return _encode(events) if events else EMPTY


def append(db: sqlite3.Connection, index: int, time_ms: int, last_revision: int, body: bytes) -> None:
    """Keep the encoded events of the entry at `index`; an entry without events takes no row."""
    if body != EMPTY:
        db.execute(_INSERT, (index, time_ms, last_revision, body))


def sweep(db: sqlite3.Connection, time_ms: int, revision: int) -> None:
    """Drop at most `SWEEP_ROWS` rows that are old enough."""
    limits = (SWEEP_ROWS, revision - KEEP_REVISIONS, time_ms - KEEP_MS)
    (last,) = db.execute(_OLD, limits).fetchone()
    if last is not None:
        db.execute(_DELETE, (last,))


def check(db: sqlite3.Connection, revision: int) -> Iterator[str]:
    """The invariants: one sentence for each that does not hold."""
    before = 0
    for index, last_revision, body in db.execute(
        "SELECT log_index, last_revision, body FROM events ORDER BY 1"
    ):
        revisions = [stamped[0] for stamped in msgspec.msgpack.decode(body)]
        if (
            revisions != sorted(revisions)
            or not before < revisions[0] <= revisions[-1] <= last_revision <= revision
        ):
            yield f"the events of log index {index} are out of order"
        before = last_revision
