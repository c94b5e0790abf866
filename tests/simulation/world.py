"""A cluster on virtual time: the shipped replicas, journals and machines; simulated wires and disks.

One seed is one run. A world is its timeline (`timeline.py`) and the parts that happen on it:

    nodes   the machines, each with its disk and, while it runs, its replica     node.py
    wires   links between members, and the frames on them                        wires.py
    disks   how writes go, and what a power cut leaves                           disks.py
    turns   what the shipped driver does between a replica and the rest          turns.py
    lives   starts, pauses, crashes                                              lives.py

The nemesis (`nemesis.py`) does the faults (`faults.py`) of the seed's plan (`plan.py`).

What the cluster promised is kept in its `history`, what it told watchers in its `ledger`.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from raftos.consensus.configuration import Change, Configuration
from raftos.consensus.guard import Rules
from tests.simulation.care import Care, domains_with
from tests.simulation.disks import Disks
from tests.simulation.history import History
from tests.simulation.ledger import Ledger
from tests.simulation.lives import Lives
from tests.simulation.node import Node
from tests.simulation.plan import Plan
from tests.simulation.timeline import Timeline
from tests.simulation.turns import Turns
from tests.simulation.wires import Wires


class World(Timeline):
    """All members, the wires between them, and time."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        plan: Plan | None = None,
        rules: Rules | None = None,
        care: Care | None = None,
        trace: bool = False,
    ) -> None:
        super().__init__(seed, trace=trace)
        plan = plan or Plan()
        self.care = care or Care()
        self.domains = domains_with(self.care)
        self.history = History()
        self.ledger = Ledger()
        self._folder = folder
        self.healed_at: float | None = None
        names = [f"n{number}" for number in range(1, plan.members + 1)]
        first = Configuration.of(names)
        self.nodes = {name: Node(name, folder / name, self, first) for name in names}
        self.wires = Wires(self, self.nodes, self.care)
        self.disks = Disks(self, self.care)
        self.turns = Turns(self, self.wires, self.disks, self.history, self.ledger)
        self.lives = Lives(
            self,
            self.nodes,
            self.wires,
            self.disks,
            self.turns,
            self.history,
            self.domains,
            rules or Rules(),
            self.care,
            plan,
        )
        self.faults: Counter[str] = Counter()
        """How many of each kind happened."""
        for node in self.nodes.values():
            self._begin(node)
        self.after(0.0, self.wires.keep_connecting)

    def _begin(self, node: Node) -> None:
        node.stop = partial(self.lives.stop, node)
        node.turn = partial(self.turns.take, node)
        self.lives.start(node.name)

    def new_machine(self) -> str:
        """One more machine, which belongs to nobody yet, is there from now on; its name."""
        name = f"n{len(self.nodes) + 1}"
        self.nodes[name] = node = Node(name, self._folder / name, self, Configuration(()))
        self._begin(node)
        return name

    @property
    def names(self) -> list[str]:
        """All machines at this moment, but those that are gone for good."""
        return [node.name for node in self.nodes.values() if not (node.lost or node.gone)]

    def change(self, change: Change) -> bool:
        """Ask the leader for a change of the members; False if nobody leads."""
        leader = self.leader()
        if leader is None or self.nodes[leader].paused:
            return False
        node = self.nodes[leader]
        self.note("change", leader, change)
        node.replica.change(self.now, object(), change, self.now + 2.0)
        node.kick()
        return True

    def configuration(self) -> Configuration | None:
        """The members, as the present leader knows them."""
        leader = self.leader()
        return None if leader is None else self.nodes[leader].replica.core.configuration

    def leader(self) -> str | None:
        """The leader of the highest term that is up, if any."""
        leading = [node for node in self.nodes.values() if node.up and node.replica.core.is_leader]
        return max(leading, key=lambda node: node.replica.core.term).name if leading else None

    def heal(self) -> None:
        """Every wire, every member, every disk as it should be."""
        self.note("heal")
        self.healed_at = self.now
        self.disks.heal()
        self.wires.heal()
        self.lives.heal()

    def stop(self) -> None:
        for node in self.nodes.values():
            if node.up:
                node.close()
                node.up = False
