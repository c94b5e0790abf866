"""A cable in front of a member: it can be cut, slowed down and led elsewhere, and nobody is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

READ_BYTES = 16384


class Cable:
    """Passes connections on to a member. While it is cut, what was sent waits and may arrive much later."""

    def __init__(self) -> None:
        self.leads_to = ""
        self.bytes_per_s = 0
        """0: as fast as it goes."""
        self.address = ""
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        """Of both ends: a task that is cancelled before it begins closes nothing."""

    def cut(self) -> None:
        self._whole.clear()

    def heal(self) -> None:
        self._whole.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._whole.wait()
            host, port = self.leads_to.split(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port), limit=READ_BYTES)
        except (OSError, ValueError):
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(far_writer)
        there = asyncio.create_task(self._carry(reader, far_writer))
        back = asyncio.create_task(self._carry(far_reader, writer))
        for task in (there, back):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(READ_BYTES):
                if self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # An aborted connection is an end like any other; it is passed on below.
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # What was accepted a moment ago is known now.
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def cables(count: int) -> AsyncIterator[list[Cable]]:
    """Cables that listen on free ports; where each leads is set later."""
    made = [Cable() for _ in range(count)]
    servers = []
    for cable in made:
        server = await asyncio.start_server(cable.accept, "127.0.0.1", 0, limit=READ_BYTES)
        host, port = server.sockets[0].getsockname()
        cable.address = f"{host}:{port}"
        servers.append(server)
    try:
        yield made
    finally:
        for cable, server in zip(made, servers, strict=True):
            server.close()
            cable.heal()
            await cable.close()
