"""A thousand watchers of one member, in one process that does as little as it can.

    python -m bench.watchers --endpoint URL --watchers 1000

Prints `ready` when all streams are open. Then it reads them all until its standard input is closed and
nothing more comes, and prints one JSON object: how many events each watcher got, and whether each got
every one. One stream is decompressed and held against its revisions, which have to be without a gap; all
others have to carry the very same bytes, which their checksums show.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import socket
import sys
import zlib
from contextlib import suppress
from urllib.parse import urlsplit

import msgspec

from raftos.client.contexts import resolve

READ_BYTES = 256 * 1024
QUIET_S = 1.0


class Crowd(msgspec.Struct, frozen=True):
    """What the watchers got: `complete` when each got every event of all revisions, in order."""

    watchers: int
    events: int
    bytes_each: int
    complete: bool


class Stream:
    """One watcher. What it reads after its first chunks is the same for all of them."""

    def __init__(self, connection: socket.socket, *, keep: bool) -> None:
        self.connection = connection
        self.checksum = 0
        self.size_bytes = 0
        self.kept: list[bytes] | None = [] if keep else None

    def forget(self) -> None:
        """Read away the bookmarks that came while the others were opened."""
        self.connection.setblocking(False)
        with suppress(BlockingIOError):
            while self.connection.recv(READ_BYTES):
                pass

    def read(self) -> bool:
        data = self.connection.recv(READ_BYTES)
        self.checksum = zlib.crc32(data, self.checksum)
        self.size_bytes += len(data)
        if self.kept is not None:
            self.kept.append(data)
        return bool(data)


def opened(host: str, port: int, token: str, *, keep: bool) -> Stream:
    """A watcher that has read up to and with its first bookmark."""
    connection = socket.create_connection((host, port))
    connection.sendall(
        f"GET /v1/events HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
        "Accept-Encoding: gzip\r\n\r\n".encode()
    )
    head = b""
    while not (b"bookmark" in head and head.endswith(b"\n\n\r\n")):
        data = connection.recv(READ_BYTES)
        if not data or b" 200 " not in head + data:
            raise RuntimeError(f"no stream: {(head + data)[:400]!r}")
        head += data
    return Stream(connection, keep=keep)


def unchunked(data: bytes) -> bytes:
    parts, at = [], 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(parts)


def revisions(stream: Stream) -> list[int]:
    """The ids of everything but bookmarks; each block is readable without those before it."""
    body = unchunked(b"".join(stream.kept or ()))
    text = zlib.decompressobj(-zlib.MAX_WBITS).decompress(body).decode()
    messages = [message for message in text.split("\n\n") if "event: bookmark" not in message]
    return [
        int(found[1]) for message in messages if (found := re.search(r"^id: (\d+)$", message, re.MULTILINE))
    ]


def watch(streams: list[Stream]) -> None:
    """Read everything until standard input is closed and all is quiet."""
    selector = selectors.DefaultSelector()
    for stream in streams:
        selector.register(stream.connection, selectors.EVENT_READ, stream)
    selector.register(sys.stdin, selectors.EVENT_READ)
    told_to_end = False
    while True:
        ready = selector.select(QUIET_S if told_to_end else None)
        if not ready:
            return
        for key, _ in ready:
            if key.data is None:
                told_to_end = True
                selector.unregister(sys.stdin)
            elif not key.data.read():
                raise RuntimeError("a stream ended")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--watchers", type=int, default=1_000)
    arguments = parser.parse_args()
    parts = urlsplit(arguments.endpoint)
    token = resolve([arguments.endpoint], None).token
    streams = [
        opened(parts.hostname or "", parts.port or 0, token, keep=number == 0)
        for number in range(arguments.watchers)
    ]
    for stream in streams:
        stream.forget()
    print("ready", flush=True)
    watch(streams)
    ids = revisions(streams[0])
    same = len({(stream.size_bytes, stream.checksum) for stream in streams}) == 1
    complete = same and bool(ids) and ids == list(range(ids[0], ids[0] + len(ids)))
    crowd = Crowd(len(streams), len(ids), streams[0].size_bytes, complete)
    print(msgspec.json.encode(crowd).decode(), flush=True)
    os._exit(0)  # A thousand sockets need no ceremony.


if __name__ == "__main__":
    main()
