"""What travels through the log: commands, requests, entries and results.

A **command** is a frozen, tagged value (`"kv.put"`). A **request** is a command with its request
id. An **entry** is what one log entry carries: the leader's cluster time and a batch of requests.
Applying an entry gives one **result** for each request, in order.

Request ids are RFC 9562 version 7 UUIDs: their first 48 bits are the creation time in
milliseconds of *cluster time*, so that the machine can refuse, as `expired`, an id older than the
results it still remembers. In msgpack they are 16 bytes, in JSON the usual hyphenated text.

Results are encoded as one-key maps, `{"ok": value}`, `{"rejected": {...}}`, `{"fault": {...}}`, so
that an edge can pass a successful result on without decoding it (`is_ok`).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from raftos.levels import FIRST_LEVEL

ENTRY_VERSION = 1
REQUEST_ID_BYTES = 16

_encode = msgspec.msgpack.Encoder().encode
_OK_PREFIX = b"\x81\xa2ok"


class Command(msgspec.Struct, frozen=True, gc=False, tag_field="type", forbid_unknown_fields=True):
    """Base of every command. Subclasses set `tag="domain.verb"`."""

    since: ClassVar[int] = FIRST_LEVEL
    """The feature level it came with; refused as `not_enabled` while the cluster is below it."""
    internal: ClassVar[bool] = False
    """Whether members alone propose it: the API does not offer it."""


class Query(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """Base of every query. Subclasses set `tag="domain.name"`; fields are the URL parameters."""

    point: ClassVar[bool] = False
    """Whether it reads one row by its key: then it is answered on the event loop, without a thread."""


class Ok(msgspec.Struct, frozen=True, gc=False):
    """The command was applied; `value` is the domain's answer."""

    value: Any = None


class Rejected(msgspec.Struct, frozen=True):
    """The domain refused the command and changed nothing. `code` is one of `errors.BY_CODE`."""

    code: str
    message: str


class Failed(msgspec.Struct, frozen=True):
    """A deterministic bug in domain code: the command was rolled back (a `Fault` to the user)."""

    message: str


Result = Ok | Rejected | Failed


def encode_result(result: Result) -> bytes:
    match result:
        case Ok(value):
            return _encode({"ok": value})
        case Rejected():
            return _encode({"rejected": result})
        case Failed():
            return _encode({"fault": result})


def is_ok(encoded: bytes) -> bool:
    """Whether an encoded result is an `Ok`, without decoding it."""
    return encoded.startswith(_OK_PREFIX)


class _Wire(msgspec.Struct, frozen=True):
    ok: Any = msgspec.UNSET
    rejected: Rejected | msgspec.UnsetType = msgspec.UNSET
    fault: Failed | msgspec.UnsetType = msgspec.UNSET


_decode_wire = msgspec.msgpack.Decoder(_Wire).decode


def decode_result(encoded: bytes) -> Result:
    """The result of `encode_result`, with `Ok.value` as plain dictionaries and lists."""
    wire = _decode_wire(encoded)
    if isinstance(wire.rejected, Rejected):
        return wire.rejected
    if isinstance(wire.fault, Failed):
        return wire.fault
    return Ok(wire.ok)


def encode_request(request_id: bytes, command: Command) -> bytes:
    return _encode((request_id, command))


def encode_entry(time_ms: int, requests: Sequence[bytes]) -> bytes:
    """One log entry: `[version, time_ms, [request, ...]]`, from already encoded requests."""
    head = b"\x93" + _encode(ENTRY_VERSION) + _encode(time_ms)
    return b"".join((head, b"\xdd", len(requests).to_bytes(4, "big"), *requests))


def new_request_id(created_ms: int) -> bytes:
    """A version 7 UUID created at `created_ms` of cluster time."""
    tail = bytearray(os.urandom(10))
    tail[0] = 0x70 | (tail[0] & 0x0F)
    tail[2] = 0x80 | (tail[2] & 0x3F)
    return created_ms.to_bytes(6, "big") + bytes(tail)


def created_ms(request_id: bytes) -> int:
    """The creation time inside a request id, in milliseconds of cluster time."""
    return int.from_bytes(request_id[:6], "big")


def parse_request_id(text: str) -> bytes:
    """The 16 bytes of a textual version 7 UUID. Raises `ValueError` for anything else."""
    parsed = uuid.UUID(text)
    if parsed.version != 7:
        raise ValueError("a request id is a version 7 UUID: its first 48 bits are its creation time")
    return parsed.bytes


def format_request_id(request_id: bytes) -> str:
    return str(uuid.UUID(bytes=request_id))
