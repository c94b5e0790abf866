"""One TCP connection between two members: first a handshake, then the frames of one generation.

On the wire a frame is four bytes of length, big-endian, and that many bytes. A frame of length
zero is a ping: it says "still here" and is shown to nobody. Before authentication a frame is at
most 1 KiB and the handshake has to end within two seconds; afterwards a frame is at most 16 MiB.
Whatever breaks a rule closes the connection; there is no other reaction to a fault.

A link's life: `opened` -> `agreed` (handshake done) -> (`received` | `hearing`)* -> `lost`, each told
to its owner on the event loop; `opened` and `lost` come exactly once. `hearing` says that bytes of a
frame arrive which is not whole yet, at most every 50 ms: over a slow link a long frame takes longer
than an election timeout, and its sender is alive all the while. Frames are never reordered for that.
A frame that takes more than 30 s is no sign of life any more, or a trickle could keep a useless leader.

Closing is always an abort: what matters is sent again over the next link, and a peer that stopped
reading must not hold this one open.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, cast

import msgspec

from raftos.consensus.handshake import HANDSHAKE_FRAME_BYTES, About, Dialling, Handshake, Refused

MAX_FRAME_BYTES = 16 * 1024 * 1024

_length = struct.Struct(">I")
_PING = _length.pack(0)

CLOSED_EARLY = "it closed the connection during the handshake; its log may say why"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The times and sizes of links. The defaults are the design's; tests shorten them."""

    handshake_s: float = 2.0
    """To connect, and again to authenticate."""
    ping_after_s: float = 1.0
    """A link on which nothing was sent for this long carries a ping."""
    silent_after_s: float = 3.0
    """A link on which nothing arrived for this long is closed."""
    redial_first_s: float = 0.02
    redial_longest_s: float = 0.5
    reverse_after_s: float = 1.0
    """Without a link for this long, or up to half as long again, also the higher id of a pair dials."""
    hearing_every_s: float = 0.05
    hearing_longest_s: float = 30.0
    """For so long the bytes of one unfinished frame are a sign of life."""
    overflow_bytes: int = 32 * 1024 * 1024
    """A link with more than this waiting to be written is closed: its peer does not read."""


DEFAULT_SETTINGS = Settings()


class Traffic(NamedTuple):
    """What passed over one link so far, the handshake and the lengths of frames included."""

    sent_bytes: int
    received_bytes: int


class Owner(Protocol):
    """What a link tells whoever holds it."""

    def opened(self, link: Link) -> None: ...
    def agreed(self, link: Link) -> None: ...
    def received(self, link: Link, frames: list[bytes]) -> None: ...
    def hearing(self, link: Link) -> None: ...
    def lost(self, link: Link) -> None: ...


def join_frames(frames: Iterable[bytes]) -> bytes:
    """The frames as they go over the wire. Raises ValueError for an empty or an oversize one."""
    parts: list[bytes] = []
    for frame in frames:
        size_bytes = len(frame)
        if not 0 < size_bytes <= MAX_FRAME_BYTES:
            raise ValueError(f"a frame has 1 to {MAX_FRAME_BYTES} bytes, not {size_bytes}")
        parts += (_length.pack(size_bytes), frame)
    # One joined write costs less than writelines, measured with 1, 8 and 64 small frames.
    return b"".join(parts)


