"""Clients and the nemesis: what is asked of the cluster, and what is done to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from raftos.errors import NotFound
from raftos.state.domains.kv import Get, Put
from tests.simulation.caller import ATTEMPT_S, Caller, confirm
from tests.simulation.history import Write
from tests.simulation.wires import SILENT_LINK_S
from tests.simulation.world import World


class Client(Caller):
    """A user of keys: reads them, and puts values nobody else puts."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        keys: int = 4,
        pace_s: float = 0.015,
        reads: float = 0.4,
        hasty: bool = False,
    ) -> None:
        super().__init__(world, name, pace_s=pace_s, hasty=hasty)
        self.keys = keys
        self.reads = reads
        self._numbers = itertools.count(1)

    def go(self) -> None:
        if not self.stopped:
            if self.world.random.random() < self.reads:
                self.read(self.world.random.choice(self.world.names), self._key(), self._next)
            else:
                self.write(self._key(), self._next)

    def _key(self) -> str:
        return f"key{self.world.random.randrange(self.keys)}"

    def write(self, key: str, then: Callable[[], None], first: str | None = None) -> Write:
        value = f"{self.name}-{next(self._numbers)}".encode()
        put = Put(key=key, value=value)
        write = Write(id=self.request_id(), command=put, key=key, value=value, began=self.world.now)
        self.ask(write, then, first)
        return write

    def read(self, member: str, key: str, then: Callable[[], None]) -> None:
        world, began = self.world, self.world.now
        node = world.nodes[member]
        is_open = True

        def close() -> None:
            nonlocal is_open
            if is_open:
                is_open = False
                then()

        def answered(value: object) -> None:
            if isinstance(value, int):
                try:
                    item = node.reader.query(Get(key=key))
                    found: tuple[bytes, int] | None = (item.value, item.revision)
                except NotFound:
                    found = None
                world.history.read_ended(key, began, world.now, found)
            close()

        world.after(ATTEMPT_S, close)
        confirm(world, member, answered)


class Nemesis:
    """Crashes, cuts, one-way stalls, pauses, bounced links, slow, hung and full disks - and their ends.

    Transfers of leadership and doubled frames are no faults, but find some.
    """

    def __init__(self, world: World, *, spacing_s: float = 0.5) -> None:
        self.world = world
        self.spacing_s = spacing_s
        self.stopped = False
        self._faults = (
            (30, self._crash),
            (4, self._crash_all),
            (16, self._cut),
            (16, self._stall),
            (12, self._bounce),
            (14, self._pause),
            (6, self._isolate),
            (5, self._slow_disk),
            (5, self._full_disk),
            (10, self._transfer),
            (4, self._duplicate),
        )

    def go(self) -> None:
        if self.stopped:
            return
        weights = [weight for weight, _ in self._faults]
        ((_, fault),) = self.world.random.choices(self._faults, weights)
        fault()
        self.world.after(self.world.random.expovariate(1 / self.spacing_s), self.go)

    def _later(self, longest: float, event: Callable[[], None]) -> None:
        self.world.after(self.world.random.random() * longest, event)

    def _member(self) -> str:
        leader = self.world.leader()
        return (
            leader
            if leader and self.world.random.random() < 0.5
            else self.world.random.choice(self.world.names)
        )

    def _pair(self) -> tuple[str, str]:
        """Two members; in a cluster of one there is nothing between it and itself to be cut."""
        if len(self.world.names) == 1:
            return self.world.names[0], self.world.names[0]
        one, other = self.world.random.sample(self.world.names, 2)
        return one, other

    def _crash(self) -> None:
        name = self._member()
        self.world.lives.crash(name)
        self._later(1.5, lambda: self.world.lives.start(name))

    def _crash_all(self) -> None:
        for name in self.world.names:
            self.world.lives.crash(name)
            self._later(0.5, lambda name=name: self.world.lives.start(name))  # type: ignore[misc]

    def _cut(self) -> None:
        a, b = self._pair()
        self.world.wires.cut_pair(a, b)
        self._later(2.0, lambda: self.world.wires.heal_pair(a, b))

    def _isolate(self) -> None:
        name = self._member()
        for other in self.world.names:
            if other != name:
                self.world.wires.cut_pair(name, other)
                self._later(2.0, lambda other=other: self.world.wires.heal_pair(name, other))  # type: ignore[misc]

    def _stall(self) -> None:
        a, b = self._pair()
        self.world.wires.stall(a, b)
        self._later(2.0, lambda: self.world.wires.unstall(a, b))
        self.world.after(SILENT_LINK_S, lambda: self.world.wires.close_if_silent(a, b))

    def _bounce(self) -> None:
        a, b = self._pair()
        self.world.wires.close_link(a, b)
        self._later(0.02, lambda: self.world.wires.connect(a, b))

    def _pause(self) -> None:
        name = self._member()
        if not self.world.nodes[name].paused:
            self.world.lives.pause(name)
            self._later(2.0, lambda: self.world.lives.resume(name))

    def _slow_disk(self) -> None:
        name = self._member()
        self.world.disks.slow[name] = self.world.random.choice((0.05, 0.3, 0.9, 2.5))
        self._later(1.5, lambda: self._quick_disk(name))

    def _full_disk(self) -> None:
        name = self._member()
        full = self.world.random.choice((self.world.disks.full_journal, self.world.disks.full_state))
        full.add(name)
        self._later(2.0, lambda: full.discard(name))

    def _transfer(self) -> None:
        leader = self.world.leader()
        if leader is not None and not self.world.nodes[leader].paused:
            node, target = self.world.nodes[leader], self.world.random.choice([None, *self.world.names])
            self.world.note("transfer", leader, target)
            node.replica.transfer(self.world.now, object(), target, self.world.now + 2.0)
            node.kick()

    def _duplicate(self) -> None:
        self.world.wires.duplicating = True
        self._later(2.0, self._duplicate_no_more)

    def _duplicate_no_more(self) -> None:
        self.world.wires.duplicating = False

    def _quick_disk(self, name: str) -> None:
        self.world.disks.slow.pop(name, None)
