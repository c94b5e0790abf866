"""Every event of the history that won, in order: what each watcher is held against.

Members apply the same entries at different times, some of them again after a crash. Whoever is first at
an entry writes its events into the ledger; everybody after that must tell the same. In the end the
ledger is held against a machine that applies the agreed log anew (`replay.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from raftos.api import sse
from raftos.client.events import Event
from raftos.client.sse import MessageParser
from raftos.state.events import Told
from tests.simulation.history import Violation

_decode = msgspec.msgpack.Decoder(list[tuple[int, dict[str, Any]]]).decode


class Wish(NamedTuple):
    """What a watcher wants: as it asks a member for it, and once more in words of our own."""

    filter: sse.Filter
    wants: Callable[[Event], bool]


WISHES: tuple[Wish, ...] = (
    Wish(sse.Filter(), lambda _: True),
    Wish(sse.Filter(sse.topics_of("kv")), lambda event: event.type in {"kv.written", "kv.deleted"}),
    Wish(sse.Filter(sse.topics_of("chat")), lambda event: event.type.startswith("chat.")),
    Wish(sse.Filter(subject="lounge"), lambda event: event.fields.get("room") == "lounge"),
    Wish(sse.Filter(prefix="key"), lambda event: event.fields.get("key", "").startswith("key")),
    Wish(sse.Filter(prefix="fenced/"), lambda event: event.fields.get("key", "").startswith("fenced/")),
    Wish(
        sse.Filter(sse.topics_of("kv.deleted"), subject="lock/a"),
        lambda event: event.type == "kv.deleted" and event.fields["key"] == "lock/a",
    ),
)


class Ledger:
    """The events of all revisions, as they were first told."""

    def __init__(self) -> None:
        self.entries: dict[int, Told] = {}
        """By their last revision."""
        self.events: list[Event] = []
        self._revisions: list[int] = []

    def told(self, member: str, told: Sequence[Told]) -> None:
        """A member tells the events of a turn that it has saved."""
        for entry in told:
            first = self.entries.setdefault(entry.last_revision, entry)
            if first is entry:
                self._add(member, entry)
            elif first != entry:
                raise Violation(f"{member} tells revision {entry.last_revision} as others did not")

    def _add(self, member: str, entry: Told) -> None:
        for revision, fields in _decode(entry.body):
            if self._revisions and revision < self._revisions[-1]:
                raise Violation(f"{member} tells of revision {revision} after {self._revisions[-1]}")
            self.events.append(Event(fields.pop("type"), revision, entry.time_ms, fields))
            self._revisions.append(revision)

    def place_after(self, revision: int) -> int:
        """Where the events that follow a revision begin."""
        return bisect_right(self._revisions, revision)

    def of(self, revision: int) -> list[Event]:
        """The events of one revision."""
        return self.events[self.place_after(revision - 1) : self.place_after(revision)]

    def next_wanted(self, wish: Wish, place: int) -> int:
        """The place of the first event that is wanted from here on; the end if there is none."""
        while place < len(self.events) and not wish.wants(self.events[place]):
            place += 1
        return place

    def check_rendering(self) -> None:
        """For each wish the members say what it wants, no more, and an id with each revision's last event."""
        told = list(self.entries.values())
        for wish in WISHES:
            wanted = [event for event in self.events if wish.wants(event)]
            last = {event.revision: at for at, event in enumerate(wanted)}
            ids = [
                str(event.revision) if last[event.revision] == at else None for at, event in enumerate(wanted)
            ]
            rendered = MessageParser().feed(sse.render(told, wish.filter))
            if [(message.event, message.id) for message in rendered] != [
                (event.type, mark) for event, mark in zip(wanted, ids, strict=True)
            ]:
                raise Violation(f"{wish.filter} is not rendered as what it wants")
