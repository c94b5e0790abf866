"""Claims about one connection to a member, whatever bytes come back on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from raftos.client.connection import Address, Broken, Connections, Silent
from raftos.errors import Unreachable

pytestmark = pytest.mark.timeout(20)

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nRaftos-Time: 123\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


class Script:
    """A listener that answers each request with the next of its answers, in pieces, and may then close."""

    def __init__(self, answers: Sequence[bytes], *, piece_bytes: int = 10_000, closes: bool = False) -> None:
        self.answers = list(answers)
        self.piece_bytes = piece_bytes
        self.closes = closes
        self.accepted = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        while await reader.read(10_000) and self.answers:
            answer = self.answers.pop(0)
            for start in range(0, len(answer), self.piece_bytes):
                writer.write(answer[start : start + self.piece_bytes])
                await asyncio.sleep(0)
            if self.closes:
                break
        writer.close()


@asynccontextmanager
async def asking(script: Script) -> AsyncIterator[tuple[Connections, Address]]:
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connections = Connections()
    async with server:
        yield connections, Address(f"http://127.0.0.1:{port}", f"127.0.0.1:{port}", "127.0.0.1", port)
        await connections.close()


@pytest.mark.parametrize("piece_bytes", [1, 7, 10_000])
async def test_an_answer_arrives_whole_in_whatever_pieces(piece_bytes: int) -> None:
    """Status, content type, cluster time and body, with a length or in chunks, on one connection."""
    script = Script([OK, CHUNKED, OK], piece_bytes=piece_bytes)
    async with asking(script) as (connections, address):
        for body in (b"{}", b"abcde", b"{}"):
            answer = await connections.exchange(address, REQUEST, 1)
            assert (answer.status, answer.body) == (200, body)
        assert (answer.content_type, answer.time_ms) == ("application/json", 123)
        assert script.accepted == 1


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", OK[:-1], OK[:20], b""])
async def test_half_an_answer_or_nonsense_is_broken(answer: bytes) -> None:
    """The request was sent, so its outcome is unknown; the connection is not used again."""
    script = Script([answer], closes=True)
    async with asking(script) as (connections, address):
        with pytest.raises(Broken):
            await connections.exchange(address, REQUEST, 1)


async def test_a_connection_the_member_closed_is_not_used_again() -> None:
    """Whether it said so or simply closed: the next request gets a fresh one."""
    farewell = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    for answers, closes in (([OK, OK], True), ([farewell, OK], False)):
        script = Script(answers, closes=closes)
        async with asking(script) as (connections, address):
            for _ in range(2):
                assert (await connections.exchange(address, REQUEST, 1)).status == 200
                await asyncio.sleep(0.05)
            assert script.accepted == 2


async def test_an_answer_nobody_waits_for_any_more_reaches_nobody() -> None:
    """After a timeout the next request is not given the late answer to the one before."""
    late = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        if not late.is_set():
            await late.wait()
            writer.write(OK)
        else:
            writer.write(CHUNKED)
        await reader.read()
        writer.close()

    script = Script([])
    script.serve = serve  # type: ignore[method-assign]
    async with asking(script) as (connections, address):
        with pytest.raises(Silent):
            await connections.exchange(address, REQUEST, 0.05)
        late.set()
        assert (await connections.exchange(address, REQUEST, 1)).body == b"abcde"


async def test_a_port_where_nobody_listens_is_unreachable() -> None:
    """Nothing was sent, and the error says where."""
    connections = Connections()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        await connections.exchange(Address("http://127.0.0.1:9", "127.0.0.1:9", "127.0.0.1", 9), REQUEST, 1)
