"""Server-sent events as a browser reads them (WHATWG HTML, 9.2.6), in whatever pieces they come.

Two things are left to the reader of the messages. Data stays bytes, because JSON decoders want bytes. And
a message has an id only where its own block states one: members state it on the last event of a revision,
so that "the last id seen", which the standard would repeat on every message, is the less precise answer.
"""

from __future__ import annotations

import msgspec

MAX_BLOCK_BYTES = 4 * 1024 * 1024
"""One message longer than this is nothing that a member of raftos sends."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Message(msgspec.Struct, frozen=True):
    """One block: its event name (`message` where none is stated), its data and its id, if it has one."""

    event: str
    data: bytes
    id: str | None = None


class MessageParser:
    """Bytes in, whole messages out. A block that never ends in an empty line never becomes a message."""

    def __init__(self) -> None:
        self._line = b""
        self._after_return = False
        self._at_start = True
        self._event = b""
        self._id: bytes | None = None
        self._data: list[bytes] = []
        self._block_bytes = 0

    def feed(self, piece: bytes) -> list[Message]:
        """The messages that end in this piece. Raises ValueError for one that is too long."""
        messages: list[Message] = []
        for line in self._lines(piece):
            if not line:
                self._end_block(messages)
            else:
                self._field(line)
        if self._block_bytes + len(self._line) > MAX_BLOCK_BYTES:
            raise ValueError(f"a message has more than {MAX_BLOCK_BYTES} bytes")
        return messages

    def _lines(self, piece: bytes) -> list[bytes]:
        """The lines that end in this piece, without their ends: LF, CR or both."""
        if self._after_return and piece:
            # What follows a CR at the end of a piece may be its LF, and no empty line.
            piece, self._after_return = piece.removeprefix(b"\n"), False
        self._line += piece
        if self._at_start:
            if _BYTE_ORDER_MARK.startswith(self._line):
                return []  # It may still become a byte order mark, or is nothing else.
            self._line, self._at_start = self._line.removeprefix(_BYTE_ORDER_MARK), False
        lines = self._line.splitlines(keepends=True)
        self._line = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
        self._after_return = bool(lines) and not self._line and lines[-1].endswith(b"\r")
        return [line.rstrip(b"\r\n") for line in lines]

    def _field(self, line: bytes) -> None:
        self._block_bytes += len(line)
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id" and b"\0" not in value:
            self._id = value
        # The rest are comments, `retry` (a follower has its own pauses) and what nobody knows.

    def _end_block(self, messages: list[Message]) -> None:
        if self._data:
            stated = None if self._id is None else _text(self._id)
            messages.append(Message(_text(self._event) or "message", b"\n".join(self._data), stated))
        self._event, self._id, self._data, self._block_bytes = b"", None, [], 0


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
