"""What watchers are told, kept for a while.

An event says what changed, not the new content: a watcher reads what it wants to know. All events
of a command carry its revision. The events of one log entry are stored as one blob row, a msgpack
array of `[revision, event]`, because a row for each command would cost most of the throughput; its key
is the last revision in it, so that a watcher's place is found without an index.

Events are dropped once they are older than the last 100 000 revisions, or than 24 hours of cluster
time. Dropping happens while applying, at fixed log indexes, so that all members hold the same rows; the
tally `events.dropped` remembers how far, so that nobody resumes across the gap unawares.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, MutableMapping, Sequence
from typing import NamedTuple

import msgspec

from raftos.state.tally import EVENTS_DROPPED

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    last_revision INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
"""

KEEP_REVISIONS = 100_000
KEEP_MS = 24 * 3_600_000
SWEEP_INDEXES = 64
"""Old rows are dropped at every log index that this divides."""
SWEEP_ROWS = 1_000

_INSERT = "INSERT INTO events VALUES (?, ?, ?)"
_OLD = """
    SELECT max(last_revision) FROM (
        SELECT last_revision, time_ms FROM events ORDER BY last_revision LIMIT ?
    ) WHERE last_revision <= ? OR time_ms < ?
"""
_DELETE = "DELETE FROM events WHERE last_revision <= ?"
_AFTER = "SELECT last_revision, time_ms, body FROM events WHERE last_revision > ? ORDER BY last_revision"
_DROPPED = "SELECT value FROM tallies WHERE name = ?"


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="type"):
    """Base of every event. Subclasses set `tag="domain.what_happened"`."""


Stamped = tuple[int, Event]
"""An event with the revision of its command."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[int, msgspec.Raw]]).decode
EMPTY = _encode([])


class Told(NamedTuple):
    """The events of one log entry: whole revisions, in order."""

    last_revision: int
    time_ms: int
    body: bytes
    """A msgpack array of `[revision, event]`."""


class Page(NamedTuple):
    """Some of the events kept, and whether more follow. What came up to `dropped` is kept no more."""

    entries: list[Told]
    more: bool
    dropped: int


def encode_events(events: Sequence[Stamped]) -> bytes:
    return _encode(events) if events else EMPTY


def append(db: sqlite3.Connection, told: Told) -> None:
    """Keep the events of one entry that has some."""
    db.execute(_INSERT, told)


def sweep(db: sqlite3.Connection, time_ms: int, revision: int, counts: MutableMapping[str, int]) -> None:
    """Drop at most `SWEEP_ROWS` rows that are old enough."""
    limits = (SWEEP_ROWS, revision - KEEP_REVISIONS, time_ms - KEEP_MS)
    (last,) = db.execute(_OLD, limits).fetchone()
    if last is not None:
        db.execute(_DELETE, (last,))
        counts[EVENTS_DROPPED] = last


def page(db: sqlite3.Connection, after_revision: int, most_bytes: int) -> Page:
    """The entries after a revision, until their bodies reach `most_bytes`; one at least, if there is one.

    Of an entry that the revision lies in, there is only what follows.
    """
    entries: list[Told] = []
    size_bytes, more = 0, False
    for row in db.execute(_AFTER, (after_revision,)):
        if size_bytes >= most_bytes:
            more = True
            break
        entries.append(Told(*row) if entries else _following(Told(*row), after_revision))
        size_bytes += len(row[2])
    # Last, so that nothing can be dropped unnoticed before the events are read.
    (dropped,) = db.execute(_DROPPED, (EVENTS_DROPPED,)).fetchone()
    return Page(entries, more, dropped)


def _following(entry: Told, revision: int) -> Told:
    """What of an entry comes after a revision."""
    stamped = _decode(entry.body)
    following = [each for each in stamped if each[0] > revision]
    return entry if len(following) == len(stamped) else entry._replace(body=_encode(following))


def check(db: sqlite3.Connection, revision: int) -> Iterator[str]:
    """The invariants: one sentence for each that does not hold."""
    (before,) = db.execute(_DROPPED, (EVENTS_DROPPED,)).fetchone()
    for last_revision, _, body in db.execute(_AFTER, (0,)):
        revisions = [stamped[0] for stamped in msgspec.msgpack.decode(body)]
        if (
            revisions != sorted(revisions)
            or not before < revisions[0] <= revisions[-1] <= last_revision <= revision
        ):
            yield f"the events up to revision {last_revision} are out of order"
        before = last_revision
