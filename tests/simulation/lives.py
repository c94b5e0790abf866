"""The lives of a member: it starts from what its disk holds, may be paused, and dies without a word.

Each life is an incarnation: nothing that was planned in one happens in the next. A paused member misses
nothing; all that happened to it meanwhile happens at once when it goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from random import Random

from raftos.consensus.guard import Rules
from raftos.consensus.journal import CorruptJournal, Identity, Journal
from raftos.consensus.opening import Opened, open_member
from raftos.consensus.replica import Replica
from raftos.consensus.snapshots import SnapshotStore
from raftos.errors import StartupError
from raftos.state.domain import Domain
from raftos.state.machine import Machine
from tests.simulation.care import Care
from tests.simulation.disks import Disks
from tests.simulation.history import History, Violation
from tests.simulation.node import Node
from tests.simulation.plan import Plan
from tests.simulation.shelves import Shelf
from tests.simulation.storage import SimulatedStorage
from tests.simulation.timeline import Timeline
from tests.simulation.turns import Turns
from tests.simulation.wires import Wires

TICK_S, CALM_TICK_S = 0.02, 0.05
"""How often a member looks at the time: without a leader, and with one, as under the shipped driver."""
CLUSTER_EPOCH_MS = 1_700_000_000_000
WALL_CLOCKS_DIFFER_MS = 30_000
RESTART_S = 0.5
"""Whose process ended is started again within this time."""
CAMPAIGNS = 0.01
"""So probably, with each tick, a careless member campaigns although all is well."""


class Lives:
    """Starts and ends the members of one run."""

    def __init__(
        self,
        time: Timeline,
        nodes: dict[str, Node],
        wires: Wires,
        disks: Disks,
        turns: Turns,
        history: History,
        domains: Sequence[Domain],
        rules: Rules,
        care: Care,
        plan: Plan,
    ) -> None:
        self._time = time
        self._nodes = nodes
        self._wires = wires
        self._disks = disks
        self._turns = turns
        self._history = history
        self._domains = domains
        self._rules = rules
        self._care = care
        self._plan = plan
        self.walls_ms = defaultdict[str, int](
            lambda: CLUSTER_EPOCH_MS + time.random.randrange(WALL_CLOCKS_DIFFER_MS)
        )
        """What the wall clock of each member would have shown at time 0."""
        self.refused = 0
        """How many members refused a damaged journal."""

    def start(self, name: str) -> None:
        """Begin a life, unless there is one. Raises Violation if the disk is not as it has to be."""
        node = self._nodes[name]
        if node.up or node.lost or node.gone or not self._open_journal(node):
            return
        node.incarnation += 1
        node.up = True
        node.begin_life()
        opened = self._open_state(node)
        node.replica = Replica(
            member_id=name,
            configuration=node.first,
            journal=node.journal,
            applied_index=node.machine.applied_index,
            time_ms=node.machine.time_ms if self._care.keeps_time else 0,
            wall_ms=self.walls_ms[name] + int(1000 * self._time.now),
            now=self._time.now,
            random=Random(self._time.random.random()),
            timings=self._plan.timings,
            rules=self._rules,
        )
        node.replica.watching = node.incarnation % 2 == 1
        shelf = node.shelf = Shelf(node, self._time, self._wires, self._history, self._care)
        shelf.open(opened, self._plan.policy)
        self._time.note("start", name, node.journal.last_index, node.machine.applied_index)
        node.on(node.incarnation, lambda: self._tick(node))

    def _open_journal(self, node: Node) -> bool:
        """Whether the journal opens. One that is damaged must not, or has to be as if it were not."""
        node.storage.notices_failure = self._care.notices_failed_sync
        try:
            node.journal = self._journal(node.name, node.storage)
        except CorruptJournal as refusal:
            if node.intact is None:
                raise Violation(f"{node.name} refuses a journal that nobody damaged: {refusal}") from refusal
            self._time.note("refuse", node.name, refusal.name, refusal.offset)
            node.lost = True
            self.refused += 1
            return False
        except StartupError as failure:
            self._time.note("start", node.name, type(failure.__cause__).__name__)
            self._start_again(node)
            return False
        if node.intact is not None and _holds(node.journal) != _holds(self._journal(node.name, node.intact)):
            raise Violation(f"{node.name} starts from a damaged journal as if nothing had happened")
        node.intact = None
        return True

    def _journal(self, name: str, storage: SimulatedStorage) -> Journal:
        plan, identity = self._plan, Identity("simulated", name)
        with nullcontext() if self._care.syncs_at_start else storage.without_power():
            return Journal.open(
                storage, identity, segment_bytes=plan.segment_bytes, cache_bytes=plan.cache_bytes
            )

    def _open_state(self, node: Node) -> Opened:
        node.shelf_disk.is_synced = self._care.syncs_snapshots
        snapshots = SnapshotStore(node.shelf_disk, "simulated")
        try:
            opened = open_member(node.journal, snapshots, node.folder, self._open_machine)
        except StartupError as refusal:
            raise Violation(f"{node.name} cannot start: {refusal}") from refusal
        node.machine = opened.machine
        node.machine.on_events(lambda told: self._turns.told(node, told))
        node.machine.on_replaced(lambda: _send_away(node))
        node.reader = node.machine.reader()
        return opened

    def _open_machine(self, folder: Path) -> Machine:
        return Machine(folder, cluster_id="simulated", domains=self._domains)

    def _tick(self, node: Node) -> None:
        is_calm = node.replica.core.leader is not None
        node.later(CALM_TICK_S if is_calm else TICK_S, lambda: self._tick(node))
        node.replica.tick(self._time.now)
        node.shelf.tick()
        if node.replica.core.expelled is not None:
            self.retire(node.name)
            return
        if not self._care.lets_lead and self._time.random.random() < CAMPAIGNS:
            node.replica.elections._ask(transfer=True)
        node.kick()

    def crash(self, name: str) -> None:
        """The machine loses its power, and with it what was not synced."""
        node = self._nodes[name]
        if node.up:
            self._end(node, "crash")
            self._disks.lose_power(node)
            self._disks.forget_state(node)

    def kill(self, name: str) -> None:
        """The process ends; what it wrote is still there."""
        node = self._nodes[name]
        if node.up:
            self._end(node, "kill")
            self._disks.stop_process(node)

    def retire(self, name: str) -> None:
        """The member was removed, or never let in: it stops for good."""
        node = self._nodes[name]
        if node.up:
            self._end(node, "retire")
        node.gone = True

    def stop(self, node: Node, reason: str) -> None:
        """The member ends itself, because its disk fails, and is started again from what is durable."""
        self._end(node, reason)
        self._start_again(node)

    def _start_again(self, node: Node) -> None:
        node.storage.crash(self._time.random)
        node.shelf_disk.crash(self._time.random)
        self._time.after(RESTART_S * self._time.random.random(), lambda: self.start(node.name))

    def _end(self, node: Node, how: str) -> None:
        self._time.note(how, node.name)
        self._wires.close_links(node.name)
        node.up = False
        node.incarnation += 1
        for stream in list(node.streams):
            stream.cut()
        node.close()

    def pause(self, name: str) -> None:
        self._time.note("pause", name)
        self._nodes[name].paused = True

    def resume(self, name: str) -> None:
        self._time.note("resume", name)
        self._nodes[name].resume()

    def heal(self) -> None:
        """Everybody is up and awake."""
        for name, node in self._nodes.items():
            node.storage.mend()
            if node.up and node.paused:
                self.resume(name)
            self.start(name)


def _send_away(node: Node) -> None:
    """Whoever listens here was not told what a snapshot passes over, and resumes."""
    for stream in list(node.streams):
        stream.cut()


def _holds(journal: Journal) -> tuple[object, ...]:
    """All that a journal says."""
    return journal.term, journal.vote, journal.entries(journal.first_index)
