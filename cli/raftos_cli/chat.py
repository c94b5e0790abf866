"""`raftos chat`: rooms full of messages, for people and for scripts.

A message is one line, `#12 14:03 ann: text`, with the date before the time where it is not today's; the
further lines of its text are indented. On a terminal long lines are wrapped. Whatever others put into
names and texts, no escape sequence of theirs ever reaches the terminal.

Who speaks is `--as NAME`, or else RAFTOS_USER, or else the login name.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from raftos_cli.base import Group, Invocation, Seconds, Text, WholeNumber, pass_invocation, stale_option
from raftos_cli.following import told
from raftos_cli.names import from_cluster
from raftos_cli.output import Column, one_line, print_table

if TYPE_CHECKING:
    from raftos.client import Client
    from raftos.state.domains.chat import Message, RoomInfo

INDENT = "    "

chat = Group(
    "chat",
    help="Rooms full of messages, numbered without gaps.",
    examples="""
        raftos chat create general
        raftos chat send general "hello, all"
        raftos chat history general --last 20
        raftos chat follow general
        raftos chat tui
    """,
    files={"tui": "raftos_cli.chattui"},
)


@from_cluster
def room_names(client: Client, _typed: str) -> list[str]:
    return [room.room for room in client.chat.rooms(stale=True)]


class Moment(click.ParamType[int]):
    """A time such as 2026-11-21 or 2026-11-21T14:03, of the time zone here; milliseconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return max(0, int(datetime.fromisoformat(str(value)).timestamp() * 1000))
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is no time; write a date like 2026-11-21, or with a time, 2026-11-21T14:03",
                param,
                ctx,
            )


room_argument = click.argument("room", type=Text(), shell_complete=room_names)
sequence_argument = click.argument("sequence", type=WholeNumber(1))
as_option = click.option(
    "--as", "name", type=Text(), metavar="NAME", help="Who you are.  [default: RAFTOS_USER, or your login]"
)


# Rooms.


@chat.command(
    "rooms",
    examples="""
        raftos chat rooms
        raftos chat rooms -o json
    """,
)
@stale_option
@pass_invocation
def rooms(run: Invocation, stale: bool) -> None:
    """List the rooms there are."""
    with run.client() as client:
        listed = client.chat.rooms(stale=stale)

    def table() -> None:
        columns = [Column("ROOM", wraps=True), *(Column(title, number=True) for title in ("FIRST", "LAST"))]
        columns += [Column(title) for title in ("POSTED", "KEEPS", "STATE")]
        print_table(columns, [_row(room) for room in listed])

    run.output.data({"items": listed}, table)


def _row(room: RoomInfo) -> list[Any]:
    posted = None if room.last_posted is None else _time(room.last_posted)
    return [room.room, room.first, room.last, posted, _kept(room), "archived" if room.archived else "open"]


def _kept(room: RoomInfo) -> str:
    kept = [] if room.keep_messages is None else [f"last {room.keep_messages}"]
    if room.keep_ms is not None:
        kept.append(f"{room.keep_ms / 1000:g} s")
    return ", ".join(kept) or "all"


@chat.command(
    "create",
    examples="""
        raftos chat create general
        raftos chat create news --keep-messages 1000
        raftos chat create alarms --keep 86400
    """,
)
@click.argument("room", type=Text())
@click.option("--keep-messages", type=WholeNumber(1), metavar="N", help="Keep only so many, the newest.")
@click.option("--keep", "keep_s", type=Seconds(), metavar="SECONDS", help="Keep none that is older.")
@pass_invocation
def create(run: Invocation, room: str, keep_messages: int | None, keep_s: float | None) -> None:
    """Open ROOM, which keeps all its messages unless told otherwise.

    Exits 4 if there is one of this name.
    """
    with run.client() as client:
        created = client.chat.create(room, keep_messages=keep_messages, keep_s=keep_s)
    run.output.data(created, lambda: f"{room}: created")


@chat.command(
    "archive",
    examples="""
        raftos chat archive general
    """,
)
@room_argument
@pass_invocation
def archive(run: Invocation, room: str) -> None:
    """Close ROOM for good: its history can still be read.

    Exits 3 if there is no such room, 4 if it is archived already.
    """
    with run.client() as client:
        archived = client.chat.archive(room)
    run.output.data(archived, lambda: f"{room}: archived")


# Speaking.


