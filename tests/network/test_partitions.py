"""Partitions of every form, of real packets between real daemons: the history of all operations has an order.

Clients reach every member all the time, also one that is cut off: a deposed leader that still answers
would be seen. Each form is undone while the load goes on, so that what was cut off comes back into a
working cluster.
"""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import pytest

from raftos_cli.devcluster import Member
from tests.cluster.daemons import wait_until
from tests.cluster.faults import MEANWHILE, PROCESS_FAULTS, Arena, Fault, inject_all, together
from tests.network.namespaces import NetworkCluster, made_in

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

MORE = 3
PAIRS = 12
FLAPS = 8
LONGER = 4
"""Then a link is silent for longer than links may be."""


@dataclass
class NetworkArena(Arena):
    network: NetworkCluster


@contextmanager
def healed(network: NetworkCluster) -> Iterator[None]:
    """Whatever is cut within the block is whole after it."""
    try:
        yield
    finally:
        network.heal()


@contextmanager
def dropped(network: NetworkCluster, ways: Iterable[tuple[Member, Member]]) -> Iterator[None]:
    """Nothing arrives from the first to the second of each pair, until the end of the block."""
    with healed(network):
        for sender, receiver in ways:
            network.drop(sender, receiver)
        yield


def both_ways(one: Member, others: Iterable[Member]) -> list[tuple[Member, Member]]:
    return [way for other in others for way in ((one, other), (other, one))]


@contextmanager
def leader_isolated(arena: NetworkArena) -> Iterator[None]:
    """Another takes over; the old one comes back with a lower term and whatever it did not get agreed."""
    leader = arena.cluster.leader()
    with dropped(arena.network, both_ways(leader, arena.cluster.followers())):
        arena.another_leads(leader)
        yield


@contextmanager
def follower_isolated(arena: NetworkArena) -> Iterator[None]:
    follower = arena.follower()
    others = [member for member in arena.cluster.members if member is not follower]
    with dropped(arena.network, both_ways(follower, others)):
        yield


@contextmanager
def leader_not_heard(arena: NetworkArena) -> Iterator[None]:
    """It hears everybody, and nobody hears it."""
    leader = arena.cluster.leader()
    with dropped(arena.network, [(leader, other) for other in arena.cluster.followers()]):
        arena.another_leads(leader)
        yield


@contextmanager
def leader_deaf(arena: NetworkArena) -> Iterator[None]:
    """Its heartbeats arrive and no answer does: it must not keep the others from electing for ever."""
    leader = arena.cluster.leader()
    with dropped(arena.network, [(other, leader) for other in arena.cluster.followers()]):
        yield


@contextmanager
def follower_not_heard(arena: NetworkArena) -> Iterator[None]:
    follower = arena.follower()
    others = [member for member in arena.cluster.members if member is not follower]
    with dropped(arena.network, [(follower, other) for other in others]):
        yield


@contextmanager
def follower_deaf(arena: NetworkArena) -> Iterator[None]:
    """It campaigns and is heard, but hears no vote."""
    follower = arena.follower()
    others = [member for member in arena.cluster.members if member is not follower]
    with dropped(arena.network, [(other, follower) for other in others]):
        yield


@contextmanager
def bridge_beside_leader(arena: NetworkArena) -> Iterator[None]:
    """The leader and one follower do not see each other; the third sees both."""
    with dropped(arena.network, both_ways(arena.cluster.leader(), [arena.follower()])):
        yield


@contextmanager
def bridge_by_leader(arena: NetworkArena) -> Iterator[None]:
    """The followers do not see each other; the leader sees both."""
    one, other = arena.followers(2)
    with dropped(arena.network, both_ways(one, [other])):
        yield


@contextmanager
def half_a_link(arena: NetworkArena) -> Iterator[None]:
    """One way between the leader and one follower."""
    ways = [(arena.cluster.leader(), arena.follower())]
    with dropped(arena.network, ways):
        yield


@contextmanager
def nobody_sees_anybody(arena: NetworkArena) -> Iterator[None]:
    pairs = list(itertools.permutations(arena.cluster.members, 2))
    with dropped(arena.network, pairs):
        yield


