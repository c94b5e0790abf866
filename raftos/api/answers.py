"""What the API sends back: a status, a body and what belongs in the head.

Every error has the one JSON shape, whatever went wrong: `{"error": {code, message, retryable, leader}}`.
Three refusals of HTTP itself (method, content type, malformed request) are `invalid` with a status of
their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Protocol

import msgspec

from raftos.errors import InvalidInput, RaftosError

JSON = "application/json"
MSGPACK = "application/msgpack"

encode_json = msgspec.json.Encoder().encode
encode_msgpack = msgspec.msgpack.Encoder().encode


class MethodNotAllowed(InvalidInput):
    http_status: ClassVar[int] = 405


class UnsupportedMediaType(InvalidInput):
    http_status: ClassVar[int] = 415


class Answer(msgspec.Struct):
    """One response. `headers` are whole lines, each ending in CRLF."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: str = ""


class Outlet(Protocol):
    """Where a stream writes, as long as its reader is there; its task is cancelled when the reader leaves."""

    def write(self, block: bytes) -> None:
        """Send some of the body, already framed; what the reader does not take at once is buffered."""

    @property
    def backlog_bytes(self) -> int:
        """How much is buffered."""

    async def drained(self) -> None:
        """Wait until little is buffered. Raises ConnectionResetError when that takes too long."""


class StreamAnswer(Answer, kw_only=True):
    """A response whose body `run` writes, piece by piece, until it returns.

    Without `size_bytes` the body is of unknown length, and `run` writes chunks. With it, `run` writes just so
    many bytes; where it cannot, it raises ConnectionResetError.
    """

    run: Callable[[Outlet], Awaitable[None]]
    size_bytes: int | None = None


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, encode_json(value))


def error_answer(error: RaftosError, *, leader: str | None = None) -> Answer:
    """The error in its JSON shape; `leader` is a hint for errors that may be tried elsewhere."""
    return Answer(error.http_status, encode_json({"error": error_body(error, leader)}))


def error_body(error: RaftosError, leader: str | None = None) -> msgspec.Struct:
    body = error.body()
    if body.retryable and body.leader is None:
        return msgspec.structs.replace(body, leader=leader)
    return body
