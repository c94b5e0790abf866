"""Frames on one connection: their order, their boundaries and their limits, however the bytes are cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftos.consensus.handshake import HANDSHAKE_FRAME_BYTES, Accepting, Dialling, Identity, Refused
from raftos.consensus.link import (
    DEFAULT_SETTINGS,
    MAX_FRAME_BYTES,
    FrameReader,
    Link,
    Settings,
    Traffic,
    join_frames,
)

SECRET = b"s" * 32
FRAMES = st.lists(st.binary(min_size=1, max_size=300), max_size=30)
CUTS = st.lists(st.integers(min_value=1, max_value=200), min_size=1, max_size=20)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """`data` cut into pieces of these sizes, over and over."""
    start = turn = 0
    while start < len(data):
        end = start + cuts[turn % len(cuts)]
        yield data[start:end]
        start, turn = end, turn + 1


@given(FRAMES, CUTS)
@settings(max_examples=100, deadline=None)
def test_frames_survive_any_chunking(frames: list[bytes], cuts: list[int]) -> None:
    """The same frames come out, in order, wherever the stream was cut."""
    reader = FrameReader(MAX_FRAME_BYTES)
    assert [frame for piece in pieces(join_frames(frames), cuts) for frame in reader.feed(piece)] == frames


def test_pings_are_not_frames() -> None:
    """A frame of length zero is swallowed, also between others and cut in two."""
    reader = FrameReader(10)
    data = bytes(4) + join_frames([b"x"]) + bytes(4) + join_frames([b"y"]) + bytes(4)
    assert list(reader.feed(data)) == [b"x", b"y"]
    assert [frame for piece in pieces(data, [3]) for frame in reader.feed(piece)] == [b"x", b"y"]


@pytest.mark.parametrize("header_cut", [1, 3, 4, 5])
def test_a_frame_above_the_limit_is_refused_by_its_header(header_cut: int) -> None:
    """Not one byte of an oversize frame is gathered: its length is enough."""
    reader = FrameReader(10)
    data = (11).to_bytes(4, "big") + b"x"
    with pytest.raises(Refused, match="longer than 10 bytes"):
        _ = [list(reader.feed(piece)) for piece in (data[:header_cut], data[header_cut:])]
    assert list(FrameReader(10).feed(join_frames([b"x" * 10]))) == [b"x" * 10]


@pytest.mark.parametrize("size_bytes", [0, MAX_FRAME_BYTES + 1])
def test_an_empty_or_oversize_frame_cannot_be_sent(size_bytes: int) -> None:
    """A sender's mistake is its own: it does not reach the wire."""
    with pytest.raises(ValueError, match="a frame has 1 to"):
        join_frames([b"fine", bytes(size_bytes)])


class Wire(asyncio.Transport):
    """A socket of the event loop's kind that only remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted = True

    def take(self) -> bytes:
        written = bytes(self.written)
        self.written.clear()
        return written


class Holder:
    """Remembers what a link told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.frames: list[bytes] = []
        self.reads: list[int] = []

    def opened(self, link: Link) -> None:
        self.told.append("opened")

    def agreed(self, link: Link) -> None:
        self.told.append("agreed")

    def received(self, link: Link, frames: list[bytes]) -> None:
        self.frames += frames
        self.reads.append(len(frames))

    def hearing(self, link: Link) -> None:
        self.told.append("hearing")

    def lost(self, link: Link) -> None:
        self.told.append("lost")


class End:
    """One end of a link, its wire in our hands."""

    def __init__(self, handshake: Dialling | Accepting, settings: Settings) -> None:
        self.holder, self.wire = Holder(), Wire()
        self.link = Link(self.holder, handshake, settings)
        self.link.connection_made(self.wire)

    def feed(self, data: bytes, cuts: list[int]) -> None:
        for piece in pieces(data, cuts):
            self.link.data_received(piece)


def two_ends(settings: Settings = DEFAULT_SETTINGS) -> tuple[End, End]:
    peers = {"a": 0, "b": 0}
    return (
        End(Dialling(Identity("a", "cluster", SECRET), "b", 1, peers.get), settings),
        End(Accepting(Identity("b", "cluster", SECRET), peers.get), settings),
    )


async def exchange(frames: list[bytes], cuts: list[int]) -> tuple[End, End]:
    """A handshake, then frames that follow the acceptor's last handshake message without a gap."""
    dialler, acceptor = two_ends()
    acceptor.feed(dialler.wire.take(), cuts)
    dialler.feed(acceptor.wire.take(), cuts)
    acceptor.feed(dialler.wire.take(), cuts)
    assert acceptor.link.send(frames)
    dialler.feed(acceptor.wire.take(), cuts)
    for end in (dialler, acceptor):
        assert [told for told in end.holder.told if told != "hearing"] == ["opened", "agreed"]
        end.link.close("the test is over")
    return dialler, acceptor


@given(FRAMES, CUTS)
@settings(max_examples=50, deadline=None)
def test_a_whole_session_survives_any_chunking(frames: list[bytes], cuts: list[int]) -> None:
    """Handshake and frames, run together and cut anywhere, give one link and the same frames."""
    dialler, _ = asyncio.run(exchange(frames, cuts))
    assert dialler.holder.frames == frames


def test_one_read_is_one_call() -> None:
    """All whole frames of a read come in one list, also those behind the handshake's last message."""
    frames = [bytes([number]) * 2000 for number in range(50)]
    dialler, _ = asyncio.run(exchange(frames, [10**6]))
    assert dialler.holder.reads == [50]


