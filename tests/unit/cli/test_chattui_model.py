"""Claims about what the terminal chat knows and how messages look, without a terminal or a cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from raftos.client.beacons import Beacon
from raftos.client.events import Event
from raftos.state.domains.chat import Message, RoomInfo
from raftos_cli.tui import model as models
from raftos_cli.tui import text as looks
from raftos_cli.tui.blocks import blocks, wrapped
from raftos_cli.tui.model import Model

ROOM = "general"


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The time zone here is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def said(sequence: int, text: str = "", *, sender: str = "bob", **rest: Any) -> Message:
    at = f"2026-11-21T10:{sequence % 60:02}:00.000Z"
    return Message(sequence, sender, text or f"text {sequence}", at, **rest)


def several(first: int, last: int) -> list[Message]:
    return [said(sequence) for sequence in range(first, last + 1)]


def happened(kind: str, **fields: Any) -> Event:
    return Event(f"chat.{kind}", 1, 0, {"room": ROOM, **fields})


def looking(first: int, last: int, *, read: int | None = None, low: int | None = None) -> Model:
    """Ada's chat with one room that holds `first` to `last`, of which `low` to `last` are in the window."""
    model = Model("ada")
    model.list_rooms([RoomInfo(ROOM, first, last, archived=False)])
    model.read_up_to(ROOM, last if read is None else read)
    model.show(ROOM, several(low or first, last), first, last)
    return model


def sequences(model: Model) -> list[int]:
    assert model.window is not None
    return [message.sequence for message in model.window.messages]


# Rooms.


@pytest.mark.parametrize(
    ("events", "unread"),
    [
        ([], 2),
        ([happened("posted", sequence=11, sender="bob")], 3),
        ([happened("posted", sequence=11, sender="bob")] * 2, 3),
        ([happened("marked", reader="ada", sequence=10)], 0),
        ([happened("marked", reader="bob", sequence=10)], 2),
        ([happened("trimmed", first=10)], 1),
        ([happened("trimmed", first=11)], 0),
        ([happened("edited", sequence=9)], 2),
        ([happened("archived")], 2),
    ],
)
def test_unread_is_what_came_after_the_marker_and_is_kept(events: Sequence[Event], unread: int) -> None:
    """Whatever happened, and however often it was told."""
    model = Model("ada")
    model.list_rooms([RoomInfo(ROOM, 1, 10, archived=False)])
    assert model.rooms[ROOM].unread == 0, "not known yet"
    model.read_up_to(ROOM, 8)
    for event in events:
        model.happened(event)
    assert model.rooms[ROOM].unread == unread


def test_rooms_come_and_are_archived() -> None:
    """A new room is read as far as it goes; an event of a room that is not known says nothing."""
    model = Model("ada")
    model.happened(happened("posted", sequence=1, sender="bob"))
    assert not model.rooms
    for event in (happened("created"), happened("posted", sequence=1, sender="bob"), happened("archived")):
        model.happened(event)
    assert (model.rooms[ROOM].unread, model.rooms[ROOM].archived) == (1, True)


@pytest.mark.parametrize(
    ("unread", "archived", "chosen"),
    [(set(), set(), "a"), ({"c"}, set(), "c"), ({"c"}, {"c"}, "a"), (set(), {"a", "b"}, "c")],
)
def test_one_begins_where_something_is_new(unread: set[str], archived: set[str], chosen: str) -> None:
    """Else in the first room that is open."""
    model = Model("ada")
    model.list_rooms([RoomInfo(name, 1, 5, archived=name in archived) for name in "abc"])
    for name in "abc":
        model.read_up_to(name, 0 if name in unread else 5)
    assert model.first_choice() == chosen


def test_neighbours_go_around() -> None:
    """From any room to any other by steps."""
    model = Model("ada")
    assert (model.neighbour(1), model.first_choice()) == (None, None)
    model.list_rooms([RoomInfo(name, 1, 0, archived=False) for name in "abc"])
    assert model.neighbour(1) == "a"
    model.show("c", [], 1, 0)
    assert (model.neighbour(1), model.neighbour(-1)) == ("a", "b")


# The window.


def test_a_window_that_follows_asks_for_what_is_new() -> None:
    """And has no gap and nothing twice, whatever it is handed."""
    model = looking(1, 10)
    model.happened(happened("posted", sequence=12, sender="bob"))
    model.append(several(12, 12), 12)
    assert sequences(model)[-1] == 10, "there would be a gap"
    model.append(several(10, 12), 12)
    assert sequences(model)[-1] == 10, "it would be there twice"
    model.append(several(11, 12), 12)
    assert sequences(model) == list(range(1, 13))
    assert not model.misses_newer


