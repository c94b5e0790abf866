"""Faults by name, and sequences of them under one workload.

A fault is a context: it strikes, and is undone at the end of the block. Each says whether the cluster
`serves` meanwhile; a sequence then waits for acknowledged writes, or else for writes that fail, and in both
cases for acknowledged writes after it. A table of faults is a dictionary; one more is one more line.

Each kind of fault has its own **arena**: processes here; lines between members, networks, disks and clocks
in files of their own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import InitVar, dataclass, field
from typing import Generic, TypeVar

from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster, wait_until
from tests.cluster.workload import Workload

WRITES = 40
FAILURES = 4
MEANWHILE = 12
"""Writes to wait for between the strikes of one fault: more than there are clients, of which each may have
had one under way at the last strike."""


@dataclass
class Arena:
    """A running cluster, the load on it, and the generator that decides who is struck and when."""

    cluster: Cluster
    seed: InitVar[int]
    longer: float = field(default=1, kw_only=True)
    load: Workload = field(init=False)
    choice: random.Random = field(init=False)

    def __post_init__(self, seed: int) -> None:
        self.load, self.choice = Workload(self.cluster, seed), random.Random(seed)

    @contextmanager
    def unharmed(self, name: str) -> Iterator[None]:
        """Around each fault, with its name: what holds besides the order of the history."""
        yield

    def moment(self, most_s: float = 0.3) -> None:
        """Faults strike at any time."""
        time.sleep(self.choice.uniform(0, most_s))

    def any_member(self) -> Member:
        return self.choice.choice(list(self.cluster.members))

    def followers(self, number: int) -> list[Member]:
        """So many by lot, of those that run: who is out already is not struck by a second fault."""
        running = [each for each in self.cluster.followers() if self.cluster.dev.state(each) == "running"]
        return self.choice.sample(running, number)

    def follower(self) -> Member:
        [follower] = self.followers(1)
        return follower

    def another_leads(self, than: Member) -> None:
        """Wait until some other member leads, whatever `than` believes of itself."""
        others = [member for member in self.cluster.members if member is not than]
        wait_until(f"another member than {than.name} leads", lambda: any(map(self.cluster.leads, others)))


A = TypeVar("A", bound=Arena)
Arena_contra = TypeVar(
    "Arena_contra", bound=Arena, contravariant=True
)  # So that a fault for any arena is one for each.


@dataclass(frozen=True)
class Fault(Generic[Arena_contra]):
    strike: Callable[[Arena_contra], AbstractContextManager[None]]
    serves: bool = True
    """Whether a majority goes on: then writes are acknowledged while it lasts, and between its strikes."""
    writes: int = WRITES
    """How many of them to wait for."""
    least_s: float = 0
    """How long it lasts at least; in the long form `Arena.longer` times that."""


def inject(arena: A, name: str, fault: Fault[A]) -> None:
    """Strike once, see what it does to the load, undo it, and see the load go on."""
    arena.moment()
    with arena.load.during(name), fault.strike(arena):
        time.sleep(fault.least_s * arena.longer)
        if fault.serves:
            arena.load.progress(fault.writes)
        else:
            arena.load.trouble(FAILURES)
    arena.load.progress(WRITES)


def shuffled(faults: Mapping[str, Fault[A]], choice: random.Random) -> list[str]:
    """Each fault of a table once, in a seeded order: the short form of a sequence."""
    return choice.sample(sorted(faults), len(faults))


def drawn(faults: Mapping[str, Fault[A]], choice: random.Random, more: int) -> list[str]:
    """Each once and so many more by lot, the same one perhaps twice in a row: the long form."""
    names = [*sorted(faults), *choice.choices(sorted(faults), k=more)]
    return choice.sample(names, len(names))


def inject_all(arena: A, faults: Mapping[str, Fault[A]], more: int | None) -> None:
    """Every fault once, and `more` by lot in the long form, under the load; then its history is judged."""
    names = shuffled(faults, arena.choice) if more is None else drawn(faults, arena.choice, more)
    with arena.load:
        arena.load.progress(WRITES)
        for name in names:
            with arena.unharmed(name):
                inject(arena, name, faults[name])
    arena.load.check()


def together(outer: Fault[A], inner: Fault[A]) -> Fault[A]:
    """Both at once; the one that struck last is undone first."""

    @contextmanager
    def strike(arena: A) -> Iterator[None]:
        with outer.strike(arena), inner.strike(arena):
            yield

    return Fault(
        strike,
        serves=outer.serves and inner.serves,
        writes=min(outer.writes, inner.writes),
        least_s=max(outer.least_s, inner.least_s),
    )


# Processes.


@contextmanager
def killed(cluster: Cluster, *victims: Member) -> Iterator[None]:
    cluster.kill(*victims)
    yield
    cluster.start(*victims)


@contextmanager
def paused(cluster: Cluster, *victims: Member) -> Iterator[None]:
    for victim in victims:
        cluster.pause(victim)
    yield
    for victim in victims:
        cluster.resume(victim)


def leader_killed(arena: Arena) -> AbstractContextManager[None]:
    return killed(arena.cluster, arena.cluster.leader())


def follower_killed(arena: Arena) -> AbstractContextManager[None]:
    return killed(arena.cluster, arena.follower())


def leader_paused(arena: Arena) -> AbstractContextManager[None]:
    return paused(arena.cluster, arena.cluster.leader())


def follower_paused(arena: Arena) -> AbstractContextManager[None]:
    return paused(arena.cluster, arena.follower())


@contextmanager
def leaders_fall_in_turn(arena: Arena) -> Iterator[None]:
    """One is paused and its successor killed before it wakes up: it wakes up to a leader that it follows."""
    first = arena.cluster.leader()
    with paused(arena.cluster, first):
        arena.another_leads(first)
        arena.load.progress(WRITES)
    second = arena.cluster.leader()
    arena.cluster.kill(second)
    yield
    arena.cluster.start(second)


@contextmanager
def killed_while_another_sleeps(arena: Arena) -> Iterator[None]:
    """One follower is paused, the leader is killed: of three no majority is left, of five there is one."""
    victim = arena.cluster.leader()
    sleeper = arena.choice.choice([each for each in arena.cluster.members if each is not victim])
    with paused(arena.cluster, sleeper):
        arena.cluster.kill(victim)
        yield
    arena.cluster.start(victim)


@contextmanager
def all_killed(arena: Arena) -> Iterator[None]:
    members = list(arena.cluster.members)
    arena.cluster.kill(*members)
    yield
    for member in arena.choice.sample(members, len(members)):
        arena.cluster.spawn(member)
        arena.moment(0.2)
    arena.cluster.wait_ready()


@contextmanager
def rolling_restart(arena: Arena) -> Iterator[None]:
    """Each member in turn, in good order, writes while it is away; the next one once the last is ready."""
    for member in arena.choice.sample(list(arena.cluster.members), len(arena.cluster.members)):
        arena.cluster.stop(member)
        arena.load.progress(MEANWHILE)
        arena.cluster.start(member)
    yield


@contextmanager
def quick_deaths(arena: Arena) -> Iterator[None]:
    """Four in a row, some before the last one has caught up."""
    for _ in range(4):
        victim = arena.any_member()
        arena.cluster.kill(victim)
        arena.moment(0.5)
        arena.cluster.spawn(victim)
        arena.moment(0.5)
        arena.load.progress(MEANWHILE)
    arena.cluster.wait_ready()
    yield


PROCESS_FAULTS: dict[str, Fault[Arena]] = {
    "leader killed": Fault(leader_killed),
    "follower killed": Fault(follower_killed),
    "leader paused": Fault(leader_paused),
    "follower paused": Fault(follower_paused),
    "leader paused, its successor killed": Fault(leaders_fall_in_turn),
    "leader killed while a follower sleeps": Fault(killed_while_another_sleeps, serves=False),
    "all killed at once": Fault(all_killed, serves=False),
    "rolling restart": Fault(rolling_restart),
    "four quick deaths": Fault(quick_deaths),
}
OF_FIVE: dict[str, Fault[Arena]] = {
    **PROCESS_FAULTS,
    "leader killed while a follower sleeps": Fault(killed_while_another_sleeps),
}
"""The same where five members are: of those two may be out."""
