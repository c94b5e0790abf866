"""Every request is applied once: the memory of recent request ids and their results.

A client that did not hear an answer sends the same request again, with the same id. The machine
then answers as it did the first time, rejections included, and changes nothing.

Remembering ends, and then a late repetition must not be taken for a new request. An id carries its
creation time, so there is a **horizon**: an id created before it is refused as `expired`, and only
ids created before it are forgotten. The horizon is the later of

* cluster time less 10 minutes (results are remembered for 11), and
* one past the newest creation time ever forgotten: at most 250 000 requests are remembered.

An id may run ahead of cluster time by a minute at most. Were such an id forgotten because of the
count, the horizon would jump past the present and refuse everybody's new requests; so while the
oldest row holds one, the memory is allowed to grow to twice its size before that happens.

The requests of one log entry are one row: their ids (16 bytes each) and then the checksums of their
bodies (4 bytes each) in one blob, their results in another. In memory there is one dictionary,
id -> anchor; an anchor stands for 16 neighbouring log indexes, so that few integers are kept alive,
and the row itself is read only when a repetition really comes.

Everything here is decided by the log alone, so all members forget the same rows at the same index.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence

import msgspec

from raftos.state.command import REQUEST_ID_BYTES, Rejected, created_ms
from raftos.state.storage import CannotApply

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    log_index INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    ids BLOB NOT NULL,
    results BLOB NOT NULL
) STRICT;
"""

REFUSED_AFTER_MS = 600_000
FORGOTTEN_AFTER_MS = 660_000
AHEAD_MS = 60_000
MAX_REQUESTS = 250_000
SWEEP_INDEXES = 64
SWEEP_ROWS = 1_000

_ANCHOR_INDEXES = 16
_ID_AND_CHECKSUM_BYTES = REQUEST_ID_BYTES + 4
_INSERT = "INSERT INTO requests VALUES (?, ?, ?, ?)"
_FIND = "SELECT ids, results FROM requests WHERE log_index BETWEEN ? AND ? AND instr(ids, ?)"
_OLDEST = "SELECT log_index, time_ms, ids FROM requests ORDER BY log_index LIMIT ?"
_DELETE = "DELETE FROM requests WHERE log_index <= ?"

_decode_results = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def split_ids(blob: bytes) -> list[bytes]:
    """The request ids of one row."""
    end = len(blob) // _ID_AND_CHECKSUM_BYTES * REQUEST_ID_BYTES
    return [blob[at : at + REQUEST_ID_BYTES] for at in range(0, end, REQUEST_ID_BYTES)]


def _position(blob: bytes, request_id: bytes) -> int | None:
    """Where the id stands in a row; a match across two ids is none."""
    at = blob.find(request_id)
    while at >= 0 and at % REQUEST_ID_BYTES:
        at = blob.find(request_id, at + 1)
    position, end = at // REQUEST_ID_BYTES, len(blob) // _ID_AND_CHECKSUM_BYTES
    return position if 0 <= position < end else None


def _checksum(blob: bytes, position: int) -> int:
    start = len(blob) // _ID_AND_CHECKSUM_BYTES * REQUEST_ID_BYTES + 4 * position
    return int.from_bytes(blob[start : start + 4], "little")


def join_results(results: Sequence[bytes]) -> bytes:
    """Encoded results as one msgpack array."""
    return b"".join((b"\xdd", len(results).to_bytes(4, "big"), *results))


