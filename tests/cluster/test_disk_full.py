"""A disk that fills up under load: that member stops making promises, the cluster goes on, nothing is lost.

One member's data directory is a small tmpfs of its own, which gives ENOSPC exactly as a full disk does.
Writers run all the time. Once the member has said what is wrong with it, the disk grows, and the member
has to find back by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster, wait_until
from tests.cluster.disks import fill, mounted, resize, tells_of_full_disk
from tests.cluster.writers import Writers

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

WRITES = 40
PAGE_OF_WRITES = 200
"""What may still fit into the last page of the journal, which the disk has given it already."""
TIGHT, ROOMY = "3m", "64m"


@pytest.fixture
def tight(idle: Cluster) -> Iterator[Member]:
    """A member of a running cluster, whose disk is small."""
    member = idle.members[0]
    with mounted(idle.dev.data_dir(member), f"size={TIGHT}"):
        idle.start()
        try:
            yield member
        finally:
            idle.kill(*idle.members)


def fill_disk(cluster: Cluster, member: Member) -> None:
    """Take all the space that is left, and then be told of it by the member itself."""
    fill(cluster.dev.data_dir(member) / "filler")
    wait_until(f"{member.name} says that its disk is full", lambda: says_full(cluster, member))


def says_full(cluster: Cluster, member: Member) -> bool:
    """In `/readyz`, and in the status as its peers give it."""
    answer = cluster.request(member, "/readyz")
    if answer.status == 200:
        return False
    assert answer.error_code() == "not_ready"
    peer = next(other for other in cluster.members if other is not member)
    trouble = cluster.node(member, seen_by=peer)["trouble"]
    return tells_of_full_disk(answer.body.decode()) and tells_of_full_disk(trouble or "")


def free_disk(cluster: Cluster, member: Member) -> None:
    resize(cluster.dev.data_dir(member), ROOMY)
    cluster.wait_ready()
    assert cluster.node(member)["trouble"] is None


def hand_leadership_to(cluster: Cluster, member: Member) -> None:
    with cluster.client() as client:
        if client.leader.show().leader != member.name:
            client.leader.transfer(member.name)
    wait_until(f"{member.name} leads", lambda: cluster.leader() is member)


def test_a_follower_whose_disk_fills_up(idle: Cluster, tight: Member) -> None:
    """It acknowledges nothing and disturbs nobody; with space it catches up."""
    with Writers(idle, 1) as writers:
        if idle.leader() is tight:
            hand_leadership_to(idle, idle.members[1])
        leader, term = idle.leader(), idle.status(idle.members[1])["term"]
        writers.progress(WRITES)
        fill_disk(idle, tight)
        writers.progress(PAGE_OF_WRITES)
        synced = idle.node(tight)["synced_index"]
        writers.progress(WRITES)
        assert idle.node(tight)["synced_index"] == synced, "it claims durability without a disk"
        assert (idle.leader(), idle.status(leader)["term"]) == (leader, term)
        free_disk(idle, tight)
        writers.progress(WRITES)
    writers.check()


def test_a_leader_whose_disk_fills_up(idle: Cluster, tight: Member) -> None:
    """It steps down, another leads, and it does not campaign while its disk is full."""
    with Writers(idle, 2) as writers:
        hand_leadership_to(idle, tight)
        writers.progress(WRITES)
        fill_disk(idle, tight)
        wait_until("another member leads", lambda: idle.leader() is not tight)
        leader, term = idle.leader(), idle.status(idle.members[1])["term"]
        writers.progress(10 * WRITES)
        assert (idle.leader(), idle.status(leader)["term"]) == (leader, term)
        free_disk(idle, tight)
        writers.progress(WRITES)
    writers.check()


def test_a_full_disk_and_a_kill(idle: Cluster, tight: Member) -> None:
    """A member that is killed while its disk is full keeps what it promised before."""
    with Writers(idle, 3) as writers:
        writers.progress(WRITES)
        fill_disk(idle, tight)
        idle.kill(tight)
        writers.progress(WRITES)
        resize(idle.dev.data_dir(tight), ROOMY)
        idle.start(tight)
        writers.progress(WRITES)
    writers.check()


def test_a_disk_filled_by_the_members_own_writes(idle: Cluster, tight: Member) -> None:
    """Nobody else takes the space: the journal and the state themselves run into the end of the disk."""
    with idle.client(*idle.members[1:]) as client, Writers(idle, 4) as writers:
        filled = 0
        while not says_full(idle, tight):
            filled += 1
            client.kv.put(f"large/{filled % 10}", bytes(100_000))
        writers.progress(WRITES)
        free_disk(idle, tight)
        writers.progress(WRITES)
    writers.check()


def test_all_disks_fill_up(idle: Cluster) -> None:
    """Nothing is acknowledged then, and everything acknowledged before is there after."""
    folders = [idle.dev.data_dir(member) for member in idle.members]
    with mounted(folders[0], "size=3m"), mounted(folders[1], "size=3m"), mounted(folders[2], "size=3m"):
        idle.start()
        with Writers(idle, 5) as writers:
            writers.progress(WRITES)
            for folder in folders:
                fill(folder / "filler")
            writers.trouble(6)
            at_least_two = [member for member in idle.members if not idle.is_ready(member)]
            assert len(at_least_two) >= 2
            before = writers.acknowledgements
            writers.trouble(3)
            assert writers.acknowledgements == before
            for folder in folders:
                resize(folder, ROOMY)
            idle.wait_ready()
            writers.progress(WRITES)
        writers.check()
        idle.kill(*idle.members)
