"""Replicas in memory on a wire driven by hand: nothing moves unless a test says so.

The replicas and journals are the shipped ones, on a disk in memory. Where the simulation draws
delays from a seed, here a test delivers frames, completes syncs and lets time pass itself, and so can
stop the world in any one state. Instead of SQLite each member keeps the list of what it applied;
the result of a request is the request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import msgspec

from raftos.consensus.configuration import Change, Configuration
from raftos.consensus.core import Offer, Timings
from raftos.consensus.guard import Rules
from raftos.consensus.journal import Identity, Journal, Write
from raftos.consensus.journal.journal import SEGMENT_BYTES
from raftos.consensus.messages import Message
from raftos.consensus.replica import Replica
from tests.simulation.storage import SimulatedStorage

TICK_S = 0.025
EPOCH_MS = 1_700_000_000_000


class Frame(NamedTuple):
    sender: str
    receiver: str
    generation: int
    message: Message


def request(text: str) -> bytes:
    """What the tests propose; it comes back as its own result."""
    return msgspec.msgpack.encode(text)


def requests_of(payload: bytes) -> tuple[int, list[bytes]]:
    """The stamp and the requests of an entry's payload."""
    if not payload:
        return 0, []
    _, time_ms, requests = msgspec.msgpack.decode(payload, type=tuple[int, int, list[msgspec.Raw]])
    return time_ms, [bytes(one) for one in requests]


@dataclass
class Member:
    """One member: a disk that outlives it, and what it has applied so far."""

    name: str
    first: Configuration
    """The configuration it knows when its log is empty: none if it joined later."""
    storage: SimulatedStorage = field(default_factory=SimulatedStorage)
    applied: list[tuple[int, bytes]] = field(default_factory=list)
    time_ms: int = 0
    up: bool = False
    disk_stuck: bool = False
    apply_stuck: bool = False
    handed_over: list[tuple[int, bytes]] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    journal: Journal = field(init=False)
    replica: Replica = field(init=False)

    @property
    def applied_index(self) -> int:
        return self.applied[-1][0] if self.applied else 0

    def begin_write(self) -> Write:
        """Give a stuck disk what waits; `Wire.finish_write` ends it."""
        write = self.journal.take()
        assert write is not None
        return write

    @property
    def requests(self) -> list[bytes]:
        return [one for _, payload in self.applied for one in requests_of(payload)[1]]


