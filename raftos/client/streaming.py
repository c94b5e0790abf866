"""One response that goes on: a GET whose body is read as it comes, for as long as both sides like.

The body may be chunked and compressed. What has arrived is kept as it came, still compressed, up to a
bound; above it the socket is read no further, so a slow reader slows the sender down instead of filling
this process. Whoever reads gets small pieces and decides how long to wait for each.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from contextlib import suppress
from typing import cast

import httptools

from raftos.client.connection import Address, Answer, Broken, Silent, connect

MOST_HELD_BYTES = 256 * 1024
"""With more than this unread, the socket is read no further; what it gave last may exceed it."""
PIECE_BYTES = 64 * 1024
MAX_ERROR_BYTES = 64 * 1024

_GZIP = zlib.MAX_WBITS | 16


class Stream(asyncio.Protocol):
    """The response on a connection of its own. Times are in seconds; Broken and Silent are OutcomeUnknown."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._url = ""
        self._headers: dict[bytes, bytes] = {}
        self._begun = False
        self._complete = False
        self._broken = ""
        self._held = bytearray()
        self._inflate: zlib._Decompress | None = None
        self._paused = False
        self._loop = asyncio.get_running_loop()
        self._change = asyncio.Event()
        self._lost = asyncio.Event()

    async def begin(self, request: bytes, url: str, timeout_s: float) -> int:
        """Send the request and return the status of the response. Raises Silent, Broken."""
        self._url = url
        self._transport.write(request)
        deadline = time.monotonic() + timeout_s
        while not self._begun:
            await self._wait(deadline - time.monotonic())
        return self._parser.get_status_code()

    async def read(self, patience_s: float) -> bytes:
        """The next piece of the body; empty at its end. Raises Silent, Broken.

        Cancelling loses nothing.
        """
        while not (piece := self._take()):
            if self._complete:
                return b""
            await self._wait(patience_s)
        return piece

    async def whole(self, patience_s: float) -> Answer:
        """The response as an ordinary one, for an error that came instead of a stream."""
        body = b""
        while len(body) < MAX_ERROR_BYTES and (piece := await self.read(patience_s)):
            body += piece
        content_type = self._headers.get(b"content-type", b"").decode("latin-1")
        return Answer(self._parser.get_status_code(), body, content_type, None)

    def header(self, name: bytes) -> str | None:
        """A header of the response, by its name in lower case; None where it has none."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    def abort(self) -> None:
        """Drop the connection at once; a `read` that waits ends with Broken."""
        self._transport.abort()

    def forget(self) -> None:
        """The same, from any thread, even when the event loop is gone."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.abort)

    async def close(self) -> None:
        """Drop the connection and wait until its socket is gone."""
        self._transport.abort()
        await self._lost.wait()

    async def _wait(self, patience_s: float) -> None:
        """Until something changed. Raises Silent when nothing does, Broken when nothing can."""
        if self._broken:
            raise Broken(f"{self._url} broke off: {self._broken}")
        self._change.clear()
        try:
            async with asyncio.timeout(patience_s):
                await self._change.wait()
        except TimeoutError as error:
            raise Silent(f"{self._url} said nothing for {patience_s:.3g} s") from error

    def _take(self) -> bytes:
        """Some of what is held, decompressed; empty if there is nothing."""
        if self._inflate is None:
            piece = bytes(self._held[:PIECE_BYTES])
            del self._held[:PIECE_BYTES]
        else:
            piece = self._inflated(self._inflate)
        if self._paused and len(self._held) <= MOST_HELD_BYTES // 2 and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return piece

    def _inflated(self, inflate: zlib._Decompress) -> bytes:
        try:
            piece = inflate.decompress(self._held, PIECE_BYTES)
        except zlib.error as error:
            self._fail(f"its compression is damaged ({error})")
            return b""
        self._held[:] = inflate.unconsumed_tail
        return piece

    def _fail(self, reason: str) -> None:
        """End with this reason, unless the response was complete or has failed before."""
        if not self._complete:
            self._broken = self._broken or reason
        self._transport.abort()
        self._change.set()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name.

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"it does not speak HTTP ({error})")
        self._change.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail("the connection was closed")
        self._lost.set()

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._begun = True
        if self._headers.get(b"content-encoding") == b"gzip":
            self._inflate = zlib.decompressobj(_GZIP)

    def on_body(self, body: bytes) -> None:
        self._held += body
        if len(self._held) > MOST_HELD_BYTES and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._complete = True


async def open_stream(address: Address, request: bytes, timeout_s: float) -> tuple[int, Stream]:
    """Connect and send; the status and what follows it. Raises Unreachable, Silent, Broken."""
    stream = await connect(address, timeout_s, Stream)
    try:
        return await stream.begin(request, address.url, timeout_s), stream
    except BaseException:  # Also cancelling: nobody has the stream yet who could end it.
        stream.abort()
        raise
