"""One HTTP connection, on real sockets and with raw bytes: what a client library would never send."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from raftos.api import connection
from raftos.api.answers import Answer, Outlet, StreamAnswer
from raftos.api.connection import MAX_BODY_BYTES, MAX_HEAD_BYTES, Connection, Request, chunk
from tests.unit.api.harness import Peer

Scenario = Callable[[Peer], Awaitable[None]]


def converse(scenario: Scenario, *, delay_s: float = 0.0) -> None:
    """Run a scenario against a server that answers with what it was asked."""

    async def echo(request: Request) -> Answer:
        await asyncio.sleep(delay_s)
        text = f"{request.method} {request.path}?{request.query} ".encode()
        return Answer(200, text + request.body, "text/plain")

    serve(scenario, echo)


def serve(scenario: Scenario, answer: Callable[[Request], Awaitable[Answer]]) -> None:
    """Run a scenario against a server with these answers."""

    async def run() -> None:
        connections: set[Connection] = set()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(answer, connections), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await scenario(Peer(reader, writer))
        writer.close()
        server.close()
        await asyncio.gather(*(found.finish() for found in list(connections)))

    asyncio.run(run())


def test_a_connection_serves_one_request_after_another() -> None:
    """Keep-alive is the rule in HTTP/1.1."""

    async def scenario(peer: Peer) -> None:
        for number in range(3):
            peer.send(b"GET /a?n=%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
            assert (await peer.response()).body == b"GET /a?n=%d " % number

    converse(scenario)


def test_pipelined_requests_are_answered_in_order() -> None:
    """Forty requests in one packet come back in their order, though each takes a while."""

    async def scenario(peer: Peer) -> None:
        peer.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(40)))
        assert [(await peer.response()).body for _ in range(40)] == [
            b"GET /%d? " % number for number in range(40)
        ]

    converse(scenario, delay_s=0.001)


def test_a_body_may_come_in_pieces_or_in_chunks() -> None:
    """Neither packet borders nor chunked encoding change what a handler sees."""

    async def scenario(peer: Peer) -> None:
        for byte in b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello":
            peer.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await peer.response()).body == b"POST /p? hello"
        peer.send(
            b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
        )
        assert (await peer.response()).body == b"POST /p? hello"

    converse(scenario)


@pytest.mark.parametrize(
    "request_head",
    [b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"],
)
def test_a_client_that_wants_to_close_is_told_and_closed(request_head: bytes) -> None:
    """`Connection: close`, and HTTP/1.0."""

    async def scenario(peer: Peer) -> None:
        peer.send(request_head)
        response = await peer.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await peer.closed()

    converse(scenario)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "invalid"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "invalid"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "invalid",
        ),
        (b"GET /" + b"a" * MAX_HEAD_BYTES, 413, "too_large"),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * MAX_HEAD_BYTES, 413, "too_large"),
        (b"GET / HTTP/1.1\r\n" + b"A: aaaaaaaa\r\n" * 4000, 413, "too_large"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
            413,
            "too_large",
        ),
    ],
)
def test_what_is_no_request_is_refused_in_the_usual_shape(sent: bytes, status: int, code: str) -> None:
    """Malformed or too large: one answer, then the connection ends."""

    async def scenario(peer: Peer) -> None:
        peer.send(sent)
        response = await peer.response()
        assert (response.status, response.headers["connection"], response.code) == (status, "close", code)
        peer.writer.close()

    converse(scenario)


def test_an_oversize_chunked_body_is_refused_while_it_is_sent() -> None:
    """The client hears 413 although it has not finished, instead of a reset."""

    async def scenario(peer: Peer) -> None:
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(MAX_BODY_BYTES // 0x10000 + 8):
            peer.send(piece)
            await peer.writer.drain()
        assert (await peer.response()).status == 413

    converse(scenario)


def test_a_client_that_asks_first_is_told_to_continue() -> None:
    """`Expect: 100-continue`, as curl sends it with larger bodies."""

    async def scenario(peer: Peer) -> None:
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await peer.response()).status == 100
        peer.send(b"ok")
        assert (await peer.response()).body == b"POST /? ok"

    converse(scenario)


def test_a_head_request_gets_no_body() -> None:
    """The next response on the connection would be misread otherwise."""

    async def scenario(peer: Peer) -> None:
        peer.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await peer.reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: 8\r\n" in head
        assert (await peer.response()).body == b"GET /next? "

    converse(scenario)


def test_an_upgrade_is_declined_by_answering_the_request() -> None:
    """We speak HTTP/1.1 only; the connection ends, because what follows is not ours."""

    async def scenario(peer: Peer) -> None:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert (await peer.response()).status == 200
        assert await peer.closed()

    converse(scenario)


def test_finish_lets_the_request_at_hand_end() -> None:
    """A stopping daemon answers what it has begun."""

    async def scenario(peer: Peer) -> None:
        peer.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.02)

    async def slow(request: Request) -> Answer:
        await asyncio.sleep(0.1)
        return Answer(200, b"done", "text/plain")

    async def run() -> None:
        connections: set[Connection] = set()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(slow, connections), "127.0.0.1", 0)
        peer = Peer(*await asyncio.open_connection(*server.sockets[0].getsockname()))
        await scenario(peer)
        [connection] = connections
        finishing = asyncio.ensure_future(connection.finish())
        response = await peer.response()
        assert (response.headers["connection"], response.body) == ("close", b"done")
        await finishing
        assert await peer.closed()
        server.close()
        peer.writer.close()

    asyncio.run(run())


def stream(scenario: Scenario, run: Callable[[Outlet], Awaitable[None]]) -> None:
    """Run a scenario against a server that answers everything with one stream."""

    async def answer(_request: Request) -> Answer:
        return StreamAnswer(200, b"", "text/plain", run=run)

    serve(scenario, answer)


def test_a_stream_is_sent_piece_by_piece_and_ends_the_connection() -> None:
    """In chunks, because nobody knows how long it gets; what the client still sends is not looked at."""

    async def run(outlet: Outlet) -> None:
        for piece in (b"one ", b"two"):
            outlet.write(chunk(piece))
            await asyncio.sleep(0)

    async def scenario(peer: Peer) -> None:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await peer.reader.readuntil(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked\r\n" in head
        assert b"Connection: close\r\n" in head
        assert await peer.reader.read() == b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n"

    stream(scenario, run)


def test_a_stream_whose_reader_leaves_is_cancelled() -> None:
    """So that nothing is kept for somebody who is gone."""
    left = asyncio.Event()

    async def run(_outlet: Outlet) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async def scenario(peer: Peer) -> None:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.close()
        await asyncio.wait_for(left.wait(), 5)

    stream(scenario, run)


def test_a_reader_that_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for it ends, and what was buffered is thrown away."""
    monkeypatch.setattr(connection, "STALLED_S", 0.05)
    dropped = asyncio.Event()

    async def run(outlet: Outlet) -> None:
        try:
            while True:
                outlet.write(chunk(bytes(100_000)))
                await outlet.drained()
        except ConnectionResetError:
            dropped.set()
            raise

    async def scenario(peer: Peer) -> None:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(dropped.wait(), 5)

    stream(scenario, run)


@pytest.mark.parametrize("trouble", [ValueError("a bug"), asyncio.CancelledError()])
def test_a_stream_that_breaks_off_is_never_taken_for_whole(trouble: BaseException) -> None:
    """The connection ends, without the chunk that says that it was all."""

    async def run(outlet: Outlet) -> None:
        outlet.write(chunk(b"one"))
        await outlet.drained()
        raise trouble

    async def scenario(peer: Peer) -> None:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await peer.reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionResetError):
            assert not (await asyncio.wait_for(peer.reader.read(), 5)).endswith(b"0\r\n\r\n")

    stream(scenario, run)


def test_an_answer_that_is_given_up_ends_the_connection() -> None:
    """Its own task was cancelled, not the connection: nobody waits for ever."""

    async def given_up(_request: Request) -> Answer:
        raise asyncio.CancelledError

    async def scenario(peer: Peer) -> None:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress(ConnectionResetError):
            assert await peer.closed()

    serve(scenario, given_up)
