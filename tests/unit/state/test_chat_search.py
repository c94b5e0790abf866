"""What the chat domain finds: words, phrases and prefixes, in what is indexed and in what is not yet."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from raftos.errors import InvalidInput
from raftos.state import fulltext, storage
from raftos.state.command import Command, Ok
from raftos.state.domains import chat
from raftos.state.domains.chat import Create, Edit, Redact, Search
from tests.unit.state.feeder import Feeder
from tests.unit.state.test_chat import LARGEST_TEXT, code_of, post, settle


def found(feeder: Feeder, text: str, room: str | None = None) -> list[tuple[str, int]]:
    return [(each.room, each.sequence) for each in feeder.ask(Search(text, room, limit=100)).items]


@pytest.mark.parametrize("newest", [0, 1, 3, 2_000])
def test_a_search_finds_words_phrases_and_prefixes_newest_first(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch, newest: int
) -> None:
    """In all rooms or in one, whether the messages are indexed yet or not, and wherever it looks first."""
    monkeypatch.setattr(fulltext, "NEWEST_TEXTS", newest)
    monkeypatch.setattr(fulltext, "BATCH_TEXTS", 2)
    feeder.do(Create("r"), Create("s"))
    said = [
        ("r", "The quick brown fox"),
        ("s", "quick, brown... FÖX!"),
        ("r", "a brown quick fox"),
        ("s", "foxes at http://example.org/quick?a=1"),
        ("r", "nothing of that"),
        ("s", "7 times r 7"),
    ]
    cases = {
        "quick": [("s", 2), ("r", 2), ("s", 1), ("r", 1)],
        "fox quick": [("r", 2), ("s", 1), ("r", 1)],
        '"quick brown"': [("s", 1), ("r", 1)],
        '"brown fox"': [("s", 1), ("r", 1)],
        "fo*": [("s", 2), ("r", 2), ("s", 1), ("r", 1)],
        "föx": [("r", 2), ("s", 1), ("r", 1)],
        "no* of": [("r", 3)],
        '"that" nöth*': [("r", 3)],
        "quick -brown": [("s", 2)],
        "quick -fox* -nothing": [],
        'quick -"quick brown"': [("s", 2), ("r", 2)],
        "FOX": [("r", 2), ("s", 1), ("r", 1)],
        "the": [("r", 1)],
        "example.org": [("s", 2)],
        "7": [("s", 3)],
        "r": [("s", 3)],
        "1": [("s", 2)],
        "AND": [],
        'OR "NOT NEAR(a)"': [],
        "missing": [],
    }
    for indexed in range(len(said) + 1):
        feeder.do(*(post(text, room) for room, text in said[indexed : indexed + 1]))
        if indexed in {2, 3}:
            settle(feeder)
    for again in range(2):
        assert {text: found(feeder, text) for text in cases} == cases, again
        assert {text: found(feeder, text, room="s") for text in cases} == {
            text: [each for each in expected if each[0] == "s"] for text, expected in cases.items()
        }
        settle(feeder)


def test_a_search_follows_edits_redactions_and_trims(feeder: Feeder) -> None:
    """The index forgets what a message does not say any more, indexed or not."""
    feeder.do(Create("r", keep_messages=3), *(post(f"word{number} same") for number in range(1, 5)))
    for indexed in (False, True):
        feeder.do(Edit("r", 4, f"edited{indexed} same", "ann"))
        assert found(feeder, f"edited{indexed}") == [("r", 4)]
        assert found(feeder, "word4") == []
        settle(feeder)
    assert found(feeder, "same") == [("r", 4), ("r", 3), ("r", 2)]
    feeder.do(Redact("r", 3, "ann"), post("late"), Redact("r", 5, "ann"))
    settle(feeder)
    assert found(feeder, "same") == [("r", 4)]
    assert found(feeder, "late") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        '"',
        'word "open phrase',
        "-word",
        '-word -"a phrase"',
        "*",
        "a*",
        "wo*rd",
        "*word",
        "wor**",
        "!?",
        "word -",
        '""',
        'word "..."',
        "a\0b",
        "one two\nthree",
        " ".join(["word"] * 17),
        "ab* cd* ef*",
        "x" * 1_025,
        "é" * 513,
    ],
)
def test_a_search_that_cannot_be_understood_is_refused_with_a_sentence(room: Feeder, text: str) -> None:
    """It says what to do about it, and never comes as far as SQLite."""
    with pytest.raises(InvalidInput) as caught:
        room.ask(Search(text))
    assert ";" in caught.value.message or "at most" in caught.value.message or "*" in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "a OR b",
        "NEAR(a b)",
        "text:a",
        "{part}:a",
        "^a",
        "a + b1",
        "(a",
        "a)",
        "a;b",
        "--a b",
        "'a'",
        "part:1",
    ],
)
def test_what_means_something_to_the_index_means_nothing_to_a_search(room: Feeder, text: str) -> None:
    """Operators, columns and parentheses are words, or the marks between them."""
    room.ok(post("unrelated"))
    assert found(room, text.replace("+", "plus")) == []


def test_a_search_says_whether_there_are_older_ones(room: Feeder) -> None:
    """At most `limit` come, the newest."""
    room.do(*[post()] * 3)
    settle(room)
    room.do(*[post()] * 2)
    page = room.ask(Search("hello", limit=4))
    assert ([each.sequence for each in page.items], page.more) == ([5, 4, 3, 2], True)
    page = room.ask(Search("hello", limit=5))
    assert ([each.sequence for each in page.items], page.more) == ([5, 4, 3, 2, 1], False)


def test_of_many_only_the_newest_are_looked_through(room: Feeder) -> None:
    """As many as are asked for, a batch at a time: the tail may be long."""
    room.do(*(post(f"hello {number}") for number in range(1, 1_001)))
    assert found(room, "hello") == found(room, "hel*") == [("r", at) for at in range(1_000, 900, -1)]
    assert found(room, '"hello 7"') == [("r", 7)]
    settle(room)
    room.do(*(post(f"bye {number}") for number in range(300)))
    assert found(room, "hello")[0] == ("r", 1_000)
    assert found(room, "hello by*") == []
    assert len(found(room, "hell*", room="r")) == 100


def test_the_newest_of_a_room_are_found_through_an_index(room: Feeder) -> None:
    """However many other rooms there are: nothing is sorted, and nobody else's messages are read."""
    db = storage.connect_reader(room.folder / storage.FILE_NAME)
    for statement, index in (
        (chat.FULL_TEXT._newest_of_part, "INDEX"),
        (chat.FULL_TEXT._newest, "chat_messages"),
    ):
        [step] = db.execute(f"EXPLAIN QUERY PLAN {statement}", [1] * statement.count("?")).fetchall()
        assert index in step[3]
    db.close()


