"""Disks that fail, refuse and dawdle: a member that cannot trust its disk stops, and the others go on.

After a sync that failed nobody knows what is on the disk, so nothing may follow it: the daemon says so and
ends. A disk that takes long for a sync is no failure; but a leader with one has to give way. Both are done
to the shipped daemon by a library in front of its C library (`shim.py`). Disks that are full or read-only
are real ones, small and mounted for the test (`disks.py`).
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster, wait_until
from tests.cluster.disks import fill, mounted, remount, tells_of_full_disk
from tests.cluster.faults import WRITES, Arena, Fault, inject_all
from tests.cluster.shim import ShimmedCluster, shimmed_cluster
from tests.cluster.workload import Workload

pytestmark = pytest.mark.timeout(240)

MORE = 3
FEW = 20
"""Writes to wait for where each takes long."""
LAST_WORDS = "going on could lose data"
REFUSAL = "^raftos: .*([Rr]ead-only file system|readonly database).*"
LONG_MS = 2_500
SMALL = "64m"


@dataclass
class DiskArena(Arena):
    shimmed: ShimmedCluster


# Disks that fail: EIO on sync, errors on write.


@contextmanager
def dies_of(arena: DiskArena, victim: Member, *, sync: int = 0, write: int = 0) -> Iterator[None]:
    """The member's disk fails, and it ends by itself with its last words; later it starts on a good disk."""
    deaths = last_words(arena.cluster, victim)
    arena.shimmed.of(victim).fail_syncs(sync)
    arena.shimmed.of(victim).fail_writes(write)
    wait_until(f"{victim.name} stops", lambda: not arena.cluster.is_running(victim))
    assert last_words(arena.cluster, victim) == deaths + 1, "it ended without saying why"
    yield
    arena.shimmed.of(victim).heal()
    arena.cluster.start(victim)


def last_words(cluster: Cluster, member: Member) -> int:
    """How often a member has stopped by itself, and said so as something critical."""
    entries = [json.loads(line) for line in cluster.log(member).splitlines() if line.startswith("{")]
    return sum(entry["level"] == "critical" and LAST_WORDS in entry["event"] for entry in entries)


def leader_sync_fails(arena: DiskArena) -> AbstractContextManager[None]:
    return dies_of(arena, arena.cluster.leader(), sync=errno.EIO)


def follower_sync_fails(arena: DiskArena) -> AbstractContextManager[None]:
    return dies_of(arena, arena.follower(), sync=errno.EIO)


def leader_writes_fail(arena: DiskArena) -> AbstractContextManager[None]:
    return dies_of(arena, arena.cluster.leader(), write=errno.EIO)


def leader_turns_read_only(arena: DiskArena) -> AbstractContextManager[None]:
    """As a file system does after an error: what was open for writing refuses it."""
    return dies_of(arena, arena.cluster.leader(), write=errno.EROFS)


# Disks that dawdle.


@contextmanager
def syncs_take(arena: DiskArena, members: list[Member], milliseconds: int) -> Iterator[None]:
    for member in members:
        arena.shimmed.of(member).delay_syncs(milliseconds)
    yield
    for member in members:
        arena.shimmed.of(member).heal()


@contextmanager
def leader_syncs_for_long(arena: DiskArena) -> Iterator[None]:
    """Longer than any election takes: another leads, and it does not come back while its disk is so slow."""
    leader = arena.cluster.leader()
    with syncs_take(arena, [leader], LONG_MS):
        arena.another_leads(leader)
        yield
        assert not arena.cluster.leads(leader), "it leads again, on a disk that is as slow as before"


def follower_syncs_for_long(arena: DiskArena) -> AbstractContextManager[None]:
    return syncs_take(arena, [arena.follower()], LONG_MS)


def all_sync_slowly(arena: DiskArena) -> AbstractContextManager[None]:
    """As a worn-out hard disk: eighty milliseconds each."""
    return syncs_take(arena, list(arena.cluster.members), 80)


DISK_FAULTS: dict[str, Fault[DiskArena]] = {
    "leader's sync fails": Fault(leader_sync_fails),
    "follower's sync fails": Fault(follower_sync_fails),
    "leader's writes fail": Fault(leader_writes_fail),
    "leader's disk turns read-only": Fault(leader_turns_read_only),
    "leader syncs for long": Fault(leader_syncs_for_long, least_s=LONG_MS / 1000),
    "follower syncs for long": Fault(follower_syncs_for_long),
    "all sync slowly": Fault(all_sync_slowly, writes=FEW),
}


@pytest.fixture
def shimmed(tmp_path: Path) -> Iterator[ShimmedCluster]:
    with shimmed_cluster(tmp_path) as made:
        made.forgive(LAST_WORDS)
        made.start()
        yield made


def run(shimmed: ShimmedCluster, seed: int, more: int | None) -> None:
    """Strike, and see that it was through the shim."""
    inject_all(DiskArena(shimmed, seed, shimmed), DISK_FAULTS, more)
    assert all(shim.count("syncs") for shim in shimmed.shims.values()), "the shim sees no syncs"


def test_each_disk_fault_once(shimmed: ShimmedCluster) -> None:
    """What a member acknowledged before its disk failed is there, and the others acknowledge meanwhile."""
    run(shimmed, 1, None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
def test_disk_faults_by_lot(shimmed: ShimmedCluster, seed: int) -> None:
    """The same in longer sequences."""
    run(shimmed, seed, MORE)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS], ids=["EIO", "EROFS"])
