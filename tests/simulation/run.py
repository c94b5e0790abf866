"""One seed: start, load, faults, healing, and the final reckoning."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from raftos.consensus import proposals
from raftos.consensus.guard import Rules
from raftos.consensus.journal import segment
from raftos.state import events
from raftos.state.place import current_file
from tests.simulation.caller import Caller
from tests.simulation.care import Care, unchecked_body
from tests.simulation.careless import careless_consensus
from tests.simulation.chats import OPENED, Chatter
from tests.simulation.history import Violation
from tests.simulation.ledger import WISHES
from tests.simulation.locks import Locker, check_locks
from tests.simulation.nemesis import Nemesis
from tests.simulation.node import Node
from tests.simulation.plan import Plan, drawn
from tests.simulation.replay import Replay
from tests.simulation.rooms import check_chat
from tests.simulation.upkeep import Upkeep
from tests.simulation.watchers import Watcher
from tests.simulation.workload import Client
from tests.simulation.world import World

FAULTS_S = 22.0
"""From the beginning: so long things go wrong."""
WHOLE_S = 30.0
"""So long a run takes, healing and reckoning included."""
RECOVERY_S = 6.0
"""So soon after the healing writes through every member succeed, and all that is due was done and told."""
CALM_S = 1.0
"""So long, at the end, one leader has to lead without a break."""


@dataclass(frozen=True)
class Report:
    """What one run did, and the fingerprint of its trace."""

    fingerprint: str
    virtual_s: float
    faults: Counter[str]
    """How many of each kind happened."""
    counts: dict[str, int]
    """What users asked, members did and watchers were told."""


def simulate(
    seed: int,
    *,
    rules: Rules | None = None,
    care: Care | None = None,
    trace: bool = False,
    members: int | None = None,
    plan: Plan | None = None,
) -> Report:
    """Run one seed. Raises Violation."""
    plan, care = plan or drawn(seed, members), care or Care()
    folder = Path(tempfile.mkdtemp(prefix="raftos-sim-", dir=_quick_folder()))
    try:
        with circumstances(plan, care):
            return _run(World(seed, folder, plan=plan, rules=rules, care=care, trace=trace), plan, folder)
    finally:
        shutil.rmtree(folder)


def _run(world: World, plan: Plan, folder: Path) -> Report:
    try:
        users = Users(world, plan)
        _faulty_time(world, users, plan)
        _reckoning(world, users)
        _look_back(world, folder / "replay")
    finally:
        world.stop()
    return Report(world.fingerprint, world.now - world.began, world.faults, _counts(world, users))


def _counts(world: World, users: Users) -> dict[str, int]:
    history, watchers = world.history, users.watchers
    return {
        "writes acknowledged": history.acknowledged,
        "reads": history.reads,
        "terms": max(history.leaders, default=0),
        "events told": sum(watcher.told for watcher in watchers),
        "visits of watchers": sum(watcher.visits for watcher in watchers),
        "of them too late": sum(watcher.came_late for watcher in watchers),
        "entries sent twice": world.wires.sent_twice,
        "damaged journals refused": world.lives.refused,
        **world.happened,
    }


@contextmanager
def circumstances(plan: Plan, care: Care) -> Iterator[None]:
    """Have the limits of the plan, which are the same on all members, and what is not taken care of."""
    kept = {"KEEP_REVISIONS": 40, "SWEEP_INDEXES": 16} if plan.few_events_kept else {}
    checks: dict[str, object] = {} if care.checks_journal else {"split_body": unchecked_body}
    with (
        _set(events, **kept),
        _set(proposals, MAX_BATCH_BYTES=plan.batch_bytes),
        _set(segment, **checks),
        careless_consensus(care),
    ):
        yield


@contextmanager
def _set(module: ModuleType, **limits: object) -> Iterator[None]:
    """Have these in a module for a while."""
    before = {name: getattr(module, name) for name in limits}
    vars(module).update(limits)
    try:
        yield
    finally:
        vars(module).update(before)


def _quick_folder() -> str | None:
    """Memory where there is some: the runs lose nothing by it."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a fresh folder inside


class Users:
    """Who uses the cluster of one run."""

    def __init__(self, world: World, plan: Plan) -> None:
        pace_s = 0.06 * plan.pace
        clients = [
            Client(world, f"c{number}", pace_s=pace_s, hasty=number % 2 == 1)
            for number in range(plan.clients)
        ]
        lockers = [Locker(world, f"l{number}", pace_s=0.15 * plan.pace) for number in range(plan.lockers)]
        rooms = [create.room for create in OPENED]
        chatters = [
            Chatter(world, f"u{number}", rooms, pace_s=0.1 * plan.pace) for number in range(plan.chatters)
        ]
        for create, chatter in zip(OPENED, itertools.cycle(chatters), strict=False):
            world.after(0.2, partial(chatter.open_first, create))
        self.callers: list[Caller] = [*clients, *lockers, *chatters]
        self.upkeep = Upkeep(world)
        self.watchers = [
            Watcher(
                world,
                f"w{number}",
                world.random.choice(WISHES),
                since=world.random.choice((0, 0, None, -20)),
                stale=number % 2 == 1,
                rest_s=world.random.choice((0.05, 0.05, 1.0)),
            )
            for number in range(plan.watchers)
        ]