class Wire:
    """Members, the frames between them, and time."""

    def __init__(
        self,
        size: int = 3,
        *,
        timings: Timings | None = None,
        rules: Rules | None = None,
        walls_ms: dict[str, int] | None = None,
        cache_bytes: int = 2**20,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.names = [chr(ord("a") + number) for number in range(size)]
        self.members = {name: Member(name, Configuration.of(self.names)) for name in self.names}
        self.timings = timings or Timings()
        self.rules = rules or Rules()
        self.walls_ms = walls_ms or {}
        self.cache_bytes = cache_bytes
        self.segment_bytes = segment_bytes
        self.now = 1_000.0
        self.frames: list[Frame] = []
        self.delivered: list[Frame] = []
        self.ended: dict[object, Any] = {}
        self.cut: set[tuple[str, str]] = set()
        """Directions (sender, receiver) in which frames wait."""
        self._generation = 0
        for name in self.names:
            self.start(name)

    def __getitem__(self, name: str) -> Replica:
        return self.members[name].replica

    # Members.

    def start(self, name: str) -> None:
        """Start a member and link it with all that run."""
        member = self.members[name]
        member.journal = Journal.open(
            member.storage,
            Identity("wire", name),
            cache_bytes=self.cache_bytes,
            segment_bytes=self.segment_bytes,
        )
        member.replica = Replica(
            member_id=name,
            configuration=member.first,
            journal=member.journal,
            applied_index=member.applied_index,
            time_ms=member.time_ms,
            wall_ms=self.walls_ms.get(name, EPOCH_MS),
            now=self.now,
            random=Random(name),
            timings=self.timings,
            rules=self.rules,
        )
        member.up = True
        self.step(name)
        for other in self.names:
            if other != name and self.members[other].up:
                self.link(name, other)

    def join(self, name: str) -> None:
        """Start a member that no configuration names yet, and link it with all that run."""
        self.members[name] = Member(name, Configuration(()))
        self.names.append(name)
        self.start(name)

    def crash(self, name: str) -> None:
        """Only what was synced stays. The others learn of it at once."""
        member = self.members[name]
        member.up, member.handed_over = False, []
        member.storage.crash(Random(0))
        for other in self.names:
            if other != name:
                self.unlink(name, other)

    def restart(self, name: str) -> None:
        self.crash(name)
        self.start(name)

    def link(self, one: str, other: str) -> None:
        self._generation += 1
        for name, peer in ((one, other), (other, one)):
            self[name].linked(self.now, peer, self._generation)
            self.step(name)

    def unlink(self, one: str, other: str) -> None:
        """The link closes; frames on it are lost."""
        self.frames = [frame for frame in self.frames if {frame.sender, frame.receiver} != {one, other}]
        for name, peer in ((one, other), (other, one)):
            if self.members[name].up:
                self[name].unlinked(self.now, peer, self[name].core.links.get(peer, 0))
                self.step(name)

    def isolate(self, name: str) -> None:
        """Frames to and from a member wait, as on a link nobody has yet seen to be dead."""
        for other in self.names:
            self.cut |= {(name, other), (other, name)}

    def heal(self) -> None:
        self.cut.clear()

    # What happens.

    def step(self, name: str) -> None:
        """Conclude the inputs of one member, as the driver does."""
        member = self.members[name]
        member.replica.step(self.now)
        self.sync(name)
        while output := member.replica.take():
            self.frames += [
                Frame(name, peer, generation, message) for peer, generation, message in output.frames
            ]
            self.ended.update(output.done)
            member.handed_over += output.committed
            member.offers += output.offers
            self._apply(member)
            self.sync(name)

    def sync(self, name: str) -> None:
        """Complete a write, unless the disk is stuck."""
        member = self.members[name]
        while not member.disk_stuck and (write := member.journal.take()) is not None:
            self._finish_write(member, write)

    def _finish_write(self, member: Member, write: Write) -> None:
        member.journal.writer.write(write)
        member.journal.finish(write)
        member.replica.synced(self.now)
        member.replica.step(self.now)

    def finish_write(self, name: str, write: Write) -> None:
        self._finish_write(self.members[name], write)
        self.step(name)
        self.deliver()

    def _apply(self, member: Member) -> None:
        if member.apply_stuck or not member.handed_over:
            return
        entries, member.handed_over = member.handed_over, []
        results = []
        for index, payload in entries:
            assert index == member.applied_index + 1
            time_ms, requests = requests_of(payload)
            member.applied.append((index, payload))
            member.time_ms = max(member.time_ms, time_ms)
            results.append((index, requests))
        member.replica.applied(self.now, results, member.time_ms)
        member.replica.step(self.now)

    def trim(self, name: str) -> int:
        """A member has a snapshot of all it applied, and its log forgets that; the snapshot's index."""
        member = self.members[name]
        index, term = member.applied_index, member.journal.term_at(member.applied_index)
        assert term is not None
        member.replica.snapshot_made(self.now, index, term, 1_000)
        member.journal.trim(index)
        member.journal.writer.remove(member.journal.take_removals())
        return index

    def install(self, name: str, giver: str) -> None:
        """A member takes over the state that its last offer is about."""
        member, offer = self.members[name], self.members[name].offers[-1]
        assert member.replica.wants_snapshot(offer.index)
        given = self.members[giver]
        mark = given.journal.mark_at(offer.index)
        member.applied = [entry for entry in given.applied if entry[0] <= offer.index]
        member.handed_over = []
        member.replica.install(
            self.now, offer.index, offer.term, mark.payload if mark else None, given.time_ms
        )
        self.step(name)

    def repair_disk(self, name: str) -> None:
        self.members[name].disk_stuck = False
        self.sync(name)
        self.step(name)

    def deliver(self, only: Callable[[Frame], bool] = lambda _: True) -> None:
        """Deliver frames, and those they cause, until none is left that may travel."""
        for _ in range(10_000):
            ready = next((f for f in self.frames if (f.sender, f.receiver) not in self.cut and only(f)), None)
            if ready is None:
                return
            self.frames.remove(ready)
            self.give(ready)
        raise AssertionError("the members never stop talking: " + str(self.delivered[-6:]))

    def give(self, frame: Frame) -> None:
        """Hand one frame to its receiver."""
        self.delivered.append(frame)
        if self.members[frame.receiver].up:
            self[frame.receiver].received(self.now, frame.sender, frame.generation, frame.message)
            self.step(frame.receiver)

    def tick(self, name: str, *, after_s: float = 0.0) -> None:
        """Tell one member alone that time passed; nothing is delivered."""
        self.now += after_s
        self[name].tick(self.now)
        self.step(name)

    def pass_time(self, duration_s: float) -> None:
        """Tick every member every 25 ms and deliver what may travel."""
        end = self.now + duration_s
        while self.now < end - 1e-9:
            self.now += TICK_S
            for name in self.names:
                if self.members[name].up:
                    self.tick(name)
            self.deliver()

    def until(self, condition: Callable[[], bool], limit_s: float = 5.0) -> float:
        """Let time pass until a condition holds; how long it took."""
        began = self.now
        while not condition():
            assert self.now - began < limit_s, "it did not happen in time"
            self.pass_time(TICK_S)
        return self.now - began

    # What users do.

    def elect(self, name: str) -> None:
        """Make `name` the leader, with its first entry committed and known everywhere."""
        self[name].elections._due = self.now
        self.tick(name)
        self.deliver()
        self.pass_time(0.15)
        assert self.leaders() == [name]

    def leaders(self) -> list[str]:
        return [name for name in self.names if self.members[name].up and self[name].core.is_leader]

    def propose(self, name: str, *texts: str, within_s: float = 5.0, token: object = None) -> object:
        token = token or object()
        self[name].propose(self.now, token, [request(text) for text in texts], self.now + within_s)
        self.step(name)
        return token

    def transfer(self, name: str, target: str | None, *, within_s: float = 5.0) -> object:
        token = object()
        self[name].transfer(self.now, token, target, self.now + within_s)
        self.step(name)
        return token

    def change(self, name: str, change: Change, *, within_s: float = 5.0) -> object:
        token = object()
        self[name].change(self.now, token, change, self.now + within_s)
        self.step(name)
        return token

    def read(self, name: str, *, within_s: float = 5.0) -> object:
        token = object()
        self[name].read_barrier(self.now, token, self.now + within_s)
        self.step(name)
        return token

    def waiting(self, kind: type[Message]) -> list[Frame]:
        """The frames of one kind that have not been delivered."""
        return [frame for frame in self.frames if isinstance(frame.message, kind)]
