"""`raftos completion`: really run in bash, and in zsh and fish where they are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raftos.client import Client, contexts
from raftos_cli.completing import SHELLS
from raftos_cli.devcluster import DevCluster
from tests.unit.cli.conftest import Raftos
from tests.unit.cli.terminal import CTRL_U, RAFTOS, TAB, Terminal

START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
INSTALL = {
    "bash": "PS1=; bind 'set enable-bracketed-paste off'; eval \"$(raftos completion bash)\"",
    "zsh": 'PS1=; autoload -U compinit; compinit -u; eval "$(raftos completion zsh)"',
    "fish": "function fish_prompt; end; raftos completion fish | source",
}
EXTRA_S = 1.5
"""How much longer than for a healthy cluster a person may have to wait, on a busy machine."""

shells = pytest.mark.parametrize(
    "shell",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name != "bash" and shutil.which(name) is None and "CI" not in os.environ,
                reason=f"{name} is not installed",
            ),
        )
        for name in SHELLS
    ],
)


@pytest.fixture
def names(cluster: list[str]) -> None:
    """Keys and contexts to be completed."""
    with Client() as client:
        client.kv.put("user:1:name", "1")
        client.kv.put("it is", "2")
    contexts.put("other", contexts.Context(("http://127.0.0.1:9",), "ab" * 32, "lost"))
    contexts.put("test", contexts.load().contexts["test"])


@pytest.fixture
def environment(home: Path, tmp_path: Path) -> dict[str, str]:
    """One with a program named `raftos` and nothing of this user's shells."""
    program = tmp_path / "bin" / "raftos"
    program.parent.mkdir()
    words = " ".join(f"'{word}'" for word in RAFTOS)
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    return {"RAFTOS_HOME": str(home), "PATH": path, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}


@contextmanager
def completing(shell: str, environment: dict[str, str], directory: Path) -> Iterator[Terminal]:
    """That shell in a terminal, with the completion installed as the help says."""
    with Terminal(START[shell], environment, directory) as terminal:
        terminal.type(f"{INSTALL[shell]}; clear; echo rea''dy\r")
        terminal.wait_until(lambda seen: "ready" in seen.split(), "ready")
        yield terminal


TYPED = {
    "raftos stat": "raftos status",
    "raftos kv ge": "raftos kv get",
    "raftos kv put --expect-v": "raftos kv put --expect-version",
    "raftos kv get user": "raftos kv get user:1:name",
    "raftos kv get user:1": "raftos kv get user:1:name",
    "raftos kv get it": "raftos kv get it\\ is",
    "raftos kv get --context oth": "raftos kv get --context other",
    "raftos kv put --file photo": "raftos kv put --file photograph.jpg",
}


@shells
def test_a_shell_completes_commands_options_keys_contexts_and_files(
    names: None, environment: dict[str, str], tmp_path: Path, shell: str
) -> None:
    """As a person sees it: Tab finishes the word, with its colons, and with its spaces quoted."""
    (tmp_path / "photograph.jpg").touch()
    with completing(shell, environment, tmp_path) as terminal:
        for typed, completed in TYPED.items():
            terminal.type(typed)
            terminal.press_until_end(TAB, completed)
            terminal.type(CTRL_U)
            # Above it may stand what was typed before the shell was there to take it.
            terminal.wait_until(lambda seen, word=completed: not seen.endswith(word), "empty line")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("raftos node show n", ["n1", "n2", "n3"]),
        ("raftos leader transfer n2", ["n2"]),
        ("raftos kv del u", ["user:1:name"]),
        ("raftos kv get user:1:", ["name"]),
        ('raftos kv get "it', ["it is"]),
        ("raftos quota set kv.", ["kv.keys"]),
        ("raftos context use o", ["other"]),
        ("raftos kv ls --context=o", ["other"]),
        ("raftos kv get x ", []),
        ("raftos lock show ", []),
        ("raftos completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_what_bash_is_told(names: None, line: str, offered: list[str]) -> None:
    """Names of every kind, each as what follows the last end of a word that bash sees."""
    assert told_in_the_end(line) == [f"plain,{name}" for name in offered]


def told_in_the_end(line: str) -> list[str]:
    """The answer to bash when Tab is pressed again: a cluster that was too late offered nothing."""
    return told(line) or told(line) or told(line)


def told(line: str, **environment: str) -> list[str]:
    """The answer to bash, whose stderr has to stay silent."""
    asked = {"_RAFTOS_COMPLETE": "bash_complete", "COMP_LINE": line, "COMP_WORDBREAKS": " \t\n\"'@><=;|&(:"}
    done = subprocess.run(
        RAFTOS, env={**os.environ, **asked, **environment}, check=False, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


def taken_s(line: str) -> float:
    before_s = time.monotonic()
    told(line)
    return time.monotonic() - before_s


@pytest.mark.parametrize(
    "options", ["--endpoint http://127.0.0.1:9", "--context nowhere", "--endpoint nonsense"]
)
def test_where_nothing_is_known_nothing_is_offered_and_nothing_said(names: None, options: str) -> None:
    """Neither an error nor a wrong name."""
    assert told(f"raftos {options} kv get ") == []


def test_damaged_contexts_are_no_news_for_who_presses_tab(home: Path) -> None:
    """Commands are completed all the same."""
    home.mkdir()
    (home / "contexts.json").write_text("{")
    assert told("raftos kv get ") == []
    assert told("raftos --context ") == []
    assert told("raftos kv ge") == ["plain,get"]


def test_a_silent_cluster_keeps_nobody_waiting(names: None, cluster: list[str]) -> None:
    """A member that accepts the connection and says nothing costs a moment, not a command's timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        member = f"http://127.0.0.1:{silent.getsockname()[1]}"
        usual_s = min(taken_s("raftos kv get ") for _ in range(3))
        assert min(taken_s(f"raftos --endpoint {member} kv get ") for _ in range(3)) < usual_s + EXTRA_S


def test_a_script_is_printed_for_each_shell(raftos: Raftos) -> None:
    """Nothing else stands on stdout, so that it can be evaluated."""
    for shell in SHELLS:
        shown = raftos("completion", shell)
        assert shown.exit_code == 0
        assert shown.stderr == ""
        assert "_RAFTOS_COMPLETE" in shown.stdout
    assert raftos("completion", "tcsh").exit_code == 2


def test_the_numbers_of_a_dev_cluster_are_completed(home: Path) -> None:
    """From its record, whether it runs or not."""
    assert told("raftos dev kill ") == []
    DevCluster.create(home / "dev" / "data", 3)
    (home / "dev" / "current").write_text(str(home / "dev" / "data"))
    assert told("raftos dev kill ") == ["plain,1", "plain,2", "plain,3"]
