"""One seed: start, load, faults, healing, and the final reckoning."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from raftos.consensus import proposals
from raftos.consensus.guard import Rules
from raftos.state import events
from raftos.state.storage import FILE_NAME
from tests.simulation.caller import Caller
from tests.simulation.care import Care
from tests.simulation.chats import OPENED, Chatter
from tests.simulation.history import Violation
from tests.simulation.ledger import WISHES
from tests.simulation.lives import TIMINGS
from tests.simulation.locks import Locker, check_locks
from tests.simulation.replay import Replay
from tests.simulation.rooms import check_chat
from tests.simulation.upkeep import Upkeep
from tests.simulation.watchers import Watcher
from tests.simulation.workload import Client, Nemesis
from tests.simulation.world import World

FAULTS_S = 15.0
RECOVERY_S = 6.0
"""Once healed, writes through every member succeed within this time."""


_SIZES = {4: 5, 7: 1, 9: 5}
"""Members by the last digit of the seed; three for the others."""
_KEPT = {1: {"KEEP_REVISIONS": 40, "SWEEP_INDEXES": 16}}
"""How many revisions' events are kept, and at which indexes older ones go, by the seed modulo 3: few,
so that watchers who rest come too late."""
BATCH_BYTES = TIMINGS.append_bytes // 2 - 200
"""An entry has half the bytes of an append at most, as in the driver; this leaves some for its envelope."""


@dataclass(frozen=True)
class Report:
    """What one run did, and the fingerprint of its trace."""

    fingerprint: str
    acknowledged: int
    reads: int
    terms: int
    sent_twice: int
    told: int
    visits: int
    came_late: int


def simulate(
    seed: int,
    *,
    rules: Rules | None = None,
    care: Care | None = None,
    trace: bool = False,
    members: int | None = None,
) -> Report:
    """Run one seed. Raises Violation."""
    size = members or _SIZES.get(seed % 10, 3)
    folder = Path(tempfile.mkdtemp(prefix="raftos-sim-", dir=_quick_folder()))
    world = World(seed, folder, members=size, rules=rules, care=care, trace=trace)
    try:
        with _set(events, **_KEPT.get(seed % 3, {})), _set(proposals, MAX_BATCH_BYTES=BATCH_BYTES):
            users = Users(world)
            _faulty_time(world, users)
            _reckoning(world, users)
            _look_back(world, folder / "replay")
    finally:
        world.stop()
        shutil.rmtree(folder)
    history = world.history
    return Report(
        world.fingerprint,
        history.acknowledged,
        history.reads,
        max(history.leaders, default=0),
        world.wires.sent_twice,
        sum(watcher.told for watcher in users.watchers),
        sum(watcher.visits for watcher in users.watchers),
        sum(watcher.came_late for watcher in users.watchers),
    )


@contextmanager
def _set(module: ModuleType, **limits: int) -> Iterator[None]:
    """Have these limits of a module, for one run the same on all members, as it must be."""
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

    def __init__(self, world: World) -> None:
        clients = [Client(world, f"c{number}", pace_s=0.06, hasty=number % 2 == 1) for number in range(4)]
        lockers = [Locker(world, f"l{number}") for number in range(2)]
        rooms = [create.room for create in OPENED]
        chatters = [Chatter(world, f"u{number}", rooms) for number in range(3)]
        for chatter, create in zip(chatters, OPENED, strict=True):
            world.after(0.2, lambda chatter=chatter, create=create: chatter.open_first(create))  # type: ignore[misc]
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
            for number in range(5)
        ]


def _faulty_time(world: World, users: Users) -> None:
    nemesis = Nemesis(world)
    for go in [user.go for user in (*users.callers, users.upkeep)] + [each.go for each in users.watchers]:
        world.after(0.3, go)
    world.after(1.5, nemesis.go)
    world.run(FAULTS_S)
    nemesis.stopped = True
    world.heal()
    for watcher in users.watchers:
        watcher.calm = True
    world.run(1.0)
    for caller in users.callers:
        caller.stopped = True


def _reckoning(world: World, users: Users) -> None:
    _probe(world)
    world.run_until(lambda: users.upkeep.is_done, RECOVERY_S, "doing all that was due")
    users.upkeep.stopped = True
    last = max(node.machine.applied_index for node in world.nodes.values())
    nodes = list(world.nodes.values())
    world.run_until(
        lambda: all(n.machine.applied_index >= last for n in nodes), RECOVERY_S, "catching up after healing"
    )
    world.run_until(
        lambda: all(watcher.is_complete for watcher in users.watchers),
        RECOVERY_S,
        "telling every watcher everything",
    )
    world.run(1.5)
    if len({(node.machine.applied_index, node.machine.state_hash) for node in nodes}) != 1:
        raise Violation(
            "members differ at the end: " + ", ".join(f"{n.name} {n.machine.applied_index}" for n in nodes)
        )


def _probe(world: World) -> None:
    probes = Client(world, "probe")
    done: list[str] = []
    for name in world.names:
        probes.write("probe", lambda name=name: done.append(name), first=name)  # type: ignore[misc]
    world.run_until(
        lambda: len(done) == len(world.names), RECOVERY_S, "a write through every member after healing"
    )
    probes_written = [write for write in world.history.writes if write.key == "probe"]
    if any(write.ended is None for write in probes_written):
        raise Violation("a write after healing was not acknowledged")


def _look_back(world: World, folder: Path) -> None:
    """Hold what was promised, told and kept against the agreed log, applied anew."""
    nodes = list(world.nodes.values())
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
    with closing(sqlite3.connect(folder / FILE_NAME)) as db:
        rows = db.execute("SELECT key, value, version, revision FROM kv").fetchall()
    return {key: (value, version, revision) for key, value, version, revision in rows}