def test_an_idle_leader_whose_disk_fails_ends(shimmed: ShimmedCluster, number: int) -> None:
    """Nobody is connected to it, and it still believes that it leads: it stops at once all the same."""
    shimmed.settle()
    leader = shimmed.leader()
    with shimmed.client(*shimmed.followers()) as client:
        shimmed.of(leader).fail_writes(number)
        client.kv.put("the last straw", "1")
        wait_until(f"{leader.name} stops", lambda: not shimmed.is_running(leader))
        assert client.kv.get("the last straw").version == 1
    assert last_words(shimmed, leader) == 1
    shimmed.of(leader).heal()
    shimmed.start(leader)
    shimmed.settle()


def test_a_member_whose_state_alone_cannot_be_synced_ends(tmp_path: Path) -> None:
    """The journal is durable and takes writes, yet nobody knows what becomes of the state in a power cut."""
    with shimmed_cluster(tmp_path, "state") as made:
        made.forgive(LAST_WORDS)
        made.start()
        made.settle()
        leader = made.leader()
        made.of(leader).fail_syncs()
        with made.client(*made.followers()) as client:
            client.kv.put("the last straw", "1")
            wait_until(f"{leader.name} stops", lambda: not made.is_running(leader))
            assert client.kv.get("the last straw").version == 1
        assert last_words(made, leader) == 1
        assert "cannot sync the state" in made.log(leader)
        made.of(leader).heal()
        made.start(leader)
        made.settle()


def test_all_disks_fail_at_once(shimmed: ShimmedCluster) -> None:
    """Nobody is left, and everything that was acknowledged is there once the disks are good again."""
    with Workload(shimmed, 6) as load:
        load.progress(WRITES)
        for member in shimmed.members:
            shimmed.of(member).fail_syncs()
        load.trouble(1)
        wait_until("all have stopped", lambda: not any(map(shimmed.is_running, shimmed.members)))
        for member in shimmed.members:
            shimmed.of(member).heal()
        shimmed.start()
        load.progress(WRITES)
    load.check()


# Disks that are full or read-only: real ones.


def folder_of(arena: Arena, member: Member) -> Path:
    return arena.cluster.dev.data_dir(member)


def says_full(cluster: Cluster, member: Member) -> bool:
    answer = cluster.ask(member, "/readyz")
    return answer is not None and answer.status == 503 and tells_of_full_disk(answer.body.decode())


@contextmanager
def full(arena: Arena, *victims: Member) -> Iterator[None]:
    """All space is taken until the end of the block; then they find back by themselves."""
    fillers = [folder_of(arena, victim) / "filler" for victim in victims]
    for filler in fillers:
        fill(filler)
    for victim in victims:
        wait_until(f"{victim.name} says so", lambda victim=victim: says_full(arena.cluster, victim))  # type: ignore[misc]
    yield
    for filler in fillers:
        filler.unlink()
    arena.cluster.wait_ready()


def leader_full(arena: Arena) -> AbstractContextManager[None]:
    return full(arena, arena.cluster.leader())


def follower_full(arena: Arena) -> AbstractContextManager[None]:
    return full(arena, arena.follower())


def two_full(arena: Arena) -> AbstractContextManager[None]:
    return full(arena, *arena.choice.sample(list(arena.cluster.members), 2))


@contextmanager
def killed_while_full(arena: Arena) -> Iterator[None]:
    victim = arena.any_member()
    with full(arena, victim):
        arena.cluster.kill(victim)
        yield
        arena.cluster.spawn(victim)


@contextmanager
def starts_on_read_only(arena: Arena) -> Iterator[None]:
    """It says in one sentence what is wrong, ends, and leaves everything as it is."""
    victim = arena.any_member()
    arena.cluster.kill(victim)
    said = len(arena.cluster.log(victim))
    remount(folder_of(arena, victim), "ro")
    arena.cluster.spawn(victim)
    wait_until(f"{victim.name} refuses to start", lambda: not arena.cluster.is_running(victim))
    [sentence] = arena.cluster.log(victim)[said:].splitlines()
    assert re.search(REFUSAL, sentence), sentence
    yield
    remount(folder_of(arena, victim), "rw")
    arena.cluster.start(victim)


SPACE_FAULTS: dict[str, Fault[Arena]] = {
    "leader's disk full": Fault(leader_full),
    "follower's disk full": Fault(follower_full),
    "two disks full": Fault(two_full, serves=False),
    "killed while its disk is full": Fault(killed_while_full),
    "starts on a read-only disk": Fault(starts_on_read_only),
}


@pytest.fixture
def mounts(idle: Cluster) -> Iterator[Cluster]:
    """A running cluster whose data directories are small disks."""
    folders = [idle.dev.data_dir(member) for member in idle.members]
    options = f"size={SMALL}"
    with mounted(folders[0], options), mounted(folders[1], options), mounted(folders[2], options):
        idle.forgive("read-only", "readonly", "Read-only")
        idle.start()
        try:
            yield idle
        finally:
            idle.kill(*idle.members)


@pytest.mark.root
def test_each_lack_of_space_once(mounts: Cluster) -> None:
    """A member that cannot write acknowledges nothing, and says so."""
    inject_all(Arena(mounts, 1), SPACE_FAULTS, None)


@pytest.mark.root
@pytest.mark.slow
def test_lack_of_space_by_lot(mounts: Cluster) -> None:
    """The same in a longer sequence."""
    inject_all(Arena(mounts, 2), SPACE_FAULTS, MORE)
