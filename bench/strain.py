"""The load client of `bench.reliability`: one process, one `AsyncClient` (of `lone`: several).

    python -m bench.strain load --endpoint URL --in-flight 64 --seconds 10

Values are random bytes, so that nothing is won by packing them. It prints `ready` before it begins and one
JSON object when it is done: after `--seconds`, or, without them, once its standard input is closed.

    fill    writes each of `--keys` keys once, with large batches
    load    writes them over and over, `--in-flight` at a time
    lone    the same, but never two writes in one entry: each client waits for its own
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import AsyncExitStack

import msgspec
import uvloop

from bench.client import key, load_of
from bench.timeline import SLICE_S, Strain, Timeline
from raftos import AsyncClient
from raftos.errors import RaftosError

LONE_CLIENTS = 2
"""So many entries a leader has under way at most: more clients would share them."""


class Recorder:
    """What was acknowledged, and when."""

    def __init__(self) -> None:
        self.began_s = time.time()
        self.errors = 0
        self._began = time.perf_counter()
        self._latencies_s = array("d")
        self._counts: list[int] = []

    def acknowledged(self, began: float) -> None:
        """A write that began at `began` (of time.perf_counter) has just been acknowledged."""
        now = time.perf_counter()
        self._latencies_s.append(now - began)
        at = int((now - self._began) / SLICE_S)
        self._reach(at)
        self._counts[at] += 1

    def _reach(self, at: int) -> None:
        while len(self._counts) <= at:
            self._counts.append(0)

    def strain(self) -> Strain:
        elapsed_s = time.perf_counter() - self._began
        self._reach(int(elapsed_s / SLICE_S))
        load = load_of(list(self._latencies_s), elapsed_s, self.errors)
        return Strain(load, Timeline(self.began_s, self._counts))


class Until:
    """Lets workers go on until a time has passed or the standard input is closed."""

    def __init__(self) -> None:
        self.is_over = False

    async def over(self, seconds: float | None) -> None:
        if seconds is None:
            await asyncio.to_thread(sys.stdin.buffer.read)
        else:
            await asyncio.sleep(seconds)
        self.is_over = True


async def fill(client: AsyncClient, arguments: argparse.Namespace) -> dict[str, int]:
    numbers = iter(range(arguments.keys))

    async def one() -> None:
        for number in numbers:
            await client.kv.put(key(number), os.urandom(arguments.value_bytes))

    await asyncio.gather(*(one() for _ in range(arguments.in_flight)))
    return {"keys": arguments.keys}


async def worker(
    client: AsyncClient, numbers: Iterator[int], size_bytes: int, until: Until, to: Recorder
) -> None:
    while not until.is_over:
        began = time.perf_counter()
        try:
            await client.kv.put(key(next(numbers)), os.urandom(size_bytes))
        except RaftosError:
            to.errors += 1
        else:
            to.acknowledged(began)


def spread(keys: int, number: int) -> Iterator[int]:
    """The keys in the order of one worker: far apart, and each worker elsewhere."""
    at = number * 7919
    while True:
        yield at % keys
        at += 104729


async def load(clients: list[AsyncClient], in_flight: int, arguments: argparse.Namespace) -> Strain:
    until, recorder = Until(), Recorder()
    ending = asyncio.ensure_future(until.over(arguments.seconds))
    workers = [
        worker(
            clients[number % len(clients)],
            spread(arguments.keys, number),
            arguments.value_bytes,
            until,
            recorder,
        )
        for number in range(in_flight)
    ]
    await asyncio.gather(*workers)
    await ending
    return recorder.strain()


async def run(arguments: argparse.Namespace) -> object:
    async with AsyncExitStack() as stack:
        count = LONE_CLIENTS if arguments.op == "lone" else 1
        clients = [
            await stack.enter_async_context(AsyncClient(endpoints=arguments.endpoint, timeout_s=30))
            for _ in range(count)
        ]
        for client in clients:
            await client.kv.put(key(0), b"")
        print("ready", flush=True)
        match arguments.op:
            case "fill":
                return await fill(clients[0], arguments)
            case "lone":
                return await load(clients, LONE_CLIENTS, arguments)
        return await load(clients, arguments.in_flight, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("op", choices=["fill", "load", "lone"])
    parser.add_argument("--endpoint", action="append", required=True)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--value-bytes", type=int, default=256)
    print(msgspec.json.encode(uvloop.run(run(parser.parse_args()))).decode(), flush=True)


if __name__ == "__main__":
    main()
