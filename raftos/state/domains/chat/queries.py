"""What is read: rooms, histories, markers, what was searched for, and what a room no longer keeps."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import chain, islice

import msgspec

from raftos.errors import NotFound
from raftos.state.command import Command
from raftos.state.domains.chat.answers import (
    Found,
    FoundPage,
    Marker,
    Message,
    Messages,
    Readers,
    RoomInfo,
    RoomPage,
    missing,
)
from raftos.state.domains.chat.commands import History, Index, Markers, Rooms, Search, Trim
from raftos.state.domains.chat.limits import MAX_PAGE_BYTES, MAX_TRIM, MAX_TRIMS
from raftos.state.domains.chat.schema import FULL_TEXT, ROOM_BY_NAME
from raftos.state.fulltext import MAX_STEPS, until
from raftos.state.limits import MAX_INTEGER

_AT = "strftime('%Y-%m-%dT%H:%M:%fZ', {} / 1000.0, 'unixepoch')"
_ROOMS = f"""
    SELECT room, trimmed + 1, last, archived, keep_messages, keep_ms, {_AT.format("posted_ms")}
    FROM chat_rooms WHERE room > ? ORDER BY room LIMIT ?
"""  # noqa: S608 - Put together from what stands here.
_COLUMNS = f"""
    sequence, sender, text, {_AT.format("sent_ms")}, reply_to, {_AT.format("edited_ms")},
    length(CAST(text AS BLOB))
"""
# The last message sent before a time. In a room, times only grow, and sequences have no gaps: so it is found
# by halving, in about twenty steps and without an index of times.
_OLDER = """
    WITH RECURSIVE halves (number, low, high) AS (
        SELECT number, trimmed, last + 1 FROM chat_rooms WHERE room = :room UNION ALL
        SELECT number, iif(sent_ms < :since_ms, sequence, low), iif(sent_ms < :since_ms, high, sequence)
        FROM halves JOIN chat_messages ON room = number AND sequence = (low + high) / 2 WHERE high - low > 1
    ) SELECT max(low) FROM halves
"""
_HISTORY = f"""
    SELECT trimmed + 1, last, {_COLUMNS} FROM chat_rooms LEFT JOIN chat_messages
    ON chat_messages.room = number AND sequence > {{}} AND sequence < :before
    WHERE chat_rooms.room = :room ORDER BY sequence {{}} LIMIT :limit
"""  # noqa: S608 - Put together from what stands here.
_MARKERS = """
    SELECT last, reader, sequence, last - max(sequence, trimmed)
    FROM chat_rooms LEFT JOIN chat_markers ON chat_markers.room = number
    WHERE chat_rooms.room = ? ORDER BY reader
"""
_FOUND = f"""
    SELECT chat_rooms.room, {_COLUMNS} FROM chat_messages JOIN chat_rooms ON number = chat_messages.room
    WHERE revision IN (SELECT value FROM json_each(?)) AND text <> '' ORDER BY revision DESC
"""  # noqa: S608 - Put together from what stands here.
_FULL = """
    SELECT room, trimmed, last - keep_messages FROM chat_rooms WHERE last - trimmed - keep_messages > 0
    ORDER BY last - trimmed - keep_messages DESC LIMIT ?
"""
_AGED = """
    SELECT room, trimmed, keep_ms FROM chat_rooms
    WHERE keep_ms IS NOT NULL AND last > trimmed AND oldest_ms + keep_ms <= ?
    ORDER BY oldest_ms + keep_ms LIMIT ?
"""


def list_rooms(db: sqlite3.Connection, query: Rooms) -> RoomPage:
    rows = db.execute(_ROOMS, (query.cursor or "", query.limit + 1)).fetchall()
    items = [
        RoomInfo(room, first, last, bool(archived), *rest)
        for room, first, last, archived, *rest in rows[: query.limit]
    ]
    return RoomPage(items, items[-1].room if len(rows) > query.limit else None)


def history(db: sqlite3.Connection, query: History) -> Messages:
    limit = query.limit if query.last is None else query.last
    after = ":since" if query.since_ms is None else f"max(:since, ({_OLDER}))"
    before = MAX_INTEGER if query.before is None else query.before
    conditions = msgspec.structs.asdict(query) | {"before": before, "limit": limit + 1}
    rows = db.execute(_HISTORY.format(after, "ASC" if query.last is None else "DESC"), conditions)
    row = rows.fetchone()
    if row is None:
        raise NotFound(missing(query.room).message)
    kept = [] if row[2] is None else until(MAX_PAGE_BYTES, chain([row], islice(rows, limit - 1)))
    items = [_message(*each[2:8]) for each in kept]
    more = rows.fetchone() is not None
    return Messages(query.room, items if query.last is None else items[::-1], more, *row[:2])


def _message(
    sequence: int, sender: str, text: str, sent_at: str, reply_to: int | None, edited_at: str | None
) -> Message:
    return Message(sequence, sender, text, sent_at, reply_to, edited_at, redacted=not text)


def markers(db: sqlite3.Connection, query: Markers) -> Readers:
    rows = db.execute(_MARKERS, (query.room,)).fetchall()
    if not rows:
        raise NotFound(missing(query.room).message)
    items = [Marker(*marker) for _, *marker in rows if marker[0] is not None]
    return Readers(query.room, items, rows[0][0])


def search(db: sqlite3.Connection, query: Search) -> FoundPage:
    number = None
    if query.room is not None:
        room = db.execute(ROOM_BY_NAME, (query.room,)).fetchone()
        if room is None:
            raise NotFound(missing(query.room).message)
        number = room[0]
    found = FULL_TEXT.find(db, query.text, number, query.limit + 1)
    # What was redacted since the SELECT before is left out; what was edited is shown as it is now.
    rows = db.execute(_FOUND, (str(found[: query.limit]),))
    items = [Found(*row[1:7], room=row[0]) for row in until(MAX_PAGE_BYTES, rows)]
    return FoundPage(items, more=len(found) > query.limit or rows.fetchone() is not None)


def due(db: sqlite3.Connection, now_ms: int) -> list[Command]:
    """Forget what its room does not want to keep, and index what was posted."""
    steps = [Index(after, through) for after, through in FULL_TEXT.steps(db)]
    return [*islice(_trims(db, now_ms), MAX_TRIMS), *steps]


def _trims(db: sqlite3.Connection, now_ms: int) -> Iterator[Command]:
    for room, trimmed, through in db.execute(_FULL, (MAX_TRIMS,)):
        yield from _trims_of(room, trimmed, through)
    for room, trimmed, keep_ms in db.execute(_AGED, (now_ms, MAX_TRIMS)):
        (through,) = db.execute(_OLDER, {"room": room, "since_ms": now_ms - keep_ms + 1}).fetchone()
        yield from _trims_of(room, trimmed, through)


def _trims_of(room: str, trimmed: int, through: int) -> Iterator[Command]:
    for first in range(trimmed, through, MAX_TRIM)[:MAX_STEPS]:
        yield Trim(room, min(first + MAX_TRIM, through) + 1)
