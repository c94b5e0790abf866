"""The log in memory, as the consensus engine sees it.

Of every entry it keeps the term, the place on disk and the size, in compact arrays (24 bytes an
entry). Of the recent entries it keeps the payload too, up to a number of bytes; entries that are not
durable yet are always kept, for they can be read nowhere else. Older payloads are read back from the
storage when asked for, and checked.

The kept payloads are always the end of the log, `_kept_from` to `last_index`. Sizes are kept as running
totals, so that how many bytes lie between two entries is one subtraction, and where so many bytes end is
one bisection.

    append, extend   the log grows at its end
    truncate_from    it is cut back; below what is held, it becomes empty and begins there
    trim             it forgets its head, as far as that lies in segments let go of
    reset            it becomes empty, and begins behind a snapshot
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from raftos.consensus.journal.errors import JournalFailed
from raftos.consensus.journal.marks import Marks
from raftos.consensus.journal.records import (
    ENTRY,
    HEAD_BYTES,
    MARK,
    Mark,
    decode_head,
    record_bytes,
    segment_name,
    split_body,
)
from raftos.consensus.journal.storage import Storage

_OFFSET_BITS: Final = 40
_KEPT_OVERHEAD_BYTES: Final = 128
"""What keeping a payload costs beside its bytes, roughly: many small entries count too."""


class Entry(NamedTuple):
    """One log entry."""

    payload: bytes
    index: int  # type: ignore[assignment]  # Hides tuple.index, which nobody wants of an entry.
    term: int


def place(segment: int, offset: int) -> int:
    """Where a record begins, in one number: offsets below 1 TiB, segments below 16 million."""
    return segment << _OFFSET_BITS | offset


class Log:
    """Entries `first_index` to `last_index`. Indexes rise by one; there are no gaps."""

    def __init__(self, storage: Storage, cache_bytes: int) -> None:
        self.first_index = 1
        self.previous_term = 0
        """The term of the entry before the first, which is known although the entry is gone."""
        self.last_index = 0
        """The index of the last entry; `first_index - 1` when there is none."""
        self.marks = Marks()
        self._storage = storage
        self._cache_bytes = cache_bytes
        self._terms = array("Q")
        self._places = array("Q")
        self._totals = array("Q")
        """Of each entry: the payload bytes up to its end, counted from some entry that was once first."""
        self._total_before = 0
        """The total of the entry before the first."""
        self._kept: dict[int, bytes] = {}
        self._kept_from = self.first_index

    @property
    def last_term(self) -> int:
        return self._terms[-1] if self._terms else self.previous_term

    def append(self, payload: bytes, term: int, record_place: int) -> None:
        """Add the entry after the last one."""
        self.last_index += 1
        self._terms.append(term)
        self._places.append(record_place)
        self._totals.append((self._totals[-1] if self._totals else self._total_before) + len(payload))
        self._kept[self.last_index] = payload
        if payload and payload[0] == MARK:
            self.marks.append(Mark(self.last_index, payload))

    def extend(self, payloads: Sequence[bytes], terms: Sequence[int], places: Sequence[int]) -> None:
        """Add many entries that are durable, and have no marks, at once."""
        start, count = self.last_index + 1, len(payloads)
        totals = accumulate(map(len, payloads), initial=self._total(self.last_index))
        next(totals)
        self.last_index += count
        self._terms.extend(terms)
        self._places.extend(places)
        self._totals.extend(totals)
        self._kept.update(zip(range(start, start + count), payloads, strict=True))
        self.forget(self.last_index)

    def truncate_from(self, index: int) -> None:
        """Drop the entry `index` and everything after it."""
        for dropped in range(max(index, self._kept_from), self.last_index + 1):
            del self._kept[dropped]
        self._kept_from = min(self._kept_from, index)
        self.last_index = index - 1
        keep = index - self.first_index
        del self._terms[keep:], self._places[keep:], self._totals[keep:]
        self.marks.truncate_from(index)

    def trim(self, segment: int) -> None:
        """Forget the entries in segments before this one."""
        count = bisect_left(self._places, place(segment, 0))
        first_index = self.first_index + count
        previous_term = self.term_at(first_index - 1)
        assert previous_term is not None
        self._total_before = self._total(first_index - 1)
        self.first_index, self.previous_term = first_index, previous_term
        del self._terms[:count], self._places[:count], self._totals[:count]
        self._forget_before(first_index)
        self.marks.trim(first_index)

    def reset(self, index: int, term: int, mark: Mark | None) -> None:
        """Become empty, with the next entry to come after `index`."""
        self.first_index, self.previous_term, self.last_index = index + 1, term, index
        self._total_before = 0
        del self._terms[:], self._places[:], self._totals[:]
        self._kept.clear()
        self._kept_from = index + 1
        self.marks.reset(mark)

    def forget(self, durable_index: int) -> None:
        """Let go of the oldest payloads beyond the cache's size, of durable entries only."""
        if self._kept_bytes(self._kept_from) <= self._cache_bytes:
            return
        candidates = range(self._kept_from, durable_index + 1)
        count = bisect_left(candidates, -self._cache_bytes, key=lambda index: -self._kept_bytes(index))
        self._forget_before(self._kept_from + count)

    def _forget_before(self, index: int) -> None:
        for dropped in range(self._kept_from, index):
            del self._kept[dropped]
        self._kept_from = max(self._kept_from, index)

    def _kept_bytes(self, index: int) -> int:
        """What the payloads from `index` on take in memory."""
        payload_bytes = self._total(self.last_index) - self._total(index - 1)
        return payload_bytes + _KEPT_OVERHEAD_BYTES * (self.last_index + 1 - index)

    def term_at(self, index: int) -> int | None:
        """The term of an entry, or of the one before the first (0 at the very beginning); else None."""
        if self.first_index <= index <= self.last_index:
            return self._terms[index - self.first_index]
        return self.previous_term if index == self.first_index - 1 else None

    def segment_after(self, index: int) -> int | None:
        """The segment of the first entry after `index`; None where there is none."""
        at = max(index + 1 - self.first_index, 0)
        return self._places[at] >> _OFFSET_BITS if at < len(self._places) else None

    def bytes_since(self, index: int) -> int:
        """The size of the records of all entries after `index`."""
        index = min(max(index, self.first_index - 1), self.last_index)
        payload_bytes = self._total(self.last_index) - self._total(index)
        return payload_bytes + record_bytes(0) * (self.last_index - index)

    def index_before_bytes(self, tail_bytes: int) -> int:
        """The largest index that so many bytes of records follow; where there is none, the one before all."""
        candidates = range(self.first_index - 1, self.last_index + 1)
        count = bisect_right(candidates, -tail_bytes, key=lambda index: -self.bytes_since(index))
        return candidates[max(count - 1, 0)]

    def entry(self, index: int) -> Entry:
        """One entry. Raises IndexError where there is none, JournalFailed where it cannot be read back."""
        if not self.first_index <= index <= self.last_index:
            raise IndexError(f"entry {index} is outside {self.first_index} to {self.last_index}")
        term = self._terms[index - self.first_index]
        payload = self._kept.get(index)
        return Entry(self._read(index, term) if payload is None else payload, index, term)

    def entries(self, start: int, stop: int | None, max_bytes: int | None) -> list[Entry]:
        """The entries of `start <= index < stop`, up to `max_bytes` of payload but at least one."""
        beyond = self.last_index + 1 if stop is None else min(stop, self.last_index + 1)
        first = max(start, self.first_index)
        if max_bytes is not None and first < beyond:
            beyond = self._cut(first, beyond, max_bytes)
        return [self.entry(index) for index in range(first, beyond)]

    def _cut(self, first: int, beyond: int, max_bytes: int) -> int:
        """The first index after `first` that does not fit any more."""
        most = self._total(first - 1) + max_bytes
        at = bisect_right(self._totals, most, first - self.first_index, beyond - self.first_index)
        return max(self.first_index + at, first + 1)

    def _total(self, index: int) -> int:
        """The running total of an entry, or of the one before the first."""
        return self._totals[index - self.first_index] if index >= self.first_index else self._total_before

    def _read(self, index: int, term: int) -> bytes:
        at = index - self.first_index
        where, size = self._places[at], self._total(index) - self._total(index - 1)
        name, offset = segment_name(where >> _OFFSET_BITS), where & ((1 << _OFFSET_BITS) - 1)
        try:
            raw = self._storage.read(name, offset, record_bytes(size))
        except OSError as error:
            raise JournalFailed(f"entry {index} cannot be read from {name}: {error}") from error
        head = decode_head(raw)
        if head and (head.length, head.kind, head.index, head.term) == (size, ENTRY, index, term):
            found = split_body(head, raw[HEAD_BYTES:])
            if found:
                return found[0]
        raise JournalFailed(f"entry {index} fails its check in {name} at byte {offset}")
