"""`raftos status --watch` while real members die, all of them, and come back."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.daemons import Cluster
from tests.unit.cli.terminal import CTRL_C, RAFTOS, Terminal

pytestmark = pytest.mark.timeout(120)

WATCH = [*RAFTOS, "status", "--watch", "0.2"]
INTERRUPTED = 130


@contextmanager
def watching(cluster: Cluster, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a pipe."""
    pipe = subprocess.PIPE
    with (
        cluster.environment(),
        subprocess.Popen([*WATCH, *options], stdout=pipe, stderr=pipe, text=True) as run,
    ):
        try:
            yield run
        finally:
            run.kill()


def until(run: subprocess.Popen[str], holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first of the statuses that come now for which it holds."""
    assert run.stdout is not None
    for line in run.stdout:
        value: dict[str, Any] = json.loads(line)
        if holds(value):
            return value
    pytest.fail("it ended")


def states(value: dict[str, Any]) -> list[str]:
    return [node["state"] for node in value["nodes"]]


def test_watching_outlives_the_cluster(cluster: Cluster) -> None:
    """In JSON one object a line: a member dies, all die, all come back; Ctrl-C ends it with 130."""
    cluster.settle()
    with watching(cluster, "-o", "json") as run:
        whole = until(run, lambda value: states(value) == ["alive"] * 3)
        cluster.kill(cluster.members[0])
        until(run, lambda value: states(value).count("alive") == 2)
        cluster.kill(*cluster.members[1:])
        nobody = until(run, lambda value: states(value) == ["unreachable"] * 3)
        cluster.start()
        again = until(run, lambda value: states(value) == ["alive"] * 3 and value["leader"])
        run.send_signal(signal.SIGINT)
        assert run.wait(10) == INTERRUPTED
        assert run.stderr is not None
        assert run.stderr.read().strip() == ""
    assert whole.keys() == nobody.keys() == again.keys()
    assert [node["endpoint"] for node in nobody["nodes"]] == cluster.dev.endpoints


def test_a_terminal_is_drawn_in_place_and_left_as_it_was(cluster: Cluster) -> None:
    """One status is to be seen at any time; the screen that editors use is left again, the last one stays."""
    cluster.settle()
    home = {"RAFTOS_HOME": str(cluster.directory / "home")}
    with Terminal(WATCH, home) as terminal:
        terminal.wait_for("alive", 3)
        cluster.kill(*cluster.members)
        seen = terminal.wait_for("unreachable", 3)
        assert "Every 0.2 s" in seen
        assert "Error: no member could be reached" in seen
        assert seen.count("NODE") == 1
        assert "alive" not in seen
        terminal.type(CTRL_C)
        assert terminal.end() == INTERRUPTED
    before, entered, drawn = terminal.raw.partition(b"\x1b[?1049h")
    assert (before, entered) == (b"", b"\x1b[?1049h")
    left = drawn.partition(b"\x1b[?1049l")[2]
    assert left.count(b"unreachable") == 3
    assert b"\x1b[?25h" in drawn


def test_in_a_pipe_one_status_follows_the_other(shared: Cluster) -> None:
    """Each under a line with the time; no escape sequence; a reader that leaves ends it quietly."""
    with watching(shared) as run:
        assert run.stdout is not None
        lines = [next(run.stdout) for _ in range(14)]
        run.stdout.close()
        assert run.wait(10) == 0
        assert run.stderr is not None
        assert run.stderr.read() == ""
    assert [line[:4] for line in lines].count("--- ") == 2
    assert "\x1b" not in "".join(lines)


def test_a_wrong_credential_ends_the_watching(shared: Cluster, tmp_path: Path) -> None:
    """What no waiting cures is an error, at once."""
    endpoint = shared.members[0].endpoint
    foreign = {"RAFTOS_HOME": str(tmp_path)}
    with Terminal([*WATCH, "--endpoint", endpoint], foreign) as terminal:
        assert terminal.end() == 6
        assert "Error: " in terminal.seen
        assert terminal.raw.rstrip().startswith(b"\x1b[?1049h")
