"""Reading the segments back: what was durable, what was torn, and what is damaged.

Segments are replayed in order. Whatever fails a check is damage and refuses the start, with one
exception: a record torn at the end of the **last** segment (the rule is in `records.py`), which a crash
in the middle of a write leaves behind. A tear in the last segment's header means a crash in the middle
of a rotation: that segment does not count, and the one before it is the last.

Nothing is modified before everything has checked out. Then the torn end is cut off and the last
segment synced, also when nothing was torn: records that were read may so far have been only in the
operating system's memory, and are about to be called durable.

Each segment's header states what the replay of the segments before it must have reached. A segment
that is missing, exchanged or shortened does not agree with the next one's header.
"""

from __future__ import annotations

from raftos.consensus.journal.errors import CorruptJournal, NewerFormat, WrongIdentity
from raftos.consensus.journal.log import Log, place
from raftos.consensus.journal.records import (
    END,
    ENTRY,
    FORMAT,
    HARD_STATE,
    PREAMBLE_BYTES,
    SEGMENT,
    TRUNCATE,
    Identity,
    SegmentHeader,
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
        self._storage = storage
        self._identity = identity

    def run(self) -> None:
        """Replay everything, then repair the end. Raises StartupError and OSError."""
        numbers = sorted(filter(None, map(segment_number, self._storage.names())))
        for expected, number in enumerate(numbers, start=1):
            if number != expected:
                raise CorruptJournal(segment_name(expected), 0, "this segment is missing")
        for number in numbers:
            reader = SegmentReader(self._storage, segment_name(number), is_last=number == numbers[-1])
            if self._replay(reader, number):
                self.segment, self.end = number, reader.end
        if numbers:
            self._repair(reader, is_header_torn=self.segment != numbers[-1])

    def _replay(self, reader: SegmentReader, number: int) -> bool:
        """Take over all records of a segment; False where its header is torn."""
        if not self._check_header(reader, number):
            return False
        start = reader.end
        while record := reader.next():
            self._apply(record, place(number, start), reader)
            start = reader.end
        return True

    def _check_header(self, reader: SegmentReader, number: int) -> bool:
        version = reader.preamble()
        if version is not None and version != FORMAT:
            raise NewerFormat(
                f"the journal ({reader.name}) has format {version}, and this version of raftos reads format "
                f"{FORMAT}; nothing was changed, so start the newer version again"
            )
        record = reader.next() if version else None
        if record is None:
            if not reader.is_last:
                raise reader.damage("the segment's header is missing")
            return False
        header = decode_segment_header(record.payload) if record.kind == SEGMENT else None
        if header is None:
            raise reader.damage("the segment's header is not one", PREAMBLE_BYTES)
        self._check_identity(header)
        if header != self.header(number):
            raise reader.damage("the segment does not continue the one before it", PREAMBLE_BYTES)
        return True

    def _check_identity(self, header: SegmentHeader) -> None:
        found = Identity(header.cluster_id, header.member_id)
        if found != self._identity:
            raise WrongIdentity(
                f"the journal belongs to member {found.member_id!r} of cluster {found.cluster_id!r}, not to "
                f"member {self._identity.member_id!r} of cluster {self._identity.cluster_id!r}; correct "
                "`data_dir`, or start the member that it belongs to"
            )

    def header(self, number: int) -> SegmentHeader:
        """The header with which segment `number` has to continue the state reached so far."""
        return SegmentHeader(
            *self._identity,
            number=number,
            previous_end=self.end,
            last_index=self.log.last_index,
            last_term=self.log.last_term,
            term=self.term,
            vote=self.vote,
        )

    def _apply(self, record: Record, record_place: int, reader: SegmentReader) -> None:
        if record.kind == ENTRY and record.index == self.log.last_index + 1:
            self.log.append(record.payload, record.term, record_place)
            self.log.forget(record.index)
        elif record.kind == HARD_STATE:
            self.term, self.vote = record.term, record.payload.decode() or None
        elif record.kind == TRUNCATE and self.log.first_index <= record.index <= self.log.last_index:
            self.log.truncate_from(record.index)
        else:
            raise reader.damage("the record ending here does not follow from those before it")

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
