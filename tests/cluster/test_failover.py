"""One client that writes every five milliseconds while it loses its leader: the writes resume by themselves.

`bench/` measures how long the gap is; here only the behaviour counts, and the gap is merely printed
(`pytest -rP`). The client is given what a user has: the cluster's endpoints, and no advice.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import pytest

from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster, wait_until
from tests.cluster.writers import moment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PACE_S = 0.005
WRITES = 200
Strike = Callable[[Cluster, Member], None]
STRIKES: dict[str, tuple[Strike, Strike]] = {
    "killed": (Cluster.kill, Cluster.start),
    "paused": (Cluster.pause, Cluster.resume),
}


class SteadyClient:
    """Writes `steady/1`, `steady/2`, ... one after another; any error ends it and fails the test."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self.acknowledged_at: list[float] = []
        """Monotonic seconds; the position in the list is the number of the write, less one."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None and self._failure is not None:
            raise self._failure

    def progress(self, writes: int) -> None:
        wanted = len(self.acknowledged_at) + writes
        wait_until(
            f"{writes} more writes are acknowledged",
            lambda: self._failure is not None or len(self.acknowledged_at) >= wanted,
        )

    @property
    def largest_gap_s(self) -> float:
        return max(after - before for before, after in itertools.pairwise(self.acknowledged_at))

    def _run(self) -> None:
        try:
            asyncio.run(self._write())
        except BaseException as failure:  # noqa: BLE001 - the test's own thread raises it
            self._failure = failure

    async def _write(self) -> None:
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