class FrameReader:
    """Cuts a stream of bytes, however it was chopped up on its way, back into frames."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._rest = bytearray()
        self._wanted_bytes = 0

    @property
    def unfinished(self) -> bool:
        """Whether some bytes of a frame have arrived and others have not."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames completed by `data`, without pings. Raises Refused for one above the limit.

        To be iterated to its end. The limit is looked at for each frame, so it may be raised in between.
        """
        if self._rest:
            self._rest += data
            # Looking only once the frame is whole keeps a long frame in many reads linear.
            if len(self._rest) < self._wanted_bytes:
                return
            data = bytes(self._rest)
            self._rest.clear()
        start, size_bytes = 0, len(data)
        while size_bytes - start >= 4:
            end = start + 4 + self._length_at(data, start)
            if end > size_bytes:
                break
            if end > start + 4:
                yield data[start + 4 : end]
            start = end
        self._keep(data[start:])

    def _length_at(self, data: bytes, start: int) -> int:
        length_bytes: int = _length.unpack_from(data, start)[0]
        if length_bytes > self.limit_bytes:
            raise Refused(f"it sent a frame longer than {self.limit_bytes} bytes")
        return length_bytes

    def _keep(self, rest: bytes) -> None:
        if rest:
            self._rest += rest
            self._wanted_bytes = 4 if len(rest) < 4 else 4 + self._length_at(rest, 0)


class Link(asyncio.Protocol):
    """One connection. `generation` is 0 until the handshake is done."""

    def __init__(self, owner: Owner, handshake: Handshake, settings: Settings) -> None:
        self.generation = 0
        self.closed = False
        self.reason = CLOSED_EARLY
        self.ended = asyncio.Event()
        self._owner = owner
        self._handshake = handshake
        self._settings = settings
        self._reader = FrameReader(HANDSHAKE_FRAME_BYTES)
        self._loop = asyncio.get_running_loop()
        self._heard_at_s = self._sent_at_s = self._loop.time()
        self._sent_bytes = self._received_bytes = 0
        self._unfinished_since_s = 0.0
        """When a frame was first seen unfinished; 0 while none is."""
        self._hearing_at_s = 0.0

    @property
    def about(self) -> About:
        """What the other side tells of itself; nothing until `generation` is set."""
        return self._handshake.about

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._sent_bytes, self._received_bytes)

    @property
    def peer(self) -> str:
        """The id of the other side; "" while it is not known, a mere claim until `generation` is set."""
        return self._handshake.peer

    @property
    def remote(self) -> str:
        """The other side's address, for logs."""
        return str(self._socket.get_extra_info("peername"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Both asyncio and uvloop have set TCP_NODELAY already; a test holds them to it.
        self._socket = cast("asyncio.Transport", transport)
        self._deadline = self._loop.call_later(
            self._settings.handshake_s, self.close, "it did not finish the handshake in time"
        )
        self._owner.opened(self)
        if isinstance(self._handshake, Dialling) and not self.closed:
            self._write_handshake(self._handshake.hello)

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self._heard_at_s = self._loop.time()
        self._received_bytes += len(data)
        arriving = self._reader.feed(data)
        try:
            if not self.generation:
                self._shake_hands(arriving)
            frames = list(arriving)
        except Refused as refusal:
            self.close(str(refusal))
            return
        if frames:
            self._unfinished_since_s = 0.0
            self._owner.received(self, frames)
        elif self.generation:
            self._hear(self._heard_at_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.is_set():
            # A reset is how an aborted connection ends: no more news than an orderly end.
            is_plain_end = exc is None or isinstance(exc, ConnectionError)
            self.close(self.reason if is_plain_end else f"the connection broke: {exc}")
            self.ended.set()
            self._owner.lost(self)

    def send(self, frames: Sequence[bytes]) -> bool:
        """Hand the frames to the socket in one write; False when the link is, or thereby gets, closed."""
        if self.closed:
            return False
        self._write(join_frames(frames))
        return not self.closed

    def keep_alive(self, now_s: float, paused_s: float = 0.0) -> None:
        """Close the link if its peer is silent, or ping if we are. `now_s` is the loop's time.

        For `paused_s` since the last call nothing could be read here: that was no silence of the peer.
        """
        self._heard_at_s = min(now_s, self._heard_at_s + paused_s)
        if now_s - self._heard_at_s >= self._settings.silent_after_s:
            self.close(f"it was silent for {self._settings.silent_after_s:g} s")
        elif now_s - self._sent_at_s >= self._settings.ping_after_s:
            self._write(_PING)

    def close(self, reason: str) -> None:
        """Drop the connection now, with all that waits to be written. `lost` follows later, not within."""
        if not self.closed:
            self.closed = True
            self.reason = reason
            self._deadline.cancel()
            self._socket.abort()
            # uvloop never calls connection_lost when connecting is cancelled after connection_made.
            self._loop.call_soon(self.connection_lost, None)

    def _hear(self, now_s: float) -> None:
        """A read that completed no frame: part of a long one, or no more than a ping."""
        if not self._reader.unfinished:
            self._unfinished_since_s = 0.0
            return
        self._unfinished_since_s = self._unfinished_since_s or now_s
        is_due = now_s - self._hearing_at_s >= self._settings.hearing_every_s
        if is_due and now_s - self._unfinished_since_s <= self._settings.hearing_longest_s:
            self._hearing_at_s = now_s
            self._owner.hearing(self)

    def _shake_hands(self, arriving: Iterator[bytes]) -> None:
        """Take the frames of the handshake and leave those after it, which may come in the same read."""
        for frame in arriving:
            reply = self._handshake.receive(frame)
            if reply:
                self._write_handshake(reply)
            if self._handshake.generation:
                self._deadline.cancel()
                self._reader.limit_bytes = MAX_FRAME_BYTES
                self.generation = self._handshake.generation
                self.reason = "it closed the connection"
                self._owner.agreed(self)
                return

    def _write_handshake(self, message: bytes) -> None:
        self._write(join_frames((message,)))

    def _write(self, data: bytes) -> None:
        self._sent_at_s = self._loop.time()
        self._sent_bytes += len(data)
        self._socket.write(data)
        if self._socket.get_write_buffer_size() > self._settings.overflow_bytes:
            self.close("it does not read what is sent to it")
