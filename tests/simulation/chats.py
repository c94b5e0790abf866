"""Users who chat: they post, answer, edit, redact, mark, open and archive rooms, and read the history.

No text is posted twice, so that in the end every message can be traced to who asked for it. The rules of
the rooms are told once more here, in plain dictionaries and lists (`Rooms`): each command of the agreed
log has to end as they say, and each member to hold the messages that they leave.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from raftos.errors import NotFound
from raftos.state.command import Command, Ok
from raftos.state.domains.chat import Archive, Create, Edit, History, Mark, Post, Redact
from tests.simulation.caller import ATTEMPT_S, Caller, confirm
from tests.simulation.history import Asked, Violation
from tests.simulation.world import World

OPENED = (Create("hall"), Create("lounge", keep_messages=12), Create("attic", keep_ms=1_500))
"""The rooms that everybody knows: all is kept, the last few, the youngest."""


class Chatter(Caller):
    """One user of all rooms; `rooms` is shared by all of them, and grows."""

    def __init__(self, world: World, name: str, rooms: list[str], *, pace_s: float = 0.1) -> None:
        super().__init__(world, name, pace_s=pace_s)
        self._rooms = rooms
        self._said: list[tuple[str, int]] = []
        self._numbers = itertools.count(1)
        self._acts: tuple[tuple[int, Callable[[], None]], ...] = (
            (60, self._post),
            (10, self._edit),
            (6, self._redact),
            (8, self._mark),
            (14, self._read),
            (2, self._open),
            (1, self._archive),
        )

    def go(self) -> None:
        if not self.stopped:
            ((_, act),) = self.world.random.choices(self._acts, [weight for weight, _ in self._acts])
            act()

    def open_first(self, create: Create) -> None:
        """One of the rooms that everybody knows, under the care of this user."""
        self.command(create, lambda _: None)

    def _ask(self, command: Command) -> None:
        self.command(command, lambda _: self._next())

    def _new_text(self) -> str:
        return f"{self.name}x{next(self._numbers)} {self.world.random.choice(('yes', 'no', 'perhaps'))}"

    def _any(self) -> tuple[str, int]:
        """A message: mostly one's own; else one that may be somebody else's, or not be there."""
        if self._said and self.world.random.random() < 0.8:
            return self.world.random.choice(self._said[-20:])
        return self.world.random.choice(self._rooms), self.world.random.randint(1, 40)

    def _post(self) -> None:
        room = self.world.random.choice(self._rooms)
        reply_to = self.world.random.randint(1, 40) if self.world.random.random() < 0.1 else None
        self.command(Post(room, self.name, self._new_text(), reply_to), self._posted)

    def _posted(self, asked: Asked) -> None:
        if isinstance(asked.result, Ok):
            self._said.append((asked.result.value["room"], asked.result.value["sequence"]))
        self._next()

    def _edit(self) -> None:
        room, sequence = self._any()
        self._ask(Edit(room, sequence, self._new_text(), self.name))

    def _redact(self) -> None:
        self._ask(Redact(*self._any(), self.name))

    def _mark(self) -> None:
        room, sequence = self._any()
        self._ask(Mark(room, self.name, sequence))

    def _open(self) -> None:
        room = f"{self.name}-room{next(self._numbers)}"
        self._rooms.append(room)
        self._ask(Create(room, keep_messages=self.world.random.choice((None, 3))))

    def _archive(self) -> None:
        room = self.world.random.choice(self._rooms)
        self._ask(Archive(room if room.startswith(self.name) else f"no-{room}"))

    def _read(self) -> None:
        """The newest messages of a room, behind a barrier: all that were acknowledged before."""
        world, room, began = self.world, self.world.random.choice(self._rooms), self.world.now
        member = world.random.choice(world.names)

        def answered(value: object) -> None:
            if isinstance(value, int):
                try:
                    found = world.nodes[member].reader.query(History(room, last=5))
                    sequences, last = [message.sequence for message in found.items], found.last
                except NotFound:
                    sequences, last = [], 0
                _check_read(world, room, began, sequences, last)

        confirm(world, member, answered)
        world.after(ATTEMPT_S / 20, self._next)


def _check_read(world: World, room: str, began: float, sequences: list[int], last: int) -> None:
    known = world.history.posted_before(room, began)
    if last < known:
        raise Violation(f"a read of {room} ends at {last}, although {known} was acknowledged before it began")
    if sequences != list(range(last - len(sequences) + 1, last + 1)):
        raise Violation(f"a read of {room} has gaps: {sequences} of {last}")
