"""The snapshots of simulated members: the shipped keeper and courier, with jobs that take virtual time.

A job of the snapshot thread runs a while after it was asked for, and what it gave comes back a while later
still; whatever happens between the two, a crash among it, happens as on a real machine. Snapshot files are
on a simulated disk of their own (`storage.py`), the copies they are made of are real SQLite files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raftos.consensus.core import Offer
from raftos.consensus.journal import JournalFailed
from raftos.consensus.keeper import Keeper, Policy
from raftos.consensus.messages import Message, SnapshotPiece, SnapshotWanted
from raftos.consensus.opening import Opened
from raftos.consensus.snapshots import Stored
from raftos.errors import NotReady, RaftosError
from raftos.state.machine import CannotApply
from tests.simulation.care import Care
from tests.simulation.history import History
from tests.simulation.node import Node
from tests.simulation.timeline import Timeline
from tests.simulation.wires import Wires

JOB_S = 0.02
"""How long a job of the snapshot thread takes, on average."""
PIECE_BYTES = 8_000


class Shelf:
    """What the keeper of one member's life needs done; its thread and its disk."""

    keeper: Keeper

    def __init__(self, node: Node, time: Timeline, wires: Wires, history: History, care: Care) -> None:
        self._node = node
        self._time = time
        self._wires = wires
        self._history = history
        self._care = care
        self._jobs: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        self._busy = False

    def open(self, opened: Opened, policy: Policy) -> None:
        """Begin to keep the snapshots of a member that has just started."""
        node = self._node
        self.keeper = Keeper(
            self,
            opened.snapshots,
            opened.journal,
            opened.machine,
            node.replica,
            policy,
            version="simulated",
            piece_bytes=PIECE_BYTES,
        )

    def tick(self) -> None:
        self.keeper.tick()

    def offered(self, offers: list[Offer]) -> None:
        self.keeper.offered(offers)

    def received(self, peer: str, generation: int, message: SnapshotWanted | SnapshotPiece) -> None:
        self.keeper.received(peer, generation, message)

    # What the keeper needs done.

    def now(self) -> float:
        return self._time.now

    def send(self, peer: str, generation: int, message: Message) -> None:
        self._wires.send(self._node.name, [(peer, generation, message)])

    def work(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._jobs.append((job, done))
        if not self._busy:
            self._busy = True
            self._node.later(self._time.random.expovariate(1 / JOB_S), self._run)

    def _run(self) -> None:
        job, done = self._jobs.popleft()
        try:
            value = job()
        except RaftosError as error:
            value = error
        except (CannotApply, OSError) as error:
            value = NotReady(str(error))
        self._node.later(
            0.1 * self._time.random.expovariate(1 / JOB_S), lambda: self._bring_back(done, value)
        )

    def _bring_back(self, done: Callable[[Any], None], value: Any) -> None:
        self._busy = False
        done(value)
        self._node.kick()
        if self._jobs and not self._busy:
            self._busy = True
            self._node.later(self._time.random.expovariate(1 / JOB_S), self._run)

    def remove_segments(self, names: list[str]) -> None:
        journal = self._node.journal
        self._time.note("trim", self._node.name, journal.first_index)
        self._time.happened["logs trimmed"] += 1
        self._node.later(0.01 * self._time.random.random(), lambda: self._remove(names))

    def _remove(self, names: list[str]) -> None:
        try:
            self._node.journal.writer.remove(names)
        except JournalFailed:
            self._node.fail("failed sync")

    def exchange(self, path: Path, stored: Stored) -> None:
        node, header = self._node, stored.header
        self._time.note("install", node.name, header.index)
        self._time.happened["snapshots installed"] += 1
        if self._care.loads_snapshots:
            node.machine.replace(path)
        node.stuck = []
        self._history.applied(node.name, node.machine, self._time.now)
        mark = header.configuration or None
        node.replica.install(self._time.now, header.index, header.term, mark, node.machine.time_ms)
