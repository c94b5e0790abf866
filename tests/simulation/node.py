"""One machine of the simulated cluster: its disk, its member's life, and whether that wakes up in time.

A step is taken only when somebody asks for it: that is what makes the shipped driver quick, and what
it may get wrong. So where nobody asks, the simulation takes a step all the same, and it has to be in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from raftos.consensus.configuration import Configuration
from raftos.consensus.core import Offer
from raftos.consensus.guard import SafetyViolation
from raftos.consensus.journal import Journal, Write
from raftos.consensus.keeper import Keeper
from raftos.consensus.messages import SnapshotPiece, SnapshotWanted
from raftos.consensus.replica import Replica
from raftos.state.events import Told
from raftos.state.machine import Machine
from raftos.state.reader import Reader
from tests.simulation.history import Violation
from tests.simulation.storage import SimulatedStorage
from tests.simulation.timeline import Timeline

GATHER_S = 0.0005
"""So long at most, an input waits for others of the same turn."""


class Listening(Protocol):
    """An open stream of events."""

    def tell(self, told: Sequence[Told]) -> None: ...

    def cut(self) -> None: ...


class Shelving(Protocol):
    """What a member's life has to do with snapshots."""

    keeper: Keeper

    def tick(self) -> None: ...

    def offered(self, offers: list[Offer]) -> None: ...

    def received(self, peer: str, generation: int, message: SnapshotWanted | SnapshotPiece) -> None: ...


class Node:
    """One machine: a disk that outlives crashes and, while it runs, a replica on it."""

    stop: Callable[[str], None]
    """Ends this life, for a reason."""
    turn: Callable[[], None]
    """What is done when the inputs of a moment have gathered."""

    def __init__(self, name: str, folder: Path, time: Timeline, first: Configuration) -> None:
        self.name = name
        self.first = first
        """What it knows of the members as long as its log tells nothing."""
        self._time = time
        self.folder = folder
        self.earlier = folder.with_name(f"{name}-earlier")
        self.storage = SimulatedStorage()
        self.shelf_disk = SimulatedStorage()
        """Where its snapshots are."""
        self.incarnation = 0
        self.intact: SimulatedStorage | None = None
        """The disk as it was before a bit of it changed."""
        self.lost = False
        """It refused to start from a damaged disk, and stays down."""
        self.gone = False
        """It was removed from the cluster, and has stopped."""
        self.up = False
        self.replica: Replica
        self.journal: Journal
        self.machine: Machine
        self.reader: Reader
        self.shelf: Shelving
        self.begin_life()

    def begin_life(self) -> None:
        """What a process knows when it starts."""
        self.paused = self.failed = False
        self.missed: list[Callable[[], None]] = []
        self.writing: Write | None = None
        self.stuck: list[tuple[int, bytes]] = []
        """Entries handed over, but not applied yet."""
        self.trouble: dict[str, str] = {}
        self.streams: list[Listening] = []
        """The open streams of this life."""
        self.kicked = self.running = self.waking = False
        """A turn is planned; is under way; and is planned for news that wait for company."""
        self.stepped_at = self._time.now

    def on(self, incarnation: int, event: Callable[[], None]) -> None:
        """Run an event of one life: not after its crash, and later if the member is paused."""
        if self.up and self.incarnation == incarnation:
            if self.paused:
                self.missed.append(lambda: self.on(incarnation, event))
                return
            try:
                event()
            except SafetyViolation as violation:
                raise Violation(f"{self.name}: {violation}") from violation

    def later(self, delay: float, event: Callable[[], None]) -> None:
        """Plan an event of this life."""
        self._time.after(delay, partial(self.on, self.incarnation, event))

    def resume(self) -> None:
        """What happened during a pause happens now."""
        missed, self.missed, self.paused = self.missed, [], False
        for event in missed:
            event()

    def kick(self) -> None:
        """Plan a turn, in which a step concludes the inputs until then."""
        if not self.kicked:
            self.kicked = True
            self.later(GATHER_S * self._time.random.random(), self.turn)

    def fail(self, reason: str) -> None:
        """Going on could lose data: nothing more is concluded, and the process ends in a moment."""
        self.failed = True
        self.later(0.01 * self._time.random.random(), lambda: self.stop(reason))

    def close(self) -> None:
        """Let go of the state; the disk keeps what it has."""
        self.reader.close()
        self.machine.close()

    def miss_no_step(self) -> None:
        """A step that nobody asked for has nothing to do."""
        if not self.kicked and not self.failed and (undone := self.left_undone()):
            raise Violation(f"{self.name} was not woken, but has left undone: {undone}")

    def left_undone(self) -> str:
        """What a step would do now, though none is planned; empty if it would do nothing.

        The step is taken as of the last one: what is due by the passing of time is for the next tick.
        """
        replica, journal = self.replica, self.journal
        if replica._tick_needed or self._may_commit():
            return "commit"
        position, committed = journal.position, replica.core.engine.commit_index
        replica.step(self.stepped_at)
        output = replica.core.output
        undone = {
            "send": output.frames,
            "commit": replica.core.engine.commit_index > committed,
            "apply": output.committed,
            "end calls": output.done,
            "propose": journal.position > position,
            "write": self.writing is None and journal.position > journal.synced_position,
        }
        return ", ".join(what for what, is_left in undone.items() if is_left)

    def _may_commit(self) -> bool:
        """Whether a majority has, as far as PySyncObj was told, what this leader has not committed."""
        core, log = self.replica.core, self.journal
        if not core.is_leader:
            return False
        engine = core.engine
        matched = [engine._SyncObj__raftMatchIndex[node] for node in engine._SyncObj__otherNodes]
        majority = (len(matched) + 1) // 2 + 1
        most = sorted([*matched, log.synced_index])[-majority]
        index = min(most, log.synced_index)
        return bool(index > core.engine.commit_index and log.term_at(index) == core.term)
