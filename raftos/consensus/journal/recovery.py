"""Reading the segments back: what was durable, what was torn, and what is damaged.

Segments are replayed in order. Whatever fails a check is damage and refuses the start, with one
exception: a record torn at the end of the **last** segment (the rule is in `records.py`), which a crash
in the middle of a write leaves behind. A tear in the last segment's header means a crash in the middle
of a rotation: that segment does not count, and the one before it is the last.

Nothing is modified before everything has checked out. Then the torn end is cut off and the last
segment synced, also when nothing was torn: records that were read may so far have been only in the
operating system's memory, and are about to be called durable.

Each segment's header states what the replay of the segments before it must have reached. A segment
that is missing in the middle, exchanged or shortened does not agree with the next one's header.

The first segment may have any number, for the oldest are removed when a snapshot covers them, one after
another. Its header then is where replay begins; no check can tell a segment that was lost in front of it
from one that was removed. So whoever opens the journal compares `first_index` with its snapshot. A
segment of format 1 states too little for that. Where such segments come first, and number 1 is gone, they
are what a removal left behind that had got as far as them: it is finished, if a segment of a later format
follows.
"""

from __future__ import annotations

import msgspec

from raftos.consensus.journal.errors import CorruptJournal, NewerFormat, WrongIdentity
from raftos.consensus.journal.log import Log, place
from raftos.consensus.journal.records import (
    BASE,
    END,
    ENTRY,
    FORMAT,
    HARD_STATE,
    OLDEST_FORMAT,
    PREAMBLE_BYTES,
    SEGMENT,
    TRUNCATE,
    Identity,
    Mark,
    SegmentHeader,
    decode_mark,
    decode_segment_header,
    segment_name,
    segment_number,
)
from raftos.consensus.journal.segment import Record, SegmentReader
from raftos.consensus.journal.storage import Storage


