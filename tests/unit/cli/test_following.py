"""The commands that follow events, as far as they can be seen without a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from raftos_cli.following import timestamp
from raftos_cli.output import one_line
from tests.unit.cli.conftest import Raftos

COMMANDS = [["events"], ["events", "-f"], ["kv", "watch", "a"]]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("since", ["x", "", "1.5", "--5", "\u0661", "9" * 17])
def test_a_revision_is_a_whole_number(raftos: Raftos, command: list[str], since: str) -> None:
    """Anything else is bad usage, with an example of what would do."""
    refused = raftos(*command, "--since", since)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "is not a revision; write a whole number, -20" in refused.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_cluster_that_is_not_there_ends_them_all(
    raftos: Raftos, dead_context: str, command: list[str]
) -> None:
    """Following goes on for ever once it was connected; before that the timeout counts."""
    began = time.monotonic()
    ended = raftos(*command, "--timeout", "0.3", "-o", "json")
    assert time.monotonic() - began < 4
    assert (ended.exit_code, ended.stdout) == (5, "")
    assert json.loads(ended.stderr)["error"]["code"] == "unreachable"


def test_a_line_stays_one_line() -> None:
    """Whatever others put into a key: no line break, no escape sequence."""
    assert one_line("grüße, 世界") == "grüße, 世界"
    assert one_line("a\nb\x1b[31m\x00\u2028") == "a\ufffdb\ufffd[31m\ufffd\ufffd"


def test_times_are_rfc_3339_with_milliseconds() -> None:
    """In UTC, whatever the time zone here."""
    assert timestamp(1_763_700_000_007) == "2025-11-21T04:40:00.007Z"
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"


def test_writing_to_a_reader_that_has_gone_is_no_failure() -> None:
    """`raftos kv ls | head` ends quietly, with 0, though there was more to print."""
    program = (
        "import click; from raftos_cli.main import root\n"
        "@root.command()\n"
        "def chatter():\n"
        "    while True: click.echo('x' * 10_000)\n"
        "root.main(['chatter'])\n"
    )
    talking = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert talking.stdout
    talking.stdout.readline()
    talking.stdout.close()
    talking.stdout = None
    assert talking.communicate(timeout=20)[1] == ""
    assert talking.returncode == 0
