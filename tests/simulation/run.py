"""One seed: start, load, faults, healing, and the final reckoning."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from raftos.consensus.guard import Rules
from raftos.state.storage import FILE_NAME
from tests.simulation.history import Violation
from tests.simulation.workload import Client, Nemesis
from tests.simulation.world import World

FAULTS_S = 15.0
RECOVERY_S = 6.0
"""Once healed, writes through every member succeed within this time."""


_SIZES = {4: 5, 7: 1, 9: 5}
"""Members by the last digit of the seed; three for the others."""


@dataclass(frozen=True)
class Report:
    """What one run did, and the fingerprint of its trace."""

    fingerprint: str
    acknowledged: int
    reads: int
    terms: int
    sent_twice: int


def simulate(
    seed: int, *, rules: Rules | None = None, trace: bool = False, members: int | None = None
) -> Report:
    """Run one seed. Raises Violation."""
    size = members or _SIZES.get(seed % 10, 3)
    folder = Path(tempfile.mkdtemp(prefix="raftos-sim-", dir=_quick_folder()))
    world = World(seed, folder, members=size, rules=rules, trace=trace)
    try:
        _faulty_time(world)
        _reckoning(world)
    finally:
        world.stop()
        shutil.rmtree(folder)
    history = world.history
    return Report(
        world.fingerprint,
        history.acknowledged,
        history.reads,
        max(history.leaders, default=0),
        world.sent_twice,
    )


def _quick_folder() -> str | None:
    """Memory where there is some: the runs lose nothing by it."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a fresh folder inside


def _faulty_time(world: World) -> None:
    clients = [Client(world, f"c{number}", hasty=number % 2 == 1) for number in range(4)]
    nemesis = Nemesis(world)
    for client in clients:
        world.after(0.3, client.go)
    world.after(1.5, nemesis.go)
    world.run(FAULTS_S)
    nemesis.stopped = True
    world.heal()
    world.run(1.0)
    for client in clients:
        client.stopped = True


def _reckoning(world: World) -> None:
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
    last = max(node.machine.applied_index for node in world.nodes.values())
    nodes = list(world.nodes.values())
    world.run_until(
        lambda: all(n.machine.applied_index >= last for n in nodes), RECOVERY_S, "catching up after healing"
    )
    world.run(1.5)
    if len({(node.machine.applied_index, node.machine.state_hash) for node in nodes}) != 1:
        raise Violation(
            "members differ at the end: " + ", ".join(f"{n.name} {n.machine.applied_index}" for n in nodes)
        )
    for node in nodes:
        node.machine.check()
        world.history.check_end(node.machine, _rows(node.folder))


def _rows(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every key with its value, version and revision, read from the member's own file."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as db:
        rows = db.execute("SELECT key, value, version, revision FROM kv").fetchall()
    return {key: (value, version, revision) for key, value, version, revision in rows}
