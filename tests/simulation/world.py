"""A cluster on virtual time: the shipped replicas, journals and machines; simulated wires and disks.

One seed is one run. Everything that happens is an event in one queue, ordered by time and then by
when it was planned; every choice comes from one seeded generator. Links keep the order of frames,
as TCP does, but may stall in one direction or close; a closed link's frames may still turn up,
late, under the old generation, and while `duplicating` frames arrive twice. A crash keeps only what
the disk synced, and of the machine's state the present, an earlier one, or nothing.

Members live as under the shipped driver: inputs gather into a turn, which steps; who answers that
no step is needed gets none; some writes are synced in place, and what they promise is sent at once.
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

from raftos.consensus.configuration import Configuration
from raftos.consensus.core import Frame, Output, Timings
from raftos.consensus.guard import Rules, SafetyViolation
from raftos.consensus.journal import Identity, Journal, Write
from raftos.consensus.messages import Acknowledged, Append, Message
from raftos.consensus.replica import Replica
from raftos.consensus.replication import NOTICE_S
from raftos.state.events import Told
from raftos.state.machine import Machine
from raftos.state.place import FIRST_NAME, current_file
from tests.simulation.care import Care, domains_with
from tests.simulation.history import History, Violation
from tests.simulation.ledger import Ledger
from tests.simulation.node import Link, Node

TIMINGS = Timings(heartbeat_s=0.1, election_s=0.5, append_bytes=2_000)
TICK_S = 0.025
SILENT_LINK_S = 3.0
CLUSTER_EPOCH_MS = 1_700_000_000_000
WALL_CLOCKS_DIFFER_MS = 30_000
RETRY_S = 0.25
"""How often a disk that was full is tried again, as in the driver."""
GATHER_S = 0.0005
"""So long at most, an input waits for others of the same turn."""
LONG_TURN = 0.05
"""So probably, each time something is applied, the turn has taken so long that others have theirs first."""


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
        self.synced_in_place = self.random.choice((0.0, 0.5, 0.8, 1.0))
        """The share of the writes that the event loop does itself while the disk is quick."""
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
        node.up = True
        node.begin_life(self.now)
        node.folder.mkdir(parents=True, exist_ok=True)
        node.journal = Journal.open(
            node.storage, Identity("simulated", name), segment_bytes=40_000, cache_bytes=8_000
        )
        node.machine = Machine(node.folder, cluster_id="simulated", domains=self.domains)
        node.machine.on_events(lambda told: self._told(node, told))
        node.reader = node.machine.reader()
        if node.journal.last_index < node.machine.applied_index:
            raise Violation(
                f"{name} applied {node.machine.applied_index}, but its log ends at {node.journal.last_index}"
            )
        node.replica = Replica(
            member_id=name,
            configuration=Configuration.of(self.names),
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
            self._tear(node, node.writing)
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
            shutil.copy(node.earlier, node.folder / FIRST_NAME)

    def _remember_state(self, node: Node) -> None:
        with closing(sqlite3.connect(current_file(node.folder))) as state:
            node.earlier.unlink(missing_ok=True)
            with closing(sqlite3.connect(node.earlier)) as earlier:
                state.backup(earlier)

    def _tear(self, node: Node, write: Write) -> None:
        """The machine stops while the disk is writing: some bytes are down, none are synced."""
        with node.storage.without_power():
            node.journal.writer.write(write)

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
                return
            try:
                event()
            except SafetyViolation as violation:
                raise Violation(f"{node.name}: {violation}") from violation

    def _tick(self, node: Node, incarnation: int) -> None:
        def tick() -> None:
            self.after(TICK_S, lambda: self.on(node, incarnation, tick))
            node.replica.tick(self.now)
            self.kick(node)

        self.on(node, incarnation, tick)

    # The turns of a member, and what comes out of them.

    def kick(self, node: Node) -> None:
        """Plan a turn, in which a step concludes the inputs until then."""
        if not node.kicked:
            node.kicked = True
            self.later(node, GATHER_S * self.random.random(), lambda: self.turn(node))

    def turn(self, node: Node) -> None:
        node.kicked, node.running = False, True
        self._step(node)
        while output := node.replica.take():
            self._conclude(node, output)
            if output.committed and self.random.random() < LONG_TURN:
                self.kick(node)
                break
        self._write_and_promise(node)
        node.running = False
        if node.replica.core.is_leader:
            self.history.leads(node.name, node.replica.core.term)
        if node.replica.replication.has_news and not node.waking:
            node.waking = True
            self.later(node, NOTICE_S, lambda: self._wake(node))
        self._miss_no_step(node)

    def _step(self, node: Node) -> None:
        node.stepped_at = self.now
        node.replica.step(self.now)

    def _wake(self, node: Node) -> None:
        node.waking = False
        self.kick(node)

    def _miss_no_step(self, node: Node) -> None:
        """A step that nobody asked for has nothing to do."""
        if not node.kicked and (undone := node.left_undone()):
            raise Violation(f"{node.name} was not woken, but has left undone: {undone}")

    def _conclude(self, node: Node, output: Output) -> None:
        self._send_all(node, output.frames)
        self._write_and_promise(node)
        for token, value in output.done:
            self._end_call(token, value)
        if output.committed:
            self._apply(node, output.committed)

    def _send_all(self, node: Node, frames: list[Frame]) -> None:
        for peer, generation, message in frames:
            self._send(node.name, peer, generation, message)

    def _write_and_promise(self, node: Node) -> None:
        """Before anything is applied: peers wait for what became durable in place."""
        self._write(node)
        self._send_all(node, node.replica.take_frames())

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
        self._step(node)
        if self.random.random() < 0.02:
            self._remember_state(node)

    def _told(self, node: Node, told: Sequence[Told]) -> None:
        self.ledger.told(node.name, told)
        for stream in node.streams:
            stream.tell(told)

    def _apply_again(self, node: Node) -> None:
        self._apply_stuck(node)
        self.kick(node)

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
            self.kick(node)

    def _write(self, node: Node) -> None:
        write = None if node.writing is not None else node.journal.take()
        if write is None:
            return
        node.writing = write
        slow_s = self.slow_disk.get(node.name)
        if slow_s is None and self.random.random() < self.synced_in_place:
            self._written(node, write)
        else:
            delay_s = slow_s or self.random.expovariate(1 / 0.002)
            self.later(node, delay_s, lambda: self._written(node, write))

    def _written(self, node: Node, write: Write) -> None:
        """The disk is done: in a turn if it was in place, or between turns."""
        full = node.name in self.full_journal
        if full:
            self.later(node, RETRY_S, lambda: self._written(node, write))
        else:
            node.journal.writer.write(write)
            node.writing = None
            node.journal.finish(write)
        self._trouble(node, "journal", full=full)
        if full:
            return
        asked = node.replica.synced(self.now) and self.care.syncs_ask
        if asked or not node.running:
            self.kick(node)

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
            self.kick(node)

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
            self.kick(node)

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
            if node.replica.received(self.now, sender, generation, message) and self._is_heard(message):
                self.kick(node)
            else:
                self._miss_no_step(node)

        self.later(node, arrival - self.now, arrive)
        if self.duplicating and self.random.random() < 0.3:
            self.later(node, arrival - self.now + self.random.expovariate(1 / 0.05), arrive)

    def _is_heard(self, message: Message) -> bool:
        return self.care.answers_ask or not isinstance(message, Acknowledged)

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
