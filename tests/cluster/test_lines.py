"""Slow, lossy, narrow and broken lines between members: the history of all operations has an order.

Each pair of members talks over a line of our own (`lines.py`), so that every byte between them meets its
conditions. One test measures that they really do: a fault that is not injected proves nothing.
"""

from __future__ import annotations

import itertools
import random
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from tests.cluster.daemons import Cluster, wait_until
from tests.cluster.faults import MEANWHILE, Arena, Fault, inject_all
from tests.cluster.lines import Exchange, Lines, Way, listening

pytestmark = pytest.mark.timeout(240)

MORE = 3
CUTS = 8
LONGER = 4
"""Then a stalled link is silent for longer than links may be."""
LATE_S = 1.0
"""What is not late arrives sooner than that, also on a machine with much else to do."""
LARGE_BYTES = 100_000
FEW = 20
"""Writes to wait for where each takes long."""


@dataclass
class LinesArena(Arena):
    lines: Lines

    def ways_of_leader(self) -> list[Way]:
        """What the leader sends and is sent."""
        leader, followers = self.cluster.leader(), self.cluster.followers()
        return [
            way
            for follower in followers
            for way in (*self.lines.ways(leader, follower), *self.lines.ways(follower, leader))
        ]


def all_slow(arena: LinesArena) -> AbstractContextManager[None]:
    """A wide area: forty milliseconds each way, and up to forty more."""
    return arena.lines.under(arena.lines.all_ways(), delay_s=0.04, jitter_s=0.04)


def leader_slow(arena: LinesArena) -> AbstractContextManager[None]:
    return arena.lines.under(arena.ways_of_leader(), delay_s=0.08, jitter_s=0.06)


def follower_slow_to_answer(arena: LinesArena) -> AbstractContextManager[None]:
    leader, follower = arena.cluster.leader(), arena.follower()
    return arena.lines.under(arena.lines.ways(follower, leader), delay_s=1.0)


def all_lossy(arena: LinesArena) -> AbstractContextManager[None]:
    return arena.lines.under(arena.lines.all_ways(), loss=0.03)


def leader_narrow(arena: LinesArena) -> AbstractContextManager[None]:
    """Less than the load needs by itself: entries gather."""
    return arena.lines.under(arena.ways_of_leader(), bytes_per_s=40_000)


@contextmanager
def leader_stalled_towards_one(arena: LinesArena) -> Iterator[None]:
    """Nothing arrives at one follower; when it ends, everything of that time does."""
    with arena.lines.under(arena.lines.ways(arena.cluster.leader(), arena.follower()), stalled=True):
        yield


@contextmanager
def leader_stalled_towards_all(arena: LinesArena) -> Iterator[None]:
    """It hears all and is heard by nobody; later, the followers of a new leader hear its old words."""
    leader, followers = arena.cluster.leader(), arena.cluster.followers()
    ways = [way for follower in followers for way in arena.lines.ways(leader, follower)]
    with arena.lines.under(ways, stalled=True):
        arena.another_leads(leader)
        yield


@contextmanager
def lines_cut(arena: LinesArena) -> Iterator[None]:
    """Connections are reset, one here, one there, in the middle of whatever was on its way."""
    for _ in range(CUTS):
        arena.choice.choice(arena.lines.all_lines()).cut()
        arena.moment(0.2)
        arena.load.progress(MEANWHILE)
    yield


@contextmanager
def all_cut_at_once(arena: LinesArena) -> Iterator[None]:
    for line in arena.lines.all_lines():
        line.cut()
    yield


LINE_FAULTS: dict[str, Fault[LinesArena]] = {
    "all lines slow": Fault(all_slow, writes=FEW),
    "leader slow": Fault(leader_slow, writes=FEW),
    "follower slow to answer": Fault(follower_slow_to_answer, least_s=1.2),
    "all lines lossy": Fault(all_lossy),
    "leader on a narrow line": Fault(leader_narrow, least_s=1),
    "leader stalled towards one": Fault(leader_stalled_towards_one, least_s=1),
    "leader stalled towards all": Fault(leader_stalled_towards_all),
    "lines cut by lot": Fault(lines_cut),
    "all lines cut at once": Fault(all_cut_at_once),
}


@pytest.fixture
def lines(idle: Cluster) -> Iterator[Lines]:
    """A running cluster (`idle`) with a line between each two members."""
    with Exchange(1) as exchange:
        lines = Lines(idle, exchange)
        idle.start()
        yield lines
        idle.kill(*idle.members)


def run(cluster: Cluster, lines: Lines, seed: int, more: int | None) -> None:
    """Strike, and see that it was over our lines."""
    longer = 1 if more is None else LONGER
    inject_all(LinesArena(cluster, seed, lines, longer=longer), LINE_FAULTS, more)
    check_paths(cluster, lines)


def check_paths(cluster: Cluster, lines: Lines) -> None:
    """Still everything goes over our lines: what is written, from the leader, and pings from all to all."""
    leader = cluster.leader()
    wanted = [
        (pair, lines.carried_bytes(*pair) + (LARGE_BYTES if pair[0] is leader else 1))
        for pair in itertools.permutations(cluster.members, 2)
    ]
    with cluster.client() as client:
        client.kv.put("over the lines", random.Random(1).randbytes(LARGE_BYTES))
    wait_until(
        "each member talks to each other over our lines",
        lambda: all(lines.carried_bytes(*pair) >= least for pair, least in wanted),
    )


def test_each_line_fault_once(idle: Cluster, lines: Lines) -> None:
    """Writes are acknowledged under each of them."""
    run(idle, lines, 1, None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
def test_line_faults_by_lot(idle: Cluster, lines: Lines, seed: int) -> None:
    """The same in longer sequences."""
    run(idle, lines, seed, MORE)


def test_a_line_does_what_it_says() -> None:
    """Late by its delay, slow by its rate, silent while stalled, and all bytes in their order."""
    with Exchange(1) as exchange, listening(("127.0.0.1", 0)) as end:
        line = exchange.line(listening(("127.0.0.1", 0)), socket.socket, end.getsockname())
        near = socket.create_connection(("127.0.0.1", line.port))
        far, _ = end.accept()
        with near, far:
            line.there.delay_s = LATE_S
            assert seconds_for(near, far, b"late") >= LATE_S
            line.there.heal()
            assert seconds_for(near, far, b"at once") < LATE_S
            line.there.bytes_per_s = 50_000
            assert seconds_for(near, far, bytes(range(256)) * 100) >= 0.4
            line.there.heal()
            line.there.stalled = True
            assert seconds_for(far, near, b"the other way goes on") < LATE_S
            near.sendall(b"silence")
            far.settimeout(0.2)
            with pytest.raises(TimeoutError):
                far.recv(1)
            line.there.stalled = False
            assert far.recv(7) == b"silence"
            line.cut()
            with pytest.raises(ConnectionResetError):
                far.recv(1)


def seconds_for(sender: socket.socket, receiver: socket.socket, message: bytes) -> float:
    began = time.monotonic()
    sender.sendall(message)
    found = b""
    receiver.settimeout(5)
    while len(found) < len(message):
        found += receiver.recv(65_536)
    assert found == message
    return time.monotonic() - began
