"""Snapshot files: what was written comes back, and nothing else is ever taken for it."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from zlib import crc32

import lz4.frame
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftos.consensus.snapshots import (
    CorruptSnapshot,
    Decoder,
    Header,
    NewerSnapshot,
    SnapshotFailed,
    Summary,
    format,  # noqa: A004 - the module is named for what it is
    pieces_of,
    read_header,
    verify,
    write_to,
)


def header_of(raw_bytes: int, **changes: object) -> Header:
    header = Header("c1", 7, 2, b"votes", 1_700, 5, b"h" * 16, 2, raw_bytes, "0.1.0", 1_800)
    return msgspec.structs.replace(header, **changes)


def written(raw: bytes, **changes: object) -> bytes:
    file = io.BytesIO()
    assert write_to(file, header_of(len(raw), **changes), [raw]) == len(file.getvalue())
    return file.getvalue()


def raw_of(file: bytes) -> bytes:
    return b"".join(Decoder(io.BytesIO(file)).chunks())


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 40 bytes, so that a small file has several."""
    monkeypatch.setattr(format, "MAX_CHUNK_BYTES", 40)


RAW = Random(1).randbytes(130)


class Dribble:
    """A source that gives one to three bytes at a time, as sockets may."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self._random = Random(2)

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._random.randint(1, 3)))


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    """Header, content and sizes, from a path, a stream and one that dribbles."""
    file = written(RAW)
    (tmp_path / "file").write_bytes(file)
    assert read_header(tmp_path / "file") == read_header(io.BytesIO(file)) == header_of(len(RAW))
    assert raw_of(file) == RAW
    summary = verify(Dribble(file))
    assert isinstance(summary, Summary)
    assert (summary.header, summary.chunks, summary.raw_bytes) == (header_of(len(RAW)), 1, len(RAW))
    assert summary.size_bytes == len(file)
    assert b"".join(pieces_of(tmp_path / "file")) == file


@given(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=4).filter(any))
@settings(max_examples=20, deadline=None)
def test_pieces_may_have_any_size(sizes: list[int]) -> None:
    """However the bytes are cut when they come, the file is the same, in chunks of 1 MiB."""
    raw = Random(sum(sizes)).randbytes(9_000) * (sum(sizes) // 9_000 + 1)
    raw = raw[: sum(sizes)]
    ends = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
    file = io.BytesIO()
    write_to(file, header_of(len(raw)), [raw[a:b] for a, b in pairwise(ends)])
    assert file.getvalue() == written(raw)
    assert raw_of(file.getvalue()) == raw
    assert verify(io.BytesIO(file.getvalue())).chunks == -(-len(raw) // 2**20)


@pytest.mark.usefixtures("small_chunks")
def test_every_flipped_bit_is_found() -> None:
    """In a file of four chunks, wherever it is; and it is refused by our own error."""
    file = written(RAW)
    assert verify(io.BytesIO(file)).chunks == 4
    for bit in range(8 * len(file)):
        damaged = bytearray(file)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptSnapshot):
            verify(io.BytesIO(damaged))


@pytest.mark.usefixtures("small_chunks")
def test_every_shortening_is_found() -> None:
    """Cut at any byte, and also what goes on behind the trailer."""
    file = written(RAW)
    for size in range(len(file)):
        with pytest.raises(CorruptSnapshot, match="ends too early"):
            verify(io.BytesIO(file[:size]))
    with pytest.raises(CorruptSnapshot, match="goes on"):
        verify(io.BytesIO(file + b"\0"))


def parts_of(file: bytes) -> list[bytes]:
    """The start of a file, then each record."""
    (length,) = struct.unpack_from("<I", file, 16)
    ends = [0, 24 + length]
    while ends[-1] < len(file):
        *_, packed = struct.unpack_from("<IIQI", file, ends[-1])
        ends.append(ends[-1] + 20 + 4 + packed + 4)
    return [file[a:b] for a, b in pairwise(ends)]


REARRANGED: dict[str, Callable[[list[bytes], list[bytes]], Sequence[bytes]]] = {
    "exchanged": lambda own, _: [own[0], own[2], own[1], *own[3:]],
    "doubled": lambda own, _: [*own[:2], own[1], *own[2:]],
    "missing": lambda own, _: [*own[:2], *own[3:]],
    "the last one missing": lambda own, _: [*own[:-2], own[-1]],
    "no trailer": lambda own, _: own[:-1],
    "two trailers": lambda own, _: [*own, own[-1]],
    "the header of another": lambda own, other: [other[0], *own[1:]],
    "a chunk of another": lambda own, other: [*own[:2], other[2], *own[3:]],
    "the trailer of another": lambda own, other: [*own[:-1], other[-1]],
}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("how", REARRANGED)
def test_whole_chunks_in_wrong_places_are_found(how: str) -> None:
    """Each of them is in order by itself."""
    own, other = parts_of(written(RAW)), parts_of(written(RAW[::-1], index=8))
    assert len(own) == 6
    with pytest.raises(CorruptSnapshot):
        verify(io.BytesIO(b"".join(REARRANGED[how](own, other))))


def forged(kind: int, raw_bytes: int, packed: bytes) -> bytes:
    """A file whose first record has right checksums, but is no honest chunk."""
    start, seed = format._start(header_of(len(RAW)))
    return start + format._record(kind, 0, raw_bytes, packed, seed)


FORGED = {
    "no lz4 frame": (format.CHUNK, 130, b"no frame" * 4, "cannot be decompressed"),
    "one that grows beyond what it says": (format.CHUNK, 130, lz4.frame.compress(bytes(131)), "not hold"),
    "one that stays below": (format.CHUNK, 130, lz4.frame.compress(bytes(129)), "not hold"),
    "half a frame": (format.CHUNK, 130, lz4.frame.compress(RAW)[:-4], "not hold"),
    "two frames": (format.CHUNK, 130, lz4.frame.compress(RAW) + b"more", "not hold"),
    "a chunk too large": (format.CHUNK, 2**20 + 1, lz4.frame.compress(bytes(2**20 + 1)), "for 1048577"),
    "an empty chunk": (format.CHUNK, 0, lz4.frame.compress(b""), "for 0 bytes"),
    "a packed size too large": (format.CHUNK, 130, bytes(2**20 + 2_000), "a chunk of"),
    "an unknown kind": (3, 130, lz4.frame.compress(RAW), "of kind 3"),
    "a trailer with another digest": (format.TRAILER, 0, bytes(32), "not what its header"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_record_that_lies_with_right_checksums_is_refused(what: str) -> None:
    """A peer's bytes are never trusted for their checksums alone."""
    kind, raw_bytes, packed, sentence = FORGED[what]
    with pytest.raises(CorruptSnapshot, match=sentence):
        verify(io.BytesIO(forged(kind, raw_bytes, packed)))


