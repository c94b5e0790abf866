"""How messages look: each is a block of lines, wrapped to a width.

    Saturday, 21 November ----------------------
    ada  10:41
    The text of a message, wrapped, and at the                12
    right its sequence, discreetly.
    | grace: The text that is answered
    A message soon after by the same sender has no head.      13

What a block depends on is in its arguments, so it is made once and kept: of thousands of messages only the
new ones are laid out, however often the screen is drawn.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import lru_cache
from itertools import chain

import msgspec
from rich.console import Console
from rich.text import Text

from raftos.state.domains.chat import Message
from raftos_cli.tui import text as looks
from raftos_cli.tui.model import Model, Outgoing, Window

SAME_TURN = timedelta(minutes=5)
MOST_LINES = 200
"""Of one message; whoever wants more reads it elsewhere."""
_CONSOLE = Console(width=80, color_system=None, legacy_windows=False)


class Block(msgspec.Struct, frozen=True):
    """Some lines that belong together.

    `key` is the sequence of a message, or the key of something outgoing; None: nothing to select.
    """

    key: int | None
    lines: tuple[Text, ...]


class Setting(msgspec.Struct, frozen=True):
    """Where a message stands: `margin` cells at the right are for its sequence."""

    width: int
    margin: int
    headed: bool
    spaced: bool


def blocks(model: Model, width: int) -> list[Block]:
    """The open room from top to bottom."""
    window = model.window
    if window is None:
        return []
    margin = len(str(max(window.high, 1))) + 2
    laid: list[Block] = [_beginning(model, width)]
    before: Message | None = None
    for message in window.messages:
        if before is None or looks.local(before.sent_at).date() != looks.local(message.sent_at).date():
            laid.append(_day(looks.local(message.sent_at).date(), width))
            before = None
        if message.sequence == window.unread_from and message is not window.messages[0]:
            laid.append(_rule("new", width, looks.ACCENT))
            before = None
        headed = before is None or not _continues(before, message)
        setting = Setting(width, margin, headed, spaced=headed and before is not None)
        laid.append(_message(message, _quoted(window, message), setting))
        before = message
    return laid + [_outgoing(each, model.user, width) for each in model.outgoing_here()]


def _continues(before: Message, message: Message) -> bool:
    elapsed = looks.local(message.sent_at) - looks.local(before.sent_at)
    return before.sender == message.sender and elapsed < SAME_TURN


def _quoted(window: Window, message: Message) -> tuple[str, str] | None:
    """Sender and text of what a message answers."""
    if message.reply_to is None:
        return None
    answered = window.message(message.reply_to)
    if answered is None:
        return ("", f"message {message.reply_to}")
    return (answered.sender, "(taken back)" if answered.redacted else answered.text[:400])


# Blocks.


@lru_cache(maxsize=4096)
def _message(message: Message, quoted: tuple[str, str] | None, setting: Setting) -> Block:
    head = [_head(message, setting.width)] if setting.headed else []
    room = setting.width - setting.margin
    quotation = [_quotation(*quoted, room)] if quoted else []
    first, *rest = wrapped(_body(message), room)
    body = [_with_margin(first, str(message.sequence), setting.width), *rest]
    space = [Text()] if setting.spaced else []
    return Block(message.sequence, tuple(chain(space, head, quotation, body)))


def _head(message: Message, width: int) -> Text:
    time = looks.local(message.sent_at).strftime("  %H:%M")
    name = looks.clipped(looks.sender_text(message.sender), width - len(time))
    return Text.assemble(name, (time, looks.FAINT))


def _body(message: Message) -> Text:
    if message.redacted:
        return Text("message taken back", style=f"italic {looks.FAINT}")
    text = Text(looks.clean(message.text), style=looks.PLAIN)
    if message.edited_at is not None:
        text.append("  (edited)", style=f"italic {looks.FAINT}")
    return text


def _quotation(sender: str, text: str, width: int) -> Text:
    colour = looks.sender_colour(sender) if sender else looks.FAINT
    name = (f"{looks.one_line(sender)}  ", colour) if sender else ""
    line = Text.assemble(("\u258f ", colour), name, (looks.one_line(text), looks.DIM))
    return looks.clipped(line, width)


def _outgoing(outgoing: Outgoing, user: str, width: int) -> Block:
    """Something on its way, below the messages."""
    title = "" if outgoing.edits is None else f"  message {outgoing.edits} becomes"
    head = looks.clipped(Text.assemble(looks.sender_text(user), (title, looks.FAINT)), width)
    body = wrapped(Text(looks.clean(outgoing.text), style=looks.DIM), width - 2)
    return Block(outgoing.key, (Text(), head, *body, *_fate(outgoing, width)))


def _fate(outgoing: Outgoing, width: int) -> list[Text]:
    what = "not sent" if outgoing.edits is None else "not edited"
    match outgoing.state:
        case "failed":
            return wrapped(Text(f"\u2717 {what}: {outgoing.reason}", style=looks.DANGER), width)
        case "unknown":
            return wrapped(Text(f"? outcome unknown: {outgoing.reason}", style=looks.WARNING), width)
        case _:
            return [Text("\u2026 sending", style=f"italic {looks.FAINT}")]


def _beginning(model: Model, width: int) -> Block:
    room = model.room
    if room is None:
        return Block(None, ())
    if model.has_older:
        words = "older messages"
    elif room.first > 1:
        words = f"messages before {room.first} are no longer kept"
    else:
        words = f"this is where {looks.one_line(room.name)} begins"
    return Block(None, (looks.clipped(Text(words, style=f"italic {looks.FAINT}"), width),))


@lru_cache(maxsize=256)
def _day(day: date, width: int) -> Block:
    return _rule(day.strftime(f"%A, {day.day} %B %Y"), width, looks.FAINT)


def _rule(title: str, width: int, colour: str) -> Block:
    left = max(2, (width - len(title) - 2) // 2)
    right = max(2, width - len(title) - 2 - left)
    line_colour = looks.LINE if colour == looks.FAINT else colour
    line = Text.assemble(
        ("\u2500" * left, line_colour), (f" {title} ", colour), ("\u2500" * right, line_colour)
    )
    return Block(None, (Text(), looks.clipped(line, width)))


# Lines.


def wrapped(text: Text, width: int) -> list[Text]:
    """The lines of a text; at least one."""
    lines = list(text.wrap(_CONSOLE, max(width, 8), overflow="fold"))
    if len(lines) > MOST_LINES:
        left_out = len(lines) - MOST_LINES
        lines[MOST_LINES:] = [Text(f"({left_out} more lines)", style=f"italic {looks.FAINT}")]
    return lines or [Text()]


def _with_margin(line: Text, mark: str, width: int) -> Text:
    line = looks.clipped(line, width - len(mark) - 1)
    return Text.assemble(line, " " * (width - len(mark) - line.cell_len), (mark, looks.FAINT))