class Recovery:
    """The state that the segments read so far have reached; at last, that of the whole journal."""

    def __init__(self, storage: Storage, identity: Identity, cache_bytes: int) -> None:
        self.log = Log(storage, cache_bytes)
        self.term = 0
        self.vote: str | None = None
        self.segment = 0
        """The number of the last segment, 0 where there is none."""
        self.end = 0
        """Where its last record ends."""
        self.format = 0
        """And its format."""
        self.closed_ends: dict[int, int] = {}
        """Where the last records of the segments before it end."""
        self.first_startable = 1
        """The first segment with which a journal may begin, but for number 1, with which any may."""
        self._storage = storage
        self._identity = identity
        self._is_headless = False
        """Whether entries from before the first segment are gone, and may still be dropped by a record."""

    def run(self) -> None:
        """Replay everything, then repair the end. Raises StartupError and OSError."""
        numbers = sorted(filter(None, map(segment_number, self._storage.names())))
        for expected, number in enumerate(numbers, start=numbers[0] if numbers else 1):
            if number != expected:
                raise CorruptJournal(segment_name(expected), 0, "this segment is missing")
        leftovers = self._leftovers(numbers)
        for number in numbers[len(leftovers) :]:
            reader = self._reader(number, numbers)
            self._replay(reader, number)
        for name in leftovers:
            self._storage.remove(name)
            self._storage.sync_directory()
        if numbers:
            self._repair(reader, is_header_torn=self.segment != numbers[-1])

    def _reader(self, number: int, numbers: list[int]) -> SegmentReader:
        return SegmentReader(self._storage, segment_name(number), is_last=number == numbers[-1])

    def _leftovers(self, numbers: list[int]) -> list[str]:
        """The segments that a removal should have taken too: those of format 1, where number 1 is gone."""
        names: list[str] = []
        if not numbers or numbers[0] == 1:
            return names
        for number in numbers:
            reader = self._reader(number, numbers)
            if reader.preamble() != OLDEST_FORMAT:
                return names
            names.append(reader.name)
        raise CorruptJournal(segment_name(numbers[0] - 1), 0, "this segment is missing")

    def _replay(self, reader: SegmentReader, number: int) -> None:
        """Take over all records of a segment; nothing happens where its header is torn."""
        if not self._check_header(reader, number):
            return
        if self.segment:
            self.closed_ends[self.segment] = self.end
        while True:
            self.log.extend(*reader.run(self.log.last_index + 1, place(number, 0)))
            start = reader.end
            record = reader.next()
            if record is None:
                break
            self._apply(record, place(number, start), reader)
        self.segment, self.end = number, reader.end

    def _check_header(self, reader: SegmentReader, number: int) -> bool:
        version = reader.preamble()
        if version is not None and not OLDEST_FORMAT <= version <= FORMAT:
            raise NewerFormat(
                f"the journal ({reader.name}) has format {version}, and this version of raftos reads format "
                f"{FORMAT}; nothing was changed, so start the newer version again"
            )
        record = reader.next() if version else None
        if record is None:
            # The first segment may be torn only where nothing can have been before it.
            if not reader.is_last or (number > 1 and not self.segment):
                raise reader.damage("the segment's header is missing")
            return False
        header = decode_segment_header(record.payload) if record.kind == SEGMENT else None
        if header is None or version is None:
            raise reader.damage("the segment's header is not one", PREAMBLE_BYTES)
        self._check_identity(header)
        if not self.segment and number > 1:
            self._begin(header)
        if version < self.format or header != self._expected(number, version):
            raise reader.damage("the segment does not continue the one before it", PREAMBLE_BYTES)
        if version == OLDEST_FORMAT:
            self.first_startable = number + 1
        self.format = version
        return True

    def _begin(self, header: SegmentHeader) -> None:
        """Take over from its header what the segments before the first one had reached."""
        self.log.reset(header.last_index, header.last_term, header.mark)
        self.term, self.vote, self.end = header.term, header.vote, header.previous_end
        self._is_headless = True

    def _check_identity(self, header: SegmentHeader) -> None:
        found = Identity(header.cluster_id, header.member_id)
        if found != self._identity:
            raise WrongIdentity(
                f"the journal belongs to member {found.member_id!r} of cluster {found.cluster_id!r}, not to "
                f"member {self._identity.member_id!r} of cluster {self._identity.cluster_id!r}; correct "
                "`data_dir`, or start the member that it belongs to"
            )

    def _expected(self, number: int, version: int) -> SegmentHeader:
        """The header with which segment `number` has to continue the state reached so far."""
        return SegmentHeader(
            *self._identity,
            number=number,
            previous_end=self.end,
            last_index=self.log.last_index,
            last_term=self.log.last_term,
            term=self.term,
            vote=self.vote,
            mark=None if version == OLDEST_FORMAT else self.log.marks.newest,
        )

    def _apply(self, record: Record, record_place: int, reader: SegmentReader) -> None:
        if record.kind == ENTRY and record.index == self.log.last_index + 1:
            self.log.append(record.payload, record.term, record_place)
            self.log.forget(record.index)
        elif record.kind == HARD_STATE:
            self.term, self.vote = record.term, record.payload.decode() or None
        elif record.kind == TRUNCATE and 0 < record.index <= self.log.last_index:
            self._truncate(record, reader)
        elif record.kind == BASE and self._is_base(record):
            mark = Mark(record.index, record.payload) if record.payload else None
            self.log.reset(record.index, record.term, mark)
            self._is_headless = False
        else:
            raise self._disorder(reader)

    def _is_base(self, record: Record) -> bool:
        """Whether a snapshot may empty the log here: it ends neither before it nor at an entry of it."""
        if self.format == OLDEST_FORMAT or self._is_headless:
            return self._is_headless
        log = self.log
        return record.index >= log.first_index - 1 and log.term_at(record.index) != record.term

    def _truncate(self, record: Record, reader: SegmentReader) -> None:
        if self._is_headless and record.index < self.log.first_index:
            self.log.reset(record.index - 1, record.term, self._mark_of(record, reader))
            return
        if record.index < self.log.first_index:
            raise self._disorder(reader)
        self.log.truncate_from(record.index)
        if self.format == OLDEST_FORMAT:
            return
        if (record.term, self._mark_of(record, reader)) != (self.log.last_term, self.log.marks.newest):
            raise self._disorder(reader)

    def _mark_of(self, record: Record, reader: SegmentReader) -> Mark | None:
        try:
            return decode_mark(record.payload)
        except msgspec.MsgspecError as error:
            raise self._disorder(reader) from error

    def _disorder(self, reader: SegmentReader) -> CorruptJournal:
        return reader.damage("the record ending here does not follow from those before it")

    def _repair(self, reader: SegmentReader, *, is_header_torn: bool) -> None:
        if is_header_torn:
            self._storage.remove(reader.name)
            self._storage.sync_directory()
            return
        if reader.is_torn:
            self._storage.truncate(reader.name, reader.end)
        if reader.is_unmarked:
            self._storage.write(reader.name, reader.end - len(END), END)
        self._storage.sync(reader.name)
        self._storage.sync_directory()
