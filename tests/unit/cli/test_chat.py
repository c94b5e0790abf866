"""How chat looks at a terminal and in a pipe, and what is refused before any member is asked."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len

from raftos.state.domains.chat import Message
from raftos_cli import chat
from tests.unit.cli.conftest import Raftos

TODAY = datetime.now(UTC).replace(hour=12, minute=3, second=4, microsecond=5_000)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The time zone here is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def sent_at(moment: datetime = TODAY) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (Message(12, "ann", "hello", sent_at()), "#12 12:03 ann: hello"),
        (Message(3, "bob", "yes", sent_at(), 2), "#3 12:03 bob (to #2): yes"),
        (Message(1, "ann", "hello", sent_at(), None, sent_at()), "#1 12:03 ann: hello (edited)"),
        (Message(1, "ann", "", sent_at(), None, sent_at(), redacted=True), "#1 12:03 ann: (redacted)"),
        (Message(1, "a", "one\ntwo\n\nthree", sent_at()), "#1 12:03 a: one\n    two\n    \n    three"),
    ],
)
def test_a_message_is_one_line_with_what_there_is_to_say(message: Message, line: str) -> None:
    """Further lines of its text are indented, so that none looks like another message."""
    assert chat.line_of(message) == line


def test_a_message_of_another_day_has_its_date() -> None:
    """The time alone would be taken for today's."""
    yesterday = TODAY - timedelta(days=1)
    assert chat.line_of(Message(1, "ann", "hello", sent_at(yesterday))).startswith(
        f"#1 {yesterday:%Y-%m-%d} 12:03 ann"
    )


@pytest.mark.parametrize(
    "evil", ["\x1b[31m", "\x9b31m", "\x1b]0;title\x07", "\r#1 12:03 bob: ", "\u202e", "\b\b"]
)
def test_what_others_wrote_never_reaches_the_terminal_as_commands(evil: str) -> None:
    """Neither in a text nor in a name, though the API would not have taken it."""
    line = chat.line_of(Message(1, f"ann{evil}", f"hello{evil}\nworld{evil}", sent_at()))
    assert all(part.isprintable() for part in line.split("\n"))
    assert "\ufffd" in line


@pytest.mark.parametrize(
    "text", ["word " * 100, "x" * 500, "  two  spaces  kept  " * 20, "wörter über " * 30]
)
@pytest.mark.parametrize("columns", [40, 80])
def test_long_lines_are_wrapped_at_a_terminal_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, text: str, columns: int
) -> None:
    """Nothing is lost by it: the pieces are the line."""
    line = chat.line_of(Message(1, "ann", text, sent_at()))
    assert "\n" not in line
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    pieces = chat.line_of(Message(1, "ann", text, sent_at())).split("\n")
    assert max(map(cell_len, pieces)) <= columns
    assert "".join([pieces[0], *(piece.removeprefix("    ") for piece in pieces[1:])]) == line


@pytest.mark.parametrize(
    ("written", "time_ms"),
    [
        ("2026-11-21", 1_795_219_200_000),
        ("2026-11-21T14:03", 1_795_269_780_000),
        ("2026-11-21T14:03:00.500+02:00", 1_795_262_580_500),
        ("1970-01-01T00:00:00-01:00", 3_600_000),
        ("1969-12-31", 0),
    ],
)
def test_a_time_is_read_as_people_write_it(written: str, time_ms: int) -> None:
    """In the time zone here, unless it names another."""
    assert chat.Moment().convert(written, None, None) == time_ms


@pytest.mark.parametrize(
    "arguments",
    [
        ["history", "r", "--from", "yesterday"],
        ["history", "r", "--last", "0"],
        ["history", "r", "--since", "-1"],
        ["follow", "r", "--since", "x"],
        ["send", "r"],
        ["send", "r", os.fsdecode(b"\xff")],
        ["edit", "r", "0", "text"],
        ["redact", "r", "first"],
        ["search", "word", "--limit", "101"],
        ["create", "r", "--keep", "0"],
        ["create", "r", "--keep-messages", "0"],
    ],
)
def test_what_cannot_be_meant_is_bad_usage(raftos: Raftos, dead_context: str, arguments: list[str]) -> None:
    """Said before any member is asked."""
    refused = raftos("chat", *arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"\x1b[31m", b"x" * 65_537])
def test_text_from_stdin_is_held_to_the_limits(raftos: Raftos, dead_context: str, content: bytes) -> None:
    """Before it is sent anywhere."""
    refused = raftos("chat", "send", "r", "-", stdin=content)
    assert (refused.exit_code, refused.stdout) == (2, "")


@pytest.mark.parametrize(
    "arguments",
    [["rooms"], ["send", "r", "text"], ["history", "r"], ["follow", "r"], ["search", "word"], ["read", "r"]],
)
def test_a_cluster_that_is_not_there_ends_them_all(
    raftos: Raftos, dead_context: str, arguments: list[str]
) -> None:
    """With 5, and nothing on stdout; JSON too stays empty rather than half a list."""
    ended = raftos("chat", *arguments, "--timeout", "0.3", "-o", "json")
    assert (ended.exit_code, ended.stdout) == (5, "")
