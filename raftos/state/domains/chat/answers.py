"""What comes back: the answers, the refusal that writes and reads share, and the events for watchers."""

from __future__ import annotations

import msgspec

from raftos.state.command import Rejected
from raftos.state.events import Event
from raftos.state.limits import shown


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


def missing(room: str) -> Rejected:
    return Rejected("not_found", f"there is no room {shown(room)}; create it, or look at the list of rooms")


# Events


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
