"""Clients: what is asked of the cluster, over and over."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from raftos.errors import NotFound
from raftos.state.domains.kv import Get, Put
from tests.simulation.caller import ATTEMPT_S, Caller, confirm
from tests.simulation.history import Write
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
