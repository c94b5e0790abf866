"""The load client of raftos: one process, one `AsyncClient`, N workers with one call in flight each.

    python -m bench.client put --endpoint URL --in-flight 64 --seconds 4

The keys, their order and the 256-byte values are those of the etcd load generator. One JSON object on
stdout says what came of it.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import uvloop

from bench.figures import Load
from raftos import AsyncClient
from raftos.errors import Conflict, RaftosError

KEYS = 1000
VALUE = (b"abcdefghijklmnopqrstuvwxyz" * 10)[:256]
TEXT = VALUE.decode()
ROOMS = 10
FAILOVER_INTERVAL_S = 0.005
FILL_IN_FLIGHT = 256

Call = Callable[[str], Awaitable[object]]


def key(number: int) -> str:
    return f"key-{number:012d}"


def room(number: int) -> str:
    return f"room-{number}"


async def worker(call: Call, number: int, stop_s: float, latencies_s: list[float]) -> int:
    """Call until `stop_s` (of time.perf_counter); returns how many calls failed."""
    errors = turn = 0
    while (began_s := time.perf_counter()) < stop_s:
        try:
            await call(key((number * 7919 + turn * 104729) % KEYS))
        except RaftosError:
            errors += 1
        else:
            latencies_s.append(time.perf_counter() - began_s)
        turn += 1
    return errors


async def closed_loop(call: Call, in_flight: int, seconds: float) -> Load:
    latencies_s: list[float] = []
    began_s = time.perf_counter()
    workers = [worker(call, number, began_s + seconds, latencies_s) for number in range(in_flight)]
    errors = sum(await asyncio.gather(*workers))
    return load_of(latencies_s, time.perf_counter() - began_s, errors)


async def fill(client: AsyncClient, keys: int) -> None:
    """Write `keys` new keys."""
    numbers = iter(range(keys))

    async def one() -> None:
        for number in numbers:
            await client.kv.put(f"fill-{key(number)}", VALUE)

    await asyncio.gather(*(one() for _ in range(FILL_IN_FLIGHT)))


async def failover(client: AsyncClient, seconds: float) -> float:
    """Write every 5 ms, one call at a time; the largest gap between acknowledgements in milliseconds."""
    await client.kv.put(key(0), VALUE)
    print("ready", flush=True)
    gap_s = 0.0
    last_s = began_s = next_s = time.perf_counter()
    while last_s < began_s + seconds:
        await client.kv.put(key(0), VALUE)
        now_s = time.perf_counter()
        gap_s, last_s = max(gap_s, now_s - last_s), now_s
        next_s = max(next_s + FAILOVER_INTERVAL_S, now_s)
        await asyncio.sleep(next_s - now_s)
    return gap_s * 1000


async def watch(writer: AsyncClient, endpoint: str, seconds: float) -> Load:
    """Write one at a time: from the start of each write to its event at another member."""
    latencies_s: list[float] = []
    async with AsyncClient(endpoints=[endpoint]) as watcher, watcher.kv.watch("key-", prefix=True) as events:
        began_s = time.perf_counter()
        turn = 0
        while (start_s := time.perf_counter()) < began_s + seconds:
            write = asyncio.ensure_future(writer.kv.put(key(turn * 104729 % KEYS), VALUE))
            await anext(events)
            latencies_s.append(time.perf_counter() - start_s)
            await write
            turn += 1
        elapsed_s = time.perf_counter() - began_s
    return load_of(latencies_s, elapsed_s)


def load_of(latencies_s: list[float], elapsed_s: float, errors: int = 0) -> Load:
    latencies_s.sort()
    last = len(latencies_s) - 1
    p50_ms, p99_ms = (latencies_s[int(part * last)] * 1000 for part in (0.50, 0.99))
    return Load(len(latencies_s) / elapsed_s, p50_ms, p99_ms, errors)


async def open_rooms(client: AsyncClient) -> None:
    for number in range(ROOMS):
        with suppress(Conflict):
            await client.chat.create(room(number))


async def run(arguments: argparse.Namespace) -> object:
    async with AsyncClient(endpoints=arguments.endpoint) as client:

        async def put(name: str) -> object:
            return await client.kv.put(name, VALUE)

        async def post(name: str) -> object:
            return await client.chat.send(room(int(name[4:]) % ROOMS), TEXT, sender="bench")

        async def get(name: str) -> object:
            return await client.kv.get(name)

        match arguments.op:
            case "put":
                await client.kv.put(key(0), VALUE)
                return await closed_loop(put, arguments.in_flight, arguments.seconds)
            case "get":
                await asyncio.gather(*(client.kv.put(key(number), VALUE) for number in range(KEYS)))
                return await closed_loop(get, arguments.in_flight, arguments.seconds)
            case "watch":
                return await watch(client, arguments.watch, arguments.seconds)
            case "post":
                await open_rooms(client)
                return await closed_loop(post, arguments.in_flight, arguments.seconds)
            case "fill":
                await fill(client, arguments.keys)
                return {"keys": arguments.keys}
        return {"gap_ms": await failover(client, arguments.seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("op", choices=["put", "get", "post", "fill", "failover", "watch"])
    parser.add_argument("--endpoint", action="append", required=True)
    parser.add_argument("--watch", help="the member to watch at")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--keys", type=int, default=100_000)
    print(msgspec.json.encode(uvloop.run(run(parser.parse_args()))).decode(), flush=True)


if __name__ == "__main__":
    main()