@chat.command(
    "send",
    examples="""
        raftos chat send general "hello, all"
        raftos chat send general "so do I" --reply-to 12
        uptime | raftos chat send ops - --as "$(hostname)"
    """,
)
@room_argument
@click.argument("text", metavar="TEXT")
@as_option
@click.option("--reply-to", type=WholeNumber(1), metavar="N", help="The number of the message it answers.")
@pass_invocation
def send(run: Invocation, room: str, text: str, name: str | None, reply_to: int | None) -> None:
    """Say TEXT in ROOM; - reads it from stdin.

    Exits 3 if there is no such room or no message N in it, 4 if the room is archived.
    """
    content = _content(text)
    with run.client() as client:
        posted = client.chat.send(room, content, sender=name, reply_to=reply_to)
    value = {"room": posted.room, "sequence": posted.sequence}
    run.output.data(value, lambda: f"{room} #{posted.sequence}")


@chat.command(
    "edit",
    examples="""
        raftos chat edit general 12 "what I meant to say"
    """,
)
@room_argument
@sequence_argument
@click.argument("text", metavar="TEXT")
@as_option
@pass_invocation
def edit(run: Invocation, room: str, sequence: int, text: str, name: str | None) -> None:
    """Give your message number SEQUENCE a new TEXT.

    As TEXT, - stands for stdin. Exits 3 if the message is not there, 4 if it is redacted or the room
    archived, 6 if somebody else sent it.
    """
    content = _content(text)
    with run.client() as client:
        edited = client.chat.edit(room, sequence, content, sender=name)
    value = {"room": edited.room, "sequence": edited.sequence}
    run.output.data(value, lambda: f"{room} #{sequence}: edited")


@chat.command(
    "redact",
    examples="""
        raftos chat redact general 12
    """,
)
@room_argument
@sequence_argument
@as_option
@pass_invocation
def redact(run: Invocation, room: str, sequence: int, name: str | None) -> None:
    """Take the text of your message number SEQUENCE away for good.

    Exits 3 if it is not there, 6 if somebody else sent it.
    """
    with run.client() as client:
        redacted = client.chat.redact(room, sequence, sender=name)
    value = {"room": redacted.room, "sequence": redacted.sequence}
    run.output.data(value, lambda: f"{room} #{sequence}: redacted")


def _content(text: str) -> str:
    """The text to send: as it was given, or from stdin (-) without the newline at its end."""
    try:
        content = sys.stdin.buffer.read() if text == "-" else text.encode(errors="surrogateescape")
        return content.decode().removesuffix("\n") if text == "-" else content.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError("The text is not valid UTF-8.") from error


# Listening.


@chat.command(
    "history",
    examples="""
        raftos chat history general
        raftos chat history general --last 20
        raftos chat history general --from 2026-11-21T14:00
        raftos chat history general --since 12 -o json
    """,
)
@room_argument
@click.option("--since", type=WholeNumber(0), metavar="N", help="Only after message number N.")
@click.option("--from", "since_ms", type=Moment(), metavar="TIME", help="Only from this time on.")
@click.option("--last", type=WholeNumber(1), metavar="N", help="Only the newest, so many.")
@click.option("--limit", type=WholeNumber(1), metavar="N", help="At most so many.  [default: all]")
@stale_option
@pass_invocation
def history(
    run: Invocation,
    room: str,
    since: int | None,
    since_ms: int | None,
    last: int | None,
    limit: int | None,
    stale: bool,
) -> None:
    """Print the messages of ROOM in their order; in JSON, as a list.

    Exits 3 if there is no such room.
    """
    with run.client() as client:
        found = client.chat.history(room, since=since, since_ms=since_ms, last=last, limit=limit, stale=stale)
        if run.output.as_json:
            run.output.data(list(found), lambda: None)
        else:
            _print(found)


@chat.command(
    "follow",
    examples="""
        raftos chat follow general
        raftos chat follow general --since 12
        raftos chat follow general --changes -o json
    """,
)
@room_argument
@click.option(
    "--since", type=WholeNumber(0), metavar="N", help="First those after message number N.  [default: now]"
)
@click.option("--changes", is_flag=True, help="Print messages again when they are edited or redacted.")
@pass_invocation
def follow(run: Invocation, room: str, since: int | None, changes: bool) -> None:
    """Print the messages of ROOM as they are sent.

    It goes on until it is interrupted, at another member when one is lost: complete, in order, each
    once. In JSON each message is one line. Exits 3 if there is no such room.
    """
    from raftos.client.events import Bookmark

    with run.client() as client, client.chat.follow(room, since=since, changes=changes) as stream:
        for news in told(run, stream):
            for item in news:
                if not isinstance(item, Bookmark):
                    run.output.line(item, _liner(item))