class RequestMemory:
    """The recent request ids of one machine. Not thread-safe; belongs to the writer."""

    def __init__(self, db: sqlite3.Connection, horizon_ms: int, max_requests: int = MAX_REQUESTS) -> None:
        self._db = db
        self._max_requests = max_requests
        self.horizon_ms = horizon_ms
        self.known: dict[bytes, int] = {}
        """Id -> anchor of the row that holds it. What a running transaction forgot is still in it."""
        self._added: list[dict[bytes, int]] = []
        self._dropped: list[bytes] = []
        for index, ids in db.execute("SELECT log_index, ids FROM requests ORDER BY log_index"):
            self.known.update(dict.fromkeys(split_ids(ids), index - index % _ANCHOR_INDEXES))
        self._count = len(self.known)
        self._settle()

    def __len__(self) -> int:
        return self._count

    def window(self, time_ms: int) -> tuple[bytes, bytes]:
        """The lowest and the highest id that may be new at this time; ids compare as bytes."""
        self.horizon_ms = max(self.horizon_ms, time_ms - REFUSED_AFTER_MS)
        lowest = self.horizon_ms.to_bytes(6, "big")
        highest = (time_ms + AHEAD_MS).to_bytes(6, "big") + b"\xff" * (REQUEST_ID_BYTES - 6)
        return lowest, highest

    def refusal(self, request_id: bytes, time_ms: int) -> Rejected | None:
        """Why an id cannot be taken at all, if so."""
        if len(request_id) != REQUEST_ID_BYTES:
            return Rejected(
                "invalid", f"a request id has {REQUEST_ID_BYTES} bytes, this one {len(request_id)}"
            )
        created = created_ms(request_id)
        if created < self.horizon_ms:
            late_ms = self.horizon_ms - created
            return Rejected(
                "expired",
                f"the request was created {late_ms} ms before results are remembered; "
                "find out whether it was applied, then send it under a new request id",
            )
        if created > time_ms + AHEAD_MS:
            return Rejected(
                "expired",
                f"the request's clock is {created - time_ms} ms ahead of cluster time; "
                "send it under a new request id made from cluster time",
            )
        return None

    def recall(self, request_id: bytes) -> tuple[int, bytes]:
        """The checksum of the body and the first result of a known id, from the rows."""
        anchor = self.known[request_id]
        for ids, results in self._db.execute(_FIND, (anchor, anchor + _ANCHOR_INDEXES - 1, request_id)):
            position = _position(ids, request_id)
            if position is not None:
                return _checksum(ids, position), bytes(_decode_results(results)[position])
        raise CannotApply(
            f"the request ids of log index {anchor} are damaged; rejoin this member under a new id"
        )

    def remember(
        self, index: int, time_ms: int, checksums: dict[bytes, int], results: Sequence[bytes]
    ) -> bytes:
        """Keep the new requests of the entry at `index`: id -> checksum, and their results in order.

        Returns the ids and checksums as they are kept, empty if there are none.
        """
        if not checksums:
            return b""
        ids = b"".join((*checksums, struct.pack(f"<{len(checksums)}I", *checksums.values())))
        self._db.execute(_INSERT, (index, time_ms, ids, join_results(results)))
        self._added.append(checksums)
        self.known.update(dict.fromkeys(checksums, index - index % _ANCHOR_INDEXES))
        self._count += len(checksums)
        return ids

    def sweep(self, index: int, time_ms: int) -> None:
        """Forget what is old, every 64th index, and what is too much, at once; a bounded step."""
        if self._count > self._max_requests or index % SWEEP_INDEXES == 0:
            self._forget(time_ms)

    def _forget(self, time_ms: int) -> None:
        # Going a little below the limit saves a sweep at each following entry.
        crowded = self._count > self._max_requests
        wanted = self._max_requests - self._max_requests // 256 if crowded else self._count
        last = None
        for index, row_time_ms, blob in self._db.execute(_OLDEST, (max(SWEEP_ROWS, self._count - wanted),)):
            ids = split_ids(blob)
            newest_ms = created_ms(max(ids))
            too_many = self._count > wanted and (newest_ms < time_ms or self._count > 2 * self._max_requests)
            if not too_many and row_time_ms >= time_ms - FORGOTTEN_AFTER_MS:
                break
            last = index
            self._count -= len(ids)
            self._dropped += ids
            self.horizon_ms = max(self.horizon_ms, newest_ms + 1)
        if last is not None:
            self._db.execute(_DELETE, (last,))

    def commit(self) -> None:
        """The transaction is saved: what it forgot is gone."""
        for request_id in self._dropped:
            del self.known[request_id]
        self._settle()

    def rollback(self) -> None:
        """The transaction is undone: so is what it added and forgot."""
        for request_id in (request_id for checksums in self._added for request_id in checksums):
            del self.known[request_id]
        self.horizon_ms, self._count = self._before
        self._settle()

    def check(self) -> Iterator[str]:
        """The invariants: one sentence for each that does not hold."""
        rows = {
            request_id: index
            for index, ids in self._db.execute("SELECT log_index, ids FROM requests")
            for request_id in split_ids(ids)
        }
        if rows.keys() != self.known.keys():
            yield "the remembered request ids are not those of the rows"
        if any(
            self.known[request_id] != index - index % _ANCHOR_INDEXES for request_id, index in rows.items()
        ):
            yield "a request id leads to the wrong row"
        if self._count != len(rows):
            yield f"{self._count} request ids are counted, {len(rows)} are kept"

    def _settle(self) -> None:
        self._added.clear()
        self._dropped.clear()
        self._before = (self.horizon_ms, self._count)
