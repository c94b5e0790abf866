"""A cluster on virtual time: the shipped replicas, journals and machines; simulated wires and disks.

One seed is one run. Everything that happens is an event in one queue, ordered by time and then by
when it was planned; every choice comes from one seeded generator. Links keep the order of frames,
as TCP does, but may stall in one direction or close; a closed link's frames may still turn up,
late, under the old generation, and while `duplicating` frames arrive twice. A crash keeps only what
the disk synced, and of the machine's state the present, an earlier one, or nothing.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Protocol

from raftos.consensus.core import Timings
from raftos.consensus.guard import Rules, SafetyViolation
from raftos.consensus.journal import Identity, Journal
from raftos.consensus.messages import Append, Message
from raftos.consensus.replica import Replica
from raftos.consensus.replication import NOTICE_S
from raftos.state.events import Told
from raftos.state.machine import Machine
from raftos.state.reader import Reader
from raftos.state.storage import FILE_NAME
from tests.simulation.care import Care, domains_with
from tests.simulation.history import History, Violation
from tests.simulation.ledger import Ledger
from tests.simulation.storage import SimulatedStorage

TIMINGS = Timings(heartbeat_s=0.1, election_s=0.5, append_bytes=2_000)
TICK_S = 0.025
SILENT_LINK_S = 3.0
CLUSTER_EPOCH_MS = 1_700_000_000_000
WALL_CLOCKS_DIFFER_MS = 30_000
RETRY_S = 0.25
"""How often a disk that was full is tried again, as in the driver."""


class Link:
    """One connection between two members: ordered, until it stalls or closes."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.last_arrival: dict[str, float] = {}
        self.stalled: dict[str, list[tuple[str, Message]]] = {}


class Listening(Protocol):
    """An open stream of events."""

    def tell(self, told: Sequence[Told]) -> None: ...

    def cut(self) -> None: ...


