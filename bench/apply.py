"""What applying costs: `python -m bench.apply [--profile]`.

One machine, no consensus and no network: entries of `kv.put` with 256-byte values, from encoded entries
to encoded results, checkpoints included, on whatever disk holds the temporary directory. Processor time is
what the members share; `best` is the wall time in the fastest entry, which other load on the machine
disturbs least. Memory is what the process grew by.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from raftos.state.command import Command, encode_entry, encode_request, new_request_id
from raftos.state.domains.kv import Put, Txn, TxnPut
from raftos.state.machine import Machine

START_MS = 1_700_000_000_000
VALUE = bytes(range(256))
KEYS = 100_000
CHECKPOINT_ENTRIES = 100


class Bench:
    """A machine and the entries it is fed."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine(folder)
        self.random = random.Random(1)
        self.written = 0

    def payload(self, size: int, make: Callable[[int], Command]) -> bytes:
        """The next entry: `size` requests, a millisecond after the entry before."""
        now_ms = max(self.machine.time_ms, START_MS) + 1
        return encode_entry(now_ms, [self._request(now_ms, make) for _ in range(size)])

    def _request(self, now_ms: int, make: Callable[[int], Command]) -> bytes:
        self.written += 1
        return encode_request(new_request_id(now_ms), make(self.written))

    def apply(self, payload: bytes) -> None:
        index = self.machine.applied_index + 1
        self.machine.apply([(index, payload)])
        if index % CHECKPOINT_ENTRIES == 0:
            self.machine.checkpoint()

    def measure(self, title: str, count: int, size: int, make: Callable[[int], Command]) -> None:
        """Apply `count` entries and print the time of a command: of all of them, and in the best entry."""
        processor_s = wall_s = 0.0
        best_s = float("inf")
        for _ in range(count):
            payload = self.payload(size, make)
            wall, processor = time.perf_counter(), time.process_time()
            self.apply(payload)
            processor, wall = time.process_time() - processor, time.perf_counter() - wall
            processor_s, wall_s, best_s = processor_s + processor, wall_s + wall, min(best_s, wall)
        figures = (processor_s / count, wall_s / count, best_s)
        print(f"{title:52}", *(f"{seconds / size * 1e6:9.2f}" for seconds in figures))

    # What is put

    def new_key(self, number: int) -> Command:
        return Put(key=f"key/{number:08d}", value=VALUE)

    def any_key(self, _number: int) -> Command:
        return Put(key=f"key/{self.random.randrange(1, KEYS):08d}", value=VALUE)

    def few_keys(self, _number: int) -> Command:
        return Put(key=f"key/{self.random.randrange(1, 1_000):08d}", value=VALUE)

    def transaction(self, number: int) -> Command:
        return Txn(writes=tuple(TxnPut(key=f"txn/{number:08d}/{at}", value=VALUE) for at in range(4)))


def _memory_mib() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


def run(folder: Path) -> None:
    bench = Bench(folder)
    before = _memory_mib()
    print(f"{'microseconds a command':52} {'processor':>9} {'wall':>9} {'best':>9}")
    bench.measure("kv.put, 256 an entry, new keys in order", KEYS // 256 + 1, 256, bench.new_key)
    print(f"{'memory grown after 100 000 keys (MiB)':52} {_memory_mib() - before:9.1f}")
    bench.measure("kv.put, 256 an entry, 1 000 keys again and again", 200, 256, bench.few_keys)
    bench.measure("kv.put, 256 an entry, any of 100 000 keys", 200, 256, bench.any_key)
    bench.measure("kv.put, 64 an entry, any of 100 000 keys", 500, 64, bench.any_key)
    bench.measure("kv.put, 1 an entry, any of 100 000 keys", 4_000, 1, bench.any_key)
    bench.measure("kv.txn of 4 puts, 64 an entry", 100, 64, bench.transaction)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="where the time goes, instead of figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raftos-bench-") as folder:
        if not arguments.profile:
            run(Path(folder))
            return
        bench = Bench(Path(folder))
        payloads = [bench.payload(256, bench.few_keys) for _ in range(200)]
        with cProfile.Profile() as profile:
            for payload in payloads:
                bench.apply(payload)
        pstats.Stats(profile).sort_stats("tottime").print_stats(20)


if __name__ == "__main__":
    main()
