"""Help, usage errors and exit codes: what holds for every command."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click
import pytest

from raftos.errors import BY_CODE, error_for
from raftos_cli.base import Command, Group
from raftos_cli.main import Root, root, wants_json
from tests.unit.cli.conftest import Raftos


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands(root))
VERBS = [path for path, command in ALL.items() if not isinstance(command, click.Group)]


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_help_fits_a_terminal_and_ends_with_examples(raftos: Raftos, path: tuple[str, ...]) -> None:
    """--help exits 0, shows examples that call this very command, and no line is longer than 80."""
    shown = raftos(*path, "--help")
    assert shown.exit_code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    examples = shown.stdout.partition("Examples:\n")[2]
    assert " ".join(("raftos", *path)) in examples


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_every_summary_is_a_whole_sentence(raftos: Raftos, path: tuple[str, ...]) -> None:
    """No line in a list of commands is cut."""
    assert "..." not in raftos(*path, "--help").stdout.partition("Commands:")[2]


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
@pytest.mark.parametrize(
    "arguments", [["--no-such-option"], ["a", "b", "c", "d"], ["-o", "yaml"], ["--timeout", "never"]]
)
def test_bad_usage_exits_2_with_the_usage_line(
    raftos: Raftos, path: tuple[str, ...], arguments: list[str]
) -> None:
    """What cannot be parsed changes nothing, prints no data and shows how to do it right."""
    refused = raftos(*path, *arguments)
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert f"Usage: raftos {' '.join(path)}" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["stauts"], "status"),
        (["kv", "gett"], "get"),
        (["dev", "strat"], "start"),
        (["leader", "shw"], "show"),
    ],
)
def test_an_unknown_command_names_the_nearest(raftos: Raftos, typed: list[str], meant: str) -> None:
    """A typing mistake is answered with the word that was meant."""
    refused = raftos(*typed)
    assert refused.exit_code == 2
    assert f"Did you mean {meant!r}?" in refused.stderr


def test_without_a_command_raftos_explains_itself(raftos: Raftos) -> None:
    """`raftos` alone shows the help; a group alone is a mistake, answered with its help."""
    assert raftos().exit_code == 0
    assert "Commands:" in raftos().stdout
    assert raftos("kv").exit_code == 2
    assert "Commands:" in raftos("kv").stderr


@pytest.mark.parametrize(
    "arguments",
    [["-o", "json", "token", "show"], ["token", "-o", "json", "show"], ["token", "show", "-o", "json"]],
)
def test_common_options_stand_anywhere(raftos: Raftos, dead_context: str, arguments: list[str]) -> None:
    """An option of every command may come before or after the subcommand."""
    shown = raftos(*arguments)
    assert shown.exit_code == 0
    assert json.loads(shown.stdout) == {"token": "ab" * 32}


def test_the_rightmost_of_two_common_options_wins(raftos: Raftos, dead_context: str) -> None:
    """So that an alias can set a default."""
    assert raftos("-o", "json", "token", "show", "-o", "table").stdout == "ab" * 32 + "\n"


@pytest.mark.parametrize("broken", [["kv", "put", "-o", "json"], ["-o", "json", "kv", "nonsense"]])
def test_a_usage_error_is_json_where_json_was_asked_for(raftos: Raftos, broken: list[str]) -> None:
    """Stdout stays empty, stderr is one JSON object."""
    refused = raftos(*broken)
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert json.loads(refused.stderr)["error"]["code"] == "invalid"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["-o", "json"], True),
        (["kv", "get", "a", "--output=json"], True),
        (["-ojson"], True),
        (["kv", "put", "a", "--", "-o", "json"], False),
        (["-o", "table"], False),
        ([], False),
    ],
)
def test_json_is_recognised_before_parsing(arguments: list[str], wanted: bool) -> None:
    """Even a command line that cannot be parsed says in which form it wants its error."""
    assert wants_json(arguments) is wanted


def failing_with(error: BaseException) -> Root:
    """A root command with one verb that meets this error."""

    def fail() -> NoReturn:
        raise error

    failing = Root("raftos")
    failing.add_command(Command("fail", callback=fail))
    return failing


@pytest.mark.parametrize("code", sorted(BY_CODE))
@pytest.mark.parametrize("form", ["table", "json"])
def test_every_error_exits_as_its_class_says(
    code: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence on stderr and perhaps a hint, or one JSON object; nothing on stdout; no traceback."""
    error = error_for(code, "something was wrong")
    exit_code = failing_with(error).run(["fail", "-o", form])
    out, err = capsys.readouterr()
    assert exit_code == BY_CODE[code].exit_code
    assert out == ""
    if form == "json":
        assert json.loads(err)["error"]["code"] == code
    else:
        assert err.splitlines()[0] == "Error: something was wrong"
        assert all(line.startswith("Hint: ") for line in err.splitlines()[1:])


def test_a_bug_says_where_to_report_it(capsys: pytest.CaptureFixture[str]) -> None:
    """An unexpected error shows its traceback and what to do with it; in JSON it stays JSON."""
    assert failing_with(KeyError("missing")).run(["fail"]) == 1
    assert "Traceback" in (said := capsys.readouterr().err)
    assert "please report it" in said
    assert failing_with(KeyError("missing")).run(["fail", "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "fault"


def test_what_the_machine_refuses_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk is neither a bug nor a traceback."""
    full = OSError(errno.ENOSPC, "No space left on device", "/data/cluster.json")
    assert failing_with(full).run(["fail"]) == 1
    assert capsys.readouterr().err == (
        "Error: No space left on device: /data/cluster.json; free some space, or choose another place\n"
    )
    assert failing_with(FileNotFoundError(errno.ENOENT, "No such file", "a")).run(["fail"]) == 1
    assert capsys.readouterr().err == "Error: No such file: a\n"


def test_an_interrupt_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends a command quietly, with the code that shells expect."""
    assert failing_with(KeyboardInterrupt()).run(["fail"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error(home: Path) -> None:
    """`raftos --help | head -1` prints no complaint."""
    program = f"{sys.executable} -c 'from raftos_cli.main import main; main()' --help | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_an_argument_that_is_not_utf_8_is_bad_usage(raftos: Raftos, dead_context: str) -> None:
    """A key has to be text; the terminal's encoding mistakes end here, not in a codec."""
    refused = raftos("kv", "get", "a\udcff")
    assert refused.exit_code == 2


def test_a_group_imports_a_command_only_when_it_is_called() -> None:
    """`raftos kv get` does not pay for `raftos dev`."""
    program = (
        "import sys; from raftos_cli.main import root; root.run(['kv', 'get', '--help']);"
        "slow = {'rich', 'psutil', 'asyncio', 'prompt_toolkit'};"
        "print([name for name in sys.modules if name.split('.')[0] in slow])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_groups_know_their_commands() -> None:
    """Every name the root promises has a file with a command of that name."""
    assert all(command.name == path[-1] for path, command in ALL.items())
    assert isinstance(ALL["kv",], Group)
