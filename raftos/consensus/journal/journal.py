"""The journal as its owner uses it, on the event loop.

Mutations go to memory (`Log`, term, vote) and, encoded, to a buffer. `take` joins the buffer into one
`Write`; everything mutated meanwhile gathers for the next one. The place of every record is known the
moment it is buffered, because only here is decided where a write goes: the segment that the next write
belongs to is fixed when the previous one is taken. A new segment's header is simply the first thing in
its first write, and so the first segment of a new member needs no special case either.

Truncation is a record of its own. Leaving it to be concluded from the next entry's index would bring the
dropped entries back if no entry followed before the next segment or a crash.

What bounds the journal: `trim` forgets the head that a snapshot covers, in whole segments. In memory that is
done at once; the files are removed on the disk thread, and may be after a crash, or never, because a
journal that still has them is as good. Only what a crash cannot bring back may be relied on for it: the
segment that the journal begins with from then on is durable, and so are the TRUNCATE and BASE records by
which entries of older segments are live no more.

    event loop                                disk thread
    journal.trim(index)
    names = journal.take_removals()   ---->   journal.writer.remove(names)
"""

from __future__ import annotations

from typing import Final

from raftos.consensus.journal.held import Held
from raftos.consensus.journal.log import Entry, Log, place
from raftos.consensus.journal.records import (
    BASE,
    ENTRY,
    FORMAT,
    HARD_STATE,
    TRUNCATE,
    Identity,
    Mark,
    SegmentHeader,
    encode,
    encode_mark,
    encode_segment_start,
    record_bytes,
)
from raftos.consensus.journal.recovery import Recovery
from raftos.consensus.journal.storage import Storage
from raftos.consensus.journal.writer import GROWTH_BYTES, Write, Writer
from raftos.errors import StartupError

SEGMENT_BYTES: Final = 16 << 20
"""Large enough for few files, small enough to trim by."""
CACHE_BYTES: Final = 16 << 20


