"""The log in memory, as the consensus engine sees it.

Of every entry it keeps the term, the place on disk and the size, in compact arrays (20 bytes an
entry). Of the recent entries it keeps the payload too, up to a number of bytes; entries that are not
durable yet are always kept, for they can be read nowhere else. Older payloads are read back from the
storage when asked for, and checked.

The kept payloads are always the end of the log, `_kept_from` to `last_index`.
"""

from __future__ import annotations

from array import array
from typing import Final, NamedTuple

from raftos.consensus.journal.errors import JournalFailed
from raftos.consensus.journal.records import (
    ENTRY,
    HEAD_BYTES,
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
        # Both change only when the head of the log is trimmed, which nothing does yet.
        self.first_index = 1
        self.previous_term = 0
        self.last_index = 0
        """The index of the last entry; `first_index - 1` when there is none."""
        self._storage = storage
        self._cache_bytes = cache_bytes
        self._terms = array("Q")
        self._places = array("Q")
        self._sizes = array("I")
        self._kept: dict[int, bytes] = {}
        self._kept_from = self.first_index
        self._kept_bytes = 0

    @property
    def last_term(self) -> int:
        return self._terms[-1] if self._terms else self.previous_term

    def append(self, payload: bytes, term: int, record_place: int) -> None:
        """Add the entry after the last one."""
        self.last_index += 1
        self._terms.append(term)
        self._places.append(record_place)
        self._sizes.append(len(payload))
        self._kept[self.last_index] = payload
        self._kept_bytes += len(payload) + _KEPT_OVERHEAD_BYTES

    def truncate_from(self, index: int) -> None:
        """Drop the entry `index` and everything after it."""
        for dropped in range(max(index, self._kept_from), self.last_index + 1):
            self._kept_bytes -= len(self._kept.pop(dropped)) + _KEPT_OVERHEAD_BYTES
        self._kept_from = min(self._kept_from, index)
        self.last_index = index - 1
        keep = index - self.first_index
        del self._terms[keep:], self._places[keep:], self._sizes[keep:]

    def forget(self, durable_index: int) -> None:
        """Let go of the oldest payloads beyond the cache's size, of durable entries only."""
        while self._kept_bytes > self._cache_bytes and self._kept_from <= durable_index:
            self._kept_bytes -= len(self._kept.pop(self._kept_from)) + _KEPT_OVERHEAD_BYTES
            self._kept_from += 1

    def term_at(self, index: int) -> int | None:
        """The term of an entry, or of the one before the first (0 at the very beginning); else None."""
        if self.first_index <= index <= self.last_index:
            return self._terms[index - self.first_index]
        return self.previous_term if index == self.first_index - 1 else None

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
        if max_bytes is not None:
            beyond = self._cut(first, beyond, max_bytes)
        return [self.entry(index) for index in range(first, beyond)]

    def _cut(self, first: int, beyond: int, max_bytes: int) -> int:
        """The first index after `first` that does not fit any more."""
        left_bytes = max_bytes
        for index in range(first, beyond):
            left_bytes -= self._sizes[index - self.first_index]
            if left_bytes < 0:
                return max(index, first + 1)
        return beyond

    def _read(self, index: int, term: int) -> bytes:
        where, size = self._places[index - self.first_index], self._sizes[index - self.first_index]
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
