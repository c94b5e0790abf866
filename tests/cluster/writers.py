"""Concurrent writers through several members, and the ledger of what they were told.

Each writer has a client of its own that prefers another member. It writes keys that nobody else writes,
and takes part in counting on shared counters: read the counter, write the next number if the version is
still the one that was read. What comes back decides what has to be true in the end:

    told                                            then, once the cluster is whole
    acknowledged                                    is there exactly once
    OutcomeUnknown                                  is there once or not at all
    NoQuorum, NotReady, Unreachable, Conflict       is not there

The version of a key counts its writes, so a write applied twice shows as version 2; a counter's version
is its number, so no increment is lost or doubled. Reads of a counter are linearizable: one that begins
after version 7 was acknowledged or read must not see 6, whichever member answers.

Half of the writers give up early, so that faults really produce unknown outcomes; the others hold on across
a failover.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import msgspec

from raftos.client import AsyncClient
from raftos.client.kv import Item
from raftos.errors import Conflict, NoQuorum, NotFound, NotReady, OutcomeUnknown, Unreachable
from tests.cluster.daemons import Cluster
from tests.cluster.load import Load

WRITERS = 6
COUNTERS = 3
PATIENT_S, IMPATIENT_S = 20.0, 0.6
REST_S = 0.004
"""Between two writes of one writer: faults are the test, not the load."""
CERTAINLY_NOT = (NoQuorum, NotReady, Unreachable, Conflict)


class Written(msgspec.Struct, frozen=True):
    value: str
    version: int
    revision: int


class Writers(Load):
    """`with Writers(cluster, seed) as writers:` writes until the block ends, then `check()`."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        super().__init__(cluster)
        self._random = random.Random(seed)
        self.acknowledged: dict[str, Written] = {}
        self.unknown: dict[str, str] = {}
        self.counted: dict[str, dict[int, int]] = {counter: {} for counter in _counters()}
        """Counter -> acknowledged version -> revision."""
        self.maybe_counted: Counter[str] = Counter()
        self.refusals = 0
        self._seen: Counter[str] = Counter()

    @property
    def acknowledgements(self) -> int:
        return len(self.acknowledged) + sum(map(len, list(self.counted.values())))

    @property
    def failures(self) -> int:
        return len(self.unknown) + self.maybe_counted.total() + self.refusals

    # The writers.

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(self._write(number, random.Random(self._random.random())))

    async def _write(self, number: int, choice: random.Random) -> None:
        preferred = self._cluster.members[number % len(self._cluster.members)]
        timeout_s = PATIENT_S if number % 2 else IMPATIENT_S
        endpoints = self._cluster.endpoints(preferred)
        async with self._cluster.async_client(endpoints, timeout_s=timeout_s) as client:
            writes = 0
            while not self._stop.is_set():
                writes += 1
                if choice.random() < 0.5:
                    await self._write_own(client, f"own/{number}/{writes}")
                else:
                    await self._count(client, choice.choice(_counters()))
                await asyncio.sleep(REST_S)

    async def _write_own(self, client: AsyncClient, key: str) -> None:
        value = f"value of {key}"
        try:
            done = await client.kv.put(key, value)
        except OutcomeUnknown:
            self.unknown[key] = value
        except CERTAINLY_NOT:
            self.refusals += 1
        else:
            self.acknowledged[key] = Written(value, done.version, done.revision)

    async def _count(self, client: AsyncClient, counter: str) -> None:
        version = await self._read(client, counter)
        if version is None:
            return
        try:
            done = await client.kv.put(counter, str(version + 1), expect_version=version)
        except OutcomeUnknown:
            self.maybe_counted[counter] += 1
        except CERTAINLY_NOT:
            self.refusals += 1
        else:
            assert done.version == version + 1
            assert done.version not in self.counted[counter], f"{counter} {done.version} acknowledged twice"
            self.counted[counter][done.version] = done.revision
            self._seen[counter] = max(self._seen[counter], done.version)

    async def _read(self, client: AsyncClient, counter: str) -> int | None:
        at_least = self._seen[counter]
        try:
            item = await client.kv.get(counter)
        except NotFound:
            item = None
        except (NoQuorum, NotReady, Unreachable):
            return None
        version = item.version if item else 0
        assert version >= at_least, f"stale read: {counter} was at {at_least} before, now {version} was read"
        self._seen[counter] = max(self._seen[counter], version)
        return version

    # The reckoning.

    def check(self) -> None:
        """Every member holds what was acknowledged, once, and nothing that was refused."""
        self._cluster.settle()
        for member in self._cluster.members:
            with self._cluster.client(member) as client:
                items = {item.key: item for item in client.kv.list(stale=True)}
            self._check_own({key: item for key, item in items.items() if key.startswith("own/")})
            for counter in _counters():
                self._check_counter(counter, items.get(counter))

    def _check_own(self, found: dict[str, Item]) -> None:
        lost = self.acknowledged.keys() - found.keys()
        assert not lost, f"acknowledged and lost: {sorted(lost)[:10]}"
        invented = found.keys() - self.acknowledged.keys() - self.unknown.keys()
        assert not invented, f"refused and there: {sorted(invented)[:10]}"
        for key, item in found.items():
            assert item.version == 1, f"written {item.version} times: {item}"
            if (written := self.acknowledged.get(key)) is not None:
                assert Written(item.value.decode(), item.version, item.revision) == written
            else:
                assert item.value.decode() == self.unknown[key]

    def _check_counter(self, counter: str, item: Item | None) -> None:
        counted = self.counted[counter]
        if item is None:
            assert not counted, f"{counter} was acknowledged and lost"
            return
        assert item.value.decode() == str(item.version), f"an increment was lost or doubled: {item}"
        assert max(counted, default=0) <= item.version, f"acknowledged increments are lost: {item}"
        unaccounted = item.version - len(counted)
        assert unaccounted <= self.maybe_counted[counter], f"{item}: {unaccounted} increments by nobody"


def _counters() -> list[str]:
    return [f"counter/{number}" for number in range(COUNTERS)]


def moment(seed: int, most_s: float = 0.3) -> random.Random:
    """A generator for a test's own choices, after a pause of its choosing: faults strike at any time."""
    choice = random.Random(seed)
    time.sleep(choice.uniform(0, most_s))
    return choice
