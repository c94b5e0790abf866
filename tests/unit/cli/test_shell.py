"""`raftos shell`: at a prompt in a real terminal, and as a script."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftos.client import Client, contexts
from raftos_cli.completing import Typed
from tests.unit.cli.conftest import Raftos
from tests.unit.cli.terminal import CTRL_C, CTRL_D, RAFTOS, TAB, Terminal

# --- a script --------------------------------------------------------------------------------


def test_lines_of_stdin_are_commands(raftos: Raftos, cluster: list[str]) -> None:
    """With and without the word `raftos`; comments and empty lines are skipped."""
    done = raftos("shell", stdin=b'kv put a "b c"\n\n  # a comment\nraftos kv get a\n')
    assert done.exit_code == 0
    assert done.stdout == "a: version 1, revision 4\nb c\n"


def test_a_script_goes_on_after_an_error_and_exits_with_the_last(raftos: Raftos, cluster: list[str]) -> None:
    """The last code that was not 0, whatever succeeded afterwards."""
    done = raftos("shell", stdin=b"stauts\nkv get nothing\nkv ls\n")
    assert done.exit_code == 3
    assert "Did you mean 'status'?" in done.stderr
    assert done.stdout.startswith("KEY")


@pytest.mark.parametrize("word", ["exit", "quit", "raftos exit"])
def test_a_script_ends_where_it_says_so(raftos: Raftos, cluster: list[str], word: str) -> None:
    """What follows is not run."""
    assert raftos("shell", stdin=f"version\n{word}\nkv get nothing\n".encode()).exit_code == 0


def test_a_command_that_reads_stdin_gets_the_rest_of_the_script(raftos: Raftos, cluster: list[str]) -> None:
    """Not a byte of it is lost in a buffer."""
    assert raftos("shell", stdin=b"kv put a -\nkv get nothing\n\xff").exit_code == 0
    with Client() as client:
        assert client.kv.get("a").value == b"kv get nothing\n\xff"


def test_the_options_of_the_shell_hold_for_every_command(raftos: Raftos, cluster: list[str]) -> None:
    """Each command may still have its own; errors follow too, also those of the shell itself."""
    done = raftos("shell", "-o", "json", stdin=b"kv put a 1\nkv get a -o table\nkv get b\nkv\nkv 'b\n")
    put, got = done.stdout.splitlines()
    assert json.loads(put)["version"] == 1
    assert got == "1"
    codes = [json.loads(line)["error"]["code"] for line in done.stderr.splitlines() if line.startswith("{")]
    assert codes == ["not_found", "invalid"]


def test_a_context_of_a_command_takes_the_place_of_the_shells_endpoints(
    raftos: Raftos, cluster: list[str]
) -> None:
    """Who names a context means its endpoints; an endpoint alone keeps the context's credential."""
    contexts.put("gone", contexts.Context(("http://127.0.0.1:9",), "ab" * 32, "lost"))
    elsewhere = raftos("shell", "--context", "test", "--endpoint", cluster[0], stdin=b"token show\n")
    assert elsewhere.exit_code == 0
    script = b"kv ls\nkv ls --context gone --timeout 0.2\n"
    done = raftos("shell", "--context", "test", "--endpoint", cluster[0], stdin=script)
    assert done.exit_code == 5
    assert done.stdout.startswith("KEY")


def test_help_explains_every_command(raftos: Raftos, home: Path) -> None:
    """`help kv put` is `kv put --help`."""
    shown = raftos("shell", stdin=b"help\nhelp kv put\n").stdout
    assert "Usage: raftos [OPTIONS] COMMAND" in shown
    assert "Usage: raftos kv put" in shown


def test_there_is_no_shell_within_a_shell(raftos: Raftos, home: Path) -> None:
    """It would only confuse about which of them `exit` leaves."""
    refused = raftos("shell", stdin=b"shell\nshell --context other\n")
    assert refused.exit_code == 2
    assert refused.stderr.count("This is a shell already") == 2


# --- a prompt --------------------------------------------------------------------------------


@pytest.fixture
def environment(home: Path, cluster: list[str]) -> dict[str, str]:
    return {"RAFTOS_HOME": str(home)}


