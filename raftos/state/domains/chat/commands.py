"""What may be asked: the commands and queries, and the fields they share.

The limits stand in the fields to be shown; `validate.py` holds to them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from raftos.state.command import Command, Query
from raftos.state.domain import MAX_ROWS, described
from raftos.state.domains.chat.limits import (
    MAX_FOUND,
    MAX_KEEP_MESSAGES,
    MAX_KEEP_MS,
    MAX_NAME_BYTES,
    MAX_TEXT_BYTES,
)
from raftos.state.fulltext import MAX_SEARCH_BYTES

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

    The leader proposes it. Rejected with `conflict` if nothing is old enough.
    """

    internal: ClassVar[bool] = True

    room: Room
    before_sequence: Annotated[int, described("Keep this one and those after it.", minimum=1)]


class Index(Command, frozen=True, tag="chat.index"):
    """Add messages to the index for searching: at most 500 in one step.

    The leader proposes it. Rejected with `conflict` if the index is not there.
    """

    internal: ClassVar[bool] = True

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
