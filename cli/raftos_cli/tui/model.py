"""What the terminal chat knows, without a terminal and without a network.

Of one room at a time it holds a *window*: messages `low` to `high`, without a gap. A window that `follows`
reaches to the newest message and is kept so; one that does not (after a jump to something old, or after
paging back very far) grows only when somebody pages. It never holds more than `MOST_HELD` messages.

What this user sends is *outgoing* until the room shows it:

| an outgoing message that is | when                        | is                                             |
|-----------------------------|-----------------------------|------------------------------------------------|
| waiting                     | those before it are done    | sending, and goes when the window shows it     |
| sending                     | the cluster acknowledged it | sent, and goes when the window shows it        |
| sending                     | it certainly was not done   | failed: text and reason stay                   |
| sending                     | nobody knows                | unknown, and goes when the window shows it     |
| failed or unknown           | its user sends it again     | waiting                                        |
| failed or unknown           | its user drops it           | gone                                           |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Literal

import msgspec

from raftos.client.beacons import Beacon
from raftos.client.events import Event
from raftos.state.domains.chat import Message, RoomInfo

MOST_HELD = 2_000
TYPING = "typing"
HERE = "here"


class Room(msgspec.Struct):
    """A room: it holds `first` to `last`, of which this user has read up to `read`, once that is known."""

    name: str
    first: int = 1
    last: int = 0
    archived: bool = False
    read: int | None = None

    @property
    def unread(self) -> int:
        return 0 if self.read is None else max(0, self.last - max(self.read, self.first - 1))


class Outgoing(msgspec.Struct, eq=False):
    """A post, or the edit of message `edits`, that the window does not show yet.

    `after` was the room's last message when it was written: what came before cannot be this one. Where
    messages are known by their sequence, this one is known by its `key`, a number below 0.
    """

    key: int
    room: str
    text: str
    reply_to: int | None = None
    edits: int | None = None
    after: int = 0
    state: Literal["waiting", "sending", "sent", "failed", "unknown"] = "waiting"
    reason: str = ""
    sequence: int | None = None

    @property
    def stuck(self) -> bool:
        """Whether it is this user's turn to do something about it."""
        return self.state in {"failed", "unknown"}


class Window(msgspec.Struct):
    """The messages of a room that are held; where `high` is less than `low` there is none."""

    room: str
    messages: list[Message]
    low: int
    high: int
    follows: bool
    unread_from: int | None = None
    """The first message that was new when the room was opened."""
    quoted: dict[int, Message | None] = msgspec.field(default_factory=dict)
    """Messages that were answered and are not in the window; None for one that is not kept any more."""

    def message(self, sequence: int) -> Message | None:
        if self.low <= sequence <= self.high:
            return self.messages[sequence - self.low]
        return self.quoted.get(sequence)


class Link(msgspec.Struct, frozen=True):
    """The member this chat listens to, or whom it lost and why; `since_s` says since when, of a clock."""

    member: str | None = None
    lost: str | None = None
    reason: str = "is gone"
    since_s: float = 0.0


