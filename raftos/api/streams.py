"""`GET /v1/events`: watchers, from where they left off to the present, and then along with it.

A watcher's life:

| state       | is given                                               | ends when                          |
|-------------|--------------------------------------------------------|------------------------------------|
| catching up | pages of kept events, as fast as it takes them         | it is at the present: it goes live |
| live        | what each turn of the machine tells, once it was saved | its buffer is full, or this member |
|             |                                                        | lost its leader, stops, or went on |
|             |                                                        | from a snapshot                    |
| ended       | `event: end` with the reason                           | it resumes, here or elsewhere      |

**No gap, nothing twice.** The last page is read and the watcher goes live in one turn of the event loop,
on which entries are applied too: what is applied later is told later.

**Many watchers.** Those that want the same form a group: a block is rendered once for all of them. Blocks
are handed out a few milliseconds at a time, and the next ones are rendered only after a rest in proportion,
so that a thousand watchers cannot take the loop away from consensus: they get fewer, larger blocks.

**Slow watchers** hold nobody up: one whose buffer is full is cut off, and resumes from its last id.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from raftos.api import codec, sse
from raftos.api.answers import Outlet, StreamAnswer
from raftos.api.connection import Request, chunk
from raftos.api.domains import consistency_of
from raftos.api.requests import deadline
from raftos.errors import Compacted, InvalidInput, LimitReached, NotReady, RaftosError, SlowWatcher
from raftos.member import Member
from raftos.state.events import Page, Told
from raftos.state.machine import Machine
from raftos.state.tally import EVENTS_DROPPED

MAX_WATCHERS = 4_096
MAX_WATCHERS_PER_IDENTITY = 2_048
MAX_BACKLOG_BYTES = 1024 * 1024
"""A live watcher that has not taken this much is cut off."""
PAGE_BYTES = 256 * 1024
IDLE_S = 2.0
"""A watcher hears a bookmark when it has heard nothing else for this long."""
LOST_S = 2.0
"""A member without a leader for this long sends its watchers to another one."""
TICK_S = 0.25
SLICE_S = 0.002
SLICE_WATCHERS = 16
REST = 3
"""After handing out blocks for a while, this many times that while passes before the next ones."""


class Wish(msgspec.Struct, frozen=True):
    """A request for events: which, from where, and whether a member without a leader will do."""

    wanted: sse.Filter
    since: int | None = None
    stale: bool = False
    gzip: bool = False


class Watcher(msgspec.Struct, eq=False):
    """One open stream. Everything up to `position` was sent; `ended` says why there is no more."""

    wish: Wish
    identity: str
    position: int
    outlet: Outlet
    ended: asyncio.Future[RaftosError]

    def send(self, data: bytes) -> None:
        self.outlet.write(chunk(sse.deflated(data) if self.wish.gzip else data))

    def end(self, error: RaftosError) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


class Group:
    """The live watchers that want the same, in the same encoding."""

    def __init__(self) -> None:
        self.watchers: set[Watcher] = set()
        self.told_at = time.monotonic()


class Streams:
    """All watchers of one member. `most_per_identity` watchers at once may use one credential."""

    def __init__(self, member: Member, *, most_per_identity: int = MAX_WATCHERS_PER_IDENTITY) -> None:
        self._member = member
        self._most_per_identity = most_per_identity
        self._watchers: set[Watcher] = set()
        self._identities: Counter[str] = Counter()
        self._groups: dict[tuple[sse.Filter, bool], Group] = {}
        self._pending: list[Told] = []
        self._deliveries: deque[tuple[Watcher, bytes]] = deque()
        self._round: asyncio.Handle | None = None
        self._worked_s = 0.0
        self._rest_until = 0.0
        self._lost_at: float | None = None
        self._ticker: asyncio.Task[None] | None = None
        self.cut = 0
        """Watchers cut off because they were too slow, since the start."""
        member.machine.on_events(self._tell)
        member.machine.on_replaced(self._leap)

    def __len__(self) -> int:
        return len(self._watchers)

    async def __call__(self, request: Request) -> StreamAnswer:
        wish = read_wish(request)
        identity = request.header(b"authorization") or ""
        self._admit(identity)
        if not wish.stale:
            until = deadline(request, self._member.config.request_timeout_ms)
            await self._member.consensus.read_barrier(until)
        position = start_of(wish, self._member.machine)

        async def run(outlet: Outlet) -> None:
            watcher = Watcher(wish, identity, position, outlet, asyncio.get_running_loop().create_future())
            await self._serve(watcher)

        encoding = "Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n" if wish.gzip else ""
        return StreamAnswer(200, b"", sse.CONTENT_TYPE, encoding, run=run)

    def _leap(self) -> None:
        """This member went on from a snapshot: live watchers were not told what lies between."""
        for group in self._groups.values():
            for watcher in group.watchers:
                watcher.end(NotReady("this member went on from a snapshot; resume from the last id"))

    def close(self) -> None:
        """Send every watcher to another member."""
        for watcher in self._watchers:
            watcher.end(NotReady("this member is stopping; resume on another one"))

    # From a request to a place in the events.

    def _admit(self, identity: str) -> None:
        if len(self._watchers) >= MAX_WATCHERS:
            raise LimitReached(f"this member has {MAX_WATCHERS} watchers; ask another member")
        if self._identities[identity] >= self._most_per_identity:
            raise LimitReached(
                f"this credential has {self._most_per_identity} watchers here, as many as it may have; "
                "share one, or ask another member"
            )

    # One watcher.

    async def _serve(self, watcher: Watcher) -> None:
        self._watchers.add(watcher)
        self._identities[watcher.identity] += 1
        self._member.consensus.watching(True)
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().create_task(self._tick(), name="watchers")
        try:
            if watcher.wish.gzip:
                watcher.outlet.write(chunk(sse.GZIP_HEADER))
            try:
                await self._catch_up(watcher)
                error = await watcher.ended
            except RaftosError as reason:
                error = reason
            watcher.send(sse.ending(error, self._member.leader_name()))
        finally:
            self._leave(watcher)

    async def _catch_up(self, watcher: Watcher) -> None:
        member = self._member
        more = True
        while more:
            if watcher.position < member.machine.revision:
                more = self._send_page(watcher, await member.past_events(watcher.position, PAGE_BYTES))
                await watcher.outlet.drained()
            if watcher.ended.done():
                return
            if not more or watcher.position == member.machine.revision:
                # From here to `_go_live` nothing may wait.
                more = self._send_page(watcher, member.latest_events(watcher.position, PAGE_BYTES))
        self._go_live(watcher)

    def _send_page(self, watcher: Watcher, page: Page) -> bool:
        """Send a page of kept events; whether there are more. Raises Compacted."""
        if page.dropped > watcher.position:
            raise compacted(watcher.position, page.dropped)
        if page.entries:
            data = sse.render(page.entries, watcher.wish.wanted)
            if data:
                watcher.send(data)
            watcher.position = page.entries[-1].last_revision
        return page.more

    def _go_live(self, watcher: Watcher) -> None:
        # What is pending is for those that were live before: this watcher has read it.
        self._render()
        self._schedule()
        group = self._groups.setdefault((watcher.wish.wanted, watcher.wish.gzip), Group())
        group.watchers.add(watcher)
        watcher.send(self._bookmark())

    def _leave(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
        self._identities[watcher.identity] -= 1
        if not self._identities[watcher.identity]:
            del self._identities[watcher.identity]
        self._retire(watcher)
        watcher.end(NotReady("the watcher left"))
        if not self._watchers and self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
            self._member.consensus.watching(False)

    def _retire(self, watcher: Watcher) -> None:
        """Take a watcher out of its group: it is given nothing more."""
        key = (watcher.wish.wanted, watcher.wish.gzip)
        group = self._groups.get(key)
        if group is not None:
            group.watchers.discard(watcher)
            if not group.watchers:
                del self._groups[key]

    # All live watchers.

    def _tell(self, told: Sequence[Told]) -> None:
        if self._groups:
            self._pending += told
            self._schedule()

    def _schedule(self) -> None:
        if self._round is None and (self._pending or self._deliveries):
            self._round = asyncio.get_running_loop().call_at(self._rest_until, self._hand_out)

    def _render(self) -> None:
        """Make blocks of what is pending, and line them up for their watchers."""
        told, self._pending = self._pending, []
        for (wanted, gzip), group in self._groups.items() if told else ():
            data = sse.render(told, wanted)
            if data:
                self._line_up(group, data, gzip=gzip)

    def _line_up(self, group: Group, data: bytes, *, gzip: bool) -> None:
        group.told_at = time.monotonic()
        block = chunk(sse.deflated(data) if gzip else data)
        self._deliveries += [(watcher, block) for watcher in group.watchers]

    def _hand_out(self) -> None:
        """Hand out blocks for a slice of time; the next are rendered when these are handed out."""
        loop = asyncio.get_running_loop()
        self._round = None
        began = loop.time() if self._deliveries else self._begin_round()
        while self._deliveries and loop.time() < began + SLICE_S:
            for _ in range(min(SLICE_WATCHERS, len(self._deliveries))):
                self._deliver(*self._deliveries.popleft())
        now = loop.time()
        self._worked_s += now - began
        self._rest_until = now if self._deliveries else now + REST * self._worked_s
        self._schedule()

    def _begin_round(self) -> float:
        began = asyncio.get_running_loop().time()
        self._worked_s = 0.0
        self._render()
        return began

    def _deliver(self, watcher: Watcher, block: bytes) -> None:
        if watcher.ended.done():
            return
        watcher.outlet.write(block)
        if watcher.outlet.backlog_bytes > MAX_BACKLOG_BYTES:
            self.cut += 1
            self._retire(watcher)
            watcher.end(
                SlowWatcher(
                    f"this watcher left {MAX_BACKLOG_BYTES} bytes unread; read faster, or watch less, and "
                    "resume from the last id"
                )
            )

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self._notice_loss(now)
            self._render()  # A bookmark comes after all there is to say.
            for (_, gzip), group in self._groups.items():
                if group.told_at <= now - IDLE_S:
                    self._line_up(group, self._bookmark(), gzip=gzip)
            self._schedule()

    def _notice_loss(self, now: float) -> None:
        reason = self._member.not_ready()
        if self._member.lost is not None:
            for watcher in self._watchers:
                watcher.end(NotReady(self._member.lost))
        if reason is None:
            self._lost_at = None
        elif self._lost_at is None:
            self._lost_at = now
        elif now - self._lost_at >= LOST_S:
            for watcher in self._watchers:
                if not watcher.wish.stale:
                    watcher.end(NotReady(reason))

    def _bookmark(self) -> bytes:
        member = self._member
        return sse.bookmark(member.machine.revision, member.config.name, member.age_ms())


def read_wish(request: Request) -> Wish:
    """The parameters of a request for events. Raises InvalidInput."""
    fields = codec.parameters(request.query)
    stale = consistency_of(fields.pop("consistency", "linearizable")) == "stale"
    since = fields.pop("since", request.header(b"last-event-id"))
    topics = fields.pop("topic", None)
    prefix, subject = fields.pop("prefix", ""), fields.pop("subject", None)
    if fields:
        raise InvalidInput(
            f"unknown parameter {next(iter(fields))!r}; there are since, topic, prefix, subject, consistency"
        )
    return Wish(
        sse.Filter(None if topics is None else sse.topics_of(topics), prefix, subject),
        None if since is None else _revision(since),
        stale,
        "gzip" in (request.header(b"accept-encoding") or ""),
    )


def _revision(text: str) -> int:
    with suppress(ValueError):
        if len(text) <= 17:
            return int(text)
    raise InvalidInput(f"{text!r} is not a revision; write a whole number, -20 for the last twenty")


def start_of(wish: Wish, machine: Machine) -> int:
    """The revision after which the events are wanted. Raises InvalidInput, Compacted."""
    newest, dropped = machine.revision, machine.tallies[EVENTS_DROPPED]
    if wish.since is None:
        return newest
    if wish.since < 0:
        return max(newest + wish.since, dropped)
    if wish.since > newest:
        raise InvalidInput(f"revision {wish.since} is in the future: the newest is {newest}")
    if wish.since < dropped:
        raise compacted(wish.since, dropped)
    return wish.since


def compacted(since: int, dropped: int) -> Compacted:
    """What is not kept any more cannot be told."""
    return Compacted(
        f"the events after revision {since} are no longer all kept; read anew, or resume from {dropped}, the "
        "oldest there is",
        oldest_revision=dropped,
    )
