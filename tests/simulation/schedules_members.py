"""Directed schedules about members that come and go, and about snapshots."""

from __future__ import annotations

from raftos.consensus.configuration import Add, Promote, Remove, Standing
from raftos.consensus.messages import Acknowledged
from raftos.consensus.snapshots import Stored
from tests.simulation.history import Violation
from tests.simulation.plan import Plan
from tests.simulation.steps import FORKED, Schedule, isolate, learner, survives, voter, write
from tests.simulation.workload import Client
from tests.simulation.world import World

SMALL = Plan(segment_bytes=1_000, cache_bytes=1_000, snapshot_log_bytes=10**9)
"""Logs are trimmed where a schedule says so, and have many segments for it."""


def _two_changes_at_once(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A, cut off with two learners, makes voters of both: three of five, while B and C are two of three."""
    d, e = learner(world), learner(world)
    for other in (b, c):
        isolate(world, other, a, d, e)
    world.change(Promote(d))
    world.run(0.02)
    world.change(Promote(e))
    client.write("key0", lambda: None, first=a)
    world.run(2.5)
    client.write("key0", lambda: None, first=b)
    client.write("key0", lambda: None, first=c)
    world.run(2.0)
    survives(world, client)


def _learners_agree_alone(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A has two learners that acknowledge, while B and C hear nothing."""
    d, e = learner(world), learner(world)
    for other in (b, c):
        isolate(world, other, a, d, e)
    written = client.write("key0", lambda: None, first=a)
    world.run(0.3)
    if written.ended is not None:
        raise Violation(f"a write was acknowledged that {a} alone of all voters has")
    survives(world, client)


def _removed_and_still_answering(world: World, client: Client, a: str, b: str, c: str) -> None:
    """An acknowledgement of C is on its way while A removes C."""
    del client, b
    leader, link = world.nodes[a], world.wires.links[frozenset((a, c))]
    late = Acknowledged(leader.replica.core.term, leader.journal.last_index + 1, True, False)
    world.change(Remove(c))
    world.run(0.001)
    try:
        leader.replica.received(world.now, c, link.generation, late)
        leader.kick()
        world.run(0.5)
    except KeyError as error:
        raise Violation(f"{a} fails at an acknowledgement of {c}, which is no member any more") from error


def _restarted_after_growing(world: World, client: Client, a: str, b: str, c: str) -> None:
    """Of five voters three have a write; then all stop, and only the other two start again."""
    d, e = voter(world), voter(world)
    others = [b, c] if world.leader() == a else [a, b]
    kept = [name for name in (a, b, c, d, e) if name not in others]
    for other in others:
        isolate(world, other, *kept)
    write(world, client, "key0")
    for name in (a, b, c, d, e):
        world.lives.crash(name)
    for name in others:
        world.lives.start(name)
    world.run(3.0)
    client.write("key0", lambda: None, first=others[0])
    world.run(1.0)
    survives(world, client)


def _lone_voter_whose_sync_fails(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A is the only voter, and D learns from it; A's disk fails to sync what A has sent already."""
    d = learner(world)
    for other in (b, c):
        world.change(Remove(other))
        world.run(0.5)
    for _ in range(20):
        world.nodes[a].storage.fail_next_sync(world.random)
        client.write("key0", lambda: None, first=a)
        world.run(1.0)
    world.nodes[a].storage.mend()
    world.run(2.0)
    if not world.nodes[d].up:
        raise Violation(f"{d} is gone")
    survives(world, client)


def _snapshot(world: World, name: str) -> Stored:
    """A member makes a snapshot of what it has applied."""
    made: list[Stored] = []
    node = world.nodes[name]
    node.shelf.keeper.want(node.machine.applied_index, made.append)  # type: ignore[arg-type]
    world.run_until(lambda: bool(made), 5, "a snapshot")
    return made[0]


def _trim(world: World, name: str) -> None:
    """A member's log forgets what its snapshot has."""
    node = world.nodes[name]
    stored = _snapshot(world, name)
    node.journal.trim(min(stored.header.index, node.journal.synced_index))
    node.journal.writer.remove(node.journal.take_removals())


def _snapshot_for_a_strayed_leader(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A led alone for a while, and what it appended then is replaced; what it lacks is trimmed elsewhere."""
    for other in (b, c):
        world.wires.cut_pair(a, other)
    for _ in range(30):
        client.write("key0", lambda: None, first=a)
    world.run_until(lambda: world.leader() in {b, c}, 5, "an election")
    for _ in range(40):
        write(world, client, "key0")
    for name in (b, c):
        _trim(world, name)
    survives(world, client)


def _snapshot_of_members_not_agreed_on(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A appends a change that only it has, and makes a snapshot, which C installs; then A is lost."""
    world.lives.crash(c)
    for _ in range(40):
        write(world, client, "key0", first=a)
    isolate(world, a, b)
    world.change(Add("n9", "", Standing.LEARNER))
    _trim(world, a)
    world.lives.start(c)
    node = world.nodes[c]
    world.run_until(lambda: node.machine.applied_index > 20, 5, "the installation of the snapshot")
    world.lives.crash(a)
    world.run(3.0)
    survives(world, client)


def _carry(world: World, giver: str, taker: str, stored: Stored) -> None:
    """A snapshot arrives, however it came."""
    file = world.nodes[giver].shelf.keeper._snapshots.read(stored.name, 0, stored.size_bytes)
    keeper = world.nodes[taker].shelf.keeper
    incoming = keeper._snapshots.incoming(stored.name, len(file))
    incoming.write(0, file)
    keeper._arrived(incoming.complete())
    world.run(0.5)


def _snapshot_of_what_is_there(world: World, client: Client, a: str, b: str, c: str) -> None:
    """B starts with all of the log and little of the state, hears nobody, and a snapshot arrives late."""
    world.lives.crash(c)
    stored = _snapshot(world, a)
    for _ in range(5):
        write(world, client, "key0", first=a)
    world.run(0.3)
    world.lives.crash(b)
    isolate(world, b, a, c)
    node = world.nodes[b]
    node.earlier.unlink(missing_ok=True)
    world.disks.forget_all(node)
    world.lives.start(b)
    _carry(world, a, b, stored)
    world.lives.crash(a)
    world.lives.start(c)
    world.wires.heal()
    world.run(2.0)
    if world.nodes[b].journal.last_index < stored.header.index + 5:
        raise Violation(f"{b} has thrown away entries that it had acknowledged")
    survives(world, client)


def _restarted_beside_a_snapshot(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A and B have a snapshot and acknowledged writes after it, and lose their power."""
    world.lives.crash(c)
    for name in (a, b):
        _snapshot(world, name)
    for _ in range(5):
        write(world, client, "key0", first=a)
    for name in (a, b):
        world.lives.crash(name)
    survives(world, client)


MEMBER_SCHEDULES: dict[str, Schedule] = {
    "two changes at once": Schedule("one_change_at_a_time", FORKED, _two_changes_at_once, range(6), SMALL),
    "learners agree alone": Schedule(
        "learners_apart",
        "was acknowledged that n. alone of all voters has",
        _learners_agree_alone,
        range(6),
        SMALL,
    ),
    "lone voter whose sync fails": Schedule("tells_synced", FORKED, _lone_voter_whose_sync_fails, range(4)),
    "removed and still answering": Schedule(
        "members_only",
        "fails at an acknowledgement of n., which is no member any more",
        _removed_and_still_answering,
        range(6),
    ),
    "restarted after growing": Schedule("derives_members", FORKED, _restarted_after_growing, range(6), SMALL),
    "snapshot for a strayed leader": Schedule(
        "whole_snapshots", FORKED, _snapshot_for_a_strayed_leader, range(6), SMALL
    ),
    "snapshot of members not agreed on": Schedule(
        "snapshots_as_agreed",
        "members know different configurations",
        _snapshot_of_members_not_agreed_on,
        range(6),
        SMALL,
    ),
    "snapshot of what is there": Schedule("keeps_tail", FORKED, _snapshot_of_what_is_there, range(6), SMALL),
    "restarted beside a snapshot": Schedule(
        "trusts_journal", FORKED, _restarted_beside_a_snapshot, range(6), SMALL
    ),
}
