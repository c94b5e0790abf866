"""The lives of a member: it starts from what its disk holds, may be paused, and dies without a word.

Each life is an incarnation: nothing that was planned in one happens in the next. A paused member misses
nothing; all that happened to it meanwhile happens at once when it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from raftos.consensus.core import Timings
from raftos.consensus.guard import Rules
from raftos.consensus.journal import Identity, Journal
from raftos.consensus.replica import Replica
from raftos.state.domain import Domain
from raftos.state.machine import Machine
from tests.simulation.disks import Disks
from tests.simulation.history import Violation
from tests.simulation.node import Node
from tests.simulation.timeline import Timeline
from tests.simulation.turns import Turns
from tests.simulation.wires import Wires

TIMINGS = Timings(heartbeat_s=0.1, election_s=0.5, append_bytes=2_000)
TICK_S = 0.025
CLUSTER_EPOCH_MS = 1_700_000_000_000
WALL_CLOCKS_DIFFER_MS = 30_000


class Lives:
    """Starts and ends the members of one run."""

    def __init__(
        self,
        time: Timeline,
        nodes: dict[str, Node],
        wires: Wires,
        disks: Disks,
        turns: Turns,
        domains: Sequence[Domain],
        rules: Rules,
    ) -> None:
        self._time = time
        self._nodes = nodes
        self._wires = wires
        self._disks = disks
        self._turns = turns
        self._domains = domains
        self._rules = rules
        self.walls_ms = {
            name: CLUSTER_EPOCH_MS + time.random.randrange(WALL_CLOCKS_DIFFER_MS) for name in nodes
        }
        """What the wall clock of each member would have shown at time 0."""

    def start(self, name: str) -> None:
        node = self._nodes[name]
        if node.up:
            return
        node.incarnation += 1
        node.up = True
        node.begin_life()
        self._open_disk(node)
        node.replica = Replica(
            member_id=name,
            voters=list(self._nodes),
            journal=node.journal,
            applied_index=node.machine.applied_index,
            time_ms=node.machine.time_ms,
            wall_ms=self.walls_ms[name] + int(1000 * self._time.now),
            now=self._time.now,
            random=Random(self._time.random.random()),
            timings=TIMINGS,
            rules=self._rules,
        )
        node.replica.watching = node.incarnation % 2 == 1
        self._time.note("start", name, node.journal.last_index, node.machine.applied_index)
        self._tick(node, node.incarnation)

    def _open_disk(self, node: Node) -> None:
        node.folder.mkdir(parents=True, exist_ok=True)
        node.journal = Journal.open(
            node.storage, Identity("simulated", node.name), segment_bytes=40_000, cache_bytes=8_000
        )
        node.machine = Machine(node.folder, cluster_id="simulated", domains=self._domains)
        node.machine.on_events(lambda told: self._turns.told(node, told))
        node.reader = node.machine.reader()
        if node.journal.last_index < node.machine.applied_index:
            raise Violation(
                f"{node.name} applied {node.machine.applied_index}, "
                f"but its log ends at {node.journal.last_index}"
            )

    def _tick(self, node: Node, incarnation: int) -> None:
        def tick() -> None:
            self._time.after(TICK_S, lambda: node.on(incarnation, tick))
            node.replica.tick(self._time.now)
            node.kick()

        node.on(incarnation, tick)

    def crash(self, name: str) -> None:
        node = self._nodes[name]
        if not node.up:
            return
        self._time.note("crash", name)
        self._wires.close_links(name)
        node.up = False
        node.incarnation += 1
        self._disks.lose_power(node)
        for stream in list(node.streams):
            stream.cut()
        node.close()
        self._disks.forget_state(node)

    def pause(self, name: str) -> None:
        self._time.note("pause", name)
        self._nodes[name].paused = True

    def resume(self, name: str) -> None:
        self._time.note("resume", name)
        self._nodes[name].resume()

    def heal(self) -> None:
        """Everybody is up and awake."""
        for name, node in self._nodes.items():
            if node.up and node.paused:
                self.resume(name)
            self.start(name)
