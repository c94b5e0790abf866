"""A line between a client and a member that is cut now and then: a TCP proxy for the API of one member.

Each connection gets a number of bytes and a time, both by lot; when either is used up it is reset in both
directions, in the middle of whatever was on its way. Runs on the event loop of its first use.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from raftos_cli.devcluster import Member

PIECE_BYTES = 512
MOST_BYTES = 8_000
MOST_S = 0.4


class Cutter:
    """`endpoint` leads to the member; `cuts` counts the connections that were cut."""

    def __init__(self, member: Member, choice: random.Random) -> None:
        self.member = member
        self.cuts = 0
        self.calm = False
        """No connection is cut any more while this holds."""
        self.endpoint = ""
        self._netloc = b""
        self._choice = choice
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self._netloc = f"127.0.0.1:{port}".encode()
        return server

    async def stop(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        # `stop` cancels; Python 3.11 would log a served connection that ends so.
        with suppress(OSError, asyncio.CancelledError):
            await self._connect(reader, writer)
        writer.transport.abort()
        self._serving.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.member.api_port)
        try:
            async with asyncio.timeout(None if self.calm else self._choice.uniform(0, MOST_S)):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, back, 1 << 60))
                    group.create_task(self._pump(there, writer, self._choice.randrange(MOST_BYTES)))
        except (TimeoutError, ExceptionGroup):
            self.cuts += 1
        finally:
            back.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int) -> None:
        """Move bytes until there are no more, or, unless it is calm, so many were moved; then end it all."""
        while left > 0 and (piece := await reader.read(PIECE_BYTES)):
            # The member wants to be called by its own name.
            piece = piece.replace(self._netloc, f"127.0.0.1:{self.member.api_port}".encode())[:left]
            writer.write(piece)
            await writer.drain()
            left -= 0 if self.calm else len(piece)
        raise ConnectionResetError


@asynccontextmanager
async def cutters(members: Sequence[Member], choice: random.Random) -> AsyncIterator[list[Cutter]]:
    """One for each member, serving."""
    made = [Cutter(member, choice) for member in members]
    servers = [await cutter.serve() for cutter in made]
    try:
        yield made
    finally:
        for server, cutter in zip(servers, made, strict=True):
            server.close()
            await cutter.stop()
