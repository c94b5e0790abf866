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
        names = [f"n{number}" for number in range(1, plan.members + 1)]
        self.nodes = {name: Node(name, folder / name, self) for name in names}
        self.wires = Wires(self, self.nodes, self.care)
        self.disks = Disks(self, self.care)
        self.turns = Turns(self, self.wires, self.disks, self.history, self.ledger)
        self.lives = Lives(
            self,
            self.nodes,
            self.wires,
            self.disks,
            self.turns,
            self.domains,
            rules or Rules(),
            self.care,
            plan,
        )
        self.faults: Counter[str] = Counter()
        """How many of each kind happened."""
        for node in self.nodes.values():
            node.stop = partial(self.lives.stop, node)
            node.turn = partial(self.turns.take, node)
            self.lives.start(node.name)
        self.after(0.0, self.wires.keep_connecting)

    @property
    def names(self) -> list[str]:
        """All members at this moment, but those that are gone for good."""
        return [node.name for node in self.nodes.values() if not node.lost]

    def leader(self) -> str | None:
        """The leader of the highest term that is up, if any."""
        leading = [node for node in self.nodes.values() if node.up and node.replica.core.is_leader]
        return max(leading, key=lambda node: node.replica.core.term).name if leading else None

    def heal(self) -> None:
        """Every wire, every member, every disk as it should be."""
        self.note("heal")
        self.disks.heal()
        self.wires.heal()
        self.lives.heal()

    def stop(self) -> None:
        for node in self.nodes.values():
            if node.up:
                node.close()
                node.up = False
