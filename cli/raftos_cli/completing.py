"""What could stand where the cursor is: for bash, zsh and fish, and for `raftos shell`.

Commands, options and choices are known to click, the names in the cluster to names.py. Whatever goes wrong,
nothing is offered and nothing is said: a person is typing.
"""

from __future__ import annotations

import os
import re
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import click
import msgspec
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    shell_complete,
    split_arg_string,
)

from raftos_cli.base import Invocation

VARIABLE = "_RAFTOS_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


# --- a line as it is typed -------------------------------------------------------------------


class Typed(msgspec.Struct, frozen=True):
    """A line up to the cursor: its whole words, and the word at the cursor as the program would see it.

    `at` is where in the line that begins which a completion replaces: behind the = of `--option=value`.
    """

    words: list[str]
    word: str
    at: int

    @classmethod
    def of(cls, line: str) -> Typed:
        start = _last_word(line)
        word = "".join(split_arg_string(line[start:]))
        option = re.match("--[^=]*=", line[start:])
        return cls(split_arg_string(line[:start]), word, start + (option.end() if option else 0))


def _last_word(line: str) -> int:
    """Where the word begins in which the line ends, quotes and backslashes understood."""
    start, quote, escaped = 0, "", False
    for index, character in enumerate(line):
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character.isspace():
            start = index + 1
    return start


def offers(root: click.Command, run: Invocation, typed: Typed) -> list[CompletionItem[Any]]:
    """What a shell of our own can offer after `raftos` and these words."""
    try:
        return ShellComplete(root, {"obj": run}, "raftos", VARIABLE).get_completions(typed.words, typed.word)
    except Exception:  # noqa: BLE001 - a mistake here is no news for who presses Tab
        return []


# --- the shells of others --------------------------------------------------------------------


class Bash(BashComplete):
    """Completion for bash, which takes `:` and `=` for ends of words, and knows nothing of quoting.

    So this reads the line itself, and answers with what follows the last of bash's ends of words.
    """

    source_template = """\
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=',' read -r type value; do
        case $type in
            plain) COMPREPLY+=("$value") ;;
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
        esac
    done < <(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        typed = Typed.of(line)
        self._raw = line[typed.at :]
        return typed.words[1:], typed.word

    def format_completion(self, item: CompletionItem[Any]) -> str:
        if self._raw[:1] in {"'", '"'}:
            return f"{item.type},{item.value}"
        breaks = set(":=@") & set(os.environ["COMP_WORDBREAKS"])
        kept_by_bash = max((self._raw.rfind(each) for each in breaks), default=-1) + 1
        value = re.sub(r"[^\w@%+=:,./-]", r"\\\g<0>", str(item.value))
        return f"{item.type},{value[kept_by_bash:]}"


def script(shell: str) -> str:
    """What a shell has to evaluate to complete the commands of raftos."""
    kind = Bash if shell == "bash" else get_completion_class(shell)
    assert kind is not None
    return kind(click.Command("raftos"), {}, "raftos", VARIABLE).source()


def answer(root: click.Command, instruction: str) -> int:
    """Tell a shell what could stand there (`bash_complete`); what to, it says in the environment."""
    add_completion_class(Bash)
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        try:
            return shell_complete(root, {}, "raftos", VARIABLE, instruction)
        except Exception:  # noqa: BLE001 - whatever is wrong is no news for who presses Tab
            return 1
