"""One HTTP/1.1 connection: requests in, answers out, in order.

llhttp (through httptools, as uvicorn does) does the parsing. A connection gathers one request at a
time, whole, within the limits below, and one task serves them in the order they came. What cannot be
parsed or is too large is answered with the usual error shape, and the connection closes after it.

This takes under a third of the processor time of aiohttp's server: docs/decisions/http.md has the figures.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import cast

import httptools
import msgspec
import structlog

from raftos.api.answers import Answer, Outlet, StreamAnswer, error_answer
from raftos.errors import InvalidInput, RaftosError, TooLarge

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_HEAD_BYTES = 32 * 1024
LINGER_S = 1.0
STALLED_S = 30.0
"""A reader of a stream that takes nothing for this long is gone."""
MAX_QUEUED_REQUESTS = 16
"""Pipelined requests that may wait on one connection before it is read no further."""


class Request(msgspec.Struct, gc=False):
    """One whole request. Header names are lower case; `refused` says why it could not be read."""

    method: str = ""
    path: str = ""
    query: str = ""
    headers: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = False
    refused: RaftosError | None = None

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Connection(asyncio.Protocol):
    """`answer(request)` must not raise. `connections` holds every open connection of the server."""

    def __init__(self, answer: Callable[[Request], Awaitable[Answer]], connections: set[Connection]) -> None:
        self._answer = answer
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._silent_bytes = 0
        self._queue: deque[Request] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._ending = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]

    # The transport calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self._task.add_done_callback(self._served)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        # Heads are counted where they come in: the parser keeps an unfinished one to itself.
        self._silent_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._ending = True  # We upgrade to nothing; the request itself was delivered.
        except httptools.HttpParserError:
            self._refuse(InvalidInput("this is not an HTTP/1.1 request"))
        if self._silent_bytes > MAX_HEAD_BYTES:
            self._refuse(TooLarge(f"the head of a request may have {MAX_HEAD_BYTES} bytes"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # The parser calls these.

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._body = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self._headers and name == b"host":
            self._refuse(InvalidInput("a request names one Host"))
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        self._silent_bytes = 0
        if int(self._headers.get(b"content-length", 0)) > MAX_BODY_BYTES:
            self._refuse(_BODY_TOO_LARGE)
        elif b"expect" in self._headers and self._headers[b"expect"].lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse(_BODY_TOO_LARGE)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._silent_bytes = 0
        if self._ending:
            return
        parser = self._parser
        path, _, query = self._url.partition(b"?")
        self._deliver(
            Request(
                parser.get_method().decode(),
                path.decode("latin-1"),
                query.decode("latin-1"),
                self._headers,
                self._body[0] if len(self._body) == 1 else b"".join(self._body),
                parser.should_keep_alive() and parser.get_http_version() == "1.1",
            )
        )

    # Serving.

    def _refuse(self, error: RaftosError) -> None:
        """Answer with this error, after the requests before it, and read nothing more."""
        if not self._ending:
            self._ending = True
            self._deliver(Request(refused=error))

    def _deliver(self, request: Request) -> None:
        queue = self._queue
        queue.append(request)
        if self._waiter is not None:
            self._waiter.set_result(None)
            self._waiter = None
        elif len(queue) > MAX_QUEUED_REQUESTS and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        goes_on = True
        while goes_on:
            if not self._queue:
                if self._paused:
                    self._paused = False
                    self._transport.resume_reading()
                self._waiter = loop.create_future()
                await self._waiter
            request = self._queue.popleft()
            answer = error_answer(request.refused) if request.refused else await self._answer(request)
            if isinstance(answer, StreamAnswer) and request.method != "HEAD":
                await self._stream(answer)
                return
            goes_on = request.keep_alive and not (self._ending and not self._queue)
            self._transport.write(render(answer, last=not goes_on, with_body=request.method != "HEAD"))
            if not self._writable.is_set():
                await self._writable.wait()
        if request.refused:
            # Closing on unread bytes would reset the connection and take the answer with it.
            self._transport.write_eof()
            await asyncio.sleep(LINGER_S)
        self._transport.close()

    def _served(self, task: asyncio.Task[None]) -> None:
        """Whatever went wrong, nobody waits for what will not come, or takes a part for the whole."""
        if task.cancelled():
            self._transport.abort()
        elif error := task.exception():
            _log.error("a connection ended in a bug", exc_info=error)
            self._transport.abort()

    async def _stream(self, answer: StreamAnswer) -> None:
        """Send a body piece by piece, the last thing on this connection."""
        self._ending = True
        transport = self._transport
        chunked = answer.size_bytes is None
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {answer.size_bytes}"
        transport.write(render_head(answer, f"{framing}\r\n", last=True))
        with suppress(ConnectionResetError):  # Then there is nobody to say anything to.
            await answer.run(_Body(transport, self._writable))
        if chunked:
            transport.write(b"0\r\n\r\n")
        transport.close()
        # What is still buffered goes out after closing, but not to a reader that takes nothing.
        asyncio.get_running_loop().call_later(STALLED_S, transport.abort)

    async def finish(self) -> None:
        """End after the request at hand; at once when there is none."""
        self._ending = True
        if self._waiter is not None:
            self._transport.close()
        await asyncio.wait([self._task])

    def abort(self) -> None:
        self._transport.abort()


def chunk(data: bytes) -> bytes:
    """Some of a body of unknown length (RFC 9112, 7.1), as it is sent."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Body(Outlet):
    """The body of one stream."""

    def __init__(self, transport: asyncio.Transport, writable: asyncio.Event) -> None:
        self._transport = transport
        self._writable = writable

    def write(self, block: bytes) -> None:
        self._transport.write(block)

    @property
    def backlog_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    async def drained(self) -> None:
        try:
            # Not `wait_for`: in Python 3.11 that may swallow the cancellation of a reader that leaves.
            async with asyncio.timeout(STALLED_S):
                await self._writable.wait()
        except TimeoutError as error:
            self._transport.abort()
            raise ConnectionResetError("the reader of a stream takes nothing") from error


_log = structlog.get_logger(__name__)
_BODY_TOO_LARGE = TooLarge(f"a body may have {MAX_BODY_BYTES} bytes")
_REASONS = {status.value: status.phrase for status in HTTPStatus}


@lru_cache(maxsize=64)
def _head(status: int, content_type: str, second: int) -> str:
    """What responses of one second have in common."""
    return (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
        f"Date: {formatdate(second, usegmt=True)}\r\n"
        f"Content-Type: {content_type}\r\n"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
    )


def render(answer: Answer, *, last: bool, with_body: bool) -> bytes:
    """The bytes of a response (RFC 9112)."""
    head = render_head(answer, f"Content-Length: {len(answer.body)}\r\n", last=last)
    return head + answer.body if with_body else head


def render_head(answer: Answer, framing: str, *, last: bool) -> bytes:
    """The status line and the headers; `framing` says where the body ends."""
    common = _head(answer.status, answer.content_type, int(time.time()))
    close = "Connection: close\r\n" if last else ""
    return f"{common}{close}{answer.headers}{framing}\r\n".encode("latin-1")
