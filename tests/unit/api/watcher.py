"""A watcher for tests: one open stream of events, read as they come."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

from tests.unit.api.harness import SECRET, Api


class Message:
    """One server-sent event."""

    def __init__(self, text: str) -> None:
        fields = dict(line.split(": ", 1) for line in text.split("\n") if line)
        self.kind = fields["event"]
        self.id = int(fields["id"]) if "id" in fields else None
        self.data: dict[str, Any] = json.loads(fields["data"])


class Watcher:
    """`async with Watcher(api, "since=0") as watcher: await watcher.next()`."""

    def __init__(self, api: Api, parameters: str = "", headers: str = "") -> None:
        self._api = api
        self._target = f"/v1/events?{parameters}"
        self._headers = headers
        self._text = b""

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._api.port)
        self.writer.write(
            f"GET {self._target} HTTP/1.1\r\nHost: 127.0.0.1:{self._api.port}\r\n"
            f"Authorization: Bearer {SECRET.hex()}\r\n{self._headers}\r\n".encode()
        )
        self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def chunk(self) -> bytes:
        """One chunk of the body; empty at its end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def next(self) -> Message:
        """The next message. Raises EOFError at the end of the stream."""
        async with asyncio.timeout(10):
            while b"\n\n" not in self._text:
                data = await self.chunk()
                if not data:
                    raise EOFError
                self._text += data
        text, _, self._text = self._text.partition(b"\n\n")
        return Message(text.decode())

    async def until(self, kind: str) -> list[Message]:
        """The messages up to and with the first of a kind."""
        found = [await self.next()]
        while found[-1].kind != kind:
            found.append(await self.next())
        return found
