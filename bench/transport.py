"""What a peer frame costs: two members in one process, over loopback, on uvloop.

Ping-pong is one small frame there and one back, nothing else in flight: round trips per second.
Batched is many frames in each send, answered by one. CPU is the whole process, both ends, for each
frame sent **and** received; while it waits a process burns none, so the figure holds on a busy machine.

    python bench/transport.py [--seconds 2]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time

import structlog
import uvloop

from raftos.consensus.transport import Transport

FRAME = bytes(200)
BATCH_SIZES = (1, 8, 64, 512)


class Echo:
    """Answers the last frame of every batch with one frame."""

    transport: Transport

    def linked(self, peer: str, generation: int, level: int) -> None:
        pass

    def unlinked(self, peer: str, generation: int) -> None:
        raise AssertionError("the link of a benchmark must stand")

    def hearing(self, peer: str, generation: int) -> None:
        pass

    def moved(self, peer: str, address: str) -> None:
        pass

    def received(self, peer: str, generation: int, frames: list[bytes]) -> None:
        if any(frame[0] for frame in frames):
            self.transport.send(peer, generation, [FRAME])


class Pinger:
    """Sends the next batch when the last one is answered."""

    transport: Transport

    def __init__(self) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self.batch = [b"\x01" + FRAME[1:]]
        self.round_trips = 0
        self.stopping = True

    def linked(self, peer: str, generation: int, level: int) -> None:
        self.ready.set_result(generation)

    def unlinked(self, peer: str, generation: int) -> None:
        raise AssertionError("the link of a benchmark must stand")

    def hearing(self, peer: str, generation: int) -> None:
        pass

    def moved(self, peer: str, address: str) -> None:
        pass

    def received(self, peer: str, generation: int, frames: list[bytes]) -> None:
        self.round_trips += 1
        if not self.stopping:
            self.transport.send(peer, generation, self.batch)


async def measure(pinger: Pinger, generation: int, batch_size: int, seconds: float) -> str:
    pinger.batch = [FRAME] * (batch_size - 1) + [b"\x01" + FRAME[1:]]
    pinger.round_trips, pinger.stopping = 0, False
    wall, cpu = time.perf_counter(), time.process_time()
    pinger.transport.send("b", generation, pinger.batch)
    await asyncio.sleep(seconds)
    pinger.stopping = True
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    await asyncio.sleep(0.05)
    frames = pinger.round_trips * (batch_size + 1)
    cost_us = cpu / frames * 1e6
    return f"{batch_size:>10} {pinger.round_trips / wall:>15,.0f} {frames / wall:>12,.0f} {cost_us:>10.2f}"


def member(member_id: str, peers: dict[str, str], listener: Echo | Pinger, secret: bytes) -> Transport:
    return Transport(
        member_id=member_id,
        cluster_id="bench",
        secret=secret,
        listen_address="127.0.0.1:0",
        peers=peers,
        listener=listener,
    )


async def main(seconds: float) -> None:
    echo, pinger, secret = Echo(), Pinger(), os.urandom(32)
    echo.transport = member("b", {"a": "127.0.0.1:1"}, echo, secret)
    await echo.transport.start()
    pinger.transport = member("a", {"b": echo.transport.address}, pinger, secret)
    await pinger.transport.start()
    generation = await pinger.ready
    print(f"{len(FRAME)}-byte frames")
    print(f"{'batch':>10} {'round trips/s':>15} {'frames/s':>12} {'CPU us':>10}")
    for batch_size in BATCH_SIZES:
        print(await measure(pinger, generation, batch_size, seconds))
    await asyncio.gather(pinger.transport.stop(), echo.transport.stop())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each batch size")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    uvloop.run(main(parser.parse_args().seconds))