def test_a_long_frame_in_many_reads_arrives_whole() -> None:
    """The largest frame allowed passes, gathered from reads of 64 KiB."""
    frame = bytes(range(256)) * (MAX_FRAME_BYTES // 256)
    dialler, _ = asyncio.run(exchange([frame], [65536]))
    assert dialler.holder.frames == [frame]


def test_a_breach_closes_the_link_and_delivers_nothing_more() -> None:
    """After an oversize length nothing that follows is believed."""

    async def scenario() -> End:
        dialler, acceptor = two_ends()
        acceptor.feed(dialler.wire.take(), [100])
        acceptor.feed((HANDSHAKE_FRAME_BYTES + 1).to_bytes(4, "big"), [100])
        acceptor.feed(join_frames([b"late"]), [100])
        acceptor.link.connection_lost(None)
        dialler.link.close("the test is over")
        return acceptor

    acceptor = asyncio.run(scenario())
    assert acceptor.wire.aborted
    assert acceptor.holder.told == ["opened", "lost"]
    assert acceptor.holder.frames == []
    assert "longer than 1024 bytes" in acceptor.link.reason


async def linked_ends(settings: Settings) -> tuple[End, End]:
    """Two ends whose handshake was cut into single bytes."""
    dialler, acceptor = two_ends(settings)
    acceptor.feed(dialler.wire.take(), [1])
    dialler.feed(acceptor.wire.take(), [1])
    acceptor.feed(dialler.wire.take(), [1])
    dialler.feed(acceptor.wire.take(), [1])
    assert dialler.holder.told == acceptor.holder.told == ["opened", "agreed"]
    return dialler, acceptor


def test_bytes_of_an_unfinished_frame_are_reported() -> None:
    """Each read that leaves a frame unfinished is heard; a whole one, a ping and the handshake are not."""

    async def scenario() -> None:
        end, _ = await linked_ends(Settings(hearing_every_s=0))
        holder = end.holder
        holder.told.clear()
        data = join_frames([b"x" * 10])
        for piece, hearings in (
            (data, 0),
            (bytes(4), 0),
            (data[:2], 1),
            (data[2:6], 2),
            (data[6:13], 3),
            (data[13:], 3),
            (bytes(4), 3),
            (data + data[:5], 3),
            (data[5:], 3),
        ):
            end.link.data_received(piece)
            assert holder.told == ["hearing"] * hearings, piece
        assert holder.frames == [b"x" * 10] * 4
        end.link.close("the test is over")
        end.link.data_received(data[:5])
        assert len(holder.told) == 3, "a closed link is heard no more"

    asyncio.run(scenario())


class Clock(asyncio.SelectorEventLoop):
    """An event loop on which time passes only where a test says so."""

    now_s = 1_000.0

    def time(self) -> float:
        return self.now_s


def run_on_clock(scenario: Callable[[Clock], Coroutine[Any, Any, None]]) -> None:
    clock = Clock()
    with asyncio.Runner(loop_factory=lambda: clock) as runner:
        runner.run(scenario(clock))


def test_hearing_is_reported_at_intervals() -> None:
    """However many reads a frame comes in, it is heard once in `hearing_every_s`."""

    async def scenario(clock: Clock) -> None:
        end, other = await linked_ends(Settings(hearing_every_s=0.5))
        data = join_frames([bytes(1000)])
        for start, pause_s, hearings in ((0, 0, 1), (300, 0.25, 1), (600, 0.25, 2)):
            clock.now_s += pause_s
            end.feed(data[start : start + 300], [1])
            assert end.holder.told.count("hearing") == hearings
        for each in (end, other):
            each.link.close("the test is over")

    run_on_clock(scenario)


def test_a_trickle_is_no_sign_of_life() -> None:
    """A frame that does not get whole in `hearing_longest_s` is heard no more; the next one is again."""

    async def scenario(clock: Clock) -> None:
        end, other = await linked_ends(Settings(hearing_every_s=0, hearing_longest_s=0.5))
        told = end.holder.told
        data = join_frames([bytes(100)])
        end.link.data_received(data[:10])
        clock.now_s += 0.5
        end.link.data_received(data[10:15])
        assert told.count("hearing") == 2
        clock.now_s += 0.25
        end.feed(data[15:20], [1])
        assert told.count("hearing") == 2
        end.link.data_received(data[20:])
        end.link.data_received(data[:10])
        assert told.count("hearing") == 3, "the time of the next frame begins with itself"
        end.link.data_received(data[10:])
        end.feed(bytes(4), [2])
        assert told.count("hearing") == 4
        clock.now_s += 0.75
        end.link.data_received(data[:10])
        assert told.count("hearing") == 5, "an idle link is not an unfinished frame"
        for each in (end, other):
            each.link.close("the test is over")

    run_on_clock(scenario)


def test_every_byte_is_counted() -> None:
    """Handshake, lengths and pings included, each end has received what the other has sent."""

    async def scenario() -> None:
        dialler, acceptor = await linked_ends(DEFAULT_SETTINGS)
        before = acceptor.link.traffic
        assert before == Traffic(*reversed(dialler.link.traffic))
        acceptor.link.send([b"x" * 10, b"y"])
        acceptor.link.keep_alive(acceptor.link._sent_at_s + 1)
        assert acceptor.link.traffic == (before.sent_bytes + 2 * 4 + 11 + 4, before.received_bytes)
        dialler.feed(acceptor.wire.take(), [7])
        assert dialler.link.traffic == Traffic(*reversed(acceptor.link.traffic))
        for each in (dialler, acceptor):
            each.link.close("the test is over")

    asyncio.run(scenario())
