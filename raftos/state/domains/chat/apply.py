"""What the commands do to the tables: each checks everything, then writes."""

from __future__ import annotations

import sqlite3
from itertools import takewhile
from typing import Any

from raftos.state.command import Ok, Rejected, Result
from raftos.state.domain import Context
from raftos.state.domains.chat.answers import (
    Indexed,
    Marked,
    MarkerMoved,
    MessageEdited,
    MessagePosted,
    MessageRedacted,
    Posted,
    RoomArchived,
    RoomChanged,
    RoomCreated,
    RoomTrimmed,
    Trimmed,
    missing,
)
from raftos.state.domains.chat.commands import Archive, Create, Edit, Index, Mark, Post, Redact, Trim
from raftos.state.domains.chat.limits import MAX_READERS, MAX_TRIM
from raftos.state.domains.chat.schema import FULL_TEXT, ROOM_BY_NAME, ROOMS
from raftos.state.fulltext import STEP_BYTES, until
from raftos.state.tally import ROW_BYTES, STATE_BYTES

_CREATE = "INSERT INTO chat_rooms VALUES (?, ?, 0, 0, 0, NULL, FALSE, ?, ?)"
_ARCHIVE = "UPDATE chat_rooms SET archived = TRUE WHERE room = ?"
# Takes the next sequence, if the room takes the message. `noted` brings back the room's number and, in the
# lower 40 bits, the sequence; a SELECT before it would cost half as much as the post once more.
_NEXT = """
    UPDATE chat_rooms SET last = ifnull(noted(number << 40 | last + 1), last + 1),
    posted_ms = ?2, oldest_ms = iif(last = trimmed, ?2, oldest_ms)
    WHERE room = ?1 AND NOT archived AND last >= ?3
"""
_POST = "INSERT INTO chat_messages VALUES (?, ?, ?, ?, ?, ?, NULL, ?)"
_MESSAGE = """
    SELECT revision, sender, text, archived
    FROM chat_rooms LEFT JOIN chat_messages ON chat_messages.room = number AND sequence = ?
    WHERE chat_rooms.room = ?
"""
_CHANGE = "UPDATE chat_messages SET text = ?, edited_ms = ifnull(?, edited_ms) WHERE revision = ?"
_READ = "SELECT sequence FROM chat_markers WHERE room = ? AND reader = ?"
_READERS = "SELECT count(*) FROM chat_markers WHERE room = ?"
_MARK = "INSERT OR REPLACE INTO chat_markers VALUES (?, ?, ?)"
_UNMARK = "DELETE FROM chat_markers WHERE room = ? AND reader = ?"
_OLDEST = """
    SELECT sequence, sent_ms, revision, length(CAST(sender AS BLOB)), length(CAST(text AS BLOB))
    FROM chat_messages WHERE room = ? AND sequence < ? ORDER BY sequence LIMIT ?
"""
_DELETE = "DELETE FROM chat_messages WHERE room = ? AND sequence <= ?"
_TRIM = """
    UPDATE chat_rooms SET trimmed = ?2, oldest_ms = ifnull(
        (SELECT sent_ms FROM chat_messages WHERE room = ?1 AND sequence = ?2 + 1), oldest_ms
    ) WHERE number = ?1
"""


def _is_full(context: Context) -> bool:
    return context.counts[STATE_BYTES] >= context.most[STATE_BYTES]


def apply_create(db: sqlite3.Connection, command: Create, context: Context) -> Result:
    if db.execute(ROOM_BY_NAME, (command.room,)).fetchone():
        return Rejected("conflict", "there is a room of this name; use it, or choose another name")
    number = context.counts[ROOMS] + 1
    if number > context.most[ROOMS]:
        return Rejected(
            "limit_reached", f"there are {number - 1} rooms, as many as there may be; use one of them"
        )
    context.run(_CREATE, (number, command.room, command.keep_messages, command.keep_ms))
    context.counts[ROOMS] = number
    context.counts[STATE_BYTES] += ROW_BYTES + len(command.room.encode())
    context.emit(RoomCreated(command.room))
    return Ok(RoomChanged(command.room, context.revision))


def apply_archive(db: sqlite3.Connection, command: Archive, context: Context) -> Result:
    room = db.execute(ROOM_BY_NAME, (command.room,)).fetchone()
    if room is None:
        return missing(command.room)
    if room[3]:
        return Rejected("conflict", "the room is archived already")
    context.run(_ARCHIVE, (command.room,))
    context.emit(RoomArchived(command.room))
    return Ok(RoomChanged(command.room, context.revision))


def apply_post(db: sqlite3.Connection, command: Post, context: Context) -> Result:
    room, sender, text, reply_to = command.room, command.sender, command.text, command.reply_to
    context.run(_NEXT, (room, context.time_ms, reply_to or 0))
    if not context.noted:
        return _unwilling(db, command)
    noted = context.noted.pop()
    number, sequence = noted >> 40, noted & 0xFF_FFFF_FFFF
    context.run(_POST, (context.revision, number, sequence, sender, context.time_ms, reply_to, text))
    context.counts[STATE_BYTES] += ROW_BYTES + len(sender.encode()) + len(text.encode())
    context.emit(MessagePosted(room, sequence, sender))
    return Ok(Posted(room, sequence, context.revision))


def _unwilling(db: sqlite3.Connection, command: Post) -> Rejected:
    """Why the room did not take a post."""
    room = db.execute(ROOM_BY_NAME, (command.room,)).fetchone()
    if room is None:
        return missing(command.room)
    if room[3]:
        return Rejected("conflict", "the room is archived: its history can be read, but nothing be posted")
    return Rejected(
        "not_found", f"message {command.reply_to} is not there to reply to; the last is {room[1]}"
    )


