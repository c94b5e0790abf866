"""Directed schedules: for a repair that random seeds need long to miss, the shortest way to miss it.

Each schedule is a function of the rules. With all rules it ends quietly; with its own rule left
out it raises the Violation that the rule prevents. Timing still comes from a seed, so a schedule
tries a few.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from raftos.consensus.guard import Rules
from raftos.consensus.messages import Acknowledged, Append
from tests.simulation.history import Violation, Write
from tests.simulation.workload import Client
from tests.simulation.world import World

Schedule = Callable[[World, Client, str, str, str], None]


def _directed(schedule: Schedule, seeds: range = range(12)) -> Callable[[Rules], None]:
    """Run a schedule with a settled cluster (leader A, followers B and C), on a few seeds."""

    def run(rules: Rules) -> None:
        for seed in seeds:
            folder = Path(tempfile.mkdtemp(prefix="raftos-sim-"))
            world = World(seed, folder, rules=rules)
            try:
                client = Client(world, "user", keys=1)
                _elect(world)
                _write(world, client, "key0")
                world.run(0.5)
                a = world.leader()
                assert a is not None
                b, c = (name for name in world.names if name != a)
                schedule(world, client, a, b, c)
            finally:
                world.stop()
                shutil.rmtree(folder)

    return run


def _elect(world: World) -> None:
    world.run_until(lambda: world.leader() is not None, 5, "an election")


def _write(world: World, client: Client, key: str, first: str | None = None) -> Write:
    """A write that has been acknowledged when this returns."""
    write = client.write(key, lambda: None, first=first or world.leader())
    world.run_until(lambda: write.ended is not None, 5, "an acknowledgement")
    return write


def _read(world: World, client: Client, member: str, key: str) -> None:
    """A read; stale answers raise in the history. Unanswered reads are no violation."""
    done: list[bool] = []
    client.read(member, key, lambda: done.append(True))
    world.run_until(lambda: bool(done), 5, "the end of a read")


def _survives(world: World, client: Client) -> None:
    """Heal, write through every member, and see that all that was acknowledged is still there."""
    world.heal()
    world.run(2.0)
    for name in world.names:
        _write(world, client, "key0", first=name)
    world.run(1.0)
    if len({node.machine.state_hash for node in world.nodes.values()}) != 1:
        raise Violation("members differ after healing")


def _entries_travel_once(world: World, client: Client, a: str, b: str, c: str) -> None:
    """On a healthy cluster under load no entry is sent twice over one link."""
    del a, b, c
    users = [Client(world, f"u{number}", pace_s=0.002, reads=0.0) for number in range(6)]
    for user in users:
        user.go()
    world.run(1.0)
    for user in users:
        user.stopped = True
    if world.wires.sent_twice:
        raise Violation(f"{world.wires.sent_twice} entries travelled twice over a healthy link")


def _old_entries_again(world: World, client: Client, a: str, b: str, c: str) -> None:
    """B is sent an entry from the middle of its log once more, and then the leader is lost."""
    world.wires.cut_pair(a, c)
    for _ in range(5):
        _write(world, client, "key0", first=a)
    leader, follower = world.nodes[a], world.nodes[b]
    middle = leader.journal.last_index - 3
    entries = [
        (entry.payload, entry.index, entry.term) for entry in leader.journal.entries(middle, middle + 1)
    ]
    again = Append(
        leader.replica.core.term, middle, middle - 1, leader.journal.term_at(middle - 1) or 0, entries
    )
    follower.replica.received(world.now, a, world.wires.links[frozenset((a, b))].generation, again)
    follower.kick()
    world.lives.crash(a)
    world.wires.heal_pair(b, c)
    world.run(2.0)
    _survives(world, client)


def _late_acknowledgement(world: World, client: Client, a: str, b: str, c: str) -> None:
    """An acknowledgement that B gave in an earlier term turns up late, naming an index of this one."""
    term = world.nodes[a].replica.core.term
    world.wires.stall(a, b)
    world.wires.stall(a, c)
    lost = client.write("key0", lambda: None, first=a)
    world.run(0.05)
    late = Acknowledged(term - 1, world.nodes[a].journal.last_index + 1, True, False)
    link = world.wires.links[frozenset((a, b))]
    world.nodes[a].replica.received(world.now, b, link.generation, late)
    world.nodes[a].kick()
    world.run(0.05)
    if lost.ended is None:
        return
    world.lives.crash(a)
    world.run(2.0)
    _survives(world, client)


def _forgotten_acknowledgement(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A and B have a write in memory when both lose their power; C never heard of it."""
    world.wires.cut_pair(a, c)
    world.disks.slow[a] = world.disks.slow[b] = 1.0
    write = client.write("key0", lambda: None, first=a)
    world.run(0.2)
    if write.ended is None:
        return
    world.lives.crash(a)
    world.lives.crash(b)
    _survives(world, client)


