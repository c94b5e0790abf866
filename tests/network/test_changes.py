"""A member comes and goes while others are cut off from each other: the whole history has an order.

Changes are asked of any member, also of one that is cut off, and are asked again until they are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raftos.errors import Unavailable
from tests.cluster.changes import Guest, outgrow_journals
from tests.cluster.daemons import EXPELLED
from tests.cluster.faults import inject_all
from tests.network.namespaces import NetworkCluster, network_cluster
from tests.network.test_partitions import PARTITIONS, NetworkArena

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

MORE = 4


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[NetworkCluster]:
    """Three machines at the newest level, and one for a guest that has not come yet."""
    with network_cluster(tmp_path, 3, guests=1) as made:
        outgrow_journals(made)
        yield made


def run(hosts: NetworkCluster, seed: int, more: int | None) -> None:
    inject_all(NetworkArena(hosts, seed, hosts), Guest(hosts, seed).changes(PARTITIONS), more)


def test_a_change_under_each_partition(hosts: NetworkCluster) -> None:
    """Made in the end, whoever is cut off meanwhile; nothing acknowledged is lost."""
    run(hosts, 1, None)


@pytest.mark.slow
def test_changes_under_partitions_by_lot(hosts: NetworkCluster) -> None:
    """The same in a longer sequence."""
    run(hosts, 2, MORE)


def test_an_isolated_leader_is_removed_by_the_others(networked: NetworkCluster) -> None:
    """Alone it agrees to no change. The others send it away; back again it ends, and disturbs nobody."""
    networked.settle()
    networked.forgive(EXPELLED)
    leader, others = networked.leader(), networked.followers()
    for follower in others:
        networked.cut(leader, follower)
    with networked.client(leader, timeout_s=1) as client, pytest.raises(Unavailable):
        client.members.remove(others[0].id, force=True)
    networked.members = others
    with networked.client(*others) as client:
        client.members.remove(leader.id, force=True)
        term = networked.status(networked.leader())["term"]
        assert networked.is_running(leader)
        networked.heal()
        networked.wait_expelled(leader)
        client.kv.put("a", "1")
        assert {each.name for each in client.members.show().items if each.role == "voter"} == {
            member.name for member in others
        }
    assert networked.settle()["term"] == term
