"""What snapshots, catching up, restarts and new leaders cost: `tox -e bench-reliability` (`-- --quick`).

Three real daemons on one disk of this machine, durable, driven by the SDK in a process of its own. Nothing is
compared with another system: a ratio is one of raftos under strain to raftos without it, in the same run.
See README.md in this folder.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import msgspec

from bench.compare import DATA_DIR, Folders, say
from bench.figures import HEAD, Row, line, machine, median, percentile
from bench.members import Members, started, wait
from bench.raftos_cluster import Raftos
from bench.timeline import Strain
from raftos_cli.devcluster import Member

FULL_LOAD = 256
CATCH_UP_LOAD = 64
FILL_IN_FLIGHT = 1_024
LARGE_IN_FLIGHT = 64
VALUE_BYTES = 256
LONE_VALUE_BYTES = 16
DEFAULT_LOG_BYTES = 64 * 2**20
"""The default of `snapshot_log_bytes`."""
MB = 1_000_000
PAUSE_S = 3.0
"""After a round, for snapshots that are being made, and for a cluster that was filled."""
TRANSFER_S = 2.0
FAILOVER_S = 5.0

NEVER: dict[str, Any] = {"snapshot_log_bytes": 2**50}
SNAPSHOTS: dict[str, dict[str, Any]] = {
    "none": NEVER,
    "4 MiB of log": {"snapshot_log_bytes": 4 * 2**20},
    "every second": {"snapshot_log_bytes": 4 * 2**20, "snapshot_interval_ms": 1_000},
}
"""When snapshots are made. By the log alone a large state has few: it has to grow by as much as it has."""


class Plan(msgspec.Struct, frozen=True):
    """How much and how often; times in seconds."""

    rounds: int = 3
    round_seconds: float = 20.0
    spans: tuple[int, ...] = (1_000, 200_000)
    commands: int = 1_000_000
    command_bytes: int = 256
    log_bytes: int = DEFAULT_LOG_BYTES
    """`snapshot_log_bytes` while a follower is away, and of the journal that a member starts with."""
    around_seconds: float = 10.0
    state_bytes: int = 1_000_000_000
    large_bytes: int = 64 * 1024
    failovers: int = 20
    calm_seconds: float = 600.0
    transfers: int = 20


QUICK = Plan(
    rounds=1, round_seconds=4.0, spans=(1_000, 20_000), commands=50_000, command_bytes=1_024,
    log_bytes=2 * 2**20, around_seconds=2.0, state_bytes=50_000_000, failovers=2, calm_seconds=20.0,
    transfers=3,
)  # fmt: skip


# --- compaction ----------------------------------------------------------------------------------


class Rounds:
    """The runs of one cluster, and what its members did meanwhile."""

    def __init__(self) -> None:
        self.strains: list[Strain] = []
        self.made = self.trimmed = 0

    def run(self, cluster: Members, keys: int, seconds: float) -> None:
        began_s = time.time()
        self.strains.append(cluster.load(FULL_LOAD, keys, seconds))
        ended_s = time.time()
        self.made += cluster.count("made a snapshot", began_s, ended_s)
        self.trimmed += cluster.count("trimmed the log", began_s, ended_s)
        say(f"{keys:,} keys: {self.strains[-1].load}; {self.made} snapshots so far")

    def median(self, part: str) -> float:
        return median([getattr(strain.load, part) for strain in self.strains])


def compaction(folders: Folders, plan: Plan) -> Iterator[Row]:
    """The latency of writes while snapshots are made, against that of a cluster that makes none."""
    with ExitStack() as stack:
        clusters = {
            name: stack.enter_context(started(folders.fresh(), **settings))
            for name, settings in SNAPSHOTS.items()
        }
        for keys in plan.spans:
            for cluster in clusters.values():
                cluster.fill(keys, VALUE_BYTES, FILL_IN_FLIGHT)
            yield from compaction_rows(keys, plan, compaction_rounds(clusters, keys, plan))


def compaction_rounds(clusters: dict[str, Members], keys: int, plan: Plan) -> dict[str, Rounds]:
    """The clusters take turns, one under load at a time; which begins changes from round to round."""
    rounds: dict[str, Rounds] = defaultdict(Rounds)
    for number in range(plan.rounds):
        for name in islice(cycle(clusters), number, number + len(clusters)):
            time.sleep(PAUSE_S)
            rounds[name].run(clusters[name], keys, plan.round_seconds)
    return rounds


def compaction_rows(keys: int, plan: Plan, rounds: dict[str, Rounds]) -> Iterator[Row]:
    """A ratio to rounds in which no snapshot was made either would be no figure: nothing is wanted of it."""
    without = rounds.pop("none")
    if without.made:
        raise RuntimeError("snapshots were made where there should have been none")
    for name, each in rounds.items():
        note = (
            f"p50 {each.median('p50_ms'):.1f} and {without.median('p50_ms'):.1f} ms; "
            f"{each.median('ops_per_s'):,.0f} and {without.median('ops_per_s'):,.0f}/s; three members made "
            f"{each.made} snapshots and trimmed {each.trimmed} times in "
            f"{plan.rounds * plan.round_seconds:.0f} s"
        )
        yield Row(f"write, {FULL_LOAD} in flight, {keys:,} keys, p99: snapshots {name}, against none",
                  each.median("p99_ms"), "ms", peer=without.median("p99_ms"),
                  wanted=2 if each.made else None, at_most=True, note=note)  # fmt: skip


# --- catching up ---------------------------------------------------------------------------------


def catch_up(folders: Folders, plan: Plan) -> Iterator[Row]:
    """A follower comes back to a leader whose log no longer has what it lacks, while writes go on."""
    with started(folders.fresh(), snapshot_log_bytes=plan.log_bytes) as cluster:
        leader, follower, _ = cluster.leader_first()
        cluster.dev.stop([follower])
        cluster.fill(plan.commands, plan.command_bytes, FILL_IN_FLIGHT)
        time.sleep(PAUSE_S)
        with cluster.running("strain", "load", "--in-flight", str(CATCH_UP_LOAD), to=[leader]) as client:
            time.sleep(plan.around_seconds + 1)
            began_s = time.time()
            cluster.spawn(follower)
            wait("the follower has caught up", lambda: cluster.is_caught_up(follower, leader), 0.1)
            caught_up_s = time.time()
            fetch = cluster.fetch(follower, began_s)
            time.sleep(plan.around_seconds + 1)
            writes = client.finish().timeline
        say(f"caught up after {caught_up_s - began_s:.2f} s: {fetch}")
        unrest = "" if cluster.leadership().leader == leader.name else "; the leader changed meanwhile"
    before = writes.per_s(began_s - plan.around_seconds, began_s)
    during = writes.per_s(fetch.began_s, fetch.ended_s)
    meanwhile = writes.per_s(began_s, caught_up_s)
    after = writes.per_s(caught_up_s, caught_up_s + plan.around_seconds)
    took = f"{fetch.seconds:.2f} s from the first request until it was whole and durable{unrest}"
    state_mb, file_mb = fetch.state_bytes / MB, fetch.file_bytes / MB
    yield Row(f"catching up on {plan.commands:,} writes: bytes of state", state_mb / fetch.seconds, "MB/s",
              wanted=50, note=f"{state_mb:,.0f} MB in {took}")  # fmt: skip
    yield Row("catching up: bytes of the file", file_mb / fetch.seconds, "MB/s", wanted=50,
              note=f"{file_mb:,.0f} MB in the same time")  # fmt: skip
    yield Row("catching up: from the start of the process until all is applied", caught_up_s - began_s, "s",
              note=f"{fetch.began_s - began_s:.2f} s until it asked, "
              f"{caught_up_s - fetch.ended_s:.2f} s after it had the file")  # fmt: skip
    yield Row(f"writes, {CATCH_UP_LOAD} in flight, during the transfer, against before", during, "/s",
              peer=before, wanted=0.7, note=f"afterwards, with three members, {after:,.0f}/s")  # fmt: skip
    yield Row(f"writes, {CATCH_UP_LOAD} in flight, until all is applied, against before", meanwhile, "/s",
              peer=before)  # fmt: skip


# --- restarts ------------------------------------------------------------------------------------


def restarts(folders: Folders, plan: Plan) -> Iterator[Row]:
    """All members are killed at once; how long it takes one to be ready, once the others are."""
    with started(folders.fresh()) as cluster:
        cluster.fill(max(plan.state_bytes // plan.large_bytes, 1), plan.large_bytes, LARGE_IN_FLIGHT)
        time.sleep(PAUSE_S)
        size = f"{cluster.folder_bytes(cluster.members[0], 'state') / MB:,.0f} MB of state"
        yield restart_row(cluster, size)
    with started(folders.fresh(), snapshot_log_bytes=plan.log_bytes) as cluster:
        yield restart_row(
            cluster, f"{lone_writes(cluster, plan.log_bytes):,} entries of one small write each"
        )


def lone_writes(cluster: Members, log_bytes: int) -> int:
    """Fill the journals almost up to the next snapshot; returns how many entries they have then.

    Files grow by 1 MiB ahead of what is in them.
    """
    leader = cluster.leader_first()[0]
    what = ("--value-bytes", str(LONE_VALUE_BYTES))
    with cluster.running("strain", "lone", *what, to=[leader]) as client:
        wait(
            "the journal is as long as it becomes",
            lambda: cluster.folder_bytes(leader, "journal") >= 0.9 * log_bytes,
            0.1,
        )
        say(f"lone writes: {client.finish().load}")
    if cluster.count("made a snapshot", 0, time.time()):
        raise RuntimeError("a snapshot was made: the journal is shorter than it was to be")
    status = cluster.status(leader)
    return 0 if status is None else status.commit_index


def restart_row(cluster: Members, what: str) -> Row:
    first, *others = cluster.members
    cluster.dev.kill(cluster.members)
    began = time.perf_counter()
    cluster.spawn(*others)
    cluster.wait_ready(*others)
    others_s = time.perf_counter() - began
    time.sleep(PAUSE_S)
    began = time.perf_counter()
    cluster.spawn(first)
    cluster.wait_ready(first)
    ready_s = time.perf_counter() - began
    leader = cluster.leader_first()[0]
    wait("it has caught up", lambda: cluster.is_caught_up(first, leader))
    caught_up_s = time.perf_counter() - began
    say(f"restart with {what}: the others {others_s:.2f} s, then {ready_s:.2f} s, {caught_up_s:.2f} s")
    return Row(f"restart after kill -9, {what}, until ready", ready_s, "s", wanted=5, at_most=True,
               note=f"{caught_up_s:.2f} s until all is applied; the other two, both at once and without a "
               f"leader, {others_s:.2f} s")  # fmt: skip


# --- leaders -------------------------------------------------------------------------------------


def failovers(folders: Folders, plan: Plan) -> Iterator[Row]:
    """The measure of `bench.compare`, often."""
    gaps_ms = []
    with closing(Raftos(folders.fresh())) as ours:
        ours.start()
        for _ in range(plan.failovers):
            gaps_ms.append(ours.failover_gap_ms(FAILOVER_S))
            say(f"kill -9: {gaps_ms[-1]:.0f} ms")
    what = f"failover gap, kill -9 of the leader, {plan.failovers} times"
    yield Row(f"{what}, median", median(gaps_ms), "ms", wanted=450, at_most=True)
    yield Row(f"{what}, p95", percentile(gaps_ms, 95), "ms", wanted=900, at_most=True,
              note=f"from {min(gaps_ms):.0f} to {max(gaps_ms):.0f}")  # fmt: skip


def calm(folders: Folders, plan: Plan) -> Iterator[Row]:
    """Nobody campaigns against a busy leader."""
    with started(folders.fresh()) as cluster:
        before = cluster.leadership()
        strain = cluster.load(FULL_LOAD, plan.spans[0], plan.calm_seconds)
        after = cluster.leadership()
    what = f"{plan.calm_seconds:.0f} s of writes, {FULL_LOAD} in flight"
    yield Row(f"{what}: terms begun", after.term - before.term, "", wanted=0, at_most=True)
    slowest = strain.timeline.slowest_per_s()
    yield Row(what, strain.load.ops_per_s, "/s",
              note=f"{slowest:,.0f}/s in the slowest second; p99 {strain.load.p99_ms:.1f} ms")  # fmt: skip


def transfers(folders: Folders, plan: Plan) -> Iterator[Row]:
    """Leadership handed on as it was planned, under the load of the failovers."""
    gaps_ms, quiet_ms = [], []
    with started(folders.fresh()) as cluster, cluster.sdk() as client:

        def hand_over(target: Member) -> None:
            said = client.leader.transfer(target.name).leader
            if said != target.name:
                raise RuntimeError(f"leadership was to go to {target.name} and went to {said}")

        for number in range(plan.transfers):
            quiet_ms.append(cluster.gap_ms(TRANSFER_S))
            target = cluster.leader_first()[1 + number % 2]
            gaps_ms.append(cluster.gap_ms(TRANSFER_S, lambda target=target: hand_over(target)))  # type: ignore[misc]
            say(f"transfer to {target.name}: {gaps_ms[-1]:.0f} ms; without one {quiet_ms[-1]:.0f} ms")
    what = f"gap, leadership handed on, {plan.transfers} times"
    yield Row(f"{what}, median", median(gaps_ms), "ms", wanted=60, at_most=True,
              note=f"without a transfer {median(quiet_ms):.0f}")  # fmt: skip
    yield Row(f"{what}, largest", max(gaps_ms), "ms", wanted=60, at_most=True,
              note=f"without a transfer {max(quiet_ms):.0f}")  # fmt: skip


PARTS: dict[str, Callable[[Folders, Plan], Iterator[Row]]] = {
    "compaction": compaction,
    "catch-up": catch_up,
    "restart": restarts,
    "failover": failovers,
    "calm": calm,
    "transfer": transfers,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what keeping a cluster reliable costs.")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, roughly how fast")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--dir", default=DATA_DIR, help="where the data goes: a real disk (%(default)s)")
    return parser.parse_args()


def measured(names: list[str], root: Path, plan: Plan) -> Iterator[Row]:
    """The rows of these parts; each part's data is gone before the next begins."""
    for name in names:
        say(f"--- {name}")
        yield from PARTS[name](Folders(root / name), plan)
        shutil.rmtree(root / name)


def main() -> int:
    arguments = parse_arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # Whatever ends this, ends the members first.
    print(f"{machine()}\n\n{HEAD}", flush=True)
    reached = True
    root = Path(tempfile.mkdtemp(prefix="raftos-bench-", dir=arguments.dir))
    try:
        plan = QUICK if arguments.quick else Plan()
        for row in measured(arguments.only or list(PARTS), root, plan):
            print(line(row), flush=True)  # At once: a part that fails later takes no figures with it.
            reached = reached and row.reached is not False
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
