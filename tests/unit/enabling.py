"""A machine as it is a few moments after its cluster began: every feature level is enabled."""

from __future__ import annotations

from raftos.levels import LEVEL
from raftos.state.machine import Machine
from raftos.state.tally import CLUSTER_LEVEL


def enabled(machine: Machine) -> Machine:
    """The same machine, without the entries that would have led there."""
    machine._tallies.values[CLUSTER_LEVEL] = LEVEL
    machine._db.execute("BEGIN")
    machine._tallies.save()
    machine._db.execute("COMMIT")
    machine._tallies.commit()
    return machine
