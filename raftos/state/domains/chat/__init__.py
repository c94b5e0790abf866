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

    schema.py     the tables, the index of words, what is counted, and how a room is found
    limits.py     how much there may be, and what counts as blank
    commands.py   the commands and queries, and their fields
    answers.py    the answers, the refusal that writes and reads share, and the events
    validate.py   whether a request keeps to the limits
    apply.py      what each command does
    queries.py    what each query reads, and what is due
    checks.py     the invariants, and the bytes that are kept
    domain.py     `DOMAIN`, which gathers them

Each of them imports only from those above it.
"""

from raftos.state.domains.chat.answers import (
    Found,
    FoundPage,
    Indexed,
    Marked,
    Marker,
    MarkerMoved,
    Message,
    MessageEdited,
    MessagePosted,
    MessageRedacted,
    Messages,
    Posted,
    Readers,
    RoomArchived,
    RoomChanged,
    RoomCreated,
    RoomInfo,
    RoomPage,
    RoomTrimmed,
    Trimmed,
)
from raftos.state.domains.chat.apply import apply_post, apply_trim
from raftos.state.domains.chat.commands import (
    Archive,
    Create,
    Edit,
    History,
    Index,
    Mark,
    Markers,
    Post,
    Redact,
    Rooms,
    Search,
    Trim,
)
from raftos.state.domains.chat.domain import DOMAIN
from raftos.state.domains.chat.limits import BLANKS, MAX_FOUND, MAX_TRIMS
from raftos.state.domains.chat.schema import FULL_TEXT

__all__ = [
    "BLANKS",
    "DOMAIN",
    "FULL_TEXT",
    "MAX_FOUND",
    "MAX_TRIMS",
    "Archive",
    "Create",
    "Edit",
    "Found",
    "FoundPage",
    "History",
    "Index",
    "Indexed",
    "Mark",
    "Marked",
    "Marker",
    "MarkerMoved",
    "Markers",
    "Message",
    "MessageEdited",
    "MessagePosted",
    "MessageRedacted",
    "Messages",
    "Post",
    "Posted",
    "Readers",
    "Redact",
    "RoomArchived",
    "RoomChanged",
    "RoomCreated",
    "RoomInfo",
    "RoomPage",
    "RoomTrimmed",
    "Rooms",
    "Search",
    "Trim",
    "Trimmed",
    "apply_post",
    "apply_trim",
]
