"""Rooms full of messages: who said what, in one order that all members share.

A room numbers its messages from 1, in the order in which they were committed, without gaps: a refused post
takes no number. What somebody wrote, only that sender may edit or redact, and neither changes its number.
A text is 1 to 65 536 bytes of UTF-8, in which tabs and line feeds are the only control characters.
It has one visible character at least, which is one that is not in `BLANKS`.

| a room that | create     | post         | edit        | redact, mark | archive     | time passes          |
|-------------|------------|--------------|-------------|--------------|-------------|----------------------|
| is missing  | is open    | `not_found`  | `not_found` | `not_found`  | `not_found` | -                    |
| is open     | `conflict` | next message | new text    | yes          | is archived | leader's `chat.trim` |
| is archived | `conflict` | `conflict`   | `conflict`  | yes          | `conflict`  | leader's `chat.trim` |

| a message that | edit, by its sender | redact, by its sender | by another | retention |
|----------------|---------------------|-----------------------|------------|-----------|
| is kept        | has a new text      | is redacted           | `denied`   | is gone   |
| is redacted    | `conflict`          | stays redacted        | `denied`   | is gone   |
| is gone        | `not_found`         | `not_found`           | `not_found`| -         |

Retention keeps the last `keep_messages`, and those younger than `keep_ms`. It forgets from the oldest on, so
a room always holds the sequences `first` to `last`. The leader proposes `chat.trim`, which looks again at
what the room allows.

Messages are kept by the revision of their post, which orders them over all rooms; an index finds them by
room and sequence. Posts write nothing to the index of words: twice a second `chat.index` adds what came
since, and a search looks through that besides (`state/fulltext.py`, docs/decisions/chat-search.md).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import chain, islice, takewhile
from typing import Annotated, Any

import msgspec

from raftos.errors import InvalidInput, NotFound
from raftos.state.command import Command, Ok, Query, Rejected, Result
from raftos.state.domain import MAX_ROWS, Context, Domain, described
from raftos.state.events import Event
from raftos.state.fulltext import MAX_SEARCH_BYTES, MAX_STEPS, STEP_BYTES, FullText, understood, until
from raftos.state.limits import MAX_INTEGER, check_name, check_number, check_text, shown
from raftos.state.tally import ROW_BYTES, STATE_BYTES, UNLIMITED

FULL_TEXT = FullText(
    name="chat_search",
    texts="SELECT revision AS id, room AS part, sequence AS place, text FROM chat_messages WHERE text <> ''",
    tally="chat.indexed",
)
SCHEMA = """
CREATE TABLE IF NOT EXISTS chat_rooms (
    number INTEGER PRIMARY KEY,
    room TEXT NOT NULL UNIQUE,
    last INTEGER NOT NULL,
    trimmed INTEGER NOT NULL,
    oldest_ms INTEGER NOT NULL,
    posted_ms INTEGER,
    archived INTEGER NOT NULL,
    keep_messages INTEGER,
    keep_ms INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS chat_full ON chat_rooms (last - trimmed - keep_messages)
    WHERE last - trimmed - keep_messages > 0;
CREATE INDEX IF NOT EXISTS chat_aging ON chat_rooms (oldest_ms + keep_ms)
    WHERE keep_ms IS NOT NULL AND last > trimmed;
CREATE TABLE IF NOT EXISTS chat_messages (
    revision INTEGER PRIMARY KEY,
    room INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    sender TEXT NOT NULL,
    sent_ms INTEGER NOT NULL,
    reply_to INTEGER,
    edited_ms INTEGER,
    text TEXT NOT NULL,
    UNIQUE (room, sequence)
) STRICT;
CREATE TABLE IF NOT EXISTS chat_markers (
    room INTEGER NOT NULL,
    reader TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (room, reader)
) STRICT, WITHOUT ROWID;
"""

MAX_NAME_BYTES = 128
MAX_TEXT_BYTES = 64 * 1024
_BLANK_RANGES = (
    *((0x09, 0x0A), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200F)),
    *((0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
BLANKS = "".join(chr(each) for first, last in _BLANK_RANGES for each in range(first, last + 1))
"""Spaces and characters that only direct others: a text of nothing else is refused.

They stand here because what Python takes for a space follows the Unicode of its version.
"""
MAX_KEEP_MESSAGES = 1_000_000_000
MAX_KEEP_MS = 10 * 365 * 24 * 3_600_000
MAX_ROOMS = 10_000
MAX_READERS = MAX_ROWS
MAX_FOUND = 100
MAX_PAGE_BYTES = 4 * 1024 * 1024
"""A page ends early once its texts reach this."""
MAX_TRIM = 500
"""The most messages that one `chat.trim` forgets; it ends early once their texts reach `STEP_BYTES`."""
MAX_TRIMS = 50
ROOMS = "chat.rooms"

_NAME = f"1 to {MAX_NAME_BYTES} bytes of UTF-8, no control characters."
_KEEP_MESSAGES = {"minimum": 1, "maximum": MAX_KEEP_MESSAGES}
_KEEP_MS = {"minimum": 1, "maximum": MAX_KEEP_MS}
_NAME_LIMITS = {"minLength": 1, "maxLength": MAX_NAME_BYTES}
Room = Annotated[str, described(f"The room: {_NAME}", **_NAME_LIMITS)]
Sender = Annotated[str, described(f"Who says so: {_NAME}", **_NAME_LIMITS)]
Sequence = Annotated[int, described("The number of the message in its room.", minimum=1)]
_TEXT = (
    f"The text: 1 to {MAX_TEXT_BYTES} bytes of UTF-8, one visible character at least; of control characters, "
    "tab and line feed only."
)
Text = Annotated[str, described(_TEXT, minLength=1, maxLength=MAX_TEXT_BYTES)]
Limit = Annotated[int, described("The most to take at once.", minimum=1, maximum=MAX_ROWS)]


# Commands


class Create(Command, frozen=True, tag="chat.create"):
    """Open a room. Rejected with `conflict` when there is one of this name, archived or not."""

    room: Room
    keep_messages: Annotated[int | None, described("Keep only the newest, so many.", **_KEEP_MESSAGES)] = None
    keep_ms: Annotated[int | None, described("Keep none that is older, in milliseconds.", **_KEEP_MS)] = None


class Archive(Command, frozen=True, tag="chat.archive"):
    """Close a room for good: nobody posts or edits any more, and its history stays readable.

    Rejected with `not_found` when there is no such room, `conflict` when it is archived already.
    """

    room: Room


class Post(Command, frozen=True, tag="chat.post"):
    """Say something in a room; it gets the room's next sequence.

    Rejected with `not_found` without this room, or message `reply_to` in it, `conflict` when it is archived.
    """

    room: Room
    sender: Sender
    text: Text
    reply_to: Annotated[int | None, described("The sequence of the message it answers.", minimum=1)] = None


class Edit(Command, frozen=True, tag="chat.edit"):
    """Give a message a new text; its sequence and its time stay.

    Rejected with `not_found` when the message is not there or no longer, `denied` when somebody else sent it,
    `conflict` when it is redacted or its room archived.
    """

    room: Room
    sequence: Sequence
    text: Text
    sender: Sender


class Redact(Command, frozen=True, tag="chat.redact"):
    """Take the text of a message away for good; its sequence, sender and time stay.

    Rejected with `not_found` when the message is not there or no longer, `denied` when somebody else sent it.
    """

    room: Room
    sequence: Sequence
    sender: Sender


class Mark(Command, frozen=True, tag="chat.mark"):
    """Note how far somebody has read. A marker only moves forward; 0 takes it away.

    Rejected with `not_found` without this room or message, `limit_reached` beyond 1 000 readers of a room.
    """

    room: Room
    reader: Annotated[str, described(f"Who reads: {_NAME}", **_NAME_LIMITS)]
    sequence: Annotated[int, described("The last message read; 0 forgets the reader.", minimum=0)]


class Trim(Command, frozen=True, tag="chat.trim"):
    """Forget the oldest messages of a room, as far as its retention wants it: at most 500 in one step.

    The leader proposes it; from others it does no harm. Rejected with `conflict` if nothing is old enough.
    """

    room: Room
    before_sequence: Annotated[int, described("Keep this one and those after it.", minimum=1)]


class Index(Command, frozen=True, tag="chat.index"):
    """Add messages to the index for searching: at most 500 in one step.

    The leader proposes it; from others it does no harm. Rejected with `conflict` if the index is not there.
    """

    after: Annotated[int, described("The revision up to which messages are indexed.", minimum=0)]
    through: Annotated[int, described("The revision of the last message to add.", minimum=1)]


# Queries


class Rooms(Query, frozen=True, tag="chat.rooms"):
    """The rooms by name, a page at a time."""

    limit: Limit = 100
    cursor: Annotated[str | None, described("The `cursor` of the page before, for the next one.")] = None


class History(Query, frozen=True, tag="chat.history"):
    """Messages of a room in their order: those that meet every condition given, from the first, or the last.

    `not_found` when there is no such room.
    """

    room: Room
    since: Annotated[int, described("Only those with a greater sequence.", minimum=0)] = 0
    before: Annotated[int | None, described("Only those with a smaller sequence.", minimum=1)] = None
    since_ms: Annotated[int | None, described("Only those of this time or later (Unix, ms).", minimum=0)] = (
        None
    )
    last: Annotated[int | None, described("Only the newest, so many.", minimum=1, maximum=MAX_ROWS)] = None
    limit: Limit = 100


class Markers(Query, frozen=True, tag="chat.markers"):
    """How far everybody has read in a room. `not_found` when there is no such room."""

    room: Room


class Search(Query, frozen=True, tag="chat.search"):
    """Messages with certain words, the newest first.

    `invalid` when the text cannot be understood, `not_found` when there is no such room.
    """

    text: Annotated[
        str,
        described('All of these words, "phrases" and prefix*, and no -word.', maxLength=MAX_SEARCH_BYTES),
    ]
    room: Annotated[str | None, described("Only in this room.")] = None
    limit: Annotated[int, described("The most to find.", minimum=1, maximum=MAX_FOUND)] = 20


# Answers and events


class RoomChanged(msgspec.Struct, frozen=True):
    """A room that was opened or archived."""

    room: str
    revision: int


class Posted(msgspec.Struct, frozen=True, gc=False):
    """A message that was posted, edited or redacted."""

    room: str
    sequence: int
    revision: int


class Marker(msgspec.Struct, frozen=True):
    """How far somebody has read, and how many messages came since and are kept."""

    reader: str
    sequence: int
    unread: int


class Marked(msgspec.Struct, frozen=True):
    """Where somebody's marker is now; 0 when there is none."""

    room: str
    reader: str
    sequence: int


class Trimmed(msgspec.Struct, frozen=True):
    """How many messages were forgotten, and the oldest that is still kept."""

    room: str
    trimmed: int
    first: int


class Indexed(msgspec.Struct, frozen=True):
    """Every message up to this revision is in the index now."""

    indexed: int


class RoomInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A room: it holds the sequences `first` to `last`, and none where `first` is the greater."""

    room: str
    first: int
    last: int
    archived: bool
    keep_messages: int | None = None
    keep_ms: int | None = None
    last_posted: str | None = None


class RoomPage(msgspec.Struct, frozen=True):
    """One page; `cursor` leads to the next one, and is None on the last."""

    items: list[RoomInfo]
    cursor: str | None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message; times are RFC 3339, UTC. The text is empty where it is `redacted`."""

    sequence: int
    sender: str
    text: str
    sent_at: str
    reply_to: int | None = None
    edited_at: str | None = None
    redacted: bool = False


class Messages(msgspec.Struct, frozen=True):
    """Messages of a room, and what it holds. `more`: some that meet the conditions did not fit.

    They follow after the last item; where the newest were asked for, they are before the first.
    """

    room: str
    items: list[Message]
    more: bool
    first: int
    last: int


class Found(Message, frozen=True, omit_defaults=True, kw_only=True):
    """A message that was found, and its room."""

    room: str


class FoundPage(msgspec.Struct, frozen=True):
    """What was found, the newest first; `more` says that there are older ones."""

    items: list[Found]
    more: bool


class Readers(msgspec.Struct, frozen=True):
    """The markers of a room, by reader, and its newest message."""

    room: str
    items: list[Marker]
    last: int


class RoomCreated(Event, frozen=True, tag="chat.created"):
    """There is a new room."""

    room: str


class RoomArchived(Event, frozen=True, tag="chat.archived"):
    """A room takes no more messages."""

    room: str


class MessagePosted(Event, frozen=True, tag="chat.posted"):
    """There is a new message."""

    room: str
    sequence: int
    sender: str


class MessageEdited(Event, frozen=True, tag="chat.edited"):
    """A message has a new text."""

    room: str
    sequence: int


class MessageRedacted(Event, frozen=True, tag="chat.redacted"):
    """A message has no text any more."""

    room: str
    sequence: int


class MarkerMoved(Event, frozen=True, tag="chat.marked"):
    """Somebody has read this far."""

    room: str
    reader: str
    sequence: int


class RoomTrimmed(Event, frozen=True, tag="chat.trimmed"):
    """Messages before `first` are no longer kept."""

    room: str
    first: int


# Limits

_NUMBERS: dict[str, tuple[int, int]] = {
    "keep_messages": (1, MAX_KEEP_MESSAGES),
    "keep_ms": (1, MAX_KEEP_MS),
    "last": (1, MAX_ROWS),
    "limit": (1, MAX_ROWS),
    "since": (0, MAX_INTEGER),
    "since_ms": (0, MAX_INTEGER),
    "after": (0, MAX_INTEGER),
    **dict.fromkeys(("sequence", "before", "before_sequence", "through"), (1, MAX_INTEGER)),
}


def _check_text(text: str) -> None:
    # Of an ASCII text these mean the same in every version of Python, and say it soonest.
    if text.isascii() and text.isprintable() and not text.isspace() and 0 < len(text) <= MAX_TEXT_BYTES:
        return
    if not text.strip(BLANKS):
        raise InvalidInput("the text has nothing to see in it; a message has at least one visible character")
    check_text("text", text, MAX_TEXT_BYTES, layout=True)


def _validate_post(command: Post) -> None:
    check_name("room", command.room, MAX_NAME_BYTES)
    check_name("sender", command.sender, MAX_NAME_BYTES)
    _check_text(command.text)
    if command.reply_to is not None:
        check_number("reply_to", command.reply_to, 1)


def _validate(request: Command | Query) -> None:
    """Fields of one name have one limit; what needs more or less than that has a function of its own."""
    for name in request.__struct_fields__:
        value = getattr(request, name)
        if value is None:
            continue
        if name in _NUMBERS:
            check_number(name, value, *_NUMBERS[name])
        elif name == "text":
            _check_text(value)
        else:
            check_name(name, value, MAX_NAME_BYTES)


def _validate_mark(command: Mark) -> None:
    check_name("room", command.room, MAX_NAME_BYTES)
    check_name("reader", command.reader, MAX_NAME_BYTES)
    check_number("sequence", command.sequence, 0)


def _validate_search(query: Search) -> None:
    understood(query.text)
    check_number("limit", query.limit, 1, MAX_FOUND)
    if query.room is not None:
        check_name("room", query.room, MAX_NAME_BYTES)


# Apply

_CREATE = "INSERT INTO chat_rooms VALUES (?, ?, 0, 0, 0, NULL, FALSE, ?, ?)"
_ROOM = "SELECT number, last, trimmed, archived, keep_messages, keep_ms FROM chat_rooms WHERE room = ?"
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


def _missing(room: str) -> Rejected:
    return Rejected("not_found", f"there is no room {shown(room)}; create it, or look at the list of rooms")


def _is_full(context: Context) -> bool:
    return context.counts[STATE_BYTES] >= context.most[STATE_BYTES]


def apply_create(db: sqlite3.Connection, command: Create, context: Context) -> Result:
    if db.execute(_ROOM, (command.room,)).fetchone():
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
    room = db.execute(_ROOM, (command.room,)).fetchone()
    if room is None:
        return _missing(command.room)
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
    room = db.execute(_ROOM, (command.room,)).fetchone()
    if room is None:
        return _missing(command.room)
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
        return _missing(command.room)
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
    room = db.execute(_ROOM, (command.room,)).fetchone()
    if room is None:
        return _missing(command.room)
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
    room = db.execute(_ROOM, (command.room,)).fetchone()
    if room is None:
        return _missing(command.room)
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


# Queries

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
        raise NotFound(_missing(query.room).message)
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
        raise NotFound(_missing(query.room).message)
    items = [Marker(*marker) for _, *marker in rows if marker[0] is not None]
    return Readers(query.room, items, rows[0][0])


def search(db: sqlite3.Connection, query: Search) -> FoundPage:
    number = None
    if query.room is not None:
        room = db.execute(_ROOM, (query.room,)).fetchone()
        if room is None:
            raise NotFound(_missing(query.room).message)
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


# Invariants

_KEPT_BYTES = f"""
    SELECT ifnull(sum({ROW_BYTES} + length(CAST(kept AS BLOB))), 0) FROM (
        SELECT room AS kept FROM chat_rooms UNION ALL SELECT sender || text FROM chat_messages
        UNION ALL SELECT reader FROM chat_markers
    )
"""  # noqa: S608 - Put together from what stands here.
_NONE = {
    "rooms do not hold what they say": """
        SELECT count(*) FROM (
            SELECT trimmed + 1 AS first, last, oldest_ms, count(sequence) AS held, min(sequence) AS least,
            max(sequence) AS most, min(sent_ms) AS sent_ms
            FROM chat_rooms LEFT JOIN chat_messages ON chat_messages.room = number GROUP BY number
        ) WHERE held <> last - first + 1 OR held AND (first, last, oldest_ms) <> (least, most, sent_ms)
    """,
    "messages are in no room": """
        SELECT count(*) FROM chat_messages WHERE room NOT IN (SELECT number FROM chat_rooms)
    """,
    "messages came before the one before them": """
        SELECT count(*) FROM chat_messages AS later JOIN chat_messages AS earlier
        ON earlier.room = later.room AND earlier.sequence = later.sequence - 1
        WHERE earlier.sent_ms > later.sent_ms OR earlier.revision >= later.revision
    """,
    "markers are beyond the last message": """
        SELECT count(*) FROM chat_markers LEFT JOIN chat_rooms ON number = chat_markers.room
        WHERE sequence NOT BETWEEN 1 AND ifnull(last, 0)
    """,
    "rooms are not counted, or counted twice": """
        SELECT abs(count(*) - (SELECT value FROM tallies WHERE name = 'chat.rooms')) FROM chat_rooms
    """,
}


def kept_bytes(db: sqlite3.Connection) -> int:
    (size_bytes,) = db.execute(_KEPT_BYTES).fetchone()
    return int(size_bytes)


def check(db: sqlite3.Connection) -> Iterator[str]:
    for sentence, count_of in _NONE.items():
        (count,) = db.execute(count_of).fetchone()
        if count:
            yield f"{count} {sentence}"
    yield from FULL_TEXT.check(db)


DOMAIN = Domain(
    name="chat",
    schema=SCHEMA + FULL_TEXT.schema,
    commands={
        Create: apply_create,
        Archive: apply_archive,
        Post: apply_post,
        Edit: apply_edit,
        Redact: apply_redact,
        Mark: apply_mark,
        Trim: apply_trim,
        Index: apply_index,
    },
    queries={Rooms: list_rooms, History: history, Markers: markers, Search: search},
    answers={
        Create: RoomChanged,
        Archive: RoomChanged,
        Post: Posted,
        Edit: Posted,
        Redact: Posted,
        Mark: Marked,
        Trim: Trimmed,
        Index: Indexed,
        Rooms: RoomPage,
        History: Messages,
        Markers: Readers,
        Search: FoundPage,
    },
    validate={
        **dict.fromkeys((Create, Archive, Edit, Redact, Trim, Index, Rooms, History, Markers), _validate),
        Post: _validate_post,
        Mark: _validate_mark,
        Search: _validate_search,
    },
    events={
        RoomCreated: "room",
        RoomArchived: "room",
        RoomTrimmed: "room",
        MessagePosted: "room",
        MessageEdited: "room",
        MessageRedacted: "room",
        MarkerMoved: "room",
    },
    tallies={ROOMS: MAX_ROOMS, FULL_TEXT.tally: UNLIMITED},
    grows={Create: lambda _: True, Post: lambda _: True},
    due=due,
    kept_bytes=kept_bytes,
    check=check,
)
