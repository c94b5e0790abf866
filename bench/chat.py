"""Reading a large chat: a page of history and searches among very many messages, through the SDK.

    python -m bench.chat --endpoint URL --messages 1000000

Fills ten rooms, waits until the index of words has caught up, and then reads: one call at a time, as a person
does. One JSON object on stdout: for each kind of reading its rate and latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import accumulate

import msgspec
import uvloop

from bench.client import ROOMS, load_of, open_rooms, room
from bench.figures import Load
from raftos import AsyncClient

IN_FLIGHT = 256
WORDS_EACH = 12
VOCABULARY = 20_000
PAGE = 100
SETTLED_AFTER_S = 3.0


def texts(random_source: random.Random) -> Iterator[str]:
    """Messages of twelve words, which are as unevenly common as words are (Zipf): the first is in most."""
    words = [f"word{number}" for number in range(VOCABULARY)]
    weights = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    while True:
        yield " ".join(random_source.choices(words, cum_weights=weights, k=WORDS_EACH))


async def fill(client: AsyncClient, messages: int) -> None:
    await open_rooms(client)
    stream = enumerate(texts(random.Random(1)))

    async def one() -> None:
        for number, text in stream:
            if number >= messages:
                return
            await client.chat.send(room(number % ROOMS), text, sender="bench")
            if number % 50_000 == 0:
                print(f"{number:,} messages", file=sys.stderr, flush=True)

    await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
    await asyncio.sleep(SETTLED_AFTER_S)


async def measured(call: Callable[[], Awaitable[object]], count: int) -> Load:
    latencies_s = []
    began_s = time.perf_counter()
    for _ in range(count):
        start_s = time.perf_counter()
        await call()
        latencies_s.append(time.perf_counter() - start_s)
    return load_of(latencies_s, time.perf_counter() - began_s)


async def readings(client: AsyncClient, messages: int, count: int) -> dict[str, Load]:
    """Each kind of reading, `count` times, at random places and for words from common to rare."""
    source = random.Random(2)
    last = messages // ROOMS

    async def page() -> object:
        since = source.randrange(max(1, last - PAGE))
        return await client.chat.page(room(source.randrange(ROOMS)), since=since, limit=PAGE)

    async def newest() -> object:
        return await client.chat.page(room(source.randrange(ROOMS)), last=PAGE)

    def search(*ranks: int, within: str | None = None) -> Callable[[], Awaitable[object]]:
        async def call() -> object:
            return await client.chat.search(
                " ".join(f"word{source.choice(ranks)}" for _ in "ab"), room=within
            )

        return call

    return {
        "page": await measured(page, count),
        "newest page": await measured(newest, count),
        "search, common words": await measured(search(0, 1, 2), count),
        "search, words of all kinds": await measured(search(0, 10, 100, 1_000, 10_000), count),
        "search, in one room": await measured(search(0, 10, 100, 1_000, within=room(3)), count),
    }


async def run(arguments: argparse.Namespace) -> dict[str, Load]:
    async with AsyncClient(endpoints=[arguments.endpoint]) as client:
        await fill(client, arguments.messages)
        return await readings(client, arguments.messages, arguments.count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--count", type=int, default=500)
    print(msgspec.json.encode(uvloop.run(run(parser.parse_args()))).decode(), flush=True)


if __name__ == "__main__":
    main()
