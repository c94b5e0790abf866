"""Reading one segment: its records one after another, and where they end.

This is where torn is told from damaged. Only the last segment may be torn, by the rule in `records.py`;
whatever else fails a check raises CorruptJournal with the file and the offset.

A journal is nearly all entries, and a start waits until they are read. So `run` reads as many ordinary
ones as follow one another, in one tight loop, checking each as strictly as `next` does. It decides
nothing: at the first record that is not whole, good and ordinary it stops, and leaves it to `next`.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from raftos.consensus.journal.errors import CorruptJournal
from raftos.consensus.journal.records import (
    END,
    ENTRY,
    HEAD_BYTES,
    MARK,
    PREAMBLE_BYTES,
    TAIL_BYTES,
    decode_head,
    decode_preamble,
    record_bytes,
    split_body,
)
from raftos.consensus.journal.storage import Storage

_WINDOW_BYTES: Final = 1 << 20

# A record's two ends, each read at once.
_CHECKED_HEAD: Final = struct.Struct("<IIQQI")
_CHECKED_TAIL: Final = struct.Struct("<II")
_UNCHECKED_BYTES: Final = HEAD_BYTES - 4
_END: Final = int.from_bytes(END, "little")


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record that passed its checks."""

    kind: int
    index: int
    term: int
    payload: bytes


class Run(NamedTuple):
    """Entries that passed their checks and follow one another, without marks."""

    payloads: list[bytes]
    terms: list[int]
    places: list[int]


class SegmentReader:
    """Reads the records of one segment, one after another, through a window.

    `end` is where the last good record ends. After `next` has returned None, `is_torn` says whether a
    torn record follows, and `is_unmarked` whether the last good one lacks (part of) its end mark.
    """

    def __init__(self, storage: Storage, name: str, *, is_last: bool) -> None:
        self.name = name
        self.end = 0
        self.is_torn = False
        self.is_unmarked = False
        self._storage = storage
        self._size = storage.size(name)
        self.is_last = is_last
        self._window = b""
        self._window_start = 0

    def preamble(self) -> int | None:
        """The segment's format version; None where it is torn. Raises CorruptJournal."""
        version = decode_preamble(self._at(0, PREAMBLE_BYTES))
        if version is None:
            self._end_at(PREAMBLE_BYTES, "the preamble fails its check")
            return None
        self.end = PREAMBLE_BYTES
        return version

    def next(self) -> Record | None:
        """The next record; None at the end of the segment. Raises CorruptJournal."""
        head = decode_head(self._at(self.end, HEAD_BYTES))
        if head is None:
            self._end_at(self.end + HEAD_BYTES, "a record's header fails its check")
            return None
        body = self._at(self.end + HEAD_BYTES, head.length + TAIL_BYTES)
        found = split_body(head, body)
        end = self.end + record_bytes(head.length)
        if found is None:
            self._end_at(end - len(END), "a record's payload fails its check")
            return None
        payload, mark = found
        if mark != END:
            self._expect_unfinished(mark, end)
        self.end = end
        return Record(head.kind, head.index, head.term, payload)

    def run(self, index: int, segment_place: int) -> Run:
        """The entries from `index` on, as many as are whole in the window and carry no mark; often none."""
        window, at = self._look(self.end, HEAD_BYTES + TAIL_BYTES)
        window_place = segment_place + self.end - at
        self.end -= at
        last_at, last_tail = len(window) - HEAD_BYTES - TAIL_BYTES, len(window) - TAIL_BYTES
        payloads: list[bytes] = []
        terms: list[int] = []
        places: list[int] = []
        while at <= last_at:
            length, kind, found_index, term, checksum = _CHECKED_HEAD.unpack_from(window, at)
            body = at + HEAD_BYTES
            tail = body + length
            if kind != ENTRY or found_index != index or tail > last_tail or window[body] == MARK:
                break
            payload = window[body:tail]
            payload_checksum, end = _CHECKED_TAIL.unpack_from(window, tail)
            if (
                end != _END
                or crc32(window[at : at + _UNCHECKED_BYTES]) != checksum
                or crc32(payload, checksum) != payload_checksum
            ):
                break
            payloads.append(payload)
            terms.append(term)
            places.append(window_place + at)
            at = tail + TAIL_BYTES
            index += 1
        self.end += at
        return Run(payloads, terms, places)

    def damage(self, what: str, offset: int | None = None) -> CorruptJournal:
        return CorruptJournal(self.name, self.end if offset is None else offset, what)

    def _end_at(self, limit: int, what: str) -> None:
        """Accept that the records end here: only zeros follow, or begin by `limit` where a tear may be."""
        zeros_from = self._zeros_from(self.end)
        if zeros_from > (limit if self.is_last else self.end):
            raise self.damage(what)
        self.is_torn = zeros_from > self.end

    def _expect_unfinished(self, mark: bytes, end: int) -> None:
        """Accept a whole record whose end mark alone is torn: nobody can tell that it was not durable."""
        written = mark.rstrip(b"\0")
        zeros_from = self._zeros_from(self.end)
        if not self.is_last or not END.startswith(written) or zeros_from > end - len(END) + len(written):
            raise self.damage("a record's end mark is wrong")
        self.is_unmarked = True

    def _zeros_from(self, offset: int) -> int:
        """Where the zeros begin that last to the end of the file, `offset` at the least."""
        stop = self._size
        while stop > offset:
            start = max(offset, stop - _WINDOW_BYTES)
            content = self._storage.read(self.name, start, stop - start).rstrip(b"\0")
            if content:
                return start + len(content)
            stop = start
        return offset

    def _at(self, offset: int, size: int) -> bytes:
        window, at = self._look(offset, size)
        return window[at : at + size]

    def _look(self, offset: int, size: int) -> tuple[bytes, int]:
        """A window in which so many bytes are, as far as the file has them, and where in it they begin."""
        at = offset - self._window_start
        if at < 0 or at + size > len(self._window):
            self._window = self._storage.read(self.name, offset, max(size, _WINDOW_BYTES))
            self._window_start = offset
            at = 0
        return self._window, at
