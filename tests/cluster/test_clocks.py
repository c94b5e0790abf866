"""Wall clocks that jump by hours, to and fro, on some members or all: nothing that matters follows them.

Each daemon's wall clock is off by what the test says (`shim.py`); its monotonic clock is right, as it is on a
machine whose time is corrected. While clocks jump, these hold besides the order of the history:

* a lock that is renewed is never lost;
* a key with a time-to-live is there until its time has passed, be that two seconds or an hour, and gone
  soon after;
* cluster time goes no faster than time does, and never back by more than a new leader may not know;
* no request is refused as too old, neither of a client with the right time nor of one without.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from raftos.client import Client
from raftos.client.sync import Lock
from raftos.errors import NotFound
from raftos_cli.devcluster import Member
from tests.cluster.daemons import CONTEXT, Cluster, wait_until
from tests.cluster.faults import MEANWHILE, Arena, Fault, inject_all
from tests.cluster.shim import HOUR_S, Shim, ShimmedCluster, compiled, shimmed_cluster

pytestmark = pytest.mark.timeout(240)

MORE = 3
TTL_S = 2.0
LONG_TTL_S = 3600.0
"""Of one key that outlives all faults: they make clocks jump by hours."""
SOONEST_S = 0.2
"""By how much cluster time may be ahead where a new leader goes on from the time of the last one."""
LOCK_TTL_S = 20.0
MAIN = "from raftos_cli.main import main; main()"
AHEAD_MS = 500
"""The same, seen from outside."""
BEHIND_MS = 60_000
"""It stands still while nobody leads; a jump of a clock would be hours."""


@dataclass
class ClockArena(Arena):
    shimmed: ShimmedCluster
    client: Client
    held: Lock
    times: ClusterTime

    @contextmanager
    def unharmed(self, name: str) -> Iterator[None]:
        """A lock, keys with a short and a long time-to-live, and cluster time."""
        with living_for_its_time(self.client, f"short/{len(self.load.windows)}"):
            yield
        self.times.check()
        assert exists(self.client, "long"), f"{name} ended an hour"
        assert not self.held.lost, f"a lock was lost to {name}"

    def jump(self, member: Member, hours: float) -> None:
        self.shimmed.of(member).set_clock_ahead(int(hours * HOUR_S))

    def restart(self, *members: Member) -> None:
        self.cluster.kill(*members)
        self.cluster.start(*members)


@contextmanager
def leader_jumps_ahead(arena: ClockArena) -> Iterator[None]:
    arena.jump(arena.cluster.leader(), 5)
    yield


@contextmanager
def leader_jumps_back(arena: ClockArena) -> Iterator[None]:
    arena.jump(arena.cluster.leader(), -5)
    yield


@contextmanager
def all_jump_apart(arena: ClockArena) -> Iterator[None]:
    for member in arena.cluster.members:
        arena.jump(member, arena.choice.uniform(-48, 48))
    yield


@contextmanager
def jumps_every_moment(arena: ClockArena) -> Iterator[None]:
    for _ in range(20):
        arena.jump(arena.any_member(), arena.choice.uniform(-2, 2))
        arena.moment(0.1)
        arena.load.progress(MEANWHILE)
    yield


@contextmanager
def next_leader_is_ahead(arena: ClockArena) -> Iterator[None]:
    """Started with a clock of tomorrow, and made to lead."""
    member = arena.follower()
    arena.jump(member, 24)
    arena.restart(member)
    hand_over(arena, member)
    yield


@contextmanager
def next_leader_is_behind(arena: ClockArena) -> Iterator[None]:
    """Started with a clock of yesterday, and made to lead."""
    member = arena.follower()
    arena.jump(member, -24)
    arena.restart(member)
    hand_over(arena, member)
    yield


@contextmanager
def all_start_apart(arena: ClockArena) -> Iterator[None]:
    """A power cut, after which every clock is somewhere else."""
    for member in arena.cluster.members:
        arena.jump(member, arena.choice.uniform(-48, 48))
    arena.restart(*arena.cluster.members)
    yield


def hand_over(arena: ClockArena, member: Member) -> None:
    if arena.cluster.leader() is not member:
        arena.client.leader.transfer(member.name)
    wait_until(f"{member.name} leads", lambda: arena.cluster.leader() is member)


CLOCK_FAULTS: dict[str, Fault[ClockArena]] = {
    "leader's clock jumps ahead": Fault(leader_jumps_ahead),
    "leader's clock jumps back": Fault(leader_jumps_back),
    "all clocks jump apart": Fault(all_jump_apart),
    "clocks jump every moment": Fault(jumps_every_moment),
    "next leader a day ahead": Fault(next_leader_is_ahead),
    "next leader a day behind": Fault(next_leader_is_behind),
    "all start with clocks apart": Fault(all_start_apart),
}


class ClusterTime:
    """Cluster time as each member tells it, against the time that really passed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._offset_ms: float | None = None

    def check(self) -> None:
        for member in self._cluster.members:
            before_s = time.monotonic()
            told = self._cluster.request(member, "/v1/kv/get?key=missing").headers.get("raftos-time")
            after_s = time.monotonic()
            assert told is not None
            if self._offset_ms is None:
                self._offset_ms = int(told) - before_s * 1000
            off_ms = int(told) - after_s * 1000 - self._offset_ms
            assert -BEHIND_MS < off_ms < AHEAD_MS, f"{member.name} tells a time {off_ms:+.0f} ms off"