class Journal:
    """The log and the hard state of one member. Made by `open`.

    `position` counts mutations since opening; `synced_position` says how many of them are durable.
    `synced_index`, `synced_term` and `synced_vote` are the durable part of `last_index`, `term` and `vote`.
    After `install`, `synced_index` stays below the snapshot's index until its record is durable.
    """

    def __init__(self, storage: Storage, identity: Identity, recovered: Recovery, segment_bytes: int) -> None:
        self.writer = Writer(storage, min(GROWTH_BYTES, segment_bytes))
        self.term = recovered.term
        self.vote = recovered.vote
        self.position = 0
        self.synced_position = 0
        self.synced_index = recovered.log.last_index
        self.synced_term = recovered.term
        self.synced_vote = recovered.vote
        self._storage = storage
        self._identity = identity
        self._segment_bytes = segment_bytes
        self._log: Log = recovered.log
        self._segment = recovered.segment
        self._offset = recovered.end
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._taken_position = 0
        self._taken_index = self.synced_index
        self._outstanding: Write | None = None
        self._cut_position = 0
        """The position of the newest mutation that took entries from the log's end."""
        self._held = Held(recovered.closed_ends, recovered.first_startable, recovered.segment)
        self._choose_segment(is_last_full=recovered.format < FORMAT)

    @classmethod
    def open(
        cls,
        storage: Storage,
        identity: Identity,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        cache_bytes: int = CACHE_BYTES,
    ) -> Journal:
        """Recover what is durable. An empty storage is a new journal, and stays empty until the first write.

        Raises CorruptJournal, WrongIdentity, NewerFormat, or a plain StartupError where the disk does not
        answer. Nothing is modified when it raises one of the first three.
        """
        recovered = Recovery(storage, identity, cache_bytes)
        try:
            recovered.run()
        except OSError as error:
            raise StartupError(f"the journal cannot be opened: {error}; mend that and start again") from error
        return cls(storage, identity, recovered, segment_bytes)

    # The log, what is not durable yet included.

    @property
    def first_index(self) -> int:
        return self._log.first_index

    @property
    def last_index(self) -> int:
        """The index of the last entry, 0 in an empty journal."""
        return self._log.last_index

    @property
    def last_term(self) -> int:
        """The term of the last entry, 0 in an empty journal."""
        return self._log.last_term

    def term_at(self, index: int) -> int | None:
        """The term of an entry or of the one before the first (0 for index 0), None of any other."""
        return self._log.term_at(index)

    @property
    def previous_term(self) -> int:
        """The term of the entry before the first."""
        return self._log.previous_term

    @property
    def mark(self) -> Mark | None:
        """The newest marked entry, also where a snapshot covers it; None if there is none."""
        return self._log.marks.newest

    def mark_at(self, index: int) -> Mark | None:
        """The newest mark at or below an index. Raises ValueError for one below `first_index - 1`."""
        if index < self._log.first_index - 1:
            raise ValueError(f"marks before entry {self._log.first_index - 1} are already trimmed")
        return self._log.marks.at(index)

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever written: there is no file, or a first one without its header."""
        return self._segment == 1 and not self._offset

    @property
    def size_bytes(self) -> int:
        """How much of the disk the segments take that are not trimmed."""
        return self._held.closed_bytes + self._offset

    def bytes_since(self, index: int) -> int:
        """How many bytes of records hold the entries after `index`."""
        return self._log.bytes_since(index)

    def index_before_bytes(self, tail_bytes: int) -> int:
        """The largest index that at least so many bytes of entries follow; else `first_index - 1`."""
        return self._log.index_before_bytes(tail_bytes)

    def entry(self, index: int) -> Entry:
        """One entry. Raises IndexError where there is none, JournalFailed where it cannot be read back."""
        return self._log.entry(index)

    def entries(self, start: int, stop: int | None = None, max_bytes: int | None = None) -> list[Entry]:
        """The entries of `start <= index < stop`, as far as they exist.

        With `max_bytes`, as many as have that much payload together, but at least one. Old entries are
        read from the disk, only those returned. Raises JournalFailed where one cannot be read back.
        """
        return self._log.entries(start, stop, max_bytes)

    # Mutations: memory only.

    def append(self, payload: bytes, index: int, term: int) -> None:
        """Add the entry `last_index + 1`. Raises ValueError for another index."""
        if index != self._log.last_index + 1:
            raise ValueError(f"entry {index} cannot follow entry {self._log.last_index}")
        self._log.append(payload, term, place(self._segment, self._offset + self._buffered_bytes))
        self._buffer_record(ENTRY, index, term, payload)

    def truncate_from(self, index: int) -> None:
        """Drop the entry `index` and everything after it; nothing happens where there is none."""
        if index > self._log.last_index:
            return
        if index < self._log.first_index:
            raise ValueError(f"entries before {self._log.first_index} are already trimmed")
        self._log.truncate_from(index)
        self._cut_before(index)
        self._buffer_record(TRUNCATE, index, self.last_term, encode_mark(self.mark))

    def install(self, index: int, term: int, mark: bytes | None) -> None:
        """Begin behind a snapshot that ends with this entry; a log that has the entry is kept as it is.

        The snapshot has to be durable. `mark` is the payload of the newest marked entry it covers. Raises
        ValueError where the log begins behind the snapshot, or the mark is empty.
        """
        if index < max(self._log.first_index - 1, 1):
            raise ValueError(
                f"the snapshot ends at entry {index}, and the log begins at {self._log.first_index}"
            )
        if mark == b"":
            raise ValueError("a mark is not empty")
        if self._log.term_at(index) == term:
            return
        self._log.reset(index, term, Mark(index, mark) if mark else None)
        self._cut_before(index)
        self._buffer_record(BASE, index, term, mark or b"")

    def set_hard_state(self, term: int, vote: str | None) -> None:
        """Remember the term and whom this member voted for in it."""
        if (term, vote) == (self.term, self.vote):
            return
        self.term, self.vote = term, vote
        self._buffer_record(HARD_STATE, 0, term, (vote or "").encode())

    def begin(self) -> None:
        """Let the next write make a new journal's file, though nothing is in it; another one has its file.

        Once it is durable, an empty folder is a journal that was lost, and not one that has promised nothing.
        """
        if self.is_new:
            self.position += 1

    # The head.

    def trim(self, index: int) -> int:
        """Forget whole segments of which no entry after `index` is live; returns the `first_index` reached.

        Forgets less, or nothing, while a crash could still undo a truncation or `install`; later calls make
        up for it. Raises ValueError where the entry is not durable.
        """
        if index > self.synced_index:
            raise ValueError(f"entry {index} is not durable yet, only {self.synced_index} is")
        if self.synced_position >= self._cut_position:
            start = self._held.release(self._log.segment_after(index) or self._segment)
            if start is not None:
                self._log.trim(start)
        return self.first_index

    def take_removals(self) -> list[str]:
        """The files trimmed since the last call, for `writer.remove` on the disk thread; they may be none."""
        return self._held.take_removals()

    # Durability.

    def take(self) -> Write | None:
        """Everything buffered since the last `take`; None if that is nothing, or a write is outstanding."""
        if self._outstanding or self.position == self._taken_position:
            return None
        data = b"".join(self._buffer)
        write = Write(self._segment, self._offset, data, self.position, self.last_index, self.term, self.vote)
        self._outstanding = write
        self._taken_position = self.position
        self._taken_index = self.last_index
        self._offset += len(data)
        self._buffer = []
        self._buffered_bytes = 0
        self._choose_segment()
        return write

    def finish(self, write: Write) -> None:
        """Take note that the outstanding write is durable. Raises ValueError for any other."""
        if write is not self._outstanding:
            raise ValueError("this write is not the outstanding one")
        self._outstanding = None
        self._held.synced = write.segment
        self.synced_position = write.position
        self.synced_index = self._taken_index
        self.synced_term, self.synced_vote = write.term, write.vote
        self._log.forget(self.synced_index)

    def close(self) -> None:
        """Close the files. What was not written is lost, as in a crash."""
        self._storage.close()

    def _buffer_record(self, kind: int, index: int, term: int, payload: bytes) -> None:
        self._buffer += encode(kind, index, term, payload)
        self._buffered_bytes += record_bytes(len(payload))
        self.position += 1

    def _cut_before(self, index: int) -> None:
        """The entry `index` and those after it are not in the log any more, whatever is being written."""
        self.synced_index = min(self.synced_index, index - 1)
        self._taken_index = min(self._taken_index, index - 1)
        self._cut_position = self.position + 1

    def _choose_segment(self, *, is_last_full: bool = False) -> None:
        """Begin a new segment for the next write if the present one is full, or there is none."""
        if self._segment and self._offset < self._segment_bytes and not is_last_full:
            return
        header = SegmentHeader(
            *self._identity,
            number=self._segment + 1,
            previous_end=self._offset,
            last_index=self.last_index,
            last_term=self.last_term,
            term=self.term,
            vote=self.vote,
            mark=self.mark,
        )
        start = encode_segment_start(header)
        self._buffer = [start]
        self._buffered_bytes = len(start)
        if self._segment:
            self._held.close(self._segment, self._offset)
        self._segment += 1
        self._offset = 0
