"""Presence on real daemons: announced at one member, seen at all, faded with its member or its time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster, wait_until

pytestmark = pytest.mark.timeout(120)

TOPIC = "chat/general"


def states(cluster: Cluster, member: Member) -> dict[str, str]:
    """Name -> state, as one member lists it."""
    with cluster.client(member) as client:
        return {beacon.name: beacon.state for beacon in client.beacons.list(TOPIC)}


def announce(cluster: Cluster, member: Member, name: str, state: str, ttl_s: float = 60) -> None:
    with cluster.client(member) as client:
        client.beacons.announce(TOPIC, name, state, ttl_s=ttl_s)


def wait_for(cluster: Cluster, wanted: dict[str, str], *members: Member) -> None:
    for member in members or cluster.members:
        wait_until(f"{member.name} lists {wanted}", lambda member=member: states(cluster, member) == wanted)  # type: ignore[misc]


def test_beacons_outlive_leaders_but_not_their_time(cluster: Cluster) -> None:
    """They need no leader; a member that comes back learns them, and its own clients' fade."""
    one, two, three = cluster.members
    index = cluster.settle()["commit_index"]
    announce(cluster, one, "ada", "here")
    announce(cluster, two, "bob", "typing", ttl_s=10)
    wait_for(cluster, {"ada": "here", "bob": "typing"})
    assert cluster.settle()["commit_index"] == index, "nothing of this is in the log"

    cluster.kill(two, three)
    announce(cluster, one, "cyd", "alone")
    assert states(cluster, one).keys() >= {"ada", "cyd"}
    cluster.start(two, three)
    wait_for(cluster, {"ada": "here", "cyd": "alone"})

    announce(cluster, three, "ada", "moved")
    wait_for(cluster, {"ada": "moved", "cyd": "alone"})


def test_a_paused_member_holds_up_neither_beacons_nor_writes(cluster: Cluster) -> None:
    """A stream of announcements beside writes, while one peer answers nothing."""
    paused, *others = cluster.followers()
    cluster.pause(paused)
    leader = cluster.leader()
    with cluster.client(leader) as client, ThreadPoolExecutor(1) as pool:
        client.kv.put("warm", "up")
        started = time.monotonic()
        announcing = pool.submit(
            lambda: [client.beacons.announce(TOPIC, f"n{number}", ttl_s=60) for number in range(200)]
        )
        for number in range(50):
            client.kv.put("a", str(number))
        announcing.result(30)
        assert time.monotonic() - started < 10, "nothing waits the second that a message to it waits"
    wait_until("the others know all", lambda: len(states(cluster, others[0])) == 200)
    cluster.resume(paused)
    with cluster.client(leader) as client:
        client.beacons.announce(TOPIC, "last", "")
    wait_until("so does who was paused", lambda: "last" in states(cluster, paused))