def test_messages_are_indexed_in_bounded_steps(room: Feeder) -> None:
    """500 messages, or 256 KiB of text, in each command; the index is where the leader saw it, or nothing."""
    room.do(*[post()] * 700, *[post(LARGEST_TEXT)] * 6)
    steps = room.due()
    assert steps == [chat.Index(0, 501), chat.Index(501, 705), chat.Index(705, 707)]
    refused = room.do(steps[1], chat.Index(0, 1))
    assert [code_of(result) for result in refused] == ["conflict", "conflict"]
    assert room.ok(chat.Index(0, 2**53 - 1)) == {"indexed": 501}
    assert [code_of(result) for result in room.do(steps[0])] == ["conflict"]
    assert [result for result in room.do(*steps[1:]) if not isinstance(result, Ok)] == []
    assert room.due() == []
    assert [code_of(result) for result in room.do(chat.Index(707, 2**53 - 1))] == ["conflict"]
    assert len(found(room, "hello")) == 100


def test_the_index_is_kept_in_the_same_pieces_however_the_log_is_cut(
    feeders: Callable[..., Feeder],
) -> None:
    """Otherwise copies of one state would differ, and nobody could tell that from damage."""
    together, singly = feeders(), feeders()
    entries: list[list[Command]] = [
        [Create("r", keep_messages=90)],
        [post(f"word{number} same") for number in range(100)],
    ]
    entries += [[chat.Index(10 * number, 10 * number + 10)] for number in range(9)]
    entries += [[chat.Trim("r", 2**40)], [Redact("r", 40, "ann")], [Edit("r", 50, "edited", "ann")]]
    payloads = [together.entry(*((together.new_id(), each) for each in entry)) for entry in entries]
    together.apply(*payloads)
    for payload in payloads:
        singly.apply(payload)
    assert together.machine.tallies["chat.indexed"] == 90
    assert together.rows() == singly.rows()


def test_a_wrong_index_is_noticed(feeders: Callable[..., Feeder]) -> None:
    """The invariants compare it with what the messages say."""
    feeder = feeders()
    feeder.do(Create("r"), post())
    settle(feeder)
    db = sqlite3.connect(feeder.folder / storage.FILE_NAME, isolation_level=None)
    db.execute("UPDATE chat_messages SET text = 'other'")
    with pytest.raises(AssertionError, match="index"):
        feeder.machine.check()
    db.execute("UPDATE chat_messages SET text = 'hello'")
    db.close()


def test_a_step_is_as_short_as_it_says() -> None:
    """Rows come until their sizes reach the most, one at least."""
    assert fulltext.until(10, [(1, 99), (2, 1)]) == [(1, 99)]
    assert fulltext.until(10, [(1, 5), (2, 5), (3, 1)]) == [(1, 5), (2, 5)]
    assert fulltext.until(10, []) == []
