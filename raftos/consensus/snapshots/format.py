"""The format of a snapshot file: a header, then the state's SQLite file in checksummed chunks.

    preamble   magic `raftossn` | format version u32 | crc32 u32
    header     length u32 | Header, a msgpack array | crc32 u32
    records    kind u32 | number u32 | raw bytes u64 | packed bytes u32 | crc32 u32 | packed | crc32 u32

    kind       number                raw bytes            packed
    CHUNK      0, 1, 2 ...           1 to 1 MiB           an lz4 frame of as many raw bytes
    TRAILER    how many chunks       of the whole file    blake2b-256 of all raw bytes

Integers are little-endian. Every checksum continues the one before it, within a record and from the
header into each record. So a record belongs to its header and, by its number, to its place: a flipped
bit, a chunk that is missing, exchanged, doubled or from another snapshot, a file that is cut short, one
that goes on behind its trailer - all are found, and each as soon as it is read. The digest says so once
more, over what comes out.

The preamble is all that a newer format has to keep. A header may get more fields at its end: older
versions pass over them.

Nothing here touches a disk. `encoded` turns pieces of a state into the bytes of a file, `Decoder` back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final, NoReturn, Protocol
from zlib import crc32

import lz4.frame
import msgspec

from raftos.consensus.snapshots.errors import CorruptSnapshot, NewerSnapshot, SnapshotFailed
from raftos.errors import UNDECODABLE

FORMAT: Final = 1
MAX_CHUNK_BYTES: Final = 2**20
MAX_HEADER_BYTES: Final = 2**20
MAX_RAW_BYTES: Final = 64 * 2**30
MAX_FILE_BYTES: Final = MAX_RAW_BYTES + MAX_RAW_BYTES // 1024
"""What does not compress takes a little more: each chunk at most 1 KiB."""

CHUNK: Final = 1
TRAILER: Final = 2
DIGEST_BYTES: Final = 32

_MAGIC: Final = b"raftossn"
_PREAMBLE: Final = struct.Struct("<8sI")
_INTEGER: Final = struct.Struct("<I")
_HEAD: Final = struct.Struct("<IIQI")
_MAX_PACKED_BYTES: Final = MAX_CHUNK_BYTES + 1024 - _HEAD.size - 2 * _INTEGER.size


class Header(msgspec.Struct, frozen=True, array_like=True):
    """Whose state it is, and as of where."""

    cluster_id: str
    index: int
    """The log index of the last entry that is in it."""
    term: int
    """That entry's term."""
    configuration: bytes
    """Who votes, as of the index; consensus alone knows how to read it. Empty for none."""
    time_ms: int
    revision: int
    state_hash: bytes
    state_format: int
    raw_bytes: int
    """The size of the SQLite file in it."""
    version: str
    """The version of raftos that made it."""
    created_ms: int
    """When it was made, by that machine's clock: for people, nothing is decided by it."""


class Summary(msgspec.Struct, frozen=True):
    """A whole file that was found to be in order."""

    header: Header
    chunks: int
    raw_bytes: int
    size_bytes: int
    digest: str


class Source(Protocol):
    """Whatever bytes are read from, in order. It may give fewer than asked for, and none only at its end."""

    def read(self, size: int, /) -> bytes: ...


def _checked(content: bytes, seed: int = 0) -> tuple[bytes, int]:
    checksum = crc32(content, seed)
    return content + _INTEGER.pack(checksum), checksum


def _start(header: Header) -> tuple[bytes, int]:
    """The bytes before the first record, and the checksum that records continue."""
    payload = msgspec.msgpack.encode(header)
    if len(payload) > MAX_HEADER_BYTES or not 0 < header.raw_bytes <= MAX_RAW_BYTES:
        raise SnapshotFailed(
            f"a snapshot of {header.raw_bytes} bytes with a header of {len(payload)} cannot be written; "
            f"allowed are {MAX_RAW_BYTES} and {MAX_HEADER_BYTES}"
        )
    preamble, seed = _checked(_PREAMBLE.pack(_MAGIC, FORMAT))
    head, seed = _checked(_INTEGER.pack(len(payload)) + payload, seed)
    return preamble + head, seed


def _record(kind: int, number: int, raw_bytes: int, packed: bytes, seed: int) -> bytes:
    head, checksum = _checked(_HEAD.pack(kind, number, raw_bytes, len(packed)), seed)
    return b"".join((head, packed, _INTEGER.pack(crc32(packed, checksum))))