@contextmanager
def living_for_its_time(client: Client, key: str) -> Iterator[None]:
    """A key with a time-to-live, written before the fault: not gone early, and gone in the end."""
    began_s = time.monotonic()
    client.kv.put(key, "x", ttl_s=TTL_S)
    yield
    if not exists(client, key):
        assert time.monotonic() - began_s > TTL_S - SOONEST_S, f"{key} was gone too early"
    wait_until(f"{key} is gone", lambda: not exists(client, key))


def exists(client: Client, key: str) -> bool:
    try:
        client.kv.get(key)
    except NotFound:
        return False
    return True


@pytest.fixture
def shimmed(tmp_path: Path) -> Iterator[ShimmedCluster]:
    with shimmed_cluster(tmp_path) as made:
        made.start()
        yield made


def run(shimmed: ShimmedCluster, seed: int, more: int | None) -> None:
    """Strike, and see that it was through the shim."""
    with shimmed.client() as client, client.lock("held", ttl_s=LOCK_TTL_S) as held:
        client.kv.put("long", "x", ttl_s=LONG_TTL_S)
        arena = ClockArena(shimmed, seed, shimmed, client, held, ClusterTime(shimmed))
        inject_all(arena, CLOCK_FAULTS, more)
    assert all(shim.count("clock_reads") for shim in shimmed.shims.values()), "the shim is not asked the time"


def test_each_clock_fault_once(shimmed: ShimmedCluster) -> None:
    run(shimmed, 1, None)


@pytest.mark.slow
def test_clock_faults_by_lot(shimmed: ShimmedCluster) -> None:
    """The same in a longer sequence."""
    run(shimmed, 2, MORE)


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_client_whose_clock_is_wrong(cluster: Cluster, tmp_path: Path, hours: int) -> None:
    """Its first request bears a time far off; it is answered all the same, and written once."""
    shim = Shim(tmp_path / "client.control", tmp_path / "nothing", compiled(tmp_path))
    shim.set_clock_ahead(hours * HOUR_S)
    environment = os.environ | shim.environment | {"RAFTOS_HOME": str(cluster.directory / "home")}
    command = [sys.executable, "-c", MAIN, "kv", "put", "a", "1", "-o", "json", "--context", CONTEXT]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert shim.count("clock_reads") > 0
    with cluster.client() as client:
        assert client.kv.get("a").version == 1