@chat.command(
    "search",
    examples="""
        raftos chat search "release notes"
        raftos chat search '"release notes" -draft' --room general
        raftos chat search "deploy* failed" --limit 5 -o json
    """,
)
@click.argument("text", type=Text())
@click.option("--room", type=Text(), shell_complete=room_names, metavar="ROOM", help="Only in this room.")
@click.option(
    "--limit", type=WholeNumber(1, 100), default=20, metavar="N", help="At most so many.  [default: 20]"
)
@stale_option
@pass_invocation
def search(run: Invocation, text: str, room: str | None, limit: int, stale: bool) -> None:
    """Print the newest messages with certain words.

    TEXT is words that all have to occur, "phrases", begin* for words that begin so, and -word for
    those that must not occur. Case and accents do not matter.
    """
    with run.client() as client:
        page = client.chat.search(text, room=room, limit=limit, stale=stale)
    run.output.data(page, lambda: _print(page.items, lambda message: f"{one_line(message.room)} "))
    if page.more:
        run.output.say("There are older ones; see more of them with --limit.")


@chat.command(
    "read",
    examples="""
        raftos chat read general
        raftos chat read general --up-to 12
    """,
)
@room_argument
@click.option("--up-to", type=WholeNumber(0), metavar="N", help="Only up to this one.  [default: the newest]")
@as_option
@pass_invocation
def read(run: Invocation, room: str, up_to: int | None, name: str | None) -> None:
    """Note that you have read ROOM.

    What comes after counts as unread. It only moves forward; 0 takes your name off the list. Exits 3 if
    there is no such room or message.
    """
    with run.client() as client:
        newest = client.chat.page(room, last=1).last if up_to is None else up_to
        marked = client.chat.mark_read(room, newest, reader=name)
    noted = f"has read up to #{marked.sequence}" if marked.sequence else "is off the list of readers"
    run.output.data(marked, lambda: f"{room}: {one_line(marked.reader)} {noted}")


@chat.command(
    "readers",
    examples="""
        raftos chat readers general
    """,
)
@room_argument
@pass_invocation
def readers(run: Invocation, room: str) -> None:
    """List who has read how far in ROOM. Exits 3 if there is no such room."""
    with run.client() as client:
        known = client.chat.readers(room)

    def table() -> None:
        columns = [Column("READER", wraps=True), Column("READ", number=True), Column("UNREAD", number=True)]
        print_table(columns, [[each.reader, each.sequence, each.unread] for each in known.items])

    run.output.data(known, table)


# How messages are shown.


def _print(messages: Iterable[Any], before: Callable[[Any], str] = lambda _: "") -> None:
    for message in messages:
        click.echo(before(message) + line_of(message))


def _liner(message: Message) -> Callable[[], str]:
    return lambda: line_of(message)


def line_of(message: Message) -> str:
    """The message for people, as one line or more."""
    answered = "" if message.reply_to is None else f" (to #{message.reply_to})"
    marks = " (redacted)" if message.redacted else " (edited)" if message.edited_at else ""
    head = f"#{message.sequence} {_time(message.sent_at)} {one_line(message.sender)}{answered}:"
    lines = [one_line(line.expandtabs(4)) for line in f"{head} {message.text}".split("\n")]
    lines[-1] = lines[-1].rstrip() + marks
    return f"\n{INDENT}".join(piece for line in lines for piece in _wrapped(line))


def _wrapped(line: str) -> list[str]:
    """The line in pieces that fit a terminal; as it is where a program reads."""
    if not sys.stdout.isatty():
        return [line]
    width = shutil.get_terminal_size().columns - len(INDENT)
    return textwrap.wrap(line, max(width, 20), replace_whitespace=False, drop_whitespace=False) or [""]


def _time(sent_at: str) -> str:
    """A time of the API as people here read it: 14:03 if it is today's, else with its date."""
    moment = datetime.fromisoformat(sent_at).astimezone()
    is_today = moment.date() == datetime.now(moment.tzinfo).date()
    return moment.strftime("%H:%M" if is_today else "%Y-%m-%d %H:%M")
