"""Whether a command or a query keeps to the limits: otherwise InvalidInput or TooLarge, with a sentence."""

from __future__ import annotations

from raftos.errors import InvalidInput
from raftos.state.command import Command, Query
from raftos.state.domain import MAX_ROWS
from raftos.state.domains.chat.commands import Mark, Post, Search
from raftos.state.domains.chat.limits import (
    BLANKS,
    MAX_FOUND,
    MAX_KEEP_MESSAGES,
    MAX_KEEP_MS,
    MAX_NAME_BYTES,
    MAX_TEXT_BYTES,
)
from raftos.state.fulltext import understood
from raftos.state.limits import MAX_INTEGER, check_name, check_number, check_text

_NUMBERS: dict[str, tuple[int, int]] = {
    "keep_messages": (1, MAX_KEEP_MESSAGES),
    "keep_ms": (1, MAX_KEEP_MS),
    "last": (1, MAX_ROWS),
    "limit": (1, MAX_ROWS),
    "since": (0, MAX_INTEGER),
    "since_ms": (0, MAX_INTEGER),
    "after": (0, MAX_INTEGER),
    **dict.fromkeys(("sequence", "before", "before_sequence", "through"), (1, MAX_INTEGER)),
}


def _check_text(text: str) -> None:
    # Of an ASCII text these mean the same in every version of Python, and say it soonest.
    if text.isascii() and text.isprintable() and not text.isspace() and 0 < len(text) <= MAX_TEXT_BYTES:
        return
    if not text.strip(BLANKS):
        raise InvalidInput("the text has nothing to see in it; a message has at least one visible character")
    check_text("text", text, MAX_TEXT_BYTES, layout=True)


def validate_post(command: Post) -> None:
    check_name("room", command.room, MAX_NAME_BYTES)
    check_name("sender", command.sender, MAX_NAME_BYTES)
    _check_text(command.text)
    if command.reply_to is not None:
        check_number("reply_to", command.reply_to, 1)


def validate_fields(request: Command | Query) -> None:
    """Fields of one name have one limit; what needs more or less than that has a function of its own."""
    for name in request.__struct_fields__:
        value = getattr(request, name)
        if value is None:
            continue
        if name in _NUMBERS:
            check_number(name, value, *_NUMBERS[name])
        elif name == "text":
            _check_text(value)
        else:
            check_name(name, value, MAX_NAME_BYTES)


def validate_mark(command: Mark) -> None:
    check_name("room", command.room, MAX_NAME_BYTES)
    check_name("reader", command.reader, MAX_NAME_BYTES)
    check_number("sequence", command.sequence, 0)


def validate_search(query: Search) -> None:
    understood(query.text)
    check_number("limit", query.limit, 1, MAX_FOUND)
    if query.room is not None:
        check_name("room", query.room, MAX_NAME_BYTES)