def test_a_digest_is_compared() -> None:
    """It is the last that stands between a wrong content and us, should a chunk be forged."""
    start, seed = format._start(header_of(len(RAW)))
    chunk = format._record(format.CHUNK, 0, 130, lz4.frame.compress(RAW[::-1]), seed)
    [*_, trailer] = parts_of(written(RAW))
    with pytest.raises(CorruptSnapshot, match="not what its header"):
        verify(io.BytesIO(start + chunk + trailer))


@pytest.mark.parametrize("header", [b"\xc1", b"\x93\x01\x02\x03", msgspec.msgpack.encode(header_of(0))])
def test_a_header_that_is_none_is_refused(header: bytes) -> None:
    """With right checksums even."""
    preamble = written(RAW)[:16]
    head = struct.pack("<I", len(header)) + header
    head += struct.pack("<I", crc32(head, crc32(preamble[:12])))
    with pytest.raises(CorruptSnapshot, match=r"header is none|holds 0 bytes"):
        read_header(io.BytesIO(preamble + head))


def test_a_header_may_have_more_fields_in_the_next_version() -> None:
    """This version passes over them."""
    preamble = written(RAW)[:16]
    fields = [*msgspec.structs.astuple(header_of(130)), "new"]
    payload = msgspec.msgpack.encode(fields)
    head = struct.pack("<I", len(payload)) + payload
    head += struct.pack("<I", crc32(head, crc32(preamble[:12])))
    assert read_header(io.BytesIO(preamble + head)) == header_of(130)


def test_a_newer_format_is_named() -> None:
    """Nothing behind the preamble is read."""
    preamble = b"raftossn" + struct.pack("<I", 2)
    with pytest.raises(NewerSnapshot, match="has format 2, this version knows 1"):
        read_header(io.BytesIO(preamble + struct.pack("<I", crc32(preamble))))


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" * 9])
def test_another_file_is_no_snapshot(content: bytes) -> None:
    """An empty one, or a database."""
    with pytest.raises(CorruptSnapshot):
        read_header(io.BytesIO(content))


def test_a_path_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    """No traceback for a wrong name."""
    with pytest.raises(SnapshotFailed, match=r"cannot read .*missing: No such file"):
        read_header(tmp_path / "missing")


@pytest.mark.parametrize("raw_bytes", [129, 131])
def test_a_state_of_another_size_than_announced_is_refused(raw_bytes: int) -> None:
    """The header cannot be mended once it is written."""
    with pytest.raises(SnapshotFailed, match="announces"):
        write_to(io.BytesIO(), header_of(raw_bytes), [RAW])


@pytest.mark.parametrize(
    "changes", [{"raw_bytes": 0}, {"raw_bytes": 2**36 + 1}, {"configuration": bytes(2**20)}]
)
def test_limits_hold_for_what_is_written(changes: dict[str, object]) -> None:
    """Nothing is written that could not be read again."""
    with pytest.raises(SnapshotFailed, match="allowed are"):
        write_to(io.BytesIO(), msgspec.structs.replace(header_of(130), **changes), [RAW])


def test_a_header_whose_text_is_none_is_damage() -> None:
    """Its checksum is right: whoever wrote it wrote nonsense."""
    preamble, seed = format._checked(format._PREAMBLE.pack(format._MAGIC, format.FORMAT))
    payload = msgspec.msgpack.encode(header_of(40, version="abc")).replace(b"abc", b"\xff\xff\xff")
    head, _ = format._checked(len(payload).to_bytes(4, "little") + payload, seed)
    with pytest.raises(CorruptSnapshot, match="header is none"):
        Decoder(io.BytesIO(preamble + head))
