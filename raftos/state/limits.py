"""The checks that domains share: text, numbers, counts.

Each raises InvalidInput or TooLarge with a sentence that names what is wrong and what is allowed. They
run at the edge before a command is proposed, and once more in the machine before it is applied.
"""

from __future__ import annotations

import re

from raftos.errors import InvalidInput, TooLarge

MAX_INTEGER = 2**53 - 1
"""The largest integer every JSON reader keeps exactly."""

_CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f]")
_CONTROL_CHARACTERS_BUT_LAYOUT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_MOST_SHOWN = 64


def shown(name: str) -> str:
    """A name as a message quotes it: its first 64 characters.

    Not `repr`: what that escapes differs between versions of Python, and refusals are the same everywhere.
    """
    return f"'{name}'" if len(name) <= _MOST_SHOWN else f"'{name[:_MOST_SHOWN]}...'"


def check_name(what: str, text: str, most_bytes: int) -> None:
    """One character at least, `most_bytes` of UTF-8 at most, no control characters."""
    # Of an ASCII text `isprintable` means the same in every version of Python.
    if text.isascii() and text.isprintable() and 0 < len(text) <= most_bytes:
        return
    if not text:
        raise InvalidInput(f"the {what} is empty; give it at least one character")
    check_text(what, text, most_bytes)


def check_text(what: str, text: str, most_bytes: int, *, layout: bool = False) -> None:
    """`most_bytes` of UTF-8 at most, no control characters; with `layout`, tabs and line feeds may be."""
    if layout:
        if _CONTROL_CHARACTERS_BUT_LAYOUT.search(text):
            raise InvalidInput(
                f"the {what} contains a control character; only tabs and line feeds may be in it"
            )
    elif _CONTROL_CHARACTERS.search(text):
        raise InvalidInput(f"the {what} contains a control character; leave NUL, tabs and line ends out")
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the {what} is not valid Unicode text") from error
    if size_bytes > most_bytes:
        raise TooLarge(f"the {what} has {size_bytes} bytes of UTF-8, at most {most_bytes} are allowed")


def check_number(name: str, value: int, least: int, most: int = MAX_INTEGER) -> None:
    if not least <= value <= most:
        raise InvalidInput(f"{name} is {value}; it has to be from {least} to {most}")


def check_count(what: str, count: int, least: int, most: int) -> None:
    if not least <= count <= most:
        raise InvalidInput(f"there are {count} {what}; allowed are {least} to {most}")
