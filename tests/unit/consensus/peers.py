"""Members on real sockets and strangers that talk to them: what the tests of the transport share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from raftos.consensus.handshake import Dialling, Identity, first_offer
from raftos.consensus.link import Settings, Traffic, join_frames
from raftos.consensus.transport import Transport
from raftos.levels import LEVEL

Run = Callable[[Coroutine[Any, Any, None]], None]

SECRET = b"0123456789abcdef" * 2
# Short enough for quick tests; silence and handshakes are long enough for a busy machine.
QUICK = Settings(
    handshake_s=2.0,
    ping_after_s=0.05,
    silent_after_s=1.0,
    redial_first_s=0.005,
    redial_longest_s=0.02,
    reverse_after_s=0.05,
)
# For a test in which only the lower id shall dial.
PATIENT = msgspec.structs.replace(QUICK, reverse_after_s=60.0)
NOWHERE = "127.0.0.1:1"


class Recorder:
    """A listener that remembers every call and lets a test wait for what it expects."""

    def __init__(self) -> None:
        self.links: list[tuple[str, str, int]] = []
        self.frames: list[bytes] = []
        self.moves: list[tuple[str, str]] = []
        self.heard_at_s: list[float] = []
        self.generation = self.level = 0
        self._changed = asyncio.Event()

    def linked(self, peer: str, generation: int, level: int) -> None:
        self.links.append(("linked", peer, generation))
        self.generation, self.level = generation, level
        self._changed.set()

    def unlinked(self, peer: str, generation: int) -> None:
        self.links.append(("unlinked", peer, generation))
        self._changed.set()

    def received(self, peer: str, generation: int, frames: list[bytes]) -> None:
        assert self.links[-1] == ("linked", peer, generation)
        self.frames += frames
        self._changed.set()

    def hearing(self, peer: str, generation: int) -> None:
        assert self.links[-1] == ("linked", peer, generation)
        self.heard_at_s.append(asyncio.get_running_loop().time())
        self._changed.set()

    def moved(self, peer: str, address: str) -> None:
        assert self.links[-1:] != [("linked", peer, self.generation)], "it is told before the link is"
        self.moves.append((peer, address))

    async def until(self, expected: Callable[[], bool], within_s: float = 10) -> None:
        async with asyncio.timeout(within_s):
            while not expected():
                self._changed.clear()
                await self._changed.wait()

    async def until_told(self, count: int, within_s: float = 10) -> None:
        """Wait for `linked` and `unlinked` to have been told this often, together."""
        await self.until(lambda: len(self.links) >= count, within_s)


class Member(Recorder):
    """A transport with its recorder."""

    def __init__(
        self,
        member_id: str,
        peers: dict[str, str],
        *,
        secret: bytes = SECRET,
        cluster_id: str = "cluster",
        listen_address: str = "127.0.0.1:0",
        settings: Settings = QUICK,
        advertise_address: str | None = None,
        level: int = LEVEL,
        build: str = "",
    ) -> None:
        super().__init__()
        self.transport = Transport(
            member_id=member_id,
            cluster_id=cluster_id,
            secret=secret,
            listen_address=listen_address,
            peers=peers,
            listener=self,
            settings=settings,
            advertise_address=advertise_address,
            level=level,
            build=build,
        )

    @property
    def traffic(self) -> Traffic:
        traffic = self.transport.traffic(self.links[-1][1])
        assert traffic is not None
        return traffic

    def send(self, *frames: bytes) -> bool:
        peer = self.links[-1][1]
        return self.transport.send(peer, self.generation, frames)


@asynccontextmanager
async def started(*members: Member) -> AsyncIterator[None]:
    """Members that are stopped at the end, whatever happens."""
    try:
        for member in members:
            await member.transport.start()
        yield
    finally:
        for member in members:
            await member.transport.stop()


@asynccontextmanager
async def linked_pair(settings: Settings = QUICK) -> AsyncIterator[tuple[Member, Member]]:
    """Members a and b; a dials b, and both were told of their link."""
    b = Member("b", {"a": NOWHERE}, settings=settings)
    async with started(b):
        a = Member("a", {"b": b.transport.address}, settings=settings)
        async with started(a):
            await a.until_told(1)
            await b.until_told(1)
            yield a, b


class Stranger:
    """A raw connection to a member, for saying what no member would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.sent: list[bytes] = []

    def say(self, frame: bytes) -> None:
        self.sent.append(frame)
        self.writer.write(join_frames([frame]))

    async def hear(self) -> bytes:
        size_bytes = int.from_bytes(await self.reader.readexactly(4), "big")
        return await self.reader.readexactly(size_bytes) if size_bytes else await self.hear()

    async def authenticate(self, member_id: str = "a", secret: bytes = SECRET) -> int:
        """Shake hands as a member would; returns the generation."""
        last = {"b": 0}
        identity = Identity(member_id, "cluster", secret)
        handshake = Dialling(identity, "b", first_offer(0, 1), last.get)
        self.say(handshake.hello)
        self.say(handshake.receive(await self.hear()))
        handshake.receive(await self.hear())
        return handshake.generation

    async def is_closed(self, within_s: float = 5) -> bool:
        try:
            async with asyncio.timeout(within_s):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def stranger_at(member: Member) -> AsyncIterator[Stranger]:
    host, port = member.transport.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Stranger(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def acceptor(settings: Settings = PATIENT) -> AsyncIterator[Member]:
    """Member b, which waits to be dialled by a."""
    b = Member("b", {"a": NOWHERE}, settings=settings)
    async with started(b):
        yield b
