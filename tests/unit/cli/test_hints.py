"""Every error a user meets says what to do next, in one dim line that programs never see."""

from __future__ import annotations

import json
import re

import click
import pytest

from raftos.errors import BY_CODE, InvalidInput, NotFound, Unauthorized, error_for
from raftos_cli.hints import HINTS, STALE_READERS, hint_for
from raftos_cli.main import root
from tests.unit.cli.conftest import Raftos

UNEXPECTED = {"failed", "fault"}
"""The only codes without a hint of their own: what happened to the machine, and bugs."""


def named(text: str) -> list[str]:
    """The commands a sentence names in backquotes, without their arguments."""
    return [found.removeprefix("raftos ") for found in re.findall("`(raftos [a-z ]*[a-z])", text)]


@pytest.mark.parametrize("code", sorted(set(BY_CODE) - UNEXPECTED))
def test_every_error_has_a_hint_somewhere(code: str) -> None:
    """Perhaps that of its kind."""
    error = error_for(code, "something was wrong")
    assert any(hint_for(error, f"raftos {name} x") for name in root.files)


@pytest.mark.parametrize("hint", sorted({hint for each in HINTS.values() for hint in each.values()}))
def test_a_hint_names_commands_that_exist(hint: str) -> None:
    """A typing mistake in the table is found out here."""
    if "{command}" in hint:
        return
    words = [command.split() for command in named(hint)]
    assert words
    for path in words:
        command: click.Command = root
        for word in path:
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"there is no {' '.join(path)}"
            command = found


@pytest.mark.parametrize("command", sorted({command for each in HINTS.values() for command in each}))
def test_a_hint_belongs_to_a_command_that_exists(command: str) -> None:
    """The left side of the table is as true as the right one."""
    assert command == "raftos" or command.split()[1] in root.files


def test_the_most_particular_hint_wins() -> None:
    """Of one command, then of its group, then of all; other groups do not matter."""
    failed = error_for("outcome_unknown", "nobody answered")
    everywhere = HINTS["outcome_unknown"]["raftos"]
    assert hint_for(failed, "raftos kv put") == HINTS["outcome_unknown"]["raftos kv"]
    assert hint_for(failed, "raftos quota set") == everywhere
    assert hint_for(failed, "raftos kvx") == everywhere
    reached = error_for("limit_reached", "there are enough")
    assert hint_for(reached, "raftos chat create") == HINTS["limit_reached"]["raftos chat create"]
    assert hint_for(reached, "raftos chat send") is None


def test_a_hint_speaks_of_the_command_at_hand() -> None:
    """Bad input leads to the help of the very command."""
    hint = hint_for(InvalidInput("the key is empty"), "raftos kv get")
    assert hint is not None
    assert "`raftos kv get --help`" in hint


def test_a_message_that_names_a_command_needs_no_hint() -> None:
    """One way out is enough."""
    assert hint_for(NotFound("there is none; `raftos dev start` starts one"), "raftos kv get") is None
    assert hint_for(Unauthorized("send the secret"), "raftos kv get") is not None


def test_without_a_leader_only_what_has_a_stale_read_is_told_of_it() -> None:
    """And each of those takes the option."""
    alone = error_for("no_quorum", "no leader could be confirmed in time; a stale read still works")
    for name in STALE_READERS:
        assert f"`{name} --stale`" in str(hint_for(alone, name))
        command: click.Command = root
        for word in name.split()[1:]:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), word) or root
        assert "--stale" in [option for each in command.params for option in each.opts]
    for name in ("raftos kv put", "raftos chat send", "raftos node ls"):
        assert "--stale" not in str(hint_for(alone, name))


def test_what_keeps_a_command_from_running_under_a_lock_has_its_hint(
    raftos: Raftos, cluster: list[str]
) -> None:
    """Though it exits in its own way; with JSON the error stands alone, as everywhere."""
    assert raftos("lock", "acquire", "backup").exit_code == 0
    refused = raftos("lock", "acquire", "backup", "--wait", "0", "--", "true")
    assert refused.exit_code == 125
    assert "Hint: `raftos lock show`" in refused.stderr.splitlines()[-1]
    in_json = raftos("lock", "acquire", "backup", "--wait", "0", "-o", "json", "--", "true")
    assert json.loads(in_json.stderr)["error"]["code"] == "conflict"


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["kv", "get", "nothing"], 3, "raftos kv ls"),
        (["kv", "put", "a", "1", "--expect-version", "7"], 4, "raftos kv get"),
        (["kv", "get", ""], 2, "raftos kv get --help"),
        (["kv", "get"], 2, "raftos kv get --help"),
        (["chat", "send", "nowhere", "hello"], 3, "raftos chat create ROOM"),
        (["node", "show", "n9"], 3, "raftos node ls"),
        (["quota", "set", "nothing", "1"], 3, "raftos quota ls"),
        (["lock", "release", "backup", "--token", "1"], 3, "raftos lock show"),
        (["context", "use", "nowhere"], 3, "raftos context ls"),
        (["stauts"], 2, "raftos --help"),
        (["--endpoint", "http://127.0.0.1:9", "--timeout", "0.2", "kv", "ls"], 5, "raftos context show"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_ends_with_the_next_command(
    raftos: Raftos, cluster: list[str], arguments: list[str], code: int, hint: str
) -> None:
    """On stderr, under the sentence that says what happened."""
    refused = raftos(*arguments)
    said = refused.stderr.splitlines()
    assert refused.exit_code == code
    assert said[-2].startswith("Error: ")
    assert said[-1].startswith("Hint: ")
    assert f"`{hint}" in said[-1]


def test_a_hint_is_for_people_only(raftos: Raftos, cluster: list[str]) -> None:
    """With JSON, stderr stays the one object of the API."""
    error = json.loads(raftos("kv", "get", "nothing", "-o", "json").stderr)
    assert set(error) == {"error"}
    assert set(error["error"]) == {"code", "message", "retryable", "leader"}


def test_a_foreign_credential_leads_to_the_contexts(raftos: Raftos, cluster: list[str]) -> None:
    """Most often the endpoint is of another cluster than the context."""
    from raftos.client import contexts

    contexts.put("foreign", contexts.Context(tuple(cluster), "ab" * 32, "foreign"))
    refused = raftos("kv", "ls")
    assert refused.exit_code == 6
    assert "`raftos context ls`" in refused.stderr.splitlines()[-1]
