"""The members' disks: how long a write takes, when there is no room for it, what a power cut leaves.

Two things are written: the journal, on the simulated disk of `storage.py`, and the machine's state, a real
SQLite file. Of the journal a power cut leaves what was synced and a piece of what was not; of the state
the present, an earlier one, or nothing.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

from raftos.consensus.journal import JournalFailed, Write
from raftos.state.place import FIRST_NAME, current_file
from tests.simulation.care import Care
from tests.simulation.node import Node
from tests.simulation.timeline import Timeline

RETRY_S = 0.25
"""How often a disk that was full is tried again, as in the driver."""


class Disks:
    """What the disks of one run are like at the moment, by the names of their members."""

    def __init__(self, time: Timeline, care: Care) -> None:
        self.slow: dict[str, float] = {}
        """How long a sync takes, in seconds."""
        self.full_journal: set[str] = set()
        self.full_state: set[str] = set()
        self.synced_in_place = time.random.choice((0.0, 0.5, 0.8, 1.0))
        """The share of the writes that the event loop does itself while the disk is quick."""
        self._time = time
        self._care = care

    def heal(self) -> None:
        self.slow.clear()
        self.full_journal.clear()
        self.full_state.clear()

    # Writing.

    def write(self, node: Node) -> None:
        """Give the disk what the journal has buffered, unless it is at work."""
        write = None if node.writing is not None else node.journal.take()
        if write is None:
            return
        node.writing = write
        random, slow_s = self._time.random, self.slow.get(node.name)
        if slow_s is None and random.random() < self.synced_in_place:
            self._written(node, write)
        else:
            delay_s = slow_s or random.expovariate(1 / 0.002)
            node.later(delay_s, lambda: self._written(node, write))

    def _written(self, node: Node, write: Write) -> None:
        """The disk is done: in a turn if it was in place, or between turns."""
        full = node.name in self.full_journal
        if full:
            node.later(RETRY_S, lambda: self._written(node, write))
        else:
            try:
                node.journal.writer.write(write)
            except JournalFailed:
                node.fail("failed sync")
                return
            node.writing = None
            node.journal.finish(write)
        self.trouble(node, "journal", full=full)
        if full:
            return
        asked = node.replica.synced(self._time.now) and self._care.syncs_ask
        if asked or not node.running:
            node.kick()

    def trouble(self, node: Node, where: str, *, full: bool) -> None:
        """Tell the replica, as the driver does, when a disk is found full, or no longer."""
        before = bool(node.trouble)
        if full:
            node.trouble[where] = f"the disk of the {where} is full"
        else:
            node.trouble.pop(where, None)
        if bool(node.trouble) != before:
            self._time.note("trouble", node.name, *node.trouble)
            node.replica.troubled(self._time.now, next(iter(node.trouble.values()), None))
            node.kick()

    # Power cuts, and what only ends the process.

    def lose_power(self, node: Node) -> None:
        """The machine stops, maybe while the disk is writing: some bytes are down, none are synced."""
        self.stop_process(node)
        node.storage.crash(self._time.random)
        node.shelf_disk.crash(self._time.random)

    def stop_process(self, node: Node) -> None:
        """What was written stays written, synced or not; the system will write it down some time."""
        if node.writing is not None and not node.failed and self._time.random.random() < 0.7:
            with node.storage.without_power():
                node.journal.writer.write(node.writing)

    def forget_state(self, node: Node) -> None:
        """SQLite may lose its last commits: none, some or all of them."""
        kept = self._time.random.choice(("all", "earlier", "none"))
        if kept != "all":
            shutil.rmtree(node.folder)
        if kept == "earlier" and node.earlier.is_file():
            node.folder.mkdir()
            shutil.copy(node.earlier, node.folder / FIRST_NAME)

    def forget_all(self, node: Node) -> None:
        """The state is lost, but not the journal."""
        shutil.rmtree(node.folder, ignore_errors=True)

    def flip_bit(self, node: Node) -> bool:
        """A bit of the journal changes, if there is one. `node.intact` is the disk without that."""
        if node.storage.is_empty:
            return False
        node.intact = node.storage.copy()
        name, offset = node.storage.flip_bit(self._time.random)
        self._time.note("flip", node.name, name, offset)
        return True

    def remember_state(self, node: Node) -> None:
        """A state that a power cut may bring back."""
        with closing(sqlite3.connect(current_file(node.folder))) as state:
            node.earlier.unlink(missing_ok=True)
            with closing(sqlite3.connect(node.earlier)) as earlier:
                state.backup(earlier)
