"""Members that tell events and fail on request: a stand-in for a remote system, over real sockets.

Only for faults that a healthy member cannot be made to show, at the very byte they are to strike. All
tellers tell from one `Log`; each connection meets the next fault of its teller, and without one is served
well: the events after `since`, a bookmark, and then what happens, chunked and compressed as asked.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from raftos.errors import RaftosError

BOOKMARK_EVERY_S = 0.05
TIME_MS = 1_763_700_000_000


class Log:
    """What happened: the events of each revision, from 1; a revision may have none."""

    def __init__(self) -> None:
        self.revisions: list[list[dict[str, Any]]] = []
        self.changed = asyncio.Condition()

    async def say(self, *counts: int) -> None:
        """Add a revision for each count, with so many events."""
        async with self.changed:
            for count in counts:
                revision = len(self.revisions) + 1
                self.revisions.append([_event(revision, number) for number in range(count)])
            self.changed.notify_all()

    def keys(self, after: int = 0) -> list[tuple[int, str]]:
        """(revision, key) of every event after a revision."""
        return [(event["revision"], event["key"]) for told in self.revisions[after:] for event in told]


def _event(revision: int, number: int) -> dict[str, Any]:
    return {
        "type": "kv.written",
        "revision": revision,
        "time_ms": TIME_MS + revision,
        "key": f"key/{revision}/{number}",
        "version": 1,
    }


class Cut(msgspec.Struct, frozen=True):
    """After so many bytes of the response the connection is reset, or else left open and `silent`."""

    after_bytes: int
    silent: bool = False


class Ending(msgspec.Struct, frozen=True):
    """The member says `end` when it has told what there was."""

    error: RaftosError


class Refusal(msgspec.Struct, frozen=True):
    """There is no stream but an error."""

    error: RaftosError


class Garbage(msgspec.Struct, frozen=True):
    """After what there was to tell comes this."""

    data: bytes


Fault = Cut | Ending | Refusal | Garbage


class Teller:
    """One member. `faults` are met one a connection; `lag` revisions of the log are unknown to it."""

    def __init__(self, log: Log, name: str) -> None:
        self.log = log
        self.name = name
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.lag = 0
        self.chunk_bytes = 100_000
        self.asked: list[dict[str, str]] = []
        """The parameters of each request, in order."""
        self.told_bytes = 0
        self.endpoint = ""
        self._server: asyncio.Server
        self._open: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    @property
    def newest(self) -> int:
        return max(0, len(self.log.revisions) - self.lag)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        await self.hang_up()

    async def hang_up(self) -> None:
        """Reset every open connection."""
        serving = list(self._open)
        for task, writer in self._open.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open[task] = writer
        try:
            # `hang_up` cancels; Python 3.11 would log a served connection that ends so.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer((await reader.readuntil(b"\r\n\r\n")).decode(), writer)
        finally:
            del self._open[task]
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        if head.startswith("GET /livez"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            return
        query = urlsplit(head.split()[1]).query
        self.asked.append({name: values[0] for name, values in parse_qs(query).items()})
        fault = self.always or (self.faults.pop(0) if self.faults else None)
        left = fault.after_bytes if isinstance(fault, Cut) else 1 << 60
        async for part in self._response(fault, gzip="Accept-Encoding: gzip" in head):
            writer.write(part[:left])
            await writer.drain()
            self.told_bytes += len(part[:left])
            left -= len(part[:left])
            if left == 0:
                break
        if isinstance(fault, Cut):
            await asyncio.sleep(3600 if fault.silent else 0)
            writer.transport.abort()

    async def _response(self, fault: Fault | None, *, gzip: bool) -> AsyncIterator[bytes]:
        since = int(self.asked[-1].get("since", self.newest))
        since = max(0, self.newest + since) if since < 0 else since
        if isinstance(fault, Refusal):
            yield _refusal(fault.error)
            return
        encoding = "Content-Encoding: gzip\r\n" if gzip else ""
        yield f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{encoding}\r\n".encode()
        compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        async for block in self._blocks(since, fault):
            data = compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH) if gzip else block
            for start in range(0, len(data), self.chunk_bytes):
                chunk = data[start : start + self.chunk_bytes]
                yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
        yield b"0\r\n\r\n"

    async def _blocks(self, position: int, fault: Fault | None) -> AsyncIterator[bytes]:
        while True:
            newest = self.newest
            for revision in range(position + 1, newest + 1):
                for block in _revision(revision, self.log.revisions[revision - 1]):
                    yield block
            position = max(position, newest)
            if isinstance(fault, Garbage):
                yield fault.data
            if isinstance(fault, Ending):
                yield b"event: end\ndata: %b\n\n" % msgspec.json.encode({"error": fault.error.body()})
                return
            bookmark = {"revision": newest, "member": self.name, "age_ms": 7}
            yield b"event: bookmark\nid: %d\ndata: %b\n\n" % (newest, msgspec.json.encode(bookmark))
            await self._news_after(position)

    async def _news_after(self, position: int) -> None:
        """Wait for more to tell, at most until the next bookmark is due."""
        async with self.log.changed:
            with suppress(TimeoutError):
                async with asyncio.timeout(BOOKMARK_EVERY_S):
                    await self.log.changed.wait_for(lambda: self.newest > position)


def _revision(revision: int, events: list[dict[str, Any]]) -> Iterator[bytes]:
    for event in events:
        mark = b"id: %d\n" % revision if event is events[-1] else b""
        yield b"event: kv.written\n%bdata: %b\n\n" % (mark, msgspec.json.encode(event))


def _refusal(error: RaftosError) -> bytes:
    body = msgspec.json.encode({"error": error.body()})
    head = f"HTTP/1.1 {error.http_status} No\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def tellers(count: int = 1) -> AsyncIterator[list[Teller]]:
    """Members of one log, listening; stopped at the end."""
    log = Log()
    started = [Teller(log, f"n{number + 1}") for number in range(count)]
    for teller in started:
        await teller.start()
    try:
        yield started
    finally:
        for teller in started:
            await teller.stop()