@pytest.fixture
def prompt(environment: dict[str, str]) -> Iterator[Terminal]:
    """A shell in a terminal, at its first prompt."""
    with Terminal([*RAFTOS, "shell"], environment) as terminal:
        terminal.wait_for("test>")
        yield terminal


def test_the_prompt_says_where_one_is_and_how_the_last_command_ended(prompt: Terminal) -> None:
    """The context, and the exit code unless it was 0."""
    prompt.type("kv get nothing\r")
    prompt.wait_for("test [3]>")
    prompt.type("kv put a 1\r")
    assert prompt.wait_for("test>", 2).splitlines()[-2] == "a: version 1, revision 4"


def test_no_error_ends_the_shell(prompt: Terminal) -> None:
    """Neither of a command, nor of the line itself."""
    for line in ("nonsense", "kv get", 'kv get "a'):
        prompt.type(f"{line}\r")
    prompt.wait_for("test [2]>", 3)
    prompt.type("kv put still here\r")
    prompt.wait_for("still: version 1")


def test_ctrl_c_ends_only_the_command_or_the_line(prompt: Terminal) -> None:
    """Interrupting a follower leads back to the prompt; so does interrupting what is being typed."""
    prompt.type("kv watch a\r")
    prompt.wait_until(lambda seen: not seen.endswith("test>"))
    with Client() as client:
        prompt.wait_until(lambda seen: bool(client.kv.put("a", "1")) and "PUT a" in seen)
    prompt.type(CTRL_C)
    prompt.wait_for("test [130]>")
    prompt.type("kv put b")
    prompt.wait_for("kv put b")
    prompt.type(CTRL_C)
    prompt.wait_for("test>", 2)
    prompt.type("version\r")
    prompt.wait_for("raftos 0.")


@pytest.mark.parametrize("leaving", [CTRL_D, "exit\r", "quit\r"])
def test_it_is_left_with_code_0(prompt: Terminal, leaving: str) -> None:
    """Whatever failed in it."""
    prompt.type("nonsense\r")
    prompt.wait_for("test [2]>")
    prompt.type(leaving)
    assert prompt.end() == 0


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("stat", "status"),
        ("kv put --expect-v", "kv put --expect-version"),
        ("node show --output j", "node show --output json"),
        ("kv get us", "kv get user:1"),
        ("raftos kv get us", "raftos kv get user:1"),
        ("help kv ge", "help kv get"),
        ("kv get two", "kv get 'two words'"),
        ('kv get "two w', "kv get 'two words'"),
        ("kv ls --context=te", "kv ls --context=test"),
        ("kv get --context oth", "kv get --context other"),
        ("qui", "quit"),
    ],
)
def test_tab_completes_what_the_cluster_and_the_commands_know(
    environment: dict[str, str], cluster: list[str], typed: str, completed: str
) -> None:
    """Commands, options, choices, keys, contexts; what needs quotes gets them."""
    contexts.put("other", contexts.Context(("http://127.0.0.1:9",), "ab" * 32, "lost"))
    contexts.put("test", contexts.load().contexts["test"])
    with Client() as client:
        client.kv.put("user:1", "1")
        client.kv.put("two words", "2")
    with Terminal([*RAFTOS, "shell"], environment) as prompt:
        prompt.wait_for("test>")
        prompt.type(typed + TAB)
        prompt.wait_until(lambda seen: f"test> {completed}" in seen.splitlines(), completed)


def test_a_completed_word_is_followed_by_the_next(environment: dict[str, str], cluster: list[str]) -> None:
    """As in bash: two words and two Tabs, and no space typed in between."""
    contexts.put("test", contexts.load().contexts["test"])
    with Client() as client:
        client.kv.put("lonely", "1")
    with Terminal([*RAFTOS, "shell"], environment) as prompt:
        prompt.wait_for("test>")
        prompt.type("kv ge" + TAB)
        prompt.wait_for("kv get")
        prompt.type("lon" + TAB)
        prompt.wait_for("kv get lonely")


def test_completion_stays_silent_where_nothing_is_known(home: Path) -> None:
    """No cluster, no contexts, a damaged file of contexts: Tab offers nothing, and typing goes on."""
    home.mkdir(parents=True)
    (home / "contexts.json").write_text("{")
    with Terminal([*RAFTOS, "shell"], {"RAFTOS_HOME": str(home)}) as prompt:
        prompt.wait_for("no cluster>")
        prompt.type(f"kv get {TAB}")
        prompt.wait_for("no cluster> kv get")
        prompt.type("\r")
        assert "damaged" not in prompt.wait_for("no cluster [2]>")