def _deaf_member(world: World, client: Client, a: str, b: str, c: str) -> None:
    """C hears nobody for a while but is heard by all: the healthy leader stays."""
    del client
    term = world.nodes[a].replica.core.term
    world.wires.stall(a, c)
    world.wires.stall(b, c)
    world.run(2.5)
    world.wires.unstall(a, c)
    world.wires.unstall(b, c)
    world.run(2.0)
    now_leading = world.leader()
    if now_leading != a or world.nodes[a].replica.core.term != term:
        raise Violation(f"a member that heard nobody deposed the healthy leader {a} of term {term}")


def _new_leader_reads_early(world: World, client: Client, a: str, b: str, c: str) -> None:
    """B takes over without knowing that the last write was committed, and is asked at once."""
    world.wires.cut_pair(a, c)
    write = client.write("key0", lambda: None, first=a)
    length = world.nodes[b].journal.last_index + 1
    world.run_until(lambda: world.nodes[b].journal.synced_index >= length, 1, "replication")
    world.wires.stall(a, b)
    world.run_until(lambda: write.ended is not None, 3, "an acknowledgement")
    world.lives.crash(a)
    world.disks.slow[b] = 0.3
    world.run_until(lambda: world.leader() is not None, 5, "an election")
    if world.leader() == b:
        _read(world, client, b, "key0")


def _joined_round(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A round of confirmations is under way when a write is acknowledged; C asks after that."""
    world.disks.slow[c] = 0.5
    client.read(a, "key0", lambda: None)
    barriers = world.nodes[a].replica.barriers
    world.run_until(lambda: barriers._round is not None, 1, "a round")
    for other in (b, c):
        world.wires.close_link(a, other)
    world.run(0.003)
    for other in (b, c):
        world.wires.connect(a, other)
    write = client.write("key0", lambda: None, first=a)
    end = world.now + 0.09
    while write.ended is None and world.now < end:
        world.run(0.001)
    if write.ended is not None and barriers._round is not None:
        _read(world, client, c, "key0")


def _deposed_leader_reads(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A is cut off, another leads and writes; A's link to one of them comes back, and A is asked."""
    world.wires.cut_pair(a, b)
    world.wires.cut_pair(a, c)
    world.run_until(lambda: world.leader() in {b, c}, 3, "an election")
    new = world.leader()
    _write(world, client, "key0", first=new)
    if not world.nodes[a].replica.core.is_leader:
        return
    follower = c if new == b else b
    world.wires.heal_pair(a, follower)
    world.run(0.0005)
    _read(world, client, a, "key0")


SCHEDULES: dict[str, Callable[[Rules], None]] = {
    "keep_next_index": _directed(_entries_travel_once, range(2)),
    "trim_held": _directed(_old_entries_again),
    "match_term": _directed(_late_acknowledgement),
    "durable_first": _directed(_forgotten_acknowledgement),
    "pre_vote": _directed(_deaf_member),
    "read_own_term": _directed(_new_leader_reads_early),
    "read_new_round": _directed(_joined_round),
    "read_match_term": _directed(_deposed_leader_reads),
}
