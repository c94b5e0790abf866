"""The format on disk: segments of checksummed records.

The stream is cut into segments, files named `00000000000000000001.log` by their number. Numbers, not
first indexes: after a truncation across segments the log is shorter than the newest segment's first
index, and the next segment would sort before it, or even have its name.

A segment is a preamble (magic, format version, checksum: all that a newer format has to keep), one
SEGMENT record and then any others. Integers are little-endian.

    | payload length u32 | kind u32 | index u64 | term u64 | crc32 of these u32 | payload | crc32 u32 | END |

    kind        index           term    payload
    SEGMENT     0               0       SegmentHeader: whose it is, and the state the stream has reached
    ENTRY       last + 1        its     the entry's
    HARD_STATE  0               its     the vote, empty for none
    TRUNCATE    first to drop   of the entry before that    the newest mark that is left, in msgpack
    BASE        a snapshot's    a snapshot's                the snapshot's mark, empty for none

BASE empties the log and lets it begin behind a snapshot. A **mark** is an entry whose payload begins with
the byte MARK: consensus keeps its configuration in such entries, and the journal remembers the newest.

Headers and TRUNCATE records state what the log becomes, not only what goes: any segment can be the first
that is left of a journal, and replay reaches the same state from there, also where a record behind it
drops entries that were written before it.

Format 1 had no BASE, no marks, and its TRUNCATE records have term 0 and no payload. Its segments are
read, where all of them are there, and followed by segments of format 2.

The header has a checksum of its own, so that a damaged length cannot make a record look as if the file
ended inside it. The second checksum continues the first, which ties a payload to its header.

**Torn** means: the file ends inside its last record, or the rest of it is zeros (files are grown ahead
of their records). These are one rule if a file is thought to be followed by zeros for ever: a record
is torn if the zeros begin inside it. The four bytes of END, none of them zero, make that decidable: a
checksum may end in zero bytes by chance, and then a damaged byte in a whole record would be taken for
a tear, and an entry that was durable silently dropped. With END present, a failed checksum is damage.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

FORMAT: Final = 2
OLDEST_FORMAT: Final = 1

SEGMENT: Final = 1
ENTRY: Final = 2
HARD_STATE: Final = 3
TRUNCATE: Final = 4
BASE: Final = 5

MARK: Final = 16
"""The first byte of a marked entry's payload."""

END: Final = b"\xa5END"

_HEAD: Final = struct.Struct("<IIQQ")
_CHECKSUM: Final = struct.Struct("<I")
_TAIL: Final = struct.Struct("<I4s")
_PREAMBLE: Final = struct.Struct("<8sI")
_MAGIC: Final = b"raftoslg"

HEAD_BYTES: Final = _HEAD.size + _CHECKSUM.size
TAIL_BYTES: Final = _TAIL.size
PREAMBLE_BYTES: Final = _PREAMBLE.size + _CHECKSUM.size

_NAME: Final = re.compile(r"(\d{20})\.log")


class Identity(NamedTuple):
    """Whose journal it is."""

    cluster_id: str
    member_id: str


class Mark(NamedTuple):
    """The payload of a marked entry, or of the newest one that a snapshot covers."""

    index: int  # type: ignore[assignment]  # Hides tuple.index, which nobody wants of a mark.
    payload: bytes


class SegmentHeader(msgspec.Struct, frozen=True, array_like=True):
    """The first record of a segment: the state that replaying all earlier segments has to reach."""

    cluster_id: str
    member_id: str
    number: int
    previous_end: int
    """Where the last record of the segment before this one ends, in bytes."""
    last_index: int
    last_term: int
    term: int
    vote: str | None
    mark: Mark | None = None
    """The newest mark of the log. A header of format 1 ends before it."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """The checked header of a record."""

    length: int
    kind: int
    index: int
    term: int
    checksum: int


def segment_name(number: int) -> str:
    return f"{number:020d}.log"


def segment_number(name: str) -> int | None:
    """The number of a segment, None for a file that is not one."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def encode(kind: int, index: int, term: int, payload: bytes) -> tuple[bytes, bytes, bytes]:
    """A record in three pieces, to be joined with many others at once."""
    head = _HEAD.pack(len(payload), kind, index, term)
    checksum = crc32(head)
    return head + _CHECKSUM.pack(checksum), payload, _TAIL.pack(crc32(payload, checksum), END)


def record_bytes(payload_bytes: int) -> int:
    """The size of a whole record."""
    return HEAD_BYTES + payload_bytes + TAIL_BYTES


def decode_head(raw: bytes) -> Head | None:
    """The header at the beginning of `raw`; None where it is cut short or its checksum fails."""
    if len(raw) < HEAD_BYTES:
        return None
    (checksum,) = _CHECKSUM.unpack_from(raw, _HEAD.size)
    if crc32(raw[: _HEAD.size]) != checksum:
        return None
    length, kind, index, term = _HEAD.unpack_from(raw)
    return Head(length, kind, index, term, checksum)


def split_body(head: Head, body: bytes) -> tuple[bytes, bytes] | None:
    """The payload and the end mark as found; None where they are cut short or the checksum fails."""
    payload = body[: head.length]
    checksum = body[head.length : head.length + _CHECKSUM.size]
    if checksum != _CHECKSUM.pack(crc32(payload, head.checksum)):
        return None
    return payload, body[head.length + _CHECKSUM.size :]


def encode_segment_start(header: SegmentHeader) -> bytes:
    """The preamble and the SEGMENT record that a segment begins with."""
    preamble = _PREAMBLE.pack(_MAGIC, FORMAT)
    record = encode(SEGMENT, 0, 0, msgspec.msgpack.encode(header))
    return b"".join((preamble, _CHECKSUM.pack(crc32(preamble)), *record))


def decode_preamble(raw: bytes) -> int | None:
    """The format version of a segment; None where the preamble is cut short or fails its check."""
    if len(raw) < PREAMBLE_BYTES:
        return None
    magic, version = _PREAMBLE.unpack_from(raw)
    (checksum,) = _CHECKSUM.unpack_from(raw, _PREAMBLE.size)
    return int(version) if magic == _MAGIC and checksum == crc32(raw[: _PREAMBLE.size]) else None


def decode_segment_header(payload: bytes) -> SegmentHeader | None:
    """The header of a segment; None where it is none."""
    try:
        return msgspec.msgpack.decode(payload, type=SegmentHeader)
    except msgspec.MsgspecError:
        return None


def encode_mark(mark: Mark | None) -> bytes:
    """A mark as a TRUNCATE record carries it."""
    return msgspec.msgpack.encode(mark)


def decode_mark(payload: bytes) -> Mark | None:
    """A TRUNCATE record's mark. Raises msgspec.MsgspecError where it is none."""
    return msgspec.msgpack.decode(payload, type=Mark | None)
