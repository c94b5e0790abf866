"""What a person sees in a real terminal: colour where it may be, and nothing wider than 80 columns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from raftos.client import Client, contexts
from raftos_cli.output import Column, print_table
from tests.unit.cli.terminal import COLUMNS, CTRL_D, RAFTOS, TAB, Terminal, shown

STYLE = re.compile(rb"\x1b\[([\d;]*)m")
INVISIBLE = {b"", b"0", b"0;7"}
"""No style, and reverse video, by which a menu marks what is chosen: neither is a colour."""

COMMANDS = {
    "a table": ["status"],
    "an error": ["kv", "get", "nothing"],
    "bad usage": ["kv", "gt"],
    "help": ["kv", "--help"],
    "data": ["kv", "ls"],
    "JSON": ["kv", "ls", "-o", "json"],
}


@pytest.fixture
def environment(home: Path, cluster: list[str]) -> dict[str, str]:
    return {"RAFTOS_HOME": str(home)}


def styles(raw: bytes) -> set[bytes]:
    return set(STYLE.findall(raw)) - INVISIBLE


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_no_color_is_honoured_everywhere(
    environment: dict[str, str], command: list[str], variable: dict[str, str]
) -> None:
    """Also against FORCE_COLOR, and on a terminal that knows no colours."""
    told = shown([*RAFTOS, *command], {**environment, "FORCE_COLOR": "1", **variable})
    assert told.seen
    assert styles(told.raw) == set()


@pytest.mark.parametrize("command", [COMMANDS["a table"], COMMANDS["an error"]], ids=" ".join)
def test_a_terminal_gets_colour(environment: dict[str, str], command: list[str]) -> None:
    """So that the tests above can fail; an empty NO_COLOR says nothing."""
    assert styles(shown([*RAFTOS, *command], {**environment, "NO_COLOR": ""}).raw)


def test_a_pipe_gets_no_colour(environment: dict[str, str]) -> None:
    """Even where FORCE_COLOR is set: another program reads there."""
    words = " ".join(f"'{word}'" for word in RAFTOS)
    piped = shown(["sh", "-c", f"({words} status; {words} kv get x) 2>&1 | cat"], environment)
    assert "n1" in piped.seen
    assert styles(piped.raw) == set()


@pytest.mark.parametrize(("variable", "colourful"), [({"NO_COLOR": "1"}, False), ({}, True)], ids=str)
def test_the_prompt_of_the_shell_honours_it_too(
    environment: dict[str, str], variable: dict[str, str], colourful: bool
) -> None:
    """Prompt, exit code, errors, tables and the menu of completions."""
    with Terminal([*RAFTOS, "shell"], {**environment, **variable}) as terminal:
        terminal.wait_for("test>")
        terminal.type("kv get nothing\r")
        terminal.wait_for("test [3]>")
        terminal.type("status\r")
        terminal.wait_for("test>", 2)
        terminal.type(f"kv {TAB}")
        terminal.wait_for("Delete KEY.")
        terminal.type("\x03" + CTRL_D)
        terminal.end()
    assert bool(styles(terminal.raw)) is colourful


LONG = "config/" + "very-long-" * 20 + "name"


@pytest.fixture
def long_names(cluster: list[str]) -> None:
    """Keys, values, owners, endpoints and context names that fit no line."""
    with Client() as client:
        client.kv.put(LONG, "v" * 300)
        client.kv.put("wide/" + "日本語" * 40, "値" * 100)
        client.kv.put("escapes", "a\nb\x1b[31m")
        client.lock.acquire("l" * 120, owner="o" * 120)
    far = [f"http://member-{number}.{'region-' * 8}example.net:40001" for number in (1, 2, 3)]
    contexts.put("c" * 90, contexts.Context(tuple(far), "ab" * 32, "n" * 60))
    contexts.put("test", contexts.load().contexts["test"])


@pytest.mark.parametrize(
    "command",
    [
        ["kv", "ls"],
        ["lock", "show"],
        ["context", "ls"],
        ["quota", "ls"],
        ["status"],
        ["node", "ls"],
        ["status", "--context", "c" * 90, "--timeout", "0.2"],
        ["node", "ls", "--context", "c" * 90, "--timeout", "0.2"],
    ],
    ids=lambda command: " ".join(command)[:30],
)
def test_every_table_fits_80_columns(
    environment: dict[str, str], long_names: None, command: list[str]
) -> None:
    """However long keys, values, names and endpoints are; and no column is lost."""
    told = shown([*RAFTOS, *command], environment)
    table = STYLE.sub(b"", told.raw).decode().partition("Error:")[0]
    assert max(cell_len(line.rstrip()) for line in table.splitlines()) <= COLUMNS
    assert "\x1b" not in table


def test_what_is_missing_is_taken_from_text_and_never_from_numbers(
    environment: dict[str, str], long_names: None
) -> None:
    """Keys stay whole over several lines, values end in an ellipsis, numbers stand as they are."""
    seen = shown([*RAFTOS, "kv", "ls", "config/"], environment).seen.splitlines()
    titles, first, *rest = [line for line in seen if line]
    assert titles.split() == ["KEY", "VERSION", "REVISION", "VALUE"]
    piece, version, revision, value = first.split()
    assert version == "1"
    assert revision.isdigit()
    assert value.endswith("v…")
    assert piece + "".join(line.strip() for line in rest) == LONG


def test_no_control_character_gets_through_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """What somebody wrote into a name moves no cursor and begins no line of its own."""
    print_table([Column("NAME"), Column("SIZE", number=True)], [["x\ny\x1b[0m", 10**30]])
    titles, row = capsys.readouterr().out.splitlines()
    assert titles.split() == ["NAME", "SIZE"]
    assert row.split() == ["x\ufffdy\ufffd[0m", str(10**30)]
