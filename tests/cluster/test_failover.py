"""One client that writes every five milliseconds while it loses its leader: the writes resume by themselves.

`bench/` measures how long the gap is; here only the behaviour counts, and the gap is merely printed
(`pytest -rP`). The client is given what a user has: the cluster's endpoints, and no advice.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable

import pytest

from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster
from tests.cluster.load import Load
from tests.cluster.writers import moment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PACE_S = 0.005
WRITES = 200
Strike = Callable[[Cluster, Member], None]
STRIKES: dict[str, tuple[Strike, Strike]] = {
    "killed": (Cluster.kill, Cluster.start),
    "paused": (Cluster.pause, Cluster.resume),
}


class SteadyClient(Load):
    """Writes `steady/1`, `steady/2`, ... one after another; any error ends it and fails the test."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.acknowledged_at: list[float] = []
        """Monotonic seconds; the position in the list is the number of the write, less one."""

    @property
    def acknowledgements(self) -> int:
        return len(self.acknowledged_at)

    @property
    def largest_gap_s(self) -> float:
        return max(after - before for before, after in itertools.pairwise(self.acknowledged_at))

    async def _work(self) -> None:
        async with self._cluster.async_client(self._cluster.dev.endpoints) as client:
            while not self._stop.is_set():
                number = len(self.acknowledged_at) + 1
                written = await client.kv.put(f"steady/{number}", str(number))
                assert written.version == 1, f"write {number} was applied twice"
                self.acknowledged_at.append(time.monotonic())
                await asyncio.sleep(PACE_S)


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("fate", STRIKES)
def test_a_steady_client_loses_its_leader(cluster: Cluster, fate: str, seed: int) -> None:
    """No write fails, none is lost, none is doubled; neither when the leader goes nor when it returns."""
    strike, undo = STRIKES[fate]
    with SteadyClient(cluster) as steady:
        steady.progress(WRITES)
        moment(seed)
        victim = cluster.leader()
        strike(cluster, victim)
        steady.progress(WRITES)
        print(f"largest gap, leader {fate}: {steady.largest_gap_s * 1000:.0f} ms")
        undo(cluster, victim)
        steady.progress(WRITES)
    cluster.settle()
    for member in cluster.members:
        with cluster.client(member) as client:
            found = {item.key: (item.value.decode(), item.version) for item in client.kv.list("steady/")}
        expected = range(1, len(steady.acknowledged_at) + 1)
        assert found == {f"steady/{number}": (str(number), 1) for number in expected}
