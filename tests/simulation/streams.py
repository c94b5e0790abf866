"""A member's side of a stream of events: the steps of `raftos/api/streams.py` on virtual time.

The steps that decide what a watcher is told are the shipped ones: where to begin (`start_of`), the pages
of kept events, what the machine tells of each turn, and its rendering. Left out are the groups, which
only spare work. What is sent arrives late, in order, cut anywhere; a break loses what is on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from raftos.api import sse
from raftos.api.streams import Wish, compacted, start_of
from raftos.errors import NotReady, RaftosError
from raftos.state.events import Told
from tests.simulation.caller import confirm
from tests.simulation.care import foreseen
from tests.simulation.world import World

TICK_S = 0.25
LOST_S = 2.0
PAGES_BYTES = (1, 300, 3_000)
ARRIVAL_S = (0.002, 0.002, 0.002, 0.1)
"""How long a piece travels: mostly, and where packets are lost."""


class Listener(Protocol):
    """Who reads a stream."""

    def hear(self, stream: Stream, piece: bytes) -> None: ...

    def broken(self, stream: Stream, error: RaftosError | None) -> None:
        """The stream ended without a word, or never began: then `error` says why."""


class Stream:
    """One request for events at one member, until one of both ends it."""

    def __init__(self, world: World, member: str, wish: Wish, listener: Listener) -> None:
        self.member = member
        self.wish = wish
        self.began = False
        """Whether it was answered at all."""
        self._world = world
        self._node = world.nodes[member]
        self._listener = listener
        self._siblings = self._node.streams
        self._siblings.append(self)
        self._live = False
        self._position = 0
        self._pending: list[Told] = []
        self._arrival = world.now
        self._lost_at: float | None = None
        if wish.stale or not world.care.confirms_first:
            self._later(world.random.expovariate(1 / 0.001), self._start)
        else:
            confirm(world, member, self._confirmed)

    def close(self) -> None:
        """Nothing is sent from now on."""
        if self in self._siblings:
            self._siblings.remove(self)

    def cut(self) -> None:
        """The member died; the watcher notices a little later."""
        self.close()
        self._world.after(0.005 * self._world.random.random(), lambda: self._listener.broken(self, None))

    def tell(self, told: Sequence[Told]) -> None:
        """The machine has saved a turn with these events."""
        if self._live:
            if not self._pending:
                self._later(self._world.random.expovariate(1 / 0.01), self._hand_out)
            self._pending += told

    # The steps.

    def _later(self, delay: float, step: Callable[[], None]) -> None:
        self._node.later(delay, lambda: step() if self in self._siblings else None)

    def _confirmed(self, answer: object) -> None:
        if isinstance(answer, RaftosError):
            self._refuse(answer)
        elif self in self._siblings:
            self._start()

    def _start(self) -> None:
        try:
            self._position = self._start_of()
        except RaftosError as error:
            self._refuse(error)
            return
        self.began = True
        self._page()
        self._later(TICK_S, self._tick)

    def _start_of(self) -> int:
        since, care, machine = self.wish.since, self._world.care, self._node.machine
        if since is not None and since >= 0:
            is_ahead = since > machine.revision
            if not (care.checks_position if is_ahead else care.notices_dropped):
                return since
        return start_of(self.wish, machine)

    def _page(self) -> None:
        world = self._world
        page = self._node.reader.events(self._position, world.random.choice(PAGES_BYTES))
        if page.dropped > self._position and world.care.notices_dropped:
            self._end(compacted(self._position, page.dropped))
            return
        self._send(sse.render(page.entries, self.wish.wanted))
        if page.entries:
            self._position = page.entries[-1].last_revision
        if page.more:
            self._later(world.random.expovariate(1 / 0.005), self._page)
        elif world.care.one_step_handover:
            self._go_live()
        else:
            self._later(0.005, self._go_live)

    def _go_live(self) -> None:
        self._live = True
        self._send_bookmark()

    def _hand_out(self) -> None:
        told, self._pending = self._pending, []
        self._send(sse.render(told, self.wish.wanted))

    def _tick(self) -> None:
        self._later(TICK_S, self._tick)
        if self._is_lost() and not self.wish.stale:
            self._end(NotReady("no leader is known"))
        elif self._live:
            if not self._world.care.agreed_first:
                self._pending += foreseen(self._node.journal, self._node.machine)
            if self._world.care.bookmarks_last:
                self._hand_out()
            self._send_bookmark()

    def _is_lost(self) -> bool:
        """Whether the member has been without a leader for long."""
        if self._node.replica.status().has_quorum:
            self._lost_at = None
            return False
        self._lost_at = self._lost_at or self._world.now
        return self._world.now >= self._lost_at + LOST_S

    # What is sent.

    def _send_bookmark(self) -> None:
        self._send(sse.bookmark(self._node.machine.revision, self.member, 0))

    def _refuse(self, error: RaftosError) -> None:
        self.close()
        self._arrive(lambda: self._listener.broken(self, error))

    def _end(self, error: RaftosError) -> None:
        self._send(sse.ending(error, None))
        self.close()

    def _send(self, data: bytes) -> None:
        """In one piece or in two; and now and then the second one never arrives."""
        random = self._world.random
        if not data:
            return
        if random.random() < 0.7:
            self._arrive(lambda: self._listener.hear(self, data))
            return
        at = random.randrange(len(data))
        self._arrive(lambda: self._listener.hear(self, data[:at]))
        if random.random() < 0.9:
            self._arrive(lambda: self._listener.hear(self, data[at:]))
        else:
            self.close()
            self._arrive(lambda: self._listener.broken(self, None))

    def _arrive(self, event: Callable[[], None]) -> None:
        world = self._world
        usual_s = world.random.choice(ARRIVAL_S)
        self._arrival = max(self._arrival, world.now + world.random.expovariate(1 / usual_s))
        world.after(self._arrival - world.now, event)