def test_older_messages_come_in_front() -> None:
    """Until the first that is kept."""
    model = looking(3, 10, low=8)
    assert model.has_older
    model.prepend(several(3, 6))
    assert sequences(model)[0] == 8, "there would be a gap"
    model.prepend(several(3, 7))
    assert sequences(model) == list(range(3, 11))
    assert not model.has_older


@pytest.mark.parametrize("at_bottom", [True, False])
def test_a_window_never_holds_everything(monkeypatch: pytest.MonkeyPatch, at_bottom: bool) -> None:
    """Who looks at the end loses the beginning; who looks elsewhere keeps it, and follows no more."""
    monkeypatch.setattr(models, "MOST_HELD", 10)
    model = looking(1, 10)
    model.at_bottom = at_bottom
    model.append(several(11, 13), 13)
    assert model.window is not None
    assert model.window.follows is at_bottom
    assert sequences(model) == list(range(4 if at_bottom else 1, 14))


def test_paging_far_back_lets_go_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is new is not fetched then, until somebody pages forward again."""
    monkeypatch.setattr(models, "MOST_HELD", 10)
    model = looking(1, 20, low=11)
    model.prepend(several(6, 10))
    assert model.window is not None
    assert (sequences(model), model.window.follows) == (list(range(6, 16)), False)
    model.happened(happened("posted", sequence=21, sender="bob"))
    assert not model.misses_newer
    assert model.has_newer
    model.at_bottom = True
    model.append(several(16, 21), 21)
    assert model.window.follows


def test_retention_takes_from_the_front_of_the_window() -> None:
    """All of it, if it comes to that."""
    model = looking(1, 10)
    model.happened(happened("trimmed", first=8))
    assert (sequences(model), model.has_older) == ([8, 9, 10], False)
    model.happened(happened("trimmed", first=11))
    assert sequences(model) == []
    model.happened(happened("posted", sequence=11, sender="bob"))
    model.append(several(11, 11), 11)
    assert sequences(model) == [11]


def test_what_changed_is_fetched_again() -> None:
    """Only what is held; an answered message outside of the window counts."""
    model = looking(1, 10, low=5)
    assert model.window is not None
    model.append([said(11, reply_to=2), said(12, reply_to=6)], 12)
    assert model.unknown_quotes() == [2]
    model.replace(said(2, "quoted"))
    assert model.unknown_quotes() == []
    for sequence in (1, 2, 6):
        model.happened(happened("edited", sequence=sequence))
    assert model.stale == {2, 6}
    model.replace(said(6, "new", edited_at="2026-11-21T10:00:00Z"))
    model.gone(2)
    assert model.stale == set()
    assert [model.window.message(each) for each in (2, 7)] == [None, said(7)]
    assert model.window.messages[1].text == "new"


@pytest.mark.parametrize(
    ("read", "at_bottom", "looks_on", "marked"),
    [(8, True, True, 10), (8, False, True, None), (8, True, False, None), (10, True, True, None)],
)
def test_read_is_what_was_in_view(read: int, at_bottom: bool, looks_on: bool, marked: int | None) -> None:
    """At the end of the room, by somebody whose terminal has the focus."""
    model = looking(1, 10, read=read)
    model.at_bottom, model.looking = at_bottom, looks_on
    assert model.to_mark() == marked


# What this user sends.


def test_an_acknowledged_message_goes_when_the_window_shows_it() -> None:
    """So it is to be seen all the time, and never twice."""
    model = looking(1, 10)
    outgoing = model.write("hello")
    assert model.next_to_send() is outgoing
    model.acknowledged(outgoing, 11)
    assert (model.outgoing_here(), model.misses_newer) == ([outgoing], True)
    model.append([said(11, "hello", sender="ada")], 11)
    assert model.outgoing_here() == []


def test_messages_leave_in_the_order_they_were_written_in() -> None:
    """One that is stuck does not hold up those after it."""
    model = looking(1, 10)
    first, second = model.write("one"), model.write("two", reply_to=3)
    assert (first.key, second.key) == (-1, -2)
    first.state = "failed"
    assert model.next_to_send() is second
    assert model.outgoing_of(-1) is first
    first.state = "waiting"
    assert model.next_to_send() is first


@pytest.mark.parametrize(
    ("shown", "settled"),
    [
        (said(11, "hello", sender="ada"), True),
        (said(11, "hello", sender="bob"), False),
        (said(11, "hello!", sender="ada"), False),
        (said(11, "hello", sender="ada", reply_to=3), False),
    ],
)
def test_an_unknown_outcome_becomes_known_by_what_the_room_shows(shown: Message, settled: bool) -> None:
    """Sender, text and what it answers have to be the same."""
    model = looking(1, 10)
    model.write("hello").state = "unknown"
    model.append([shown], 11)
    assert (model.outgoing == []) is settled


def test_one_message_settles_one_unknown_outcome() -> None:
    """Of several that are alike; and none that was acknowledged settles another."""
    model = looking(1, 10)
    unknown, known, again = (model.write("hello") for _ in range(3))
    unknown.state = again.state = "unknown"
    model.acknowledged(known, 11)
    model.append([said(11, "hello", sender="ada")], 11)
    assert model.outgoing == [unknown, again]
    model.append([said(12, "hello", sender="ada")], 12)
    assert model.outgoing == [again]


def test_an_unknown_edit_is_settled_by_the_message_itself() -> None:
    """Whichever way its new text came to be known."""
    model = looking(1, 10)
    model.write("new", edits=4).state = "unknown"
    model.replace(said(4, "other", sender="ada"))
    assert model.outgoing
    model.replace(said(4, "new", sender="ada"))
    assert not model.outgoing


def test_the_others_who_are_typing() -> None:
    """Without this user, and without those who are only here."""
    model = looking(1, 10)
    states = {"ada": "typing", "bob": "typing", "eve": "here"}
    model.people = [Beacon("chat/general", name, state, "n1", 0, 6000) for name, state in states.items()]
    assert model.typing() == ["bob"]


# How it looks.


def lines(model: Model, width: int = 60) -> list[str]:
    return [line.plain.rstrip() for block in blocks(model, width) for line in block.lines]


def test_messages_of_one_turn_have_one_head() -> None:
    """Days and what is new are set apart; the sequence is at the right."""
    model = Model("ada")
    model.list_rooms([RoomInfo(ROOM, 1, 4, archived=False)])
    model.read_up_to(ROOM, 3)
    model.show(ROOM, [said(1), said(2), said(3, sender="eve", reply_to=1), said(4)], 1, 4)
    shown = lines(model, 30)
    assert shown[0] == "this is where general begins"
    assert [line for line in shown[1:] if line][1:] == [
        "bob  10:01",
        "text 1                       1",
        "text 2                       2",
        "eve  10:03",
        "\u258f bob  text 1",
        "text 3                       3",
        "──────────── new ─────────────",
        "bob  10:04",
        "text 4                       4",
    ]
    assert "Saturday, 21 November 2026" in "".join(lines(model))


def test_marks_and_fates_are_to_be_seen() -> None:
    """Edited, taken back, no longer kept; on its way, failed, unknown."""
    model = looking(3, 3)
    edited, redacted = said(4, "new", edited_at="2026-11-21T10:00:00Z"), said(5, redacted=True)
    model.append([edited, redacted, said(6, reply_to=1)], 6)
    for state, reason in (("sending", ""), ("failed", "no majority"), ("unknown", "nobody knows")):
        outgoing = model.write("mine")
        outgoing.state, outgoing.reason = state, reason  # type: ignore[assignment]
    shown = "\n".join(lines(model))
    for words in (
        "messages before 3 are no longer kept", "new  (edited)", "message taken back", "\u258f message 1",
        "\u2026 sending", "\u2717 not sent: no majority", "? outcome unknown: nobody knows",
    ):  # fmt: skip
        assert words in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b]0;title\x07", "\ufffd[31mred\ufffd]0;title\ufffd"),
        ("\x9b31m", "\ufffd31m"),
        ("[bold red]x[/] [link=x]y[/link]", "[bold red]x[/] [link=x]y[/link]"),
        ("a\u202eb\u200bc\u2066d", "abcd"),
        ("a\tb\u00a0c\nd\u2028e", "a    b c\nd\ne"),
        ("\r\b\x7f\x00", "\ufffd" * 4),
        ("日本語 👍 é", "日本語 👍 é"),
    ],
)
def test_text_of_others_is_only_read(text: str, shown: str) -> None:
    """No control character, no change of direction, no markup."""
    assert looks.clean(text) == shown
    assert wrapped(Text(looks.clean(text)), 200)[0].plain == shown.split("\n", maxsplit=1)[0]


@given(st.text(max_size=300), st.integers(20, 80))
def test_every_line_fits_whatever_the_text(text: str, width: int) -> None:
    """Of any message and any name, in cells of the terminal; and nothing but what can be printed."""
    model = looking(1, 1)
    model.append([said(2, text or "x", sender=text[:128] or "y", reply_to=1), said(3, reply_to=2)], 3)
    for block in blocks(model, width):
        for line in block.lines:
            assert line.plain.isprintable()
            assert line.cell_len <= width


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("hi", "hi"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\n a \n", " a "),
        (" \n\t", ""),
        ("a\x1b[31m\x00\tb", "a[31m\tb"),
    ],
)
def test_what_is_pasted_becomes_a_message_the_cluster_takes(typed: str, sent: str) -> None:
    """Control characters are left out, and what is only space is nothing."""
    assert looks.sendable(typed) == sent
