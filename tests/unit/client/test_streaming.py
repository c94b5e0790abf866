"""Claims about one response that goes on, whatever its bytes and however they come."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from raftos.client.connection import Address, Broken, Silent
from raftos.client.streaming import MOST_HELD_BYTES, PIECE_BYTES, Stream, open_stream
from raftos.errors import Unreachable

pytestmark = pytest.mark.timeout(20)

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIP_HEAD = HEAD[:-2] + b"Content-Encoding: gzip\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"
Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def member(script: Script) -> AsyncIterator[Address]:
    """A listener that answers each request with the script, and then closes the connection."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        serving.add(task)
        with suppress(ConnectionError, asyncio.CancelledError):
            await reader.read(10_000)
            await script(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield Address(f"http://127.0.0.1:{port}", f"127.0.0.1:{port}", "127.0.0.1", port)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@asynccontextmanager
async def streaming(script: Script) -> AsyncIterator[Stream]:
    async with member(script) as address:
        status, stream = await open_stream(address, REQUEST, 1)
        assert status == 200
        yield stream
        await stream.close()


def says(*parts: bytes, then_s: float = 0.0) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        await asyncio.sleep(then_s)

    return script


async def read_all(stream: Stream) -> bytes:
    body = b""
    while piece := await stream.read(1):
        body += piece
    return body


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize("gzip", [False, True])
async def test_the_body_is_the_same_in_any_pieces(size: int, gzip: bool) -> None:
    """Chunked, compressed, both, and cut anywhere by the network."""
    body = bytes(range(256)) * 20
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    data = compressor.compress(body) + compressor.flush() if gzip else body
    response = (GZIP_HEAD if gzip else HEAD) + chunk(data[:700]) + chunk(data[700:]) + b"0\r\n\r\n"
    async with streaming(says(*(response[at : at + size] for at in range(0, len(response), size)))) as stream:
        assert await read_all(stream) == body


async def test_each_flush_arrives_when_it_was_sent() -> None:
    """Compression holds nothing back."""
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    go_on = asyncio.Event()

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(GZIP_HEAD)
        for word in (b"one", b"two"):
            writer.write(chunk(compressor.compress(word) + compressor.flush(zlib.Z_SYNC_FLUSH)))
            await go_on.wait()

    async with streaming(script) as stream:
        assert await stream.read(1) == b"one"
        go_on.set()
        assert await stream.read(1) == b"two"


async def test_much_from_few_bytes_comes_in_small_pieces() -> None:
    """A megabyte of zeros is a kilobyte on the wire; it must not be unpacked at once."""
    data = zlib.compress(bytes(1 << 20), wbits=zlib.MAX_WBITS | 16)
    async with streaming(says(GZIP_HEAD, chunk(data), b"0\r\n\r\n")) as stream:
        total = 0
        while piece := await stream.read(1):
            assert len(piece) <= PIECE_BYTES
            total += len(piece)
        assert total == 1 << 20


async def test_a_slow_reader_slows_the_sender_down() -> None:
    """What is not read is not fetched, beyond a bound; and then it is all there."""
    part, parts, sent = bytes(1 << 20), 64, 0

    async def script(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD)
        for _ in range(parts):
            writer.write(chunk(part))
            await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")

    async with streaming(script) as stream:
        await asyncio.sleep(0.3)
        assert sent < parts / 2
        assert len(stream._held) <= 2 * MOST_HELD_BYTES
        received = 0
        while piece := await stream.read(1):
            received += len(piece)
        assert received == len(part) * parts


async def test_what_arrived_before_the_end_is_read_before_the_error() -> None:
    """A break is not an orderly end, and is said to be none, at every further read."""
    async with streaming(says(HEAD, chunk(b"one"), chunk(b"two")[:4])) as stream:
        await asyncio.sleep(0.1)
        assert await stream.read(1) == b"onet"
        for _ in range(2):
            with pytest.raises(Broken, match="closed"):
                await stream.read(1)


@pytest.mark.parametrize(
    "response", [b"SSH-2.0\r\n", HEAD + b"zz\r\n", GZIP_HEAD + chunk(b"not gzip"), HEAD[:20], b""]
)
async def test_nonsense_is_broken(response: bytes) -> None:
    """No HTTP, no chunks, no compression, no head: the same error as a broken connection."""
    with pytest.raises(Broken):
        async with streaming(says(response)) as stream:
            await read_all(stream)


async def test_silence_is_an_error_of_its_own() -> None:
    """Before the response, and in it."""
    async with member(says(b"", then_s=5)) as address:
        with pytest.raises(Silent):
            await open_stream(address, REQUEST, 0.05)
    async with streaming(says(HEAD, chunk(b"one"), then_s=5)) as stream:
        assert await stream.read(1) == b"one"
        with pytest.raises(Silent):
            await stream.read(0.05)


async def test_a_response_that_begins_byte_by_byte_has_one_timeout() -> None:
    """Each byte of the head is not a reason to wait on."""

    async def script(writer: asyncio.StreamWriter) -> None:
        for _ in range(100):
            writer.write(b"X-Slow: 1\r\n" if _ else b"HTTP/1.1 200 OK\r\n")
            await asyncio.sleep(0.02)

    async with member(script) as address:
        with pytest.raises(Silent):
            await open_stream(address, REQUEST, 0.2)


async def test_a_cancelled_read_loses_nothing() -> None:
    """The next one gets what arrived in between."""
    go_on = asyncio.Event()

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        await go_on.wait()
        writer.write(chunk(b"one"))
        await asyncio.sleep(1)

    async with streaming(script) as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await stream.read(1)
        go_on.set()
        await asyncio.sleep(0.05)
        assert await stream.read(1) == b"one"


async def test_closing_ends_a_read() -> None:
    """From another task, with an error and not by waiting for the silence to last."""
    async with streaming(says(HEAD, then_s=5)) as stream:
        reading = asyncio.create_task(stream.read(5))
        await asyncio.sleep(0.05)
        await stream.close()
        with pytest.raises(Broken):
            await reading


async def test_a_port_where_nobody_listens_is_unreachable() -> None:
    """As for ordinary requests."""
    with pytest.raises(Unreachable):
        await open_stream(Address("http://127.0.0.1:9", "127.0.0.1:9", "127.0.0.1", 9), REQUEST, 1)