class Node:
    """One machine: a disk that outlives crashes and, while it runs, a replica on it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.earlier = folder.with_name(f"{name}-earlier")
        self.storage = SimulatedStorage()
        self.incarnation = 0
        self.paused = False
        self.missed: list[Callable[[], None]] = []
        self.writing: Any = None
        self.stuck: list[tuple[int, bytes]] = []
        """Entries handed over, but not applied yet."""
        self.trouble: dict[str, str] = {}
        self.streams: list[Listening] = []
        """The open streams of this life."""
        self.replica: Replica
        self.journal: Journal
        self.machine: Machine
        self.reader: Reader
        self.up = False


class World:
    """All members, the wires between them, and time."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        members: int = 3,
        rules: Rules | None = None,
        care: Care | None = None,
        trace: bool = False,
    ) -> None:
        self.random = Random(seed)
        self.rules = rules or Rules()
        self.care = care or Care()
        self.domains = domains_with(self.care)
        self.now = 1000.0
        self.history = History()
        self.ledger = Ledger()
        self.names = [f"n{number}" for number in range(1, members + 1)]
        self.nodes = {name: Node(name, folder / name) for name in self.names}
        self.links: dict[frozenset[str], Link] = {}
        self.cut: set[frozenset[str]] = set()
        self.tokens: dict[object, Callable[[object], None]] = {}
        self.sent_twice = 0
        self._sent: dict[tuple[str, str, int, int], int] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._generation = itertools.count(1)
        self._digest = hashlib.blake2b(digest_size=16)
        self._trace = trace
        self.slow_disk: dict[str, float] = {}
        self.full_journal: set[str] = set()
        self.full_state: set[str] = set()
        self.duplicating = False
        self.walls_ms = {
            name: CLUSTER_EPOCH_MS + self.random.randrange(WALL_CLOCKS_DIFFER_MS) for name in self.names
        }
        for name in self.names:
            self.start(name)
        self.after(0.0, self._reconnect)

    # Time.

    def after(self, delay: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), event))

    def run(self, duration: float) -> None:
        end = self.now + duration
        while self._queue and self._queue[0][0] <= end:
            at, _, event = heapq.heappop(self._queue)
            self.now = max(self.now, at)
            event()
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit: float, what: str) -> None:
        end = self.now + limit
        while not condition():
            if not self._queue or self._queue[0][0] > end:
                raise Violation(f"{what} did not happen within {limit} s")
            at, _, event = heapq.heappop(self._queue)
            self.now = max(self.now, at)
            event()

    def note(self, *facts: object) -> None:
        """One line of the trace; the digest of all lines is the run's fingerprint."""
        line = f"{self.now:.6f} " + " ".join(map(str, facts))
        self._digest.update(line.encode())
        if self._trace:
            print(line)

    @property
    def fingerprint(self) -> str:
        return self._digest.hexdigest()

    # Members.

    def start(self, name: str) -> None:
        node = self.nodes[name]
        if node.up:
            return
        node.incarnation += 1
        node.up, node.paused, node.missed, node.writing = True, False, [], None
        node.stuck, node.trouble = [], {}
        node.folder.mkdir(parents=True, exist_ok=True)
        node.journal = Journal.open(
            node.storage, Identity("simulated", name), segment_bytes=40_000, cache_bytes=8_000
        )
        node.machine = Machine(node.folder, cluster_id="simulated", domains=self.domains)
        node.machine.on_events(lambda told: self._told(node, told))
        node.reader, node.streams = node.machine.reader(), []
        if node.journal.last_index < node.machine.applied_index:
            raise Violation(
                f"{name} applied {node.machine.applied_index}, but its log ends at {node.journal.last_index}"
            )
        node.replica = Replica(
            member_id=name,
            voters=self.names,
            journal=node.journal,
            applied_index=node.machine.applied_index,
            time_ms=node.machine.time_ms,
            wall_ms=self.walls_ms[name] + int(1000 * self.now),
            now=self.now,
            random=Random(self.random.random()),
            timings=TIMINGS,
            rules=self.rules,
        )
        node.replica.watching = node.incarnation % 2 == 1
        self.note("start", name, node.journal.last_index, node.machine.applied_index)
        self._tick(node, node.incarnation)

    def crash(self, name: str) -> None:
        node = self.nodes[name]
        if not node.up:
            return
        self.note("crash", name)
        for other in self.names:
            if other != name:
                self.close_link(name, other)
        node.up = False
        node.incarnation += 1
        if node.writing is not None and self.random.random() < 0.7:
            self._tear(node)
        node.storage.crash(self.random)
        for stream in list(node.streams):
            stream.cut()
        node.reader.close()
        node.machine.close()
        self._forget_state(node)

    def _forget_state(self, node: Node) -> None:
        """SQLite may lose its last commits: none, some or all of them."""
        kept = self.random.choice(("all", "earlier", "none"))
        if kept != "all":
            shutil.rmtree(node.folder)
        if kept == "earlier" and node.earlier.is_file():
            node.folder.mkdir()
            shutil.copy(node.earlier, node.folder / FILE_NAME)

    def _remember_state(self, node: Node) -> None:
        with closing(sqlite3.connect(node.folder / FILE_NAME)) as state:
            node.earlier.unlink(missing_ok=True)
            with closing(sqlite3.connect(node.earlier)) as earlier:
                state.backup(earlier)

    def _tear(self, node: Node) -> None:
        """The machine stops while the disk is writing: some bytes are down, none are synced."""
        with node.storage.without_power():
            node.journal.writer.write(node.writing)

    def pause(self, name: str) -> None:
        self.note("pause", name)
        self.nodes[name].paused = True

    def resume(self, name: str) -> None:
        node = self.nodes[name]
        self.note("resume", name)
        missed, node.missed, node.paused = node.missed, [], False
        for event in missed:
            event()

    def on(self, node: Node, incarnation: int, event: Callable[[], None]) -> None:
        """Run an event of one life of a member: not after its crash, and later if it is paused."""
        if node.up and node.incarnation == incarnation:
            if node.paused:
                node.missed.append(lambda: self.on(node, incarnation, event))
            else:
                event()

    def _tick(self, node: Node, incarnation: int) -> None:
        def tick() -> None:
            self.after(TICK_S, lambda: self.on(node, incarnation, tick))
            node.replica.tick(self.now)
            self.step(node)

        self.on(node, incarnation, tick)

    # One step of a member, and what comes out of it.

    def step(self, node: Node) -> None:
        try:
            node.replica.step(self.now)
            while output := node.replica.take():
                for peer, generation, message in output.frames:
                    self._send(node.name, peer, generation, message)
                self._write(node)
                for token, value in output.done:
                    self._end_call(token, value)
                if output.committed:
                    self._apply(node, output.committed)
            self._write(node)
        except SafetyViolation as violation:
            raise Violation(f"{node.name}: {violation}") from violation
        if node.replica.core.is_leader:
            self.history.leads(node.name, node.replica.core.term)
        if node.replica.replication.has_news:
            self.later(node, NOTICE_S, lambda: self.step(node))

    def later(self, node: Node, delay: float, event: Callable[[], None]) -> None:
        incarnation = node.incarnation
        self.after(delay, lambda: self.on(node, incarnation, event))

    def _end_call(self, token: object, value: object) -> None:
        ended = self.tokens.pop(token, None)
        if ended is not None:
            ended(value)

    def _apply(self, node: Node, entries: list[tuple[int, bytes]]) -> None:
        for index, payload in entries:
            self.history.handed_over(node.name, index, payload)
        node.stuck += entries
        self._apply_stuck(node)

    def _apply_stuck(self, node: Node) -> None:
        self._trouble(node, "state", full=node.name in self.full_state)
        if node.name in self.full_state:
            self.later(node, RETRY_S, lambda: self._apply_again(node))
            return
        entries, node.stuck = node.stuck, []
        results = node.machine.apply(entries)
        self.history.applied(node.name, node.machine, self.now)
        self.note("apply", node.name, node.machine.applied_index, node.machine.state_hash.hex()[:8])
        indexes = [index for index, _ in entries]
        node.replica.applied(self.now, list(zip(indexes, results, strict=True)), node.machine.time_ms)
        node.replica.step(self.now)
        if self.random.random() < 0.02:
            self._remember_state(node)

    def _told(self, node: Node, told: Sequence[Told]) -> None:
        self.ledger.told(node.name, told)
        for stream in node.streams:
            stream.tell(told)

    def _apply_again(self, node: Node) -> None:
        self._apply_stuck(node)
        self.step(node)

    def _trouble(self, node: Node, where: str, *, full: bool) -> None:
        """Tell the replica, as the driver does, when a disk is found full, or no longer."""
        before = bool(node.trouble)
        if full:
            node.trouble[where] = f"the disk of the {where} is full"
        else:
            node.trouble.pop(where, None)
        if bool(node.trouble) != before:
            self.note("trouble", node.name, *node.trouble)
            node.replica.troubled(self.now, next(iter(node.trouble.values()), None))

    def _write(self, node: Node) -> None:
        if node.writing is not None:
            return
        node.writing = node.journal.take()
        if node.writing is None:
            return
        write = node.writing

        def written() -> None:
            full = node.name in self.full_journal
            self._trouble(node, "journal", full=full)
            if full:
                self.later(node, RETRY_S, written)
                self.step(node)
                return
            node.journal.writer.write(write)
            node.writing = None
            node.journal.finish(write)
            node.replica.synced(self.now)
            self.step(node)

        delay = self.slow_disk.get(node.name) or self.random.expovariate(1 / 0.002)
        self.later(node, delay, written)

    # Wires.

    def _reconnect(self) -> None:
        self.after(0.1, self._reconnect)
        for a, b in itertools.combinations(self.names, 2):
            self.connect(a, b)

    def connect(self, a: str, b: str) -> None:
        pair = frozenset((a, b))
        if pair in self.links or pair in self.cut or not (self._reachable(a) and self._reachable(b)):
            return
        link = self.links[pair] = Link(next(self._generation))
        self.note("link", a, b, link.generation)
        for one, other in ((a, b), (b, a)):
            node = self.nodes[one]
            node.replica.linked(self.now, other, link.generation)
            self.step(node)

    def _reachable(self, name: str) -> bool:
        return self.nodes[name].up and not self.nodes[name].paused

    def close_link(self, a: str, b: str) -> None:
        """The link closes; each end notices a little later, and its frames may still arrive."""
        link = self.links.pop(frozenset((a, b)), None)
        if link is None:
            return
        self.note("close", a, b, link.generation)
        self._notice_closed(a, b, link.generation)
        self._notice_closed(b, a, link.generation)

    def _notice_closed(self, name: str, other: str, generation: int) -> None:
        node = self.nodes[name]

        def notice() -> None:
            node.replica.unlinked(self.now, other, generation)
            self.step(node)

        self.later(node, 0.002 * self.random.random(), notice)

    def cut_pair(self, a: str, b: str) -> None:
        self.cut.add(frozenset((a, b)))
        self.close_link(a, b)

    def heal_pair(self, a: str, b: str) -> None:
        self.cut.discard(frozenset((a, b)))
        self.connect(a, b)

    def stall(self, sender: str, receiver: str) -> None:
        """One direction of a link stops; the frames wait, and a link silent for long is closed."""
        link = self.links.get(frozenset((sender, receiver)))
        if link is not None and receiver not in link.stalled:
            self.note("stall", sender, receiver)
            link.stalled[receiver] = []

    def unstall(self, sender: str, receiver: str) -> None:
        link = self.links.get(frozenset((sender, receiver)))
        if link is not None:
            for source, message in link.stalled.pop(receiver, []):
                self._travel(link, source, receiver, message)

    def close_if_silent(self, sender: str, receiver: str) -> None:
        link = self.links.get(frozenset((sender, receiver)))
        if link is not None and receiver in link.stalled:
            self.close_link(sender, receiver)

    def _send(self, sender: str, receiver: str, generation: int, message: Message) -> None:
        link = self.links.get(frozenset((sender, receiver)))
        if link is None or link.generation != generation:
            return
        self._count_resent(sender, receiver, generation, message)
        if receiver in link.stalled:
            link.stalled[receiver].append((sender, message))
        else:
            self._travel(link, sender, receiver, message)

    def _count_resent(self, sender: str, receiver: str, generation: int, message: Message) -> None:
        if isinstance(message, Append):
            for _, index, term in message.entries:
                key = (sender, receiver, generation, index)
                self.sent_twice += self._sent.get(key) == term
                self._sent[key] = term

    def _travel(self, link: Link, sender: str, receiver: str, message: Message) -> None:
        node = self.nodes[receiver]
        arrival = max(link.last_arrival.get(receiver, 0.0), self.now + self.random.expovariate(1 / 0.002))
        link.last_arrival[receiver] = arrival
        generation = link.generation

        def arrive() -> None:
            self.note("frame", sender, receiver, type(message).__name__)
            try:
                node.replica.received(self.now, sender, generation, message)
            except SafetyViolation as violation:
                raise Violation(f"{receiver}: {violation}") from violation
            self.step(node)

        self.later(node, arrival - self.now, arrive)
        if self.duplicating and self.random.random() < 0.3:
            self.later(node, arrival - self.now + self.random.expovariate(1 / 0.05), arrive)

    # Views.

    def leader(self) -> str | None:
        """The leader of the highest term that is up, if any."""
        leading = [node for node in self.nodes.values() if node.up and node.replica.core.is_leader]
        return max(leading, key=lambda node: node.replica.core.term).name if leading else None

    def heal(self) -> None:
        """Every wire, every member, every disk as it should be."""
        self.note("heal")
        self.cut.clear()
        self.slow_disk.clear()
        self.full_journal.clear()
        self.full_state.clear()
        self.duplicating = False
        for link in self.links.values():
            for receiver in list(link.stalled):
                for source, message in link.stalled.pop(receiver):
                    self._travel(link, source, receiver, message)
        for name, node in self.nodes.items():
            if node.up and node.paused:
                self.resume(name)
            self.start(name)

    def stop(self) -> None:
        for node in self.nodes.values():
            if node.up:
                node.reader.close()
                node.machine.close()
                node.up = False
