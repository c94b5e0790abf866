"""Users who follow events, and leave and resume all the time: held against the ledger, event by event.

A watcher reads with the shipped client's `Telling`, and resumes on another member after its last
complete revision. Whatever it is handed must be the next event that it wants in the ledger; a bookmark
may not pass over one. So it is told everything, once and in order, or that it came too late: then it goes
on where the kept events begin.
"""

from __future__ import annotations

from collections.abc import Sequence

from raftos.api import streams
from raftos.client.events import Bookmark, Event, Telling
from raftos.errors import Compacted, InvalidInput, RaftosError
from tests.simulation.caller import ATTEMPT_S
from tests.simulation.history import Violation
from tests.simulation.ledger import Wish
from tests.simulation.streams import Stream
from tests.simulation.world import World

VISIT_S = 1.5
"""How long a watcher stays with a member, on average."""


class Watcher:
    """One user. A sleepy one rests for long between two members, and may come too late."""

    def __init__(
        self,
        world: World,
        name: str,
        wish: Wish,
        *,
        since: int | None,
        stale: bool = False,
        rest_s: float = 0.05,
    ) -> None:
        self.world = world
        self.name = name
        self.wish = wish
        self.stale = stale
        self.rest_s = rest_s
        self.calm = False
        self.visits = self.told = self.came_late = 0
        self._since = since
        self._position: int | None = None
        self._place: int | None = None
        """What comes next in the ledger, once it is known where to begin."""
        self._stream: Stream | None = None
        self._telling: Telling

    @property
    def is_complete(self) -> bool:
        """Whether it was told everything that it wants and that happened."""
        ledger = self.world.ledger
        return self._place is not None and ledger.next_wanted(self.wish, self._place) == len(ledger.events)

    @property
    def _known(self) -> int | None:
        """The revision up to which it knows all, or wants nothing; None if only a member can say."""
        if self._position is not None or self._since is None or self._since < 0:
            return self._position
        return self._since

    def calm_down(self) -> None:
        """From now on it stays where it is, until the member ends the stream; if it rests, it wakes up."""
        self.calm = True
        self.go()

    def go(self) -> None:
        """Visit some member, if it does not already."""
        if self._stream is not None:
            return
        world = self.world
        member = world.random.choice(world.names)
        since = self._since if self._position is None else self._position
        self._telling = Telling(member)
        self._stream = stream = Stream(world, member, streams.Wish(self.wish.filter, since, self.stale), self)
        world.note("follow", self.name, member, since)
        self.visits += 1
        world.after(ATTEMPT_S, lambda: None if stream.began else self._leave(stream))
        world.after(world.random.expovariate(1 / VISIT_S), lambda: None if self.calm else self._leave(stream))

    def _leave(self, stream: Stream) -> None:
        if stream is not self._stream:
            return
        stream.close()
        self._stream = None
        if not self.world.care.whole_revisions:
            self._accept(self._telling._unfinished)
        rest_s = 0.05 if self.calm else self.rest_s
        self.world.after(self.world.random.expovariate(1 / rest_s), self.go)

    # What a stream says.

    def hear(self, stream: Stream, piece: bytes) -> None:
        if stream is not self._stream:
            return
        told = self._telling.feed(piece)
        self._check_stream(stream, told)
        self._accept(told)
        self.world.note("hear", self.name, len(piece), self._position)
        if self._telling.end is not None:
            self._ended(stream, self._telling.end)

    def broken(self, stream: Stream, error: RaftosError | None) -> None:
        if stream is self._stream:
            self._ended(stream, error)

    def _ended(self, stream: Stream, error: RaftosError | None) -> None:
        self.world.note("ended", self.name, stream.member, type(error).__name__)
        if isinstance(error, Compacted):
            self._come_late(error.oldest_revision)
        elif isinstance(error, InvalidInput) and not self.stale:
            raise Violation(
                f"{stream.member} confirmed that it is up to date, but is behind {self.name}: {error}"
            )
        self._leave(stream)

    def _come_late(self, oldest: int) -> None:
        """Some of what was asked for is kept no more: go on with what is."""
        if (known := self._known) is not None and oldest <= known:
            raise Violation(
                f"{self.name}, who knows all to {known}, is told that it comes too late for {oldest}"
            )
        self.came_late += 1
        self._position = oldest
        self._place = self.world.ledger.place_after(oldest)

    def _accept(self, told: Sequence[Event | Bookmark]) -> None:
        """As the client does: a position that moves over whole revisions, and nothing twice."""
        before = position = -1 if self._position is None else self._position
        for item in told:
            position = max(position, item.revision)
            if isinstance(item, Bookmark):
                self._bookmarked(item.revision)
            elif item.revision > before:
                self._handed(item)
        if told:
            self._position = position

    # What it has to say.

    def _check_stream(self, stream: Stream, told: Sequence[Event | Bookmark]) -> None:
        """A member tells only what follows the revision that it was asked for."""
        since = stream.wish.since
        for item in told:
            if isinstance(item, Event) and since is not None and item.revision <= since:
                raise Violation(f"{stream.member} tells {self.name}, who knows all to {since}, of {item}")

    def _next(self, revision: int) -> int:
        """The place in the ledger of what comes next; one who joins now begins at this revision."""
        ledger = self.world.ledger
        if self._place is None:
            known = self._known
            self._place = ledger.place_after(revision - 1 if known is None else known)
        self._place = ledger.next_wanted(self.wish, self._place)
        return self._place

    def _handed(self, event: Event) -> None:
        self.told += 1
        place, events = self._next(event.revision), self.world.ledger.events
        if place < len(events) and events[place] == event:
            self._place = place + 1
        elif event not in events:
            raise Violation(f"{self.name} is told of what nobody has applied: {event}")
        elif place < len(events) and events[place].revision < event.revision:
            raise Violation(f"{self.name} has missed {events[place]}, and is told of {event}")
        else:
            raise Violation(f"{self.name} is told twice or in another order: {event}")

    def _bookmarked(self, revision: int) -> None:
        place, events = self._next(revision + 1), self.world.ledger.events
        if place < len(events) and events[place].revision <= revision:
            raise Violation(f"{self.name} has missed {events[place]}: a bookmark says {revision}")
