"""One machine of the simulated cluster, its links, and whether its member wakes up when it has to.

A step is taken only when somebody asks for it: that is what makes the shipped driver quick, and what
it may get wrong. So where nobody asks, the simulation takes a step all the same, and it has to be in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from raftos.consensus.journal import Journal, Write
from raftos.consensus.messages import Message
from raftos.consensus.replica import Replica
from raftos.state.events import Told
from raftos.state.machine import Machine
from raftos.state.reader import Reader
from tests.simulation.storage import SimulatedStorage


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
        self.up = False
        self.replica: Replica
        self.journal: Journal
        self.machine: Machine
        self.reader: Reader
        self.begin_life(0.0)

    def begin_life(self, now: float) -> None:
        """What a process knows when it starts."""
        self.paused = False
        self.missed: list[Callable[[], None]] = []
        self.writing: Write | None = None
        self.stuck: list[tuple[int, bytes]] = []
        """Entries handed over, but not applied yet."""
        self.trouble: dict[str, str] = {}
        self.streams: list[Listening] = []
        """The open streams of this life."""
        self.kicked = self.running = self.waking = False
        """A turn is planned; is under way; and is planned for news that wait for company."""
        self.stepped_at = now

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
        matched = core.engine._SyncObj__raftMatchIndex.values()
        most = sorted([*matched, log.synced_index])[-core.majority]
        index = min(most, log.synced_index)
        return bool(index > core.engine.commit_index and log.term_at(index) == core.term)
