"""What directed schedules are made of: a settled cluster, a user, and a few steps that all of them take."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from raftos.consensus.configuration import Add, Promote, Standing
from raftos.consensus.guard import Rules
from tests.simulation.care import Care
from tests.simulation.history import Violation, Write
from tests.simulation.plan import Plan
from tests.simulation.run import circumstances
from tests.simulation.workload import Client
from tests.simulation.world import World

Steps = Callable[[World, Client, str, str, str], None]

FORKED = r"committed another entry \d+ than was committed before"
"""What was agreed on is lost: something else was agreed on in its place."""
STALE = r"a read of .* returned revision \d+, older than \d+ seen before it began"
DEPOSED = r"the healthy leader n\d of term \d+ was deposed"


@dataclass(frozen=True)
class Schedule:
    """Steps with a settled cluster (leader A, followers B and C), on a few seeds."""

    about: str
    """The rule or the care without which this goes wrong."""
    said: str
    """What the Violation says then, as a regular expression: it names what the rule or care prevents."""
    steps: Steps
    seeds: range = range(12)
    plan: Plan = field(default_factory=Plan)

    def run(self, rules: Rules, care: Care) -> None:
        """Raises Violation."""
        for seed in self.seeds:
            folder = Path(tempfile.mkdtemp(prefix="raftos-sim-"))
            try:
                with circumstances(self.plan, care):
                    self._run(World(seed, folder, plan=self.plan, rules=rules, care=care))
            finally:
                shutil.rmtree(folder)

    def _run(self, world: World) -> None:
        try:
            client = Client(world, "user", keys=1)
            elect(world)
            write(world, client, "key0")
            world.run(0.5)
            a = world.leader()
            assert a is not None
            b, c = (name for name in world.names if name != a)
            self.steps(world, client, a, b, c)
        finally:
            world.stop()


def elect(world: World) -> None:
    world.run_until(lambda: world.leader() is not None, 5, "an election")


def write(world: World, client: Client, key: str, first: str | None = None) -> Write:
    """A write that has been acknowledged when this returns."""
    written = client.write(key, lambda: None, first=first or world.leader())
    world.run_until(lambda: written.ended is not None, 5, "an acknowledgement")
    return written


def read(world: World, client: Client, member: str, key: str) -> None:
    """A read; stale answers raise in the history. Unanswered reads are no violation."""
    done: list[bool] = []
    client.read(member, key, lambda: done.append(True))
    world.run_until(lambda: bool(done), 5, "the end of a read")


def survives(world: World, client: Client) -> None:
    """Heal, write through every member, and see that all that was acknowledged is still there."""
    world.heal()
    world.run(2.0)
    for name in world.names:
        write(world, client, "key0", first=name)
    world.run(1.0)
    if len({world.nodes[name].machine.state_hash for name in world.names}) != 1:
        raise Violation("members differ after healing")
    if len({world.nodes[name].replica.core.configuration for name in world.names}) != 1:
        raise Violation("members know different configurations after healing")


def isolate(world: World, name: str, *others: str) -> None:
    """No frame passes between a member and others, nor between their links to come."""
    for other in others:
        world.wires.stall(name, other)
        world.wires.stall(other, name)


def learner(world: World) -> str:
    """One more member that is sent the log, and has caught up."""
    name = world.new_machine()
    world.change(Add(name, "", Standing.LEARNER))
    world.run_until(lambda: _is_up_to_date(world, name), 5, "catching up")
    return name


def voter(world: World) -> str:
    """One more member that votes."""
    name = learner(world)
    world.change(Promote(name))
    world.run(0.5)
    return name


def _is_up_to_date(world: World, name: str) -> bool:
    leader = world.leader()
    if leader is None:
        return False
    known = world.nodes[name].replica.core.configuration
    return known == world.nodes[leader].replica.core.configuration
