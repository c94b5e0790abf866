"""Reading logs from their end, and following them."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftos_cli.devlogs import BLOCK_BYTES, Follower, alarm, last_lines, last_words, readable


@pytest.mark.parametrize("count", [0, 1, 5, 1_000])
def test_the_last_lines_are_those_of_the_whole_file(tmp_path: Path, count: int) -> None:
    """Reading blocks from the end finds the same as reading everything."""
    file = tmp_path / "log"
    lines = [f"line {number} " + "x" * (number % 977) for number in range(800)]
    file.write_text("\n".join(lines) + "\n")
    assert file.stat().st_size > 2 * BLOCK_BYTES
    assert last_lines(file, count) == (lines[-count:] if count else [])


def test_a_log_that_does_not_exist_has_no_lines(tmp_path: Path) -> None:
    """A member that never started is no error."""
    assert last_lines(tmp_path / "none", 10) == []
    assert Follower(tmp_path / "none").fresh() == []


def test_a_follower_gives_whole_lines_once(tmp_path: Path) -> None:
    """Half a line waits for its other half; a file that begins anew is read from its beginning."""
    file = tmp_path / "log"
    file.write_text("before\n")
    follower = Follower(file)
    with file.open("a") as log:
        log.write("one\ntw")
    assert follower.fresh() == ["one"]
    with file.open("a") as log:
        log.write("o\n")
    assert follower.fresh() == ["two"]
    assert follower.fresh() == []
    file.write_text("new\n")
    assert follower.fresh() == ["new"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Traceback: not JSON", "Traceback: not JSON"),
        ("[1]", "[1]"),
        (
            '{"timestamp": "2025-01-02T03:04:05.678Z", "level": "warning", "event": "slow", "lag_ms": 7}',
            "03:04:05 warning  slow  lag_ms=7",
        ),
        ('{"event": "started"}', "info     started"),
    ],
)
def test_a_line_is_shown_readably(line: str, shown: str) -> None:
    """Time, level, event and the rest; what is no structured line stays as it is."""
    assert readable(line) == shown


def test_only_errors_and_worse_are_an_alarm() -> None:
    """What `raftos dev start` reports while it stays in the foreground."""
    assert alarm('{"level": "error", "event": "disk full", "member": "n1", "free": 0}') == "disk full  free=0"
    assert alarm('{"level": "warning", "event": "x"}') is None
    assert alarm("free text") is None


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", "it left no message"),
        ("first\nthe data directory is in use\n\n", "the data directory is in use"),
        ('{"event": "port 4001 is in use", "level": "error"}\n', "port 4001 is in use"),
    ],
)
def test_the_last_words_of_a_daemon_say_why_it_ended(tmp_path: Path, log: str, words: str) -> None:
    """They become part of the error of the start that failed."""
    file = tmp_path / "log"
    file.write_text(log)
    assert last_words(file) == words
