"""Text of others on a terminal: nothing in it can do anything but be read.

Control characters would command the terminal, characters of direction and of no width would make a text look
like another one. Nothing here is ever parsed as markup: rich's `Text` takes it as it is.
"""

from __future__ import annotations

import unicodedata
import zlib
from datetime import datetime
from functools import lru_cache

from rich.text import Text

REPLACEMENT = "\ufffd"
TAB = "    "

# The colours of the terminal chat, on a dark ground. Under NO_COLOR only bold, dim and italic are left.
GROUND = "#11151c"
PANEL = "#171c25"
RAISED = "#232b38"
LINE = "#2b3442"
PLAIN = "#d5dbe5"
DIM = "#8a95a6"
FAINT = "#616d80"
ACCENT = "#67c8b7"
WARNING = "#e5b567"
DANGER = "#ef7b85"
SENDERS = (
    "#7cb3f2",
    "#ee9d74",
    "#8ecb83",
    "#e38cb9",
    "#b8a1f5",
    "#dcc067",
    "#6cc7cf",
    "#ea8a86",
    "#a5c06a",
    "#cf9fd8",
)


def clean(text: str) -> str:
    """A text of several lines without anything that a terminal acts upon."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(map(_shown, text))


def one_line(text: str) -> str:
    """The same on one line, as names and quotations are shown."""
    return " ".join(clean(text).split())


@lru_cache(maxsize=4096)
def _shown(character: str) -> str:
    if character == "\n" or character.isprintable():
        return character
    if character == "\t":
        return TAB
    match unicodedata.category(character):
        case "Zs":
            return " "
        case "Zl" | "Zp":
            return "\n"
        case "Cf":
            return ""
        case _:
            return REPLACEMENT


def sender_colour(name: str) -> str:
    """The colour of a sender: always the same for a name."""
    return SENDERS[zlib.crc32(name.encode(errors="replace")) % len(SENDERS)]


def sender_text(name: str) -> Text:
    return Text(one_line(name), style=f"bold {sender_colour(name)}")


@lru_cache(maxsize=8192)
def local(sent_at: str) -> datetime:
    """An RFC 3339 time of a message as the time of this machine's zone."""
    return datetime.fromisoformat(sent_at).astimezone()


def clipped(text: Text, width: int) -> Text:
    """At most `width` cells of a text, with an ellipsis where some is left out."""
    text = text.copy()
    text.truncate(max(width, 1), overflow="ellipsis")
    return text


def sendable(text: str) -> str:
    """What was typed or pasted, as the cluster takes it: of control characters, tab and line feed only."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    kept = "".join(each for each in lines if each in "\n\t" or unicodedata.category(each) not in {"Cc", "Cs"})
    return kept if kept.strip() else ""