@contextmanager
def flapping_link(arena: NetworkArena) -> Iterator[None]:
    """Between the leader of that moment and a follower, in one direction or both."""
    with healed(arena.network):
        one, other = arena.cluster.leader(), arena.follower()
        for _ in range(FLAPS):
            arena.network.drop(*arena.choice.sample([one, other], 2))
            if arena.choice.random() < 0.5:
                arena.network.cut(one, other)
            arena.moment(0.6)
            arena.load.progress(MEANWHILE)
            arena.network.heal()
            arena.moment(0.4)
        yield


@contextmanager
def isolated_in_turn(arena: NetworkArena) -> Iterator[None]:
    """Leader after leader is cut off, the last one coming back as the next one goes."""
    with healed(arena.network):
        for _ in range(3):
            leader, followers = arena.cluster.leader(), arena.cluster.followers()
            arena.network.heal()
            for follower in followers:
                arena.network.cut(leader, follower)
            arena.another_leads(leader)
            arena.load.progress(MEANWHILE)
            arena.moment(0.5)
        yield


PARTITIONS: dict[str, Fault[NetworkArena]] = {
    "leader isolated": Fault(leader_isolated),
    "follower isolated": Fault(follower_isolated, least_s=0.8),
    "leader not heard": Fault(leader_not_heard),
    "leader deaf": Fault(leader_deaf, least_s=0.8),
    "follower not heard": Fault(follower_not_heard, least_s=0.8),
    "follower deaf": Fault(follower_deaf, least_s=0.8),
    "bridge beside the leader": Fault(bridge_beside_leader, least_s=1),
    "bridge by the leader": Fault(bridge_by_leader, least_s=0.5),
    "half a link": Fault(half_a_link, least_s=1),
    "nobody sees anybody": Fault(nobody_sees_anybody, serves=False),
    "flapping link": Fault(flapping_link),
    "leaders isolated in turn": Fault(isolated_in_turn),
}


LOST = ("leader killed", "follower killed", "leader paused", "follower paused")
"""One member each: with five, a partition of one more leaves a majority."""
AT_ONCE: dict[str, Fault[NetworkArena]] = {
    f"{process} and {network}": together(PROCESS_FAULTS[process], fault)
    for process in LOST
    for network, fault in PARTITIONS.items()
    if fault.serves
}


def run(
    network: NetworkCluster,
    seed: int,
    more: int | None,
    faults: Mapping[str, Fault[NetworkArena]] = PARTITIONS,
) -> None:
    longer = 1 if more is None else LONGER
    inject_all(NetworkArena(network, seed, network, longer=longer), faults, more)


def test_each_partition_once(networked: NetworkCluster) -> None:
    """A majority that sees each other goes on; nobody else acknowledges or answers from the past."""
    run(networked, 1, None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 5))
def test_partitions_by_lot(networked: NetworkCluster, seed: int) -> None:
    """The same in longer sequences, and for longer than a link may be silent."""
    run(networked, seed, MORE)


@pytest.mark.slow
@pytest.mark.parametrize("networked", [5], indirect=True)
def test_partitions_while_one_of_five_is_lost(networked: NetworkCluster) -> None:
    """Two faults at once, and a majority goes on."""
    chosen = random.Random(5).sample(sorted(AT_ONCE), PAIRS)
    run(networked, 5, None, {name: AT_ONCE[name] for name in chosen})


def arrives(network: NetworkCluster, sender: Member, receiver: Member) -> bool:
    """Whether a datagram gets there: unlike a connection, it needs no answer."""
    switch = network.switch
    kind = partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    with (
        made_in(switch.namespace(receiver.name), kind) as ear,
        made_in(switch.namespace(sender.name), kind) as mouth,
    ):
        ear.bind((switch.address(receiver.name), 0))
        ear.settimeout(0.5)
        mouth.sendto(b"?", ear.getsockname())
        with suppress(TimeoutError):
            return ear.recv(1) == b"?"
        return False


def test_packets_are_dropped_one_way(networked: NetworkCluster) -> None:
    """The leader's words do not arrive, its peers' do: that is what a one-way partition has to be."""
    leader, [follower, other] = networked.leader(), networked.followers()
    networked.drop(leader, follower)
    networked.drop(leader, other)
    wait_until("another leads", lambda: any(map(networked.leads, (follower, other))))
    wait_until("the old leader knows that it may not", lambda: not networked.leads(leader))
    assert [arrives(networked, leader, each) for each in (follower, other)] == [False, False]
    assert [arrives(networked, each, leader) for each in (follower, other)] == [True, True]
    networked.heal()
    assert arrives(networked, leader, follower)
    networked.settle()
