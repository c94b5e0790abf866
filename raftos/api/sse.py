"""Events as server-sent events (WHATWG HTML, 9.2), in the blocks that many watchers share.

    event: kv.written                       an event; `id:` stands only on the last one of a revision, so
    id: 42                                  that whoever resumes after an id never splits a revision
    data: {"revision":42,"time_ms":1763700000000,"type":"kv.written","key":"a","version":1}

    event: bookmark                         nothing that this watcher wants has happened up to the revision
    id: 57
    data: {"revision":57,"member":"n2","age_ms":12}

    event: end                              why the stream ends; the last thing in it
    data: {"error":{"code":"not_ready","message":"...","retryable":true,"leader":null}}

A block is rendered, compressed and framed once for all watchers that want the same. Compression has to
allow for a watcher that joins in the middle: each block is deflated on its own and ends in a full flush
(RFC 1951, 3.2.4), so any watcher's header followed by any blocks is one valid gzip stream. It has no
trailer, as it has no end.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from raftos.api.answers import encode_json, error_body
from raftos.errors import InvalidInput, RaftosError
from raftos.state.domains import EVENTS
from raftos.state.events import Told

CONTENT_TYPE = "text/event-stream"
LEAST_DEFLATED_BYTES = 1024
"""Below this a block is stored as it is: compressing it would take longer than sending it."""
GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"

_DOMAINS = frozenset(tag.partition(".")[0] for tag in EVENTS)
_decode = msgspec.msgpack.Decoder(list[tuple[int, dict[str, Any]]]).decode


class Filter(msgspec.Struct, frozen=True):
    """What a watcher wants. `topics` are types of events; None stands for all, as an empty prefix does."""

    topics: frozenset[str] | None = None
    prefix: str = ""
    subject: str | None = None

    def accepts(self, event: dict[str, Any]) -> bool:
        kind = event["type"]
        if self.topics is not None and kind not in self.topics:
            return False
        if not self.prefix and self.subject is None:
            return True
        subject = str(event[EVENTS[kind]])
        return subject.startswith(self.prefix) and self.subject in {None, subject}


def topics_of(text: str) -> frozenset[str]:
    """`"kv,chat.posted"` -> the types of events it stands for. Raises InvalidInput."""
    found: set[str] = set()
    for topic in text.split(","):
        kinds = {tag for tag in EVENTS if topic in {tag, tag.partition(".")[0]}}
        if not kinds:
            known = ", ".join(sorted(_DOMAINS))
            raise InvalidInput(
                f"there are no events {topic!r}; topics are {known}, or one type such as kv.written"
            )
        found |= kinds
    return frozenset(found)


def render(told: Sequence[Told], wanted: Filter) -> bytes:
    """The events of whole log entries that a filter accepts."""
    return b"".join(_entry(entry, wanted) for entry in told)


def _entry(entry: Told, wanted: Filter) -> bytes:
    # Backwards, because the last accepted event of a revision carries its id.
    parts: list[bytes] = []
    marked = None
    for revision, event in reversed(_decode(entry.body)):
        if wanted.accepts(event):
            mark = b"" if revision == marked else b"id: %d\n" % revision
            fields = encode_json(event)[1:]
            head = b'event: %b\n%bdata: {"revision":%d,"time_ms":%d,' % (
                event["type"].encode(), mark, revision, entry.time_ms,
            )  # fmt: skip
            parts += (fields + b"\n\n", head)
            marked = revision
    parts.reverse()
    return b"".join(parts)


def bookmark(revision: int, member: str, age_ms: int) -> bytes:
    """Everything up to `revision` was said; the member knew itself up to date `age_ms` ago."""
    data = encode_json({"revision": revision, "member": member, "age_ms": age_ms})
    return b"event: bookmark\nid: %d\ndata: %b\n\n" % (revision, data)


def ending(error: RaftosError, leader: str | None) -> bytes:
    return b"event: end\ndata: %b\n\n" % encode_json({"error": error_body(error, leader)})


def deflated(data: bytes) -> bytes:
    """One block of a gzip stream that has no end."""
    if len(data) < LEAST_DEFLATED_BYTES:
        size = len(data).to_bytes(2, "little")
        return b"".join((b"\0", size, (len(data) ^ 0xFFFF).to_bytes(2, "little"), data))
    compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)
