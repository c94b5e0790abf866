"""Data to stdout, messages to stderr, tables that fit, JSON that stays JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raftos.client import contexts
from raftos_cli.output import Column, Output, print_table
from tests.unit.cli.conftest import Raftos


def test_a_table_in_a_pipe_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """Another program gets whole values, however long, and no colour."""
    print_table([Column("KEY"), Column("SIZE", number=True)], [["k" * 500, 7], ["alive", None]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["k" * 500, "7"]
    assert lines[2].split() == ["alive", "-"]
    assert "\x1b" not in "".join(lines)


def test_messages_and_data_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    """A script can read stdout without skipping sentences."""
    output = Output(as_json=False)
    output.data({"a": 1}, lambda: "a is 1")
    output.say("Well done.")
    assert capsys.readouterr() == ("a is 1\n", "Well done.\n")


def test_with_json_only_data_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """No sentence disturbs a program."""
    output = Output(as_json=True)
    output.data({"a": 1}, lambda: "a is 1")
    output.say("Well done.")
    assert capsys.readouterr() == ('{"a":1}\n', "")


def test_status_lists_the_known_members_when_none_answers(raftos: Raftos, dead_context: str) -> None:
    """The shape stays, each endpoint is `unreachable`, the exit code is 5."""
    shown = raftos("status", "-o", "json", "--timeout", "0.3")
    value = json.loads(shown.stdout)
    assert shown.exit_code == 5
    assert set(value) == {"cluster", "leader", "term", "commit_index", "nodes", "alarms", "level"}
    assert [(node["state"], node["endpoint"]) for node in value["nodes"]] == [("unreachable", dead_context)]
    assert json.loads(shown.stderr)["error"]["code"] == "unreachable"


def test_status_as_a_table_says_so_too(raftos: Raftos, dead_context: str) -> None:
    """People see the same."""
    shown = raftos("status", "--timeout", "0.3")
    assert shown.exit_code == 5
    assert "unreachable" in shown.stdout
    assert dead_context in shown.stdout
    assert shown.stderr.startswith("Error: ")


@pytest.mark.parametrize(
    "command",
    [
        ["kv", "put", "a", "1"],
        ["kv", "get", "a"],
        ["kv", "get", "a", "--stale"],
        ["kv", "del", "a"],
        ["kv", "del", "--prefix", "a"],
        ["kv", "ls"],
        ["kv", "txn", "--put", "a=1"],
        ["node", "ls"],
        ["node", "show", "n1"],
        ["leader", "show"],
        ["leader", "transfer"],
        ["quota", "ls"],
        ["quota", "set", "kv.keys", "1"],
    ],
    ids=" ".join,
)
def test_without_a_member_every_command_exits_5(
    raftos: Raftos, dead_context: str, command: list[str]
) -> None:
    """Unreachable is not a failure of the command; with JSON both streams stay JSON."""
    failed = raftos(*command, "--timeout", "0.3", "-o", "json")
    assert failed.exit_code == 5, failed.stderr
    assert failed.stdout == "" or json.loads(failed.stdout)
    assert json.loads(failed.stderr)["error"]["retryable"] is True


@pytest.mark.parametrize("command", [["kv", "get", "a"], ["status"], ["token", "show"]], ids=" ".join)
def test_without_a_context_a_command_says_how_to_get_one(raftos: Raftos, command: list[str]) -> None:
    """A first-time user is told the command to start with."""
    refused = raftos(*command)
    assert refused.exit_code == 2
    assert "raftos dev start" in refused.stderr


def test_an_unknown_context_is_bad_input(raftos: Raftos, dead_context: str) -> None:
    """The known ones are named."""
    refused = raftos("kv", "get", "a", "--context", "nowhere")
    assert refused.exit_code == 2
    assert "gone" in refused.stderr


def test_contexts_are_listed_shown_and_switched(raftos: Raftos, dead_context: str, home: Path) -> None:
    """`use` changes what all later commands talk to; tokens are not shown."""
    contexts.put("other", contexts.Context(("http://127.0.0.1:10",), "cd" * 32, "second"))
    assert raftos("context", "use", "gone").exit_code == 0
    listed = json.loads(raftos("context", "ls", "-o", "json").stdout)
    assert listed["current"] == "gone"
    assert [each["name"] for each in listed["contexts"]] == ["gone", "other"]
    assert json.loads(raftos("context", "show", "-o", "json").stdout)["endpoints"] == [dead_context]
    assert "ab" * 32 not in raftos("context", "ls").stdout + raftos("context", "show").stdout
    assert raftos("context", "use", "nowhere").exit_code == 3
    assert (home / "contexts.json").stat().st_mode & 0o777 == 0o600


def test_the_token_belongs_to_the_chosen_context(raftos: Raftos, dead_context: str) -> None:
    """What other programs put after `Authorization: Bearer`."""
    contexts.put("other", contexts.Context(("http://127.0.0.1:10",), "cd" * 32, "second"))
    assert raftos("token", "show").stdout == "cd" * 32 + "\n"
    assert raftos("token", "show", "--context", "gone").stdout == "ab" * 32 + "\n"


def test_the_version_is_printed(raftos: Raftos) -> None:
    """In a sentence and as JSON."""
    assert raftos("version").stdout.startswith("raftos 0.")
    assert json.loads(raftos("version", "-o", "json").stdout)["version"]
