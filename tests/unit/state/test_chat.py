"""What the chat domain answers, table by table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raftos.errors import InvalidInput, NotFound, RaftosError, TooLarge
from raftos.state import storage
from raftos.state.command import Command, Failed, Ok, Query, Rejected
from raftos.state.domains import chat, quota, validate
from raftos.state.domains.chat import (
    Archive,
    Create,
    Edit,
    History,
    Mark,
    Markers,
    Post,
    Redact,
    Search,
    Trim,
    queries,
)
from tests.unit.state.feeder import START_MS, Feeder

LONGEST_NAME = "r" * 128
LARGEST_TEXT = "x" * 64 * 1024
START_AT = "2023-11-14T22:13:20.000Z"


def post(text: str = "hello", room: str = "r", sender: str = "ann", reply_to: int | None = None) -> Post:
    return Post(room, sender, text, reply_to)


def code_of(result: object) -> str:
    assert isinstance(result, Rejected), result
    return result.code


def texts(feeder: Feeder, **conditions: Any) -> list[str]:
    return [message.text for message in feeder.ask(History("r", **conditions)).items]


def sequences(feeder: Feeder, **conditions: Any) -> list[int]:
    return [message.sequence for message in feeder.ask(History("r", **conditions)).items]


def settle(feeder: Feeder) -> None:
    """Do what is due until nothing is, as the leader does."""
    while commands := feeder.due():
        assert not [result for result in feeder.do(*commands) if isinstance(result, Failed)]


# Posting


def test_sequences_follow_the_order_of_commitment_without_gaps(room: Feeder) -> None:
    """Each room counts for itself from 1, and a refused post takes no number."""
    room.ok(Create("s"))
    results = room.do(
        post(), post(room="s"), post(reply_to=9), post(room="t"), post(), post(room="s"), post(reply_to=2)
    )
    answers = [result.value for result in results if isinstance(result, Ok)]
    assert [(answer["room"], answer["sequence"]) for answer in answers] == [
        ("r", 1),
        ("s", 1),
        ("r", 2),
        ("s", 2),
        ("r", 3),
    ]
    assert [answer["revision"] for answer in answers] == [3, 4, 5, 6, 7]
    assert [code_of(result) for result in results if not isinstance(result, Ok)] == ["not_found", "not_found"]


def test_a_post_that_is_sent_twice_is_posted_once(room: Feeder) -> None:
    """The request id is remembered; the second answer is the first."""
    request = (room.new_id(), post())
    assert room.send(request, request) == [Ok({"room": "r", "sequence": 1, "revision": 2})] * 2
    assert room.send(request) == [Ok({"room": "r", "sequence": 1, "revision": 2})]
    assert sequences(room) == [1]


def test_a_message_says_what_was_posted_by_whom_and_when(room: Feeder) -> None:
    """Optional fields are left out where they say nothing."""
    room.do(post("one\ttwo\nthree"), post("näxt 🗝", sender="böb", reply_to=1))
    room.now_ms += 12_345
    room.do(post())
    first, second, third = msgspec.to_builtins(room.ask(History("r")).items)
    assert first == {"sequence": 1, "sender": "ann", "text": "one\ttwo\nthree", "sent_at": START_AT}
    assert second == {
        "sequence": 2,
        "sender": "böb",
        "text": "näxt 🗝",
        "sent_at": START_AT,
        "reply_to": 1,
    }
    assert third["sent_at"] == "2023-11-14T22:13:32.345Z"


@pytest.mark.parametrize("name", ["a", "ä", "комната", "🗝", "a b", "#a/b", LONGEST_NAME, "é" * 64])
def test_a_room_and_a_sender_have_names_of_up_to_128_bytes(feeder: Feeder, name: str) -> None:
    """Bytes of UTF-8 count, not characters."""
    feeder.do(Create(name), post(LARGEST_TEXT, name, name))
    [message] = feeder.ask(History(name)).items
    assert (message.sender, message.text) == (name, LARGEST_TEXT)
    assert [item.room for item in feeder.ask(chat.Rooms()).items] == [name]


BAD_COMMANDS: list[tuple[Command, type[RaftosError]]] = [
    (Create(""), InvalidInput),
    (Create("a\nb"), InvalidInput),
    (Create("\x9b"), InvalidInput),
    (Create(LONGEST_NAME + "r"), TooLarge),
    (Create("é" * 64 + "r"), TooLarge),
    (Create("r", keep_messages=0), InvalidInput),
    (Create("r", keep_messages=-1), InvalidInput),
    (Create("r", keep_ms=0), InvalidInput),
    (Create("r", keep_ms=2**62), InvalidInput),
    (Archive(""), InvalidInput),
    (post(""), InvalidInput),
    (post("   "), InvalidInput),
    (post("\t\n \n"), InvalidInput),
    (post("\u200b\u200d\u2060\ufeff"), InvalidInput),
    (post(chat.BLANKS), InvalidInput),
    (post("\x1b[31m"), InvalidInput),
    (post("a\rb"), InvalidInput),
    (post("a\0"), InvalidInput),
    (post("\x7f"), InvalidInput),
    (post("\x9b31m"), InvalidInput),
    (post(LARGEST_TEXT + "x"), TooLarge),
    (post("é" * 32 * 1024 + "x"), TooLarge),
    (post(room=""), InvalidInput),
    (post(room="\t"), InvalidInput),
    (post(sender=""), InvalidInput),
    (post(sender="\n"), InvalidInput),
    (post(sender=LONGEST_NAME + "s"), TooLarge),
    (post(reply_to=0), InvalidInput),
    (post(reply_to=2**53), InvalidInput),
    (Edit("r", 1, "", "ann"), InvalidInput),
    (Edit("r", 1, "\u3000", "ann"), InvalidInput),
    (Edit("r", 1, LARGEST_TEXT + "x", "ann"), TooLarge),
    (Edit("r", 0, "x", "ann"), InvalidInput),
    (Edit("r", 1, "x", ""), InvalidInput),
    (Redact("r", 0, "ann"), InvalidInput),
    (Redact("r", 1, "\t"), InvalidInput),
    (Mark("r", "ann", -1), InvalidInput),
    (Mark("r", "", 1), InvalidInput),
    (Mark("", "ann", 1), InvalidInput),
    (Trim("r", 0), InvalidInput),
    (Trim("", 1), InvalidInput),
    (chat.Index(-1, 1), InvalidInput),
    (chat.Index(0, 0), InvalidInput),
]


@pytest.mark.parametrize("at", range(len(BAD_COMMANDS)))
def test_a_command_outside_its_limits_is_refused_at_the_edge_and_by_the_machine(
    feeder: Feeder, at: int
) -> None:
    """Both say the same, and the machine is as it was."""
    command, error = BAD_COMMANDS[at]
    with pytest.raises(error) as caught:
        validate(command)
    assert feeder.do(command) == [Rejected(caught.value.code, caught.value.message)]
    assert feeder.rows()["chat_rooms"] == feeder.rows()["chat_messages"] == []


@pytest.mark.parametrize("text", [" a", "\n.", "\u200bé", "\u200d🗝", "a" + chat.BLANKS, "\U000e0041", "\xad"])
def test_one_visible_character_is_enough(room: Feeder, text: str) -> None:
    """Kept with the blanks around it; visible is what is not in the set, whatever a font makes of it."""
    room.ok(post(text))
    assert texts(room) == [text]


def test_text_that_is_no_unicode_is_refused_at_the_edge() -> None:
    """A lone surrogate cannot be encoded, so it never becomes a log entry."""
    with pytest.raises(InvalidInput):
        validate(post("\ud800"))


# Rooms


def test_an_archived_room_can_be_read_and_redacted_but_not_written(room: Feeder) -> None:
    """Its history stays; posting and editing are conflicts, and so is archiving it or its name again."""
    room.do(post("kept"), post("regretted"))
    assert room.ok(Archive("r")) == {"room": "r", "revision": 4}
    results = room.do(post(), Edit("r", 1, "x", "ann"), Archive("r"), Create("r"))
    assert [code_of(result) for result in results] == ["conflict"] * 4
    room.ok(Redact("r", 2, "ann"))
    room.ok(Mark("r", "bob", 2))
    assert texts(room) == ["kept", ""]
    assert [item.archived for item in room.ask(chat.Rooms()).items] == [True]


def test_what_is_not_there_is_not_found(room: Feeder) -> None:
    """Every command and every query names a room that exists, and a message that does."""
    commands: list[Command] = [
        post(room="x"),
        Archive("x"),
        Edit("x", 1, "x", "ann"),
        Edit("r", 1, "x", "ann"),
        Redact("x", 1, "ann"),
        Redact("r", 1, "ann"),
        Mark("x", "ann", 1),
        Mark("r", "ann", 1),
        Trim("x", 1),
        post(reply_to=1),
    ]
    results = room.do(*commands)
    assert [code_of(result) for result in results] == ["not_found"] * len(commands)
    of_room = [command.room == "x" for command in commands]  # type: ignore[attr-defined]
    assert ["there is no room 'x';" in result.message for result in results] == of_room  # type: ignore[union-attr]
    queries: list[Query] = [History("x"), Markers("x"), Search("word", room="x")]
    for query in queries:
        with pytest.raises(NotFound, match="there is no room 'x';"):
            room.ask(query)


def test_a_missing_room_is_named_by_its_first_64_characters(feeder: Feeder) -> None:
    """As it was written, so that the refusal is the same under every version of Python."""
    name = "\u0378" + "r" * 100
    [refused] = feeder.do(Archive(name))
    assert refused == Rejected(
        "not_found", f"there is no room '{name[:64]}...'; create it, or look at the list of rooms"
    )


def test_rooms_are_listed_by_name_a_page_at_a_time(feeder: Feeder) -> None:
    """With what they hold and keep; no room twice, none left out."""
    names = [f"r{number:02}" for number in range(23)]
    feeder.do(*(Create(name) for name in reversed(names)), Create("kept", keep_messages=5, keep_ms=1_000))
    feeder.do(post(room="r03"), post(room="r03"))
    listed, cursor = [], None
    for _ in range(5):
        page = feeder.ask(chat.Rooms(limit=5, cursor=cursor))
        listed += msgspec.to_builtins(page.items)
        cursor = page.cursor
    assert cursor is None
    assert [item["room"] for item in listed] == ["kept", *names]
    assert listed[0] == {
        "room": "kept",
        "first": 1,
        "last": 0,
        "archived": False,
        "keep_messages": 5,
        "keep_ms": 1_000,
    }
    assert listed[4] == {"room": "r03", "first": 1, "last": 2, "archived": False, "last_posted": START_AT}


def test_there_are_as_many_rooms_as_the_quota_allows(feeder: Feeder) -> None:
    """One more is refused as `limit_reached`, and taken once the quota is higher."""
    feeder.do(quota.Set("chat.rooms", 2), Create("a"), Create("b"))
    assert [code_of(result) for result in feeder.do(Create("c"), Create("a"))] == [
        "limit_reached",
        "conflict",
    ]
    feeder.do(quota.Set("chat.rooms", 3))
    feeder.ok(Create("c"))
    assert feeder.machine.tallies["chat.rooms"] == 3


# Editing and redacting


def test_only_its_sender_edits_and_redacts_a_message(room: Feeder) -> None:
    """Anybody else is denied; the sequence and the time of the post never change."""
    room.do(post("frist"), post("second", sender="bob"))
    room.now_ms += 1_000
    refused = room.do(
        Edit("r", 1, "mine", "bob"), Redact("r", 1, "bob"), Edit("r", 3, "x", "ann"), Redact("r", 3, "ann")
    )
    assert [code_of(result) for result in refused] == ["denied", "denied", "not_found", "not_found"]
    assert room.ok(Edit("r", 1, "first", "ann")) == {"room": "r", "sequence": 1, "revision": 4}
    assert room.ok(Redact("r", 2, "bob")) == {"room": "r", "sequence": 2, "revision": 5}
    assert msgspec.to_builtins(room.ask(History("r")).items) == [
        {
            "sequence": 1,
            "sender": "ann",
            "text": "first",
            "sent_at": START_AT,
            "edited_at": "2023-11-14T22:13:21.000Z",
        },
        {"sequence": 2, "sender": "bob", "text": "", "sent_at": START_AT, "redacted": True},
    ]


def test_a_redacted_message_stays_redacted(room: Feeder) -> None:
    """It is not edited any more; redacting it again changes nothing and tells nobody."""
    room.do(post("regretted"), Redact("r", 1, "ann"))
    [edit, again] = room.do(Edit("r", 1, "x", "ann"), Redact("r", 1, "ann"))
    assert code_of(edit) == "conflict"
    assert again == Ok({"room": "r", "sequence": 1, "revision": 4})
    assert [event["type"] for event in events(room)] == ["chat.created", "chat.posted", "chat.redacted"]


def events(feeder: Feeder) -> list[dict[str, Any]]:
    rows = feeder.rows()["events"]
    return [event for _, _, body in rows for _, event in msgspec.msgpack.decode(body)]


def test_events_say_what_changed_and_not_the_content(room: Feeder) -> None:
    """Each names its room, which is what watchers filter by."""
    room.do(post("secret"), Edit("r", 1, "secret too", "ann"), Mark("r", "bob", 1), Redact("r", 1, "ann"))
    room.do(Mark("r", "bob", 0), Archive("r"), Create("s", keep_messages=1))
    room.do(post(room="s"), post(room="s"), Trim("s", 9))
    assert events(room) == [
        {"type": "chat.created", "room": "r"},
        {"type": "chat.posted", "room": "r", "sequence": 1, "sender": "ann"},
        {"type": "chat.edited", "room": "r", "sequence": 1},
        {"type": "chat.marked", "room": "r", "reader": "bob", "sequence": 1},
        {"type": "chat.redacted", "room": "r", "sequence": 1},
        {"type": "chat.marked", "room": "r", "reader": "bob", "sequence": 0},
        {"type": "chat.archived", "room": "r"},
        {"type": "chat.created", "room": "s"},
        {"type": "chat.posted", "room": "s", "sequence": 1, "sender": "ann"},
        {"type": "chat.posted", "room": "s", "sequence": 2, "sender": "ann"},
        {"type": "chat.trimmed", "room": "s", "first": 2},
    ]


def test_a_full_state_takes_no_more_text_but_lets_it_shrink(feeder: Feeder) -> None:
    """Posts, rooms, readers and longer texts are refused; redacting, moving a marker and trimming go on."""
    feeder.do(quota.Set("state.bytes", 1024 * 1024), Create("r", keep_messages=1))
    feeder.do(post("short"), Mark("r", "ann", 1), *[post(LARGEST_TEXT)] * 16)
    refused = feeder.do(post("x"), Create("s"), Mark("r", "bob", 1), Edit("r", 1, "longer", "ann"))
    assert [code_of(result) for result in refused] == ["no_space"] * 4
    feeder.ok(Mark("r", "ann", 2))
    feeder.ok(Edit("r", 1, "less", "ann"))
    feeder.ok(Redact("r", 2, "ann"))
    feeder.ok(Trim("r", 5))
    feeder.ok(post("x"))


# History


@pytest.mark.parametrize(
    ("conditions", "expected", "more"),
    [
        ({}, [1, 2, 3, 4, 5, 6], False),
        ({"limit": 2}, [1, 2], True),
        ({"limit": 6}, [1, 2, 3, 4, 5, 6], False),
        ({"since": 4}, [5, 6], False),
        ({"since": 6}, [], False),
        ({"since": 1_000}, [], False),
        ({"since": 2, "limit": 2}, [3, 4], True),
        ({"before": 3}, [1, 2], False),
        ({"before": 1}, [], False),
        ({"since": 2, "before": 5}, [3, 4], False),
        ({"last": 2}, [5, 6], True),
        ({"last": 6}, [1, 2, 3, 4, 5, 6], False),
        ({"last": 10}, [1, 2, 3, 4, 5, 6], False),
        ({"last": 2, "before": 4}, [2, 3], True),
        ({"last": 2, "since": 5}, [6], False),
        ({"since_ms": 0}, [1, 2, 3, 4, 5, 6], False),
        ({"since_ms": START_MS}, [1, 2, 3, 4, 5, 6], False),
        ({"since_ms": START_MS + 1}, [3, 4, 5, 6], False),
        ({"since_ms": START_MS + 200}, [5, 6], False),
        ({"since_ms": START_MS + 201}, [], False),
        ({"since_ms": START_MS + 1, "since": 4}, [5, 6], False),
        ({"since_ms": START_MS + 1, "limit": 1}, [3], True),
        ({"since_ms": START_MS + 1, "last": 3}, [4, 5, 6], True),
    ],
)
def test_history_is_read_by_sequence_by_time_and_from_the_end(
    room: Feeder, conditions: dict[str, int], expected: list[int], more: bool
) -> None:
    """All conditions hold together; `more` tells of what they meet and the page does not have."""
    room.ok(Create("other"))
    for _ in range(3):
        room.do(post(), post(room="other"), post())
        room.now_ms += 100
    answer = room.ask(History("r", **conditions))
    assert [message.sequence for message in answer.items] == expected
    assert (answer.more, answer.first, answer.last) == (more, 1, 6)


def test_a_page_ends_early_where_its_texts_are_large(room: Feeder) -> None:
    """70 texts of 64 KiB do not come at once; reading on from either end misses none."""
    for _ in range(7):
        room.do(*[post(LARGEST_TEXT)] * 10)
    forward, back = room.ask(History("r", limit=1_000)), room.ask(History("r", last=1_000))
    assert [message.sequence for message in forward.items] == list(range(1, 65))
    assert [message.sequence for message in back.items] == list(range(7, 71))
    assert forward.more
    assert back.more
    assert sequences(room, since=64) == list(range(65, 71))
    assert sequences(room, before=7, last=1_000) == list(range(1, 7))


BAD_QUERIES: list[Query] = [
    History(""),
    History("r", since=-1),
    History("r", before=0),
    History("r", since_ms=-1),
    History("r", last=0),
    History("r", last=1_001),
    History("r", limit=0),
    History("r", limit=1_001),
    chat.Rooms(limit=0),
    chat.Rooms(limit=1_001),
    chat.Rooms(cursor="\n"),
    Markers("\t"),
    Search("word", limit=0),
    Search("word", limit=101),
    Search("word", room=""),
]


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_a_query_outside_its_limits_is_refused(room: Feeder, query: Query) -> None:
    """Whether the room exists or not."""
    with pytest.raises(InvalidInput):
        room.ask(query)


# Markers


def test_a_marker_only_moves_forward_and_counts_what_is_unread(room: Feeder) -> None:
    """Going back is answered with where it is; 0 takes it away; trimmed messages are not unread."""
    room.do(*[post()] * 5)
    steps = [(3, 3), (2, 3), (3, 3), (5, 5)]
    for sequence, now in steps:
        assert room.ok(Mark("r", "ann", sequence)) == {"room": "r", "reader": "ann", "sequence": now}
    room.ok(Mark("r", "bob", 1))
    assert msgspec.to_builtins(room.ask(Markers("r"))) == {
        "room": "r",
        "items": [
            {"reader": "ann", "sequence": 5, "unread": 0},
            {"reader": "bob", "sequence": 1, "unread": 4},
        ],
        "last": 5,
    }
    assert room.ok(Mark("r", "bob", 0))["sequence"] == 0
    assert room.ok(Mark("r", "bob", 0))["sequence"] == 0
    assert [code_of(result) for result in room.do(Mark("r", "bob", 6))] == ["not_found"]
    assert [marker.reader for marker in room.ask(Markers("r")).items] == ["ann"]


def test_a_room_has_at_most_1_000_readers(room: Feeder) -> None:
    """One more is refused until one is forgotten; those there are go on reading."""
    room.do(post(), post())
    room.do(*(Mark("r", f"reader {number}", 1) for number in range(1_000)))
    assert [code_of(result) for result in room.do(Mark("r", "late", 1))] == ["limit_reached"]
    room.ok(Mark("r", "reader 7", 2))
    room.ok(Mark("r", "reader 8", 0))
    room.ok(Mark("r", "late", 1))
    assert len(room.ask(Markers("r")).items) == 1_000


# Retention


def test_the_newest_messages_are_kept_and_sequences_go_on(feeder: Feeder) -> None:
    """What is trimmed is not found any more, and its numbers are not given again."""
    feeder.do(Create("r", keep_messages=3), *[post()] * 10, Mark("r", "ann", 2))
    assert feeder.due()[0] == Trim("r", 8)
    settle(feeder)
    assert sequences(feeder) == [8, 9, 10]
    assert [code_of(result) for result in feeder.do(Edit("r", 7, "x", "ann"), Redact("r", 7, "ann"))] == [
        "not_found",
        "not_found",
    ]
    assert feeder.ask(Markers("r")).items == [chat.Marker("ann", 2, 3)]
    assert feeder.ok(post(reply_to=1))["sequence"] == 11
    [listed] = feeder.ask(chat.Rooms()).items
    assert (listed.first, listed.last) == (8, 11)


def test_old_messages_are_forgotten_when_their_time_is_over(feeder: Feeder) -> None:
    """Not a millisecond earlier; an empty room keeps counting, and its next message ages anew."""
    feeder.do(Create("r", keep_ms=1_000), post("first"))
    feeder.now_ms += 500
    feeder.do(post("second"))
    settle(feeder)
    assert not feeder.due(START_MS + 999)
    assert feeder.due(START_MS + 1_000) == [Trim("r", 2)]
    feeder.now_ms = START_MS + 1_000
    settle(feeder)
    assert texts(feeder) == ["second"]
    feeder.now_ms += 10_000
    settle(feeder)
    answer = feeder.ask(History("r"))
    assert (answer.items, answer.first, answer.last) == ([], 3, 2)
    feeder.ok(post("third"))
    settle(feeder)
    assert not feeder.due(feeder.now_ms + 999)
    assert feeder.due(feeder.now_ms + 1_000) == [Trim("r", 4)]


def test_a_trim_does_no_harm_whoever_sends_it(room: Feeder) -> None:
    """It forgets only what the room itself does not want to keep, and never more than it names."""
    room.do(Create("s", keep_messages=2), *[post(), post(room="s")] * 5)
    refused = room.do(Trim("r", 2**40), Trim("s", 1))
    assert [code_of(result) for result in refused] == ["conflict", "conflict"]
    assert room.ok(Trim("s", 3)) == {"room": "s", "trimmed": 2, "first": 3}
    assert room.ok(Trim("s", 2**40)) == {"room": "s", "trimmed": 1, "first": 4}
    assert [code_of(result) for result in room.do(Trim("s", 2**40))] == ["conflict"]
    assert sequences(room) == [1, 2, 3, 4, 5]


def test_a_large_surplus_is_forgotten_in_bounded_steps(feeder: Feeder) -> None:
    """500 messages, or 256 KiB of text, in each command; the fullest room comes first."""
    feeder.do(Create("r", keep_messages=1), Create("large", keep_messages=1))
    feeder.do(*[post(LARGEST_TEXT, "large")] * 12, *[post()] * 1_201)
    trims = [command for command in feeder.due() if isinstance(command, Trim)]
    assert trims == [Trim("r", 501), Trim("r", 1001), Trim("r", 1201), Trim("large", 12)]
    assert [feeder.ok(trim)["trimmed"] for trim in trims] == [500, 500, 200, 4]
    settle(feeder)
    assert feeder.ask(History("large")).first == 12


def test_what_is_due_is_bounded_and_found_through_an_index(room: Feeder) -> None:
    """Twice a second the leader asks: with nothing to do it reads no room and no message."""
    db = storage.connect_reader(room.folder / storage.FILE_NAME)
    for statement, index in (
        (queries._FULL, "INDEX chat_full"),
        (queries._AGED, "INDEX chat_aging"),
        (chat.FULL_TEXT._sizes, "INTEGER PRIMARY KEY"),
    ):
        plan = db.execute(f"EXPLAIN QUERY PLAN {statement}", [1] * statement.count("?")).fetchall()
        assert len(plan) == 1, plan
        assert "SEARCH" in plan[0][3]
        assert f"USING {index} " in plan[0][3]
    db.close()
    room.do(*(Create(f"room {number}", keep_messages=1) for number in range(100)))
    room.do(*[post(room=f"room {number}") for number in range(100)] * 2)
    trims = [command for command in room.due() if isinstance(command, Trim)]
    assert len(trims) == chat.MAX_TRIMS


def test_no_command_meets_a_fault(feeder: Feeder) -> None:
    """Refusals above were refusals, not bugs."""
    results = feeder.do(*(command for command, _ in BAD_COMMANDS))
    assert not [result for result in results if isinstance(result, Failed)]
    assert feeder.machine.faults == 0