class Model:
    """Everything that is shown, but for what is being typed."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.rooms: dict[str, Room] = {}
        self.window: Window | None = None
        self.outgoing: list[Outgoing] = []
        self.people: list[Beacon] = []
        self.link = Link()
        self.at_bottom = True
        """Whether the end of the window is in view."""
        self.looking = True
        """Whether anybody looks: the terminal has the focus, as far as it says so."""
        self.stale: set[int] = set()
        """Messages held that have changed, and have to be fetched again."""
        self._numbers = count(1)
        self._own: set[tuple[str, int]] = set()
        """Room and sequence of what this chat sent: no other outgoing message can have become these."""

    # Rooms.

    @property
    def room(self) -> Room | None:
        """The room that is open."""
        return self.rooms.get(self.window.room) if self.window else None

    def list_rooms(self, infos: Iterable[RoomInfo]) -> None:
        """All rooms as they are now; what is known of their readers stays."""
        listed = {}
        for info in infos:
            known = self.rooms.get(info.room)
            read = known.read if known else None
            listed[info.room] = Room(info.room, info.first, info.last, info.archived, read)
        self.rooms = listed

    def read_up_to(self, room: str, sequence: int) -> None:
        known = self.rooms.get(room)
        if known is not None:
            known.read = sequence

    def listed(self) -> list[Room]:
        """The rooms in the order in which they are shown: by name, archived ones last."""
        return sorted(self.rooms.values(), key=lambda room: (room.archived, room.name))

    def neighbour(self, step: int) -> str | None:
        """The room so many places below the open one in the list, around its end."""
        rooms = self.listed()
        if self.room not in rooms:
            return rooms[0].name if rooms else None
        return rooms[(rooms.index(self.room) + step) % len(rooms)].name

    def first_choice(self) -> str | None:
        """The room to begin with: one with something new, else the first in the list."""
        ranked = sorted(self.listed(), key=lambda room: (room.archived, not room.unread))
        return ranked[0].name if ranked else None

    # What happens.

    def happened(self, event: Event) -> None:
        """An event of the chat; the same one twice is as good as once."""
        fields = event.fields
        if event.type == "chat.created":
            self.rooms.setdefault(fields["room"], Room(fields["room"], read=0))
        room = self.rooms.get(fields["room"])
        if room is None:
            return
        match event.type:
            case "chat.posted":
                room.last = max(room.last, fields["sequence"])
            case "chat.edited" | "chat.redacted":
                self._changed(room, fields["sequence"])
            case "chat.marked" if fields["reader"] == self.user:
                room.read = fields["sequence"]
            case "chat.archived":
                room.archived = True
            case "chat.trimmed":
                self._trimmed(room, fields["first"])
            case _:
                pass

    def _changed(self, room: Room, sequence: int) -> None:
        if self.window is not None and self.window.room == room.name and self.window.message(sequence):
            self.stale.add(sequence)

    def _trimmed(self, room: Room, first: int) -> None:
        room.first = max(room.first, first)
        window = self.window
        if window is not None and window.room == room.name and window.low < first:
            del window.messages[: first - window.low]
            window.low = first
            window.high = max(window.high, first - 1)

    # The window.

    def show(self, room: str, messages: Sequence[Message], first: int, last: int) -> None:
        """Look at these messages of a room, which holds `first` to `last`."""
        known = self.rooms.setdefault(room, Room(room))
        known.first, known.last = first, max(known.last, last)
        low = messages[0].sequence if messages else last + 1
        high = messages[-1].sequence if messages else last
        self.window = Window(room, list(messages), low, high, follows=high >= last)
        if known.unread and known.read is not None:
            self.window.unread_from = max(known.read + 1, first)
        self.stale.clear()
        self.at_bottom = self.window.follows
        self._settle()

    def append(self, messages: Sequence[Message], last: int) -> None:
        """What follows the window."""
        window = self.window
        if window is None or not messages or messages[0].sequence != window.high + 1:
            return
        window.messages += messages
        window.high = messages[-1].sequence
        self._learn_last(last)
        window.follows = window.follows or window.high >= last
        surplus = len(window.messages) - MOST_HELD
        if surplus > 0 and self.at_bottom:
            del window.messages[:surplus]
            window.low += surplus
        elif surplus > 0:
            window.follows = False
        self._settle()

    def prepend(self, messages: Sequence[Message]) -> None:
        """What comes before the window."""
        window = self.window
        if window is None or not messages or messages[-1].sequence != window.low - 1:
            return
        window.messages[:0] = messages
        window.low = messages[0].sequence
        if len(window.messages) > MOST_HELD:
            del window.messages[MOST_HELD:]
            window.high = window.messages[-1].sequence
            window.follows = False

    def replace(self, message: Message) -> None:
        """A message as it is now."""
        window = self.window
        if window is None:
            return
        self.stale.discard(message.sequence)
        if window.low <= message.sequence <= window.high:
            window.messages[message.sequence - window.low] = message
            self._settle()
        else:
            window.quoted[message.sequence] = message

    def gone(self, sequence: int) -> None:
        """A message that is not kept any more, where it was asked for."""
        self.stale.discard(sequence)
        if self.window is not None:
            self.window.quoted[sequence] = None

    @property
    def misses_newer(self) -> bool:
        """Whether something has to be fetched for the window to reach to the newest message."""
        room = self.room
        return bool(self.window and room and self.window.follows and self.window.high < room.last)

    @property
    def has_older(self) -> bool:
        return bool(self.window and self.room and self.window.low > self.room.first)

    @property
    def has_newer(self) -> bool:
        return bool(self.window and self.room and self.window.high < self.room.last)

    def unknown_quotes(self) -> list[int]:
        """Messages that are answered in the window, and were never seen."""
        if self.window is None:
            return []
        wanted = {message.reply_to for message in self.window.messages if message.reply_to is not None}
        held = range(self.window.low, self.window.high + 1)
        return sorted(each for each in wanted if each not in held and each not in self.window.quoted)

    def to_mark(self) -> int | None:
        """Up to which message the open room has just been read, where that is news."""
        room = self.room
        if self.window is None or room is None or room.read is None:
            return None
        if not (self.at_bottom and self.looking):
            return None
        return self.window.high if self.window.high > room.read else None

    # What this user sends.

    def write(self, text: str, *, reply_to: int | None = None, edits: int | None = None) -> Outgoing:
        """Something to be sent to the open room."""
        assert self.window is not None
        after = max(self.window.high, self.rooms[self.window.room].last)
        outgoing = Outgoing(-next(self._numbers), self.window.room, text, reply_to, edits, after)
        self.outgoing.append(outgoing)
        self.window.unread_from = None
        return outgoing

    def acknowledged(self, outgoing: Outgoing, sequence: int) -> None:
        outgoing.state, outgoing.sequence = "sent", sequence
        self._own.add((outgoing.room, sequence))
        if outgoing.edits is not None:
            self._remove(outgoing)
        elif self.window is not None and self.window.room == outgoing.room:
            self._learn_last(sequence)
            self._settle()
        else:
            self._remove(outgoing)

    def refused(self, outgoing: Outgoing, reason: str) -> None:
        """It certainly was not done: what the window showed, if it did, was somebody else's."""
        outgoing.state, outgoing.reason, outgoing.sequence = "failed", reason, None
        if outgoing not in self.outgoing:
            self.outgoing.append(outgoing)

    def doubted(self, outgoing: Outgoing, reason: str) -> None:
        """Nobody knows whether it was done."""
        outgoing.state, outgoing.reason = "unknown", reason
        self._settle()

    def drop(self, outgoing: Outgoing) -> None:
        self._remove(outgoing)

    def next_to_send(self) -> Outgoing | None:
        """The oldest that waits: one at a time, so that they arrive in the order they were written in."""
        return next((each for each in self.outgoing if each.state == "waiting"), None)

    def outgoing_here(self) -> list[Outgoing]:
        """What the window has to show besides its messages."""
        window = self.window
        return [each for each in self.outgoing if window and window.follows and each.room == window.room]

    def outgoing_of(self, key: int) -> Outgoing | None:
        return next((each for each in self.outgoing if each.key == key), None)

    # Who is there.

    def typing(self) -> list[str]:
        """The others who are typing in the open room."""
        return [each.name for each in self.people if each.state == TYPING and each.name != self.user]

    # Inside.

    def _learn_last(self, last: int) -> None:
        if self.room is not None:
            self.room.last = max(self.room.last, last)

    def _settle(self) -> None:
        """Let go of what was outgoing and is in the window now."""
        window = self.window
        if window is None:
            return
        for outgoing in [each for each in self.outgoing if each.room == window.room]:
            if outgoing.state in {"sending", "unknown"}:
                outgoing.sequence = self._found(outgoing, window)
            if outgoing.sequence is not None and (outgoing.sequence <= window.high or not window.follows):
                self._remove(outgoing)

    def _found(self, outgoing: Outgoing, window: Window) -> int | None:
        """The message that an outgoing one became, before anybody said so, if the window shows it."""
        for message in window.messages:
            if message.sender != self.user or message.text != outgoing.text:
                continue
            if outgoing.edits == message.sequence:
                return message.sequence
            is_new = message.sequence > outgoing.after and (window.room, message.sequence) not in self._own
            if outgoing.edits is None and is_new and message.reply_to == outgoing.reply_to:
                self._own.add((window.room, message.sequence))
                return message.sequence
        return None

    def _remove(self, outgoing: Outgoing) -> None:
        if outgoing in self.outgoing:
            self.outgoing.remove(outgoing)
