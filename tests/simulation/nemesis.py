"""Who does the faults of `faults.py`, one after another: those of the plan, as often as it says."""

from __future__ import annotations

from tests.simulation.faults import DiskFaults, Fault, MemberFaults, MembershipFaults, WireFaults
from tests.simulation.plan import Plan
from tests.simulation.world import World


class Nemesis:
    """Does one fault of the plan after another, until it is stopped."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.stopped = False
        self._spacing_s = plan.spacing_s
        self._weights = plan.weights
        self._faults: dict[str, Fault] = {
            **WireFaults(world).all(),
            **MemberFaults(world).all(),
            **DiskFaults(world).all(),
            **MembershipFaults(world).all(),
        }

    def go(self) -> None:
        if self.stopped:
            return
        (name,) = self.world.random.choices(list(self._weights), list(self._weights.values()))
        self.world.note("fault", name)
        if self._faults[name]():
            self.world.faults[name] += 1
        self.world.after(self.world.random.expovariate(1 / self._spacing_s), self.go)
