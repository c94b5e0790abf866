"""HTTP/1.1 to one member: keep-alive connections, one request at a time on each.

A client of raftos sends small requests to few members and cares for every microsecond of them, so
it speaks HTTP itself over httptools (the C parser under uvicorn): a third of the processor time of
aiohttp's client for each request, and a command line that starts 0.3 s sooner
(`docs/decisions/http.md`).

An attempt that gives no answer raises what is known about it, and nothing else:

    Unreachable   no connection was made: certainly nothing was sent
    Silent        the request was sent and no answer came in time    (an OutcomeUnknown)
    Broken        the request was sent and the connection broke      (an OutcomeUnknown)
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar, cast

import httptools
import msgspec

from raftos.errors import OutcomeUnknown, Unreachable

CONNECT_TIMEOUT_S = 0.5
IDLE_S = 30.0
"""A connection idle for longer is not used again: the member may be about to close it."""


Made = TypeVar("Made", bound=asyncio.BaseProtocol)


class Silent(OutcomeUnknown):
    """The request was sent and no answer came in time."""


class Broken(OutcomeUnknown):
    """The request was sent and no usable answer came back."""


class Answer(msgspec.Struct, frozen=True):
    """A response: its status, body, content type, and the member's cluster time in milliseconds."""

    status: int
    body: bytes
    content_type: str
    time_ms: int | None


class Connection(asyncio.Protocol):
    """One connection. It is `reusable` while open and between two requests."""

    def __init__(self) -> None:
        self.used_at = time.monotonic()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._lost = asyncio.get_running_loop().create_future()

    async def exchange(self, request: bytes, timeout_s: float) -> Answer:
        """Send a request and return its answer. Raises TimeoutError, or ConnectionError if it breaks."""
        if not self.reusable or self._transport is None:
            raise ConnectionResetError("the connection was closed before the request")
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._transport.write(request)
        timer = loop.call_later(timeout_s, self._break, TimeoutError())
        try:
            return await self._answer
        finally:
            timer.cancel()

    @property
    def reusable(self) -> bool:
        return self._answer is None and self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        """Drop the connection at once; an answer still on its way is nobody's."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Close the connection and wait until its socket is gone."""
        if self._transport is not None:
            self._transport.close()
            await self._lost

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name.

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(ConnectionError(f"it does not speak HTTP ({error})"))

    def connection_lost(self, error: Exception | None) -> None:
        self._break(ConnectionResetError("the connection was closed"))
        if not self._lost.done():
            self._lost.set_result(None)

    def _break(self, error: OSError) -> None:
        self.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._headers = {}
        self._body = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        waiting, self._answer = self._answer, None
        if waiting is None or not self._parser.should_keep_alive():
            self.abort()
        if waiting is not None and not waiting.done():
            waiting.set_result(self._complete_answer())
        self.used_at = time.monotonic()

    def _complete_answer(self) -> Answer:
        stamp = self._headers.get(b"raftos-time", b"")
        return Answer(
            self._parser.get_status_code(),
            b"".join(self._body),
            self._headers.get(b"content-type", b"").decode("latin-1"),
            int(stamp) if stamp.isdigit() else None,
        )


class Address(msgspec.Struct, frozen=True):
    """Where a member listens. `url` is for people, `netloc` for the Host header."""

    url: str
    netloc: str
    host: str
    port: int


class Connections:
    """Idle connections by address. Every method belongs to one event loop."""

    def __init__(self) -> None:
        self._idle: defaultdict[Address, list[Connection]] = defaultdict(list)

    async def exchange(self, address: Address, request: bytes, timeout_s: float) -> Answer:
        """One attempt, connecting included. Raises Unreachable, Silent, Broken."""
        deadline = time.monotonic() + timeout_s
        connection = self._take(address) or await connect(address, timeout_s, Connection)
        try:
            return await connection.exchange(request, deadline - time.monotonic())
        except TimeoutError as error:
            self.drop(address)
            raise Silent(f"{address.url} did not answer within {timeout_s:.3g} s") from error
        except ConnectionError as error:
            raise Broken(f"{address.url} broke off: {error}") from error
        finally:
            self._give_back(address, connection)

    def drop(self, address: Address) -> None:
        """Forget the idle connections to a member that fell silent: they lead to the same silence."""
        for connection in self._idle.pop(address, ()):
            connection.abort()

    async def close(self) -> None:
        idle = [connection for connections in self._idle.values() for connection in connections]
        self._idle.clear()
        await asyncio.gather(*(connection.close() for connection in idle))

    def _take(self, address: Address) -> Connection | None:
        idle = self._idle[address]
        while idle:
            connection = idle.pop()
            if connection.reusable and connection.used_at > time.monotonic() - IDLE_S:
                return connection
            connection.abort()
        return None

    def _give_back(self, address: Address, connection: Connection) -> None:
        if connection.reusable:
            self._idle[address].append(connection)
        else:
            connection.abort()


async def connect(address: Address, timeout_s: float, protocol: Callable[[], Made]) -> Made:
    """Connect to a member, for at most `timeout_s` and never longer than `CONNECT_TIMEOUT_S`.

    Raises Unreachable.
    """
    loop = asyncio.get_running_loop()
    limit_s = min(timeout_s, CONNECT_TIMEOUT_S)
    try:
        async with asyncio.timeout(limit_s):
            _, connection = await loop.create_connection(protocol, address.host, address.port)
    except TimeoutError as error:
        raise Unreachable(f"{address.url} accepted no connection within {limit_s:.3g} s") from error
    except OSError as error:
        raise Unreachable(f"{address.url} cannot be reached: {error.strerror or error}") from error
    return connection