def encoded(header: Header, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a file, about 1 MiB at a time. Raises SnapshotFailed for other pieces than announced."""
    start, seed = _start(header)
    yield start
    digest = blake2b(digest_size=DIGEST_BYTES)
    raw_bytes = chunks = 0
    for chunk in _regular(pieces):
        raw_bytes += len(chunk)
        if raw_bytes > header.raw_bytes:
            break
        digest.update(chunk)
        packed = lz4.frame.compress(chunk, block_size=lz4.frame.BLOCKSIZE_MAX1MB, store_size=False)
        yield _record(CHUNK, chunks, len(chunk), packed, seed)
        chunks += 1
    if raw_bytes != header.raw_bytes:
        raise SnapshotFailed(
            f"the state has not the {header.raw_bytes} bytes that its snapshot announces; make it anew"
        )
    yield _record(TRAILER, chunks, raw_bytes, digest.digest(), seed)


def _regular(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of 1 MiB, but for the last."""
    rest = bytearray()
    for piece in pieces:
        if not rest and len(piece) == MAX_CHUNK_BYTES:
            yield piece
            continue
        rest += piece
        while len(rest) >= MAX_CHUNK_BYTES:
            yield bytes(rest[:MAX_CHUNK_BYTES])
            del rest[:MAX_CHUNK_BYTES]
    if rest:
        yield bytes(rest)


class Decoder:
    """Reads one file from its beginning; the header at once. Raises CorruptSnapshot at what is wrong."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._position = 0
        self.header, self._seed = self._read_header()
        self.summary: Summary | None = None
        """Once all chunks were read, and the trailer agreed."""

    def chunks(self) -> Iterator[bytes]:
        """The raw bytes, 1 MiB at a time. Only when this ends by itself was the file whole."""
        digest = blake2b(digest_size=DIGEST_BYTES)
        raw_bytes = number = 0
        while True:
            kind, found, size, packed = self._read_record()
            if found != number:
                self._refuse(f"record {found} stands where {number} is due")
            if kind == TRAILER:
                break
            chunk = self._unpacked(kind, size, packed)
            digest.update(chunk)
            raw_bytes += len(chunk)
            number += 1
            yield chunk
        if size != raw_bytes or raw_bytes != self.header.raw_bytes or packed != digest.digest():
            self._refuse("its content is not what its header and its trailer say")
        if self._source.read(1):
            self._refuse("it goes on behind its trailer")
        self.summary = Summary(self.header, number, raw_bytes, self._position, packed.hex())

    def _read_header(self) -> tuple[Header, int]:
        preamble, seed = self._read_checked(_PREAMBLE.size, 0)
        magic, version = _PREAMBLE.unpack(preamble)
        if magic != _MAGIC:
            self._refuse("it does not begin as a snapshot of raftos does")
        if version > FORMAT:
            raise NewerSnapshot(
                f"the snapshot has format {version}, this version knows {FORMAT}; use the newer version "
                "of raftos that wrote it"
            )
        length = self._read_exactly(_INTEGER.size)
        (size,) = _INTEGER.unpack(length)
        if size > MAX_HEADER_BYTES:
            self._refuse(f"its header has {size} bytes, at most {MAX_HEADER_BYTES} are allowed")
        payload, seed = self._read_checked(size, crc32(length, seed))
        try:
            header = msgspec.msgpack.decode(payload, type=Header)
        except UNDECODABLE:
            self._refuse("its header is none")
        if not 0 < header.raw_bytes <= MAX_RAW_BYTES:
            self._refuse(f"it says that it holds {header.raw_bytes} bytes")
        return header, seed

    def _read_record(self) -> tuple[int, int, int, bytes]:
        head, seed = self._read_checked(_HEAD.size, self._seed)
        kind, number, raw_bytes, packed_bytes = _HEAD.unpack(head)
        if packed_bytes > _MAX_PACKED_BYTES:
            self._refuse(f"a chunk of {packed_bytes} bytes")
        packed, _ = self._read_checked(packed_bytes, seed)
        return kind, number, raw_bytes, packed

    def _unpacked(self, kind: int, raw_bytes: int, packed: bytes) -> bytes:
        if kind != CHUNK or not 0 < raw_bytes <= MAX_CHUNK_BYTES:
            self._refuse(f"a record of kind {kind} for {raw_bytes} bytes")
        frame = lz4.frame.LZ4FrameDecompressor()
        try:
            # Never more than announced, whatever the frame would grow to.
            chunk: bytes = frame.decompress(packed, max_length=raw_bytes)
        except RuntimeError:
            self._refuse("a chunk that cannot be decompressed")
        if len(chunk) != raw_bytes or not frame.eof or frame.unused_data:
            self._refuse(f"a chunk that does not hold {raw_bytes} bytes")
        return chunk

    def _read_checked(self, size: int, seed: int) -> tuple[bytes, int]:
        content = self._read_exactly(size)
        checksum = crc32(content, seed)
        if self._read_exactly(_INTEGER.size) != _INTEGER.pack(checksum):
            self._refuse("a checksum fails")
        return content, checksum

    def _read_exactly(self, size: int) -> bytes:
        content = self._source.read(size)
        while len(content) < size:
            more = self._source.read(size - len(content))
            if not more:
                self._position += len(content)
                self._refuse("it ends too early")
            content += more
        self._position += size
        return content

    def _refuse(self, what: str) -> NoReturn:
        raise CorruptSnapshot(
            f"the snapshot is damaged (before byte {self._position}: {what}); use another copy of it"
        )