def test_files_are_completed_where_a_file_is_meant(environment: dict[str, str], tmp_path: Path) -> None:
    """As in the shell around it."""
    (tmp_path / "photograph.jpg").touch()
    with Terminal([*RAFTOS, "shell"], environment, directory=tmp_path) as prompt:
        prompt.wait_for("test>")
        prompt.type(f"kv put --file ph{TAB}")
        prompt.wait_for("kv put --file photograph.jpg")


def test_history_is_kept_for_this_user_alone(environment: dict[str, str], home: Path) -> None:
    """The next shell knows the lines of the last one, but none that began with a space."""
    first = (" kv put secret 1\rversion\r", "raftos 0.", "test>")
    for typed, expected, last in (first, ("\x1b[A", "version", "test> version")):
        with Terminal([*RAFTOS, "shell"], environment) as prompt:
            prompt.wait_for("test>")
            prompt.type(typed)
            prompt.wait_for(expected)
            prompts = prompt.wait_for_end(last).count("test>")
            prompt.type(CTRL_C)
            prompt.wait_for("test>", prompts + 1)
            prompt.type(CTRL_D)
            prompt.end()
    file = home / "shell_history"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "secret" not in file.read_text()


def test_a_history_open_to_others_is_closed(environment: dict[str, str], home: Path) -> None:
    """What one types is nobody else's business."""
    (home / "shell_history").touch(mode=0o644)
    with Terminal([*RAFTOS, "shell"], environment) as prompt:
        prompt.wait_for("test>")
        assert (home / "shell_history").stat().st_mode & 0o777 == 0o600


def test_a_shell_without_history_is_a_shell(environment: dict[str, str], home: Path) -> None:
    """Where it cannot be kept, that is said once, and everything else works."""
    (home / "shell_history").mkdir()
    with Terminal([*RAFTOS, "shell"], environment) as prompt:
        prompt.wait_for("test>")
        assert "No history is kept" in prompt.seen
        prompt.type("version\r")
        prompt.wait_for("raftos 0.")


def test_a_prompt_needs_both_ends_of_a_terminal(environment: dict[str, str]) -> None:
    """With stdout elsewhere there is no prompt, and no escape sequence in what another program reads."""
    cat = shutil.which("cat")
    assert cat is not None
    words = " ".join(f"'{word}'" for word in RAFTOS)
    with Terminal(["sh", "-c", f"{words} shell | {cat}"], environment) as terminal:
        terminal.type("version\r")
        terminal.wait_for("raftos 0.")
        assert not re.search(rb"\x1b|>", terminal.raw)


def test_ctrl_c_ends_a_script(environment: dict[str, str], tmp_path: Path) -> None:
    """Whoever interrupts one does not mean only the command that runs."""
    (tmp_path / "script").write_text("kv watch a\nversion\n")
    words = " ".join(f"'{word}'" for word in RAFTOS)
    with Terminal(["sh", "-c", f"exec {words} shell < script"], environment, tmp_path) as terminal:
        with Client() as client:
            terminal.wait_until(lambda seen: bool(client.kv.put("a", "1")) and "PUT a" in seen)
        terminal.type(CTRL_C)
        assert terminal.end() == 130
        assert "raftos 0." not in terminal.seen


# --- a line ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words", "word", "at"),
    [
        ("", [], "", 0),
        ("kv", [], "kv", 0),
        ("kv ", ["kv"], "", 3),
        ("kv get a", ["kv", "get"], "a", 7),
        ("kv get 'a b", ["kv", "get"], "a b", 7),
        ('kv get "a b" c', ["kv", "get", "a b"], "c", 13),
        ("kv get a\\ b", ["kv", "get"], "a b", 7),
        ("kv get it\\'s x", ["kv", "get", "it's"], "x", 13),
        ("kv ls --context=de", ["kv", "ls"], "--context=de", 16),
    ],
)
def test_a_line_is_divided_at_the_cursor(line: str, words: list[str], word: str, at: int) -> None:
    """Quotes and backslashes mean what they mean in a shell, also when they are not closed yet."""
    assert Typed.of(line) == Typed(words, word, at)
