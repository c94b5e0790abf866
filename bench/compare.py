"""raftos and etcd side by side, in one run: `tox -e bench` (or `tox -e bench -- --quick`).

Both clusters have three members on this machine, durable, with default settings, on one disk. The two are
never under load at once: each measure runs on one and then on the other, and which goes first changes
from round to round. The median of the rounds is shown, ratios first. See README.md in this folder.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from bench.etcd import Etcd
from bench.figures import Footprint, Load, Row, footprint, machine, median, median_load, table
from bench.raftos_cluster import Raftos

PROGRAMS = ("etcd", "go", "wrk")
PACKAGES = "etcd-server wrk golang-go golang-etcd-server-dev"
DATA_DIR = "/var/tmp"  # noqa: S108 - on the disk, unlike /tmp on many machines; a fresh folder is made in it
IN_FLIGHT = (1, 64, 256)
CONNECTIONS = 64
WATCHERS = 1_000


class Plan(msgspec.Struct, frozen=True):
    """How long and how often; times in seconds."""

    rounds: int = 3
    load_seconds: float = 4.0
    cold_starts: int = 3
    idle_seconds: float = 10.0
    keys: int = 100_000
    failovers: int = 5
    messages: int = 1_000_000


QUICK = Plan(
    rounds=1, load_seconds=1.0, cold_starts=1, idle_seconds=2.0, keys=10_000, failovers=1, messages=20_000
)

Clusters = tuple[Raftos, Etcd]


def say(text: str) -> None:
    """Progress goes to stderr, so that stdout is the table."""
    print(text, file=sys.stderr, flush=True)


class Folders:
    """Fresh, numbered folders for clusters on one disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = 0

    def fresh(self) -> Path:
        self._count += 1
        return self._root / f"cluster-{self._count}"


def timed_start(cluster: Raftos | Etcd) -> float:
    began_s = time.perf_counter()
    cluster.start()
    return time.perf_counter() - began_s


