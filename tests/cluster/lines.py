"""Lines of our own between two sockets, and what goes wrong on a line: delay, loss, a narrow or dead way.

A line listens on one socket and carries bytes to another and back. Each of its two **ways** has conditions
of its own, which may change at any time:

    delay, jitter     bytes arrive so much later, in their order
    rate              at most so many bytes a second
    loss              a piece is "lost" so often: it and all behind it come after a retransmission timeout
    stalled           nothing arrives until it ends; then everything does, late

`cut` resets the connections of a line. All lines of an `Exchange` live on the event loop of its one thread,
and its end fails where one of them has ended before. Members with lines between them are told the lines'
ports as their peers' addresses.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from raftos.config import Voter
from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster

PIECE_BYTES = 16 * 1024
QUEUED_PIECES = 256
RETRANSMISSION_S = 0.2
LOOK_S = 0.01
BACKLOG = 64

Address = tuple[str, int]
Dial = Callable[[], socket.socket]
"""Makes a socket to connect with, in whatever network the line ends."""


@dataclass
class Way:
    """The conditions of one direction, and how many bytes it has carried."""

    delay_s: float = 0
    jitter_s: float = 0
    bytes_per_s: float | None = None
    loss: float = 0
    stalled: bool = False
    carried_bytes: int = 0

    def heal(self) -> None:
        self.delay_s = self.jitter_s = self.loss = 0
        self.bytes_per_s, self.stalled = None, False

    def takes_s(self, size_bytes: int, choice: random.Random) -> tuple[float, float]:
        """How long a piece is on its way, and how long it occupies the line."""
        late_s = self.delay_s + choice.uniform(0, self.jitter_s)
        lost_s = choice.uniform(1, 3) * RETRANSMISSION_S if choice.random() < self.loss else 0.0
        return late_s + lost_s, size_bytes / self.bytes_per_s if self.bytes_per_s else 0.0


@dataclass
class Line:
    """One listening socket and where it leads. `there` is the way from whoever dials, `back` the other."""

    listener: socket.socket
    dial: Dial
    target: Address
    choice: random.Random
    there: Way = field(default_factory=Way)
    back: Way = field(default_factory=Way)
    _loop: asyncio.AbstractEventLoop | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    def cut(self) -> None:
        """Reset every connection of this line."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for task in self._connections:
            task.cancel()

    async def serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await self._loop.sock_accept(self.listener)
            task = self._loop.create_task(self._carry(accepted))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _carry(self, accepted: socket.socket) -> None:
        """Carry bytes both ways until either end closes; then both are reset, as links are when closed."""
        assert self._loop is not None
        ends = [accepted]
        try:
            dialled = self.dial()
            ends.append(dialled)
            for end in ends:
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(dialled, self.target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._move(accepted, dialled, self.there))
                group.create_task(self._move(dialled, accepted, self.back))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # However a connection ends: both its ends learn of it below.
        finally:
            for end in ends:
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                end.close()

    async def _move(self, source: socket.socket, target: socket.socket, way: Way) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_PIECES)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_in(source, queue, way))
            group.create_task(self._hand_out(queue, target, way))

    async def _take_in(
        self, source: socket.socket, queue: asyncio.Queue[tuple[float, bytes]], way: Way
    ) -> None:
        assert self._loop is not None
        due_s = 0.0
        while piece := await self._loop.sock_recv(source, PIECE_BYTES):
            late_s, occupied_s = way.takes_s(len(piece), self.choice)
            now_s = self._loop.time()
            # In order, and one after another where the line is narrow.
            due_s = max(now_s + late_s, due_s, now_s) + occupied_s
            await queue.put((due_s, piece))
        raise ConnectionResetError

    async def _hand_out(
        self, queue: asyncio.Queue[tuple[float, bytes]], target: socket.socket, way: Way
    ) -> None:
        assert self._loop is not None
        while True:
            due_s, piece = await queue.get()
            if (wait_s := due_s - self._loop.time()) > 0:
                await asyncio.sleep(wait_s)
            while way.stalled:  # noqa: ASYNC110 - another thread, the test's, ends it
                await asyncio.sleep(LOOK_S)
            await self._loop.sock_sendall(target, piece)
            way.carried_bytes += len(piece)


class Exchange:
    """A thread with an event loop that serves lines, from `with` to its end."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self.lines: list[Line] = []
        self._serving: list[Future[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lines")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = [serving for serving in self._serving if serving.done()]
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        for line in self.lines:
            line.listener.close()
        if error is None:
            for serving in ended:
                serving.result()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def line(self, listener: socket.socket, dial: Dial, target: Address) -> Line:
        """Serve one more line; it takes the listening socket over."""
        listener.setblocking(False)
        line = Line(listener, dial, target, random.Random(self.choice.random()))
        self.lines.append(line)
        self._serving.append(asyncio.run_coroutine_threadsafe(line.serve(), self._loop))
        return line


def listening(address: Address) -> socket.socket:
    """A socket that listens; port 0 takes a free one."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(BACKLOG)
    return listener


class Lines:
    """A line of each member to each other, for a cluster that does not run yet."""

    def __init__(self, cluster: Cluster, exchange: Exchange) -> None:
        self._lines = {
            (dialler.name, acceptor.name): exchange.line(
                listening(("127.0.0.1", 0)), socket.socket, ("127.0.0.1", acceptor.peer_port)
            )
            for dialler in cluster.members
            for acceptor in cluster.members
            if dialler is not acceptor
        }
        for member in cluster.members:
            self._redirect(cluster, member)

    def _redirect(self, cluster: Cluster, member: Member) -> None:
        """Name the lines as the addresses of a member's peers."""

        def port(peer: Member) -> int:
            return peer.peer_port if peer is member else self._lines[member.name, peer.name].port

        voters = tuple(
            Voter(peer.id, peer.name, f"127.0.0.1:{port(peer)}", peer.endpoint) for peer in cluster.members
        )
        # They are not to learn where the others really are.
        cluster.configure(member, voters=voters, advertised_peer_address="")

    def between(self, one: Member, other: Member) -> list[Line]:
        return [self._lines[one.name, other.name], self._lines[other.name, one.name]]

    def ways(self, sender: Member, receiver: Member) -> list[Way]:
        """What carries bytes from one member to the other, whichever of them dialled."""
        return [
            self._lines[sender.name, receiver.name].there,
            self._lines[receiver.name, sender.name].back,
        ]

    def carried_bytes(self, sender: Member, receiver: Member) -> int:
        return sum(way.carried_bytes for way in self.ways(sender, receiver))

    def all_ways(self) -> list[Way]:
        return [way for line in self._lines.values() for way in (line.there, line.back)]

    def all_lines(self) -> Sequence[Line]:
        return list(self._lines.values())

    @contextmanager
    def under(self, ways: Sequence[Way], **conditions: float) -> Iterator[None]:
        """These conditions on these ways, until the end of the block."""
        for way in ways:
            for name, value in conditions.items():
                setattr(way, name, value)
        yield
        for way in ways:
            way.heal()