def _faulty_time(world: World, users: Users, plan: Plan) -> None:
    nemesis = Nemesis(world, plan)
    for go in [user.go for user in (*users.callers, users.upkeep)] + [each.go for each in users.watchers]:
        world.after(0.3, go)
    world.after(1.5, nemesis.go)
    world.run(FAULTS_S)
    nemesis.stopped = True
    world.heal()
    _recovers(world, lambda: _is_settled(world), "all members being those of one configuration")
    for watcher in users.watchers:
        watcher.calm_down()
    world.run(1.0)
    for caller in users.callers:
        caller.stopped = True


def _is_settled(world: World) -> bool:
    """Whether a leader is known by all of its configuration, and who belongs to none has stopped."""
    known = world.configuration()
    if known is None:
        return False
    for name in world.names:
        if known.peer(name) is None and name not in known.removed:
            world.lives.retire(name)
    return all(known.peer(name) is not None for name in world.names)


def _reckoning(world: World, users: Users) -> None:
    """After healing everything is as it was promised, within one bound."""
    _probe(world)
    _recovers(world, lambda: users.upkeep.is_done, "doing all that was due")
    users.upkeep.stopped = True
    nodes = _members(world)
    last = max(node.machine.applied_index for node in nodes)
    _recovers(world, lambda: all(n.machine.applied_index >= last for n in nodes), "catching up after healing")
    _recovers(
        world,
        lambda: all(watcher.is_complete for watcher in users.watchers),
        "telling every watcher everything",
    )
    _calm_down(world)
    _check_configurations(world)
    if len({(node.machine.applied_index, node.machine.state_hash) for node in nodes}) != 1:
        raise Violation(
            "members differ at the end: " + ", ".join(f"{n.name} {n.machine.applied_index}" for n in nodes)
        )


def _recovers(world: World, condition: Callable[[], bool], what: str) -> None:
    """Raises Violation unless this comes in time after the healing, whatever else had to come before it."""
    world.run_until(condition, RECOVERY_S, what, since=world.healed_at)


def _members(world: World) -> list[Node]:
    """All but those that are gone for good."""
    return [world.nodes[name] for name in world.names]


def _check_configurations(world: World) -> None:
    """Everybody knows the same members."""
    known = {name: world.nodes[name].replica.core.configuration for name in world.names}
    if len(set(known.values())) > 1:
        raise Violation(f"members know different configurations: {known}")


def _calm_down(world: World) -> None:
    """One leader leads, and its term is everybody's, until the end."""
    world.run(max(0.5, world.began + WHOLE_S - CALM_S - world.now))
    leader = world.leader()
    if leader is None:
        raise Violation("nobody leads at the end")
    term = world.nodes[leader].replica.core.term
    world.run(CALM_S)
    for node in _members(world):
        core = node.replica.core
        if core.term != term or core.leader != leader or core.is_leader != (node.name == leader):
            raise Violation(
                f"{leader} led in term {term}, but {CALM_S:g} s later {node.name} is in term {core.term} "
                f"and follows {core.leader}, though nothing happened"
            )


def _probe(world: World) -> None:
    probes = Client(world, "probe")
    done: list[str] = []
    for name in world.names:
        probes.write("probe", lambda name=name: done.append(name), first=name)  # type: ignore[misc]
    _recovers(world, lambda: len(done) == len(world.names), "a write through every member after healing")
    probes_written = [write for write in world.history.writes if write.key == "probe"]
    if any(write.ended is None for write in probes_written):
        raise Violation("a write after healing was not acknowledged")


def _look_back(world: World, folder: Path) -> None:
    """Hold what was promised, told and kept against the agreed log, applied anew."""
    nodes = _members(world)
    replay = Replay(world.history, folder, world.domains)
    replay.check_answers(world.history)
    replay.check_ledger(world.ledger)
    world.ledger.check_rendering()
    check_locks(replay, world.ledger)
    check_chat(replay, world.ledger, [node.reader for node in nodes])
    for node in nodes:
        if replay.position != (node.machine.applied_index, node.machine.state_hash):
            raise Violation(f"{node.name} has another state than the agreed log gives")
        replay.check_tables(node.folder)
        node.machine.check()
        world.history.check_end(node.machine, _rows(node.folder))


def _rows(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every key with its value, version and revision, read from the member's own file."""
    with closing(sqlite3.connect(current_file(folder))) as db:
        rows = db.execute("SELECT key, value, version, revision FROM kv").fetchall()
    return {key: (value, version, revision) for key, value, version, revision in rows}