def apply_edit(db: sqlite3.Connection, command: Edit, context: Context) -> Result:
    row = db.execute(_MESSAGE, (command.sequence, command.room)).fetchone()
    refusal = _untouchable(row, command)
    if refusal is not None:
        return refusal
    revision, _, text, archived = row
    if archived:
        return Rejected("conflict", "the room is archived: its messages can be redacted, but not edited")
    if not text:
        return Rejected("conflict", "the message is redacted; post a new one")
    if len(command.text.encode()) > len(text.encode()) and _is_full(context):
        return Rejected("no_space", "the state is full, so no text may grow; shorten it, or delete something")
    _rewrite(db, context, (revision, text), command.text, context.time_ms)
    context.emit(MessageEdited(command.room, command.sequence))
    return Ok(Posted(command.room, command.sequence, context.revision))


def apply_redact(db: sqlite3.Connection, command: Redact, context: Context) -> Result:
    row = db.execute(_MESSAGE, (command.sequence, command.room)).fetchone()
    refusal = _untouchable(row, command)
    if refusal is not None:
        return refusal
    if row[2]:
        _rewrite(db, context, (row[0], row[2]), "", None)
        context.emit(MessageRedacted(command.room, command.sequence))
    return Ok(Posted(command.room, command.sequence, context.revision))


def _untouchable(row: Any, command: Edit | Redact) -> Rejected | None:
    """Why this sender may not change this message, if so."""
    if row is None:
        return missing(command.room)
    if row[0] is None:
        return Rejected("not_found", f"message {command.sequence} is not there, or no longer kept")
    if row[1] != command.sender:
        return Rejected("denied", f"somebody else sent message {command.sequence}, who alone may change it")
    return None


def _rewrite(
    db: sqlite3.Connection, context: Context, message: tuple[int, str], text: str, edited_ms: int | None
) -> None:
    """Give the message, of this revision and with this text, another text."""
    revision, old = message
    FULL_TEXT.remove(db, context, [revision])
    context.run(_CHANGE, (text, edited_ms, revision))
    FULL_TEXT.restore(context, revision)
    context.counts[STATE_BYTES] += len(text.encode()) - len(old.encode())


def apply_mark(db: sqlite3.Connection, command: Mark, context: Context) -> Result:
    room = db.execute(ROOM_BY_NAME, (command.room,)).fetchone()
    if room is None:
        return missing(command.room)
    number, last = room[:2]
    if command.sequence > last:
        return Rejected(
            "not_found", f"message {command.sequence} is not there to be read; the last is {last}"
        )
    row = db.execute(_READ, (number, command.reader)).fetchone()
    read = row[0] if row else 0
    if 0 < command.sequence <= read or command.sequence == read:
        return Ok(Marked(command.room, command.reader, read))
    refusal = None if row else _crowded(db, number, context)
    if refusal is not None:
        return refusal
    if command.sequence:
        context.run(_MARK, (number, command.reader, command.sequence))
    else:
        context.run(_UNMARK, (number, command.reader))
    rows = bool(command.sequence) - bool(read)
    context.counts[STATE_BYTES] += rows * (ROW_BYTES + len(command.reader.encode()))
    context.emit(MarkerMoved(command.room, command.reader, command.sequence))
    return Ok(Marked(command.room, command.reader, command.sequence))


def _crowded(db: sqlite3.Connection, number: int, context: Context) -> Rejected | None:
    """Why a room takes no other reader, if so."""
    if _is_full(context):
        return Rejected("no_space", "the state is full, so no reader is added; delete something")
    (readers,) = db.execute(_READERS, (number,)).fetchone()
    if readers < MAX_READERS:
        return None
    return Rejected(
        "limit_reached", f"the room has {readers} readers, as many as there may be; mark one at 0"
    )


def apply_trim(db: sqlite3.Connection, command: Trim, context: Context) -> Result:
    room = db.execute(ROOM_BY_NAME, (command.room,)).fetchone()
    if room is None:
        return missing(command.room)
    number, last, trimmed, _, keep_messages, keep_ms = room
    surplus = trimmed if keep_messages is None else last - keep_messages
    old_ms = -1 if keep_ms is None else context.time_ms - keep_ms
    oldest = db.execute(_OLDEST, (number, command.before_sequence, MAX_TRIM))
    taken = until(STEP_BYTES, takewhile(lambda row: row[0] <= surplus or row[1] <= old_ms, oldest))
    if not taken:
        return Rejected("conflict", "the room keeps what it has: nothing is old enough")
    through = taken[-1][0]
    FULL_TEXT.remove(db, context, [row[2] for row in taken])
    context.run(_DELETE, (number, through))
    context.run(_TRIM, (number, through))
    context.counts[STATE_BYTES] -= sum(ROW_BYTES + row[3] + row[4] for row in taken)
    context.emit(RoomTrimmed(command.room, through + 1))
    return Ok(Trimmed(command.room, len(taken), through + 1))


def apply_index(db: sqlite3.Connection, command: Index, context: Context) -> Result:
    reached = context.counts[FULL_TEXT.tally]
    if command.after != reached:
        return Rejected("conflict", f"the index is at revision {reached}, not at {command.after}")
    if not FULL_TEXT.advance(db, context, command.through):
        return Rejected("conflict", "there is no message to index")
    return Ok(Indexed(context.counts[FULL_TEXT.tally]))