def cold_starts(folders: Folders, plan: Plan) -> Iterator[Row]:
    """From nothing to the first acknowledged write."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(plan.cold_starts):
        with closing(Raftos(folders.fresh())) as ours:
            seconds["ours"].append(timed_start(ours))
        with closing(Etcd(folders.fresh())) as peer:
            seconds["peer"].append(timed_start(peer))
    ours_s, peer_s = median(seconds["ours"]), median(seconds["peer"])
    yield Row("cold start to the first acknowledged write", ours_s, "s", wanted=4, at_most=True,
              note=f"the members only, without a command line: etcd {peer_s:.2f} s")  # fmt: skip


def footprints(folders: Folders, plan: Plan) -> Iterator[Row]:
    """What the largest member takes, idle and after many keys."""
    with closing(Raftos(folders.fresh())) as ours, closing(Etcd(folders.fresh())) as peer:
        clusters: Clusters = (ours, peer)
        for cluster in clusters:
            cluster.start()
        time.sleep(2)
        idle = [footprint(cluster.pids(), plan.idle_seconds) for cluster in clusters]
        full: list[Footprint] = []
        for cluster in clusters:
            cluster.fill(plan.keys)
            full.append(footprint(cluster.pids(), 1))
    yield Row("idle member, memory", idle[0].rss_mib, "MiB", wanted=80, at_most=True,
              note=f"etcd {idle[1].rss_mib:.0f}")  # fmt: skip
    yield Row("idle member, processor", idle[0].cpu_percent, "% of a core", wanted=2, at_most=True,
              note=f"etcd {idle[1].cpu_percent:.1f}")  # fmt: skip
    yield Row(f"member after {plan.keys:,} keys, memory", full[0].rss_mib, "MiB", wanted=160, at_most=True,
              note=f"etcd {full[1].rss_mib:.0f}")  # fmt: skip


def measures(clusters: Clusters, seconds: float) -> list[dict[str, Callable[[], Load]]]:
    """What runs in each round: groups of runs that are compared with each other."""
    ours, peer = clusters
    groups: list[dict[str, Callable[[], Load]]] = [
        {
            f"put {count}": partial(ours.load, "put", count, seconds),
            f"etcd put {count}": partial(peer.load, "put", count, seconds),
        }
        for count in IN_FLIGHT
    ]
    groups[1]["post"] = partial(ours.wrk, "put", CONNECTIONS, seconds)
    groups[1]["chat post"] = partial(ours.load, "post", CONNECTIONS, seconds)
    groups[2]["follower put 256"] = partial(ours.load, "put", 256, seconds, follower=True)
    reads: dict[str, Callable[[], Load]] = {
        "read": partial(ours.load, "get", CONNECTIONS, seconds),
        "etcd read": partial(peer.load, "get", CONNECTIONS, seconds),
        "get": partial(ours.wrk, "get", CONNECTIONS, seconds),
    }
    watches: dict[str, Callable[[], Load]] = {
        "watch": partial(ours.watch, seconds),
        "etcd watch": partial(peer.watch, seconds),
    }
    crowd: dict[str, Callable[[], Load]] = {
        "unwatched put 64": partial(ours.load, "put", CONNECTIONS, seconds),
        "watched put 64": partial(watched, ours, seconds),
    }
    return [*groups, reads, watches, crowd]


def watched(ours: Raftos, seconds: float) -> Load:
    """Writes while one member has a thousand watchers; each has to get every event."""
    load, crowd = ours.watched_load(WATCHERS, CONNECTIONS, seconds)
    say(f"each of {crowd.watchers} watchers got {crowd.events} events, {crowd.bytes_each:,} bytes")
    if not crowd.complete:
        raise RuntimeError(f"not every watcher got every event: {crowd}")
    return load


def load_rounds(clusters: Clusters, plan: Plan) -> dict[str, Load]:
    """The median run of each measure; the order within a group turns round from round to round."""
    runs: dict[str, list[Load]] = defaultdict(list)
    for number in range(plan.rounds):
        for group in measures(clusters, plan.load_seconds):
            for name, run in group.items() if number % 2 == 0 else reversed(group.items()):
                load = run().check()
                say(f"round {number + 1}: {name}: {load}")
                runs[name].append(load)
    return {name: median_load(loads) for name, loads in runs.items()}


def throughput(what: str, ours: Load, peer: Load, wanted: float | None) -> Row:
    note = f"p99 {ours.p99_ms:.1f} and {peer.p99_ms:.1f} ms"
    return Row(what, ours.ops_per_s, "/s", peer=peer.ops_per_s, wanted=wanted, note=note)


def loads(folders: Folders, plan: Plan) -> Iterator[Row]:
    """Throughput and latency, all to the leader unless it says otherwise."""
    with closing(Raftos(folders.fresh())) as ours, closing(Etcd(folders.fresh())) as peer:
        ours.start()
        peer.start()
        load = load_rounds((ours, peer), plan)
        used = footprint(ours.pids(), 1)
    yield throughput("SDK writes, 1 in flight", load["put 1"], load["etcd put 1"], None)
    yield Row("SDK writes, 1 in flight, p50", load["put 1"].p50_ms, "ms",
              peer=load["etcd put 1"].p50_ms, wanted=1.5, at_most=True)  # fmt: skip
    yield throughput("SDK writes, 64 in flight", load["put 64"], load["etcd put 64"], 1.2)
    yield throughput("SDK writes, 256 in flight", load["put 256"], load["etcd put 256"], 1.6)
    yield throughput("SDK writes, 256 in flight, a follower against our leader",
                     load["follower put 256"], load["put 256"], 0.7)  # fmt: skip
    yield throughput("one JSON POST a write, 64 connections", load["post"], load["etcd put 64"], 0.8)
    yield throughput("SDK linearizable reads, 64 in flight", load["read"], load["etcd read"], 1.5)
    yield throughput("one GET a linearizable read, 64 connections", load["get"], load["etcd read"], 0.5)
    yield throughput(
        "SDK chat posts, 64 in flight, against our own puts", load["chat post"], load["put 64"], 0.8
    )
    yield Row("from a write's start to its event at a follower's watcher, p50", load["watch"].p50_ms, "ms",
              peer=load["etcd watch"].p50_ms, wanted=1.5, at_most=True,
              note=f"p99 {load['watch'].p99_ms:.1f} and {load['etcd watch'].p99_ms:.1f} ms")  # fmt: skip
    yield throughput(f"SDK writes, 64 in flight, {WATCHERS:,} watchers on one member, against none",
                     load["watched put 64"], load["unwatched put 64"], 0.6)  # fmt: skip
    yield Row("member after the load rounds, memory", used.rss_mib, "MiB")


def failovers(folders: Folders, plan: Plan) -> Iterator[Row]:
    """The largest gap one client sees that writes every 5 ms."""
    with closing(Raftos(folders.fresh())) as ours:
        ours.start()
        killed = [ours.failover_gap_ms(5) for _ in range(plan.failovers)]
        say(f"kill -9: {', '.join(f'{gap:.0f}' for gap in killed)} ms")
        paused = [ours.failover_gap_ms(6, pause=True) for _ in range(plan.failovers)]
        say(f"SIGSTOP: {', '.join(f'{gap:.0f}' for gap in paused)} ms")
    with closing(Etcd(folders.fresh())) as peer:
        peer.start()
        peers = [peer.failover_gap_ms(6) for _ in range(plan.failovers)]
    yield Row("failover gap, kill -9 of the leader", median(killed), "ms", wanted=600, at_most=True,
              note=f"etcd {median(peers):.0f}; largest {max(killed):.0f}")  # fmt: skip
    yield Row("failover gap, SIGSTOP of the leader", median(paused), "ms", wanted=1800, at_most=True,
              note=f"largest {max(paused):.0f}")  # fmt: skip


def chat(folders: Folders, plan: Plan) -> Iterator[Row]:
    """Reading among many messages."""
    with closing(Raftos(folders.fresh())) as ours:
        ours.start()
        readings = ours.chat_readings(plan.messages)
        used = footprint(ours.pids(), 1)
    for name, load in readings.items():
        wanted = 50 if name.startswith("search") else 10
        yield Row(f"chat, {plan.messages:,} messages: {name}, p99", load.p99_ms, "ms", wanted=wanted,
                  at_most=True, note=f"p50 {load.p50_ms:.1f}")  # fmt: skip
    yield Row(f"member after {plan.messages:,} messages, memory", used.rss_mib, "MiB")


PARTS = {
    "loads": loads,
    "chat": chat,
    "failovers": failovers,
    "starts": cold_starts,
    "footprints": footprints,
}


def etcd_version() -> str:
    said = subprocess.run(["etcd", "--version"], check=True, capture_output=True, text=True).stdout
    return f"etcd {said.split()[2]}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare raftos with etcd on this machine.")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run, roughly how fast")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--dir", default=DATA_DIR, help="where the data goes: a real disk (%(default)s)")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        say(f"missing: {', '.join(missing)}; on Debian: apt-get install {PACKAGES}")
        return 2
    root = Path(tempfile.mkdtemp(prefix="raftos-bench-", dir=arguments.dir))
    measured_on = machine(etcd_version())
    say(measured_on)
    try:
        plan = QUICK if arguments.quick else Plan()
        chosen = arguments.only or list(PARTS)
        rows = [row for name in chosen for row in PARTS[name](Folders(root / name), plan)]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"{measured_on}\n\n{table(rows)}")
    return 0 if all(row.reached is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
