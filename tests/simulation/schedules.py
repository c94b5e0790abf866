"""Directed schedules: for a repair that random seeds need long to miss, the shortest way to miss it.

With all rules and all care a schedule ends quietly; with the one left out that it is about, it raises
the Violation which that prevents. Timing still comes from a seed, so a schedule tries a few.
"""

from __future__ import annotations

from dataclasses import fields, replace
from random import Random

from raftos.consensus.guard import Rules
from raftos.consensus.messages import Acknowledged, Append
from tests.simulation.care import Care
from tests.simulation.history import Violation
from tests.simulation.schedules_members import MEMBER_SCHEDULES
from tests.simulation.steps import DEPOSED, FORKED, STALE, Schedule, read, survives, write
from tests.simulation.workload import Client
from tests.simulation.world import World


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
        write(world, client, "key0", first=a)
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
    survives(world, client)


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
    survives(world, client)


def _forgotten_acknowledgement(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A and B have a write in memory when both lose their power; C never heard of it."""
    world.wires.cut_pair(a, c)
    world.disks.slow[a] = world.disks.slow[b] = 1.0
    written = client.write("key0", lambda: None, first=a)
    world.run(0.2)
    if written.ended is None:
        return
    world.lives.crash(a)
    world.lives.crash(b)
    survives(world, client)


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
        raise Violation(f"the healthy leader {a} of term {term} was deposed by a member that heard nobody")


def _new_leader_reads_early(world: World, client: Client, a: str, b: str, c: str) -> None:
    """B takes over without knowing that the last write was committed, and is asked at once."""
    world.wires.cut_pair(a, c)
    written = client.write("key0", lambda: None, first=a)
    length = world.nodes[b].journal.last_index + 1
    world.run_until(lambda: world.nodes[b].journal.synced_index >= length, 1, "replication")
    world.wires.stall(a, b)
    world.run_until(lambda: written.ended is not None, 3, "an acknowledgement")
    world.lives.crash(a)
    world.disks.slow[b] = 0.3
    world.run_until(lambda: world.leader() is not None, 5, "an election")
    if world.leader() == b:
        read(world, client, b, "key0")


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
    written = client.write("key0", lambda: None, first=a)
    end = world.now + 0.09
    while written.ended is None and world.now < end:
        world.run(0.001)
    if written.ended is not None and barriers._round is not None:
        read(world, client, c, "key0")


def _deposed_leader_reads(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A is cut off, another leads and writes; A's link to one of them comes back, and A is asked."""
    world.wires.cut_pair(a, b)
    world.wires.cut_pair(a, c)
    world.run_until(lambda: world.leader() in {b, c}, 3, "an election")
    new = world.leader()
    write(world, client, "key0", first=new)
    if not world.nodes[a].replica.core.is_leader:
        return
    follower = c if new == b else b
    world.wires.heal_pair(a, follower)
    world.run(0.0005)
    read(world, client, a, "key0")


def _bridge(world: World, client: Client, a: str, b: str, c: str) -> None:
    """B sees A and C, who do not see each other: the healthy leader stays, and writes go on."""
    world.wires.cut_pair(a, c)
    _keeps_leading(world, a)
    write(world, client, "key0", first=b)


def _flapping_link(world: World, client: Client, a: str, b: str, c: str) -> None:
    """The link between A and C comes and goes all the time: the healthy leader stays, and writes go on."""
    for _ in range(30):
        world.wires.cut_pair(a, c)
        world.run(0.06)
        world.wires.heal_pair(a, c)
        world.run(0.02)
    _keeps_leading(world, a)
    write(world, client, "key0", first=b)


def _late_transfer(world: World, client: Client, a: str, b: str, c: str) -> None:
    """B is told to take over, but hears the answers of the others only after A has given up handing over."""
    del client
    leader = world.nodes[a]
    leader.replica.transfer(world.now, object(), b, world.now + 2.0)
    leader.kick()
    world.run_until(lambda: world.nodes[b].replica.elections._transfer, 2, "the order to take over")
    world.wires.stall(a, b)
    world.wires.stall(c, b)
    world.run(1.6)
    world.wires.unstall(a, b)
    world.wires.unstall(c, b)
    _keeps_leading(world, a)


def _keeps_leading(world: World, a: str) -> None:
    term = min(world.history.leaders)
    world.run(2.5)
    if world.leader() != a or world.nodes[a].replica.core.term != term:
        raise Violation(f"the healthy leader {a} of term {term} was deposed")


def _killed_before_the_sync(world: World, client: Client, a: str, b: str, c: str) -> None:
    """B is killed between writing and syncing, starts again, and acknowledges; then its power fails."""
    world.wires.cut_pair(a, c)
    world.disks.slow[b] = 5.0
    written = client.write("key0", lambda: None, first=a)
    world.run_until(lambda: world.nodes[b].writing is not None, 1, "a write of the follower")
    world.lives.kill(b)
    world.lives.start(b)
    world.run(0.6)
    if written.ended is None:
        return
    world.lives.crash(b)
    world.lives.crash(a)
    world.wires.cut_pair(a, b)
    world.disks.slow.clear()
    world.lives.start(b)
    world.run(2.0)
    survives(world, client)


def _flipped_bit(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A bit of B's journal changes while B is down: B stays down, and the others go on."""
    del a, c
    world.lives.crash(b)
    world.disks.flip_bit(world.nodes[b])
    world.lives.start(b)
    survives(world, client)


def _failed_sync(world: World, client: Client, a: str, b: str, c: str) -> None:
    """A and B have a write whose sync fails on B; then both lose their power, and A does not come back."""
    world.wires.cut_pair(a, c)
    world.nodes[b].storage.fail_next_sync(Random(1))
    written = client.write("key0", lambda: None, first=a)
    world.run(0.1)
    world.lives.crash(b)
    world.lives.crash(a)
    world.wires.cut_pair(a, b)
    world.lives.start(b)
    if written.ended is not None:
        world.run(2.0)
        survives(world, client)


SCHEDULES: dict[str, Schedule] = {
    "entries travel once": Schedule(
        "keep_next_index", r"\d+ entries travelled twice over a healthy link", _entries_travel_once, range(2)
    ),
    "old entries again": Schedule("trim_held", FORKED, _old_entries_again),
    "late acknowledgement": Schedule("match_term", FORKED, _late_acknowledgement),
    "forgotten acknowledgement": Schedule("durable_first", FORKED, _forgotten_acknowledgement),
    "deaf member": Schedule("pre_vote", DEPOSED, _deaf_member),
    "late transfer": Schedule("answer_once", DEPOSED, _late_transfer),
    "bridge": Schedule("pre_vote", DEPOSED, _bridge, range(4)),
    "flapping link": Schedule("pre_vote", DEPOSED, _flapping_link, range(4)),
    "new leader reads early": Schedule("read_own_term", STALE, _new_leader_reads_early),
    "joined round": Schedule("read_new_round", STALE, _joined_round),
    "deposed leader reads": Schedule("read_match_term", STALE, _deposed_leader_reads),
    "flipped bit": Schedule(
        "checks_journal", "starts from a damaged journal as if nothing had happened", _flipped_bit
    ),
    "failed sync": Schedule("notices_failed_sync", FORKED, _failed_sync),
    "killed before the sync": Schedule("syncs_at_start", FORKED, _killed_before_the_sync),
    **MEMBER_SCHEDULES,
}


def left_out(name: str) -> tuple[Rules, Care]:
    """All rules and all care but one."""
    rules, care = Rules(), Care()
    if name in {rule.name for rule in fields(Rules)}:
        return replace(rules, **{name: False}), care
    return rules, replace(care, **{name: False})


def found(about: str) -> str | None:
    """What the directed schedules say when a rule or a care is left out; None if they find nothing."""
    for name, schedule in SCHEDULES.items():
        if schedule.about == about:
            try:
                schedule.run(*left_out(about))
            except Violation as violation:
                return f"{name}: {violation}"
    return None
