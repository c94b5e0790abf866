"""`raftos dev` with real daemons: the main job of a new user, and everything that can be done to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

pytestmark = pytest.mark.timeout(120)

COMMAND_TIMEOUT_S = 45


class Terminal:
    """A shell with a RAFTOS_HOME of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAFTOS_")}
        self.environment = {**clean, "RAFTOS_HOME": str(home)}
        self.command = [sys.executable, "-c", "from raftos_cli.main import main; main()"]

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            cwd=self.home,
            input=stdin,
            check=False,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
        )

    def ok(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """The stdout of a command that has to succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, (arguments, done.stderr.decode())
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "-o", "json"))

    def fails(self, exit_code: int, *arguments: str, stdin: bytes = b"") -> str:
        """The message of a command that has to fail in this way, without any traceback."""
        done = self.run(*arguments, stdin=stdin)
        message = done.stderr.decode()
        assert done.returncode == exit_code, (arguments, message)
        assert "Traceback" not in message
        return message

    def nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("dev", "status")["nodes"]
        return found

    def states(self) -> list[str]:
        return [node["state"] for node in self.nodes()]

    def daemons(self) -> list[psutil.Process]:
        """Every living process that serves a configuration of this home."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and any(str(self.home) in word for word in process.info["cmdline"] or [])
            and "--config" in process.info["cmdline"]
        ]


def clean_up(terminal: Terminal) -> None:
    for process in terminal.daemons():
        process.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """One running cluster for the tests that leave it whole."""
    terminal = Terminal(tmp_path_factory.mktemp("shared"))
    try:
        terminal.ok("dev", "start", "--detach")
        yield terminal
    finally:
        clean_up(terminal)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in which nothing runs yet; whatever a test starts ends with it."""
    made = Terminal(tmp_path)
    try:
        yield made
    finally:
        clean_up(made)


def test_the_main_job_of_a_new_user(terminal: Terminal) -> None:
    """Start, write, lose the leader, read on with the same context, bring it back, stop: nothing is lost."""
    terminal.ok("dev", "start", "--nodes", "3", "--detach")
    terminal.ok("kv", "put", "a", "1")
    status = terminal.json("dev", "status")
    assert [node["state"] for node in status["nodes"]] == ["running"] * 3
    victim = next(node for node in status["nodes"] if node["name"] == status["leader"])
    os.kill(victim["pid"], signal.SIGKILL)
    assert terminal.ok("kv", "get", "a") == b"1\n"
    assert terminal.json("dev", "status")["leader"] not in {None, victim["name"]}
    terminal.ok("dev", "restart", victim["name"].removeprefix("n"))
    nodes = terminal.json("status")["nodes"]
    assert [node["state"] for node in nodes] == ["alive"] * 3
    assert len({node["applied_index"] for node in nodes}) == 1
    terminal.ok("dev", "stop")
    assert terminal.daemons() == []


def test_a_cluster_that_starts_again_has_its_data_and_addresses(terminal: Terminal) -> None:
    """Stop and start lose nothing; --fresh begins anew; --purge leaves nothing behind."""
    terminal.ok("dev", "start", "--nodes", "1", "--detach")
    terminal.ok("kv", "put", "a", "1")
    endpoints = [node["endpoint"] for node in terminal.nodes()]
    terminal.ok("dev", "stop")
    assert [(node["state"], node["pid"]) for node in terminal.nodes()] == [("dead", None)]
    assert "--fresh" in terminal.fails(2, "dev", "start", "--nodes", "3", "--detach")
    terminal.ok("dev", "start", "--detach")
    assert [node["endpoint"] for node in terminal.nodes()] == endpoints
    assert terminal.ok("kv", "get", "a") == b"1\n"
    terminal.ok("dev", "stop")
    terminal.ok("dev", "start", "--fresh", "--nodes", "1", "--detach")
    terminal.fails(3, "kv", "get", "a")
    terminal.ok("dev", "stop", "--purge")
    assert terminal.json("context", "ls")["contexts"] == []
    assert not (terminal.home / "dev" / "data").exists()
    terminal.fails(3, "dev", "status")


def test_a_second_start_is_a_conflict_that_says_what_to_do(shared: Terminal) -> None:
    """The running cluster goes on."""
    before = shared.nodes()
    assert "raftos dev stop" in shared.fails(4, "dev", "start", "--detach")
    assert shared.nodes() == before


def test_of_two_starts_at_once_one_wins(terminal: Terminal) -> None:
    """The other waits for it, then says that a cluster is running."""
    command = [*terminal.command, "dev", "start", "--nodes", "1", "--detach"]
    both = [
        subprocess.Popen(
            command, env=terminal.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    assert sorted(start.wait(timeout=COMMAND_TIMEOUT_S) for start in both) == [0, 4]
    assert len(terminal.daemons()) == 1


def test_a_member_is_killed_paused_resumed_and_restarted(shared: Terminal) -> None:
    """Each verb does to the process what it says, and says so again when there is nothing to do."""
    pid = shared.nodes()[1]["pid"]
    assert shared.json("dev", "pause", "2")["state"] == "paused"
    assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
    assert shared.states() == ["running", "paused", "running"]
    shared.ok("kv", "put", "while-paused", "1")
    assert shared.json("dev", "resume", "n2")["state"] == "running"
    assert shared.json("dev", "kill", "2")["state"] == "dead"
    assert shared.nodes()[1]["pid"] == pid
    assert "restart 2" in shared.fails(4, "dev", "pause", "2")
    assert shared.json("dev", "kill", "2")["state"] == "dead"
    assert shared.json("dev", "restart", "2")["pid"] != pid
    assert shared.states() == ["running"] * 3


def test_a_paused_member_is_stopped_in_good_order(terminal: Terminal) -> None:
    """SIGTERM reaches it although it sleeps, and quickly."""
    terminal.ok("dev", "start", "--nodes", "1", "--detach")
    terminal.ok("dev", "pause", "1")
    began = time.monotonic()
    terminal.ok("dev", "stop")
    assert time.monotonic() - began < 4
    assert terminal.daemons() == []


@pytest.mark.parametrize("verb", ["kill", "pause", "resume", "restart", "logs"])
def test_a_number_out_of_range_is_bad_input(shared: Terminal, verb: str) -> None:
    """The sentence says which members there are."""
    assert "members 1 to 3" in shared.fails(2, "dev", verb, "4")
    assert "numbered from 1" in shared.fails(2, "dev", verb, "one")


def test_logs_show_the_last_lines_readably_or_as_written(shared: Terminal) -> None:
    """People get a line for each event, programs the JSON."""
    assert b"serving" in shared.ok("dev", "logs", "1", "--lines", "1000")
    lines = shared.ok("dev", "logs", "1", "--lines", "3", "-o", "json").splitlines()
    assert len(lines) == 3
    assert all("event" in json.loads(line) for line in lines)


def test_a_log_can_be_followed(shared: Terminal) -> None:
    """New lines appear as they are written, until Ctrl-C."""
    with subprocess.Popen(
        [*shared.command, "dev", "logs", "1", "--follow", "--lines", "0"],
        env=shared.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as following:
        try:
            time.sleep(1)
            shared.ok("dev", "kill", "2")
            shared.ok("dev", "restart", "2")
            time.sleep(0.5)
            following.send_signal(signal.SIGINT)
            lines, complaint = following.communicate(timeout=10)
        finally:
            following.kill()
    assert b"peer linked" in lines
    assert complaint.strip() == b""


def test_every_command_works_through_every_member(shared: Terminal) -> None:
    """It is the same cluster whichever member is asked, and a dead first endpoint does not matter."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        for endpoint in [node["endpoint"] for node in shared.nodes()]:
            for chosen in (["--endpoint", endpoint], ["--endpoint", dead, "--endpoint", endpoint]):
                shared.ok("kv", "put", "through", endpoint, *chosen)
                assert shared.ok("kv", "get", "through", *chosen).decode() == f"{endpoint}\n"
                assert len(shared.json("status", *chosen)["nodes"]) == 3
                assert shared.json("leader", "show", *chosen)["leader"] in {"n1", "n2", "n3"}
                assert len(shared.json("node", "ls", *chosen)["nodes"]) == 3


def test_values_are_bytes_and_come_back_as_they_went(shared: Terminal) -> None:
    """From an argument, from stdin, from a file; printed with a newline, or raw."""
    content = bytes(range(256))
    shared.ok("kv", "put", "bytes", "-", stdin=content)
    assert shared.ok("kv", "get", "bytes", "--raw") == content
    assert shared.ok("kv", "get", "bytes") == content + b"\n"
    assert "value_base64" in shared.json("kv", "get", "bytes")
    (shared.home / "file").write_bytes(content[::-1])
    shared.ok("kv", "put", "bytes", "--file", str(shared.home / "file"))
    assert shared.ok("kv", "get", "bytes", "--raw", "--stale") in {content, content[::-1]}
    shared.ok("kv", "put", "empty", "")
    assert shared.ok("kv", "get", "empty") == b"\n"


def test_expected_versions_decide_who_wins(shared: Terminal) -> None:
    """The shape of put and get, and exit 4 for the loser, 3 for what is not there."""
    written = shared.json("kv", "put", "race", "first", "--expect-version", "0")
    assert (written["key"], written["version"]) == ("race", 1)
    shared.fails(4, "kv", "put", "race", "second", "--expect-version", "0")
    entry = shared.json("kv", "get", "race")
    assert entry == {"key": "race", "value": "first", "version": 1, "revision": written["revision"]}
    shared.fails(4, "kv", "del", "race", "--expect-version", "7")
    shared.ok("kv", "del", "race", "--expect-version", "1")
    shared.fails(3, "kv", "get", "race")
    shared.fails(3, "kv", "del", "race")


def test_keys_are_listed_and_deleted_by_prefix(shared: Terminal) -> None:
    """In order, one a line for scripts, and all of them where a prefix says so."""
    for name in ("b", "a", "c"):
        shared.ok("kv", "put", f"list/{name}", name.upper())
    assert shared.ok("kv", "ls", "list/", "--keys-only") == b"list/a\nlist/b\nlist/c\n"
    items = shared.json("kv", "ls", "list/", "--limit", "2")["items"]
    assert [(item["key"], item["value"]) for item in items] == [("list/a", "A"), ("list/b", "B")]
    assert b"list/c" in shared.ok("kv", "ls", "list/")
    assert shared.json("kv", "del", "--prefix", "list/") == {"deleted": 3}
    assert shared.ok("kv", "ls", "list/", "--keys-only") == b""


def test_a_transaction_is_all_or_nothing(shared: Terminal) -> None:
    """As options and as a document; a failed comparison exits 4 and changes nothing."""
    shared.ok("kv", "txn", "--if", "txn/a=0", "--put", "txn/a=1", "--put", "txn/b=x=y")
    assert shared.ok("kv", "get", "txn/b") == b"x=y\n"
    shared.fails(4, "kv", "txn", "--if", "txn/a=9", "--put", "txn/a=2", "--del", "txn/b")
    assert shared.ok("kv", "get", "txn/a") == b"1\n"
    document = {
        "compare": [{"key": "txn/a", "version": 1}],
        "writes": [
            {"op": "put", "key": "txn/a", "value_base64": "/w=="},
            {"op": "delete", "key": "txn/b"},
        ],
    }
    shared.ok("kv", "txn", "-", stdin=json.dumps(document).encode())
    assert shared.ok("kv", "get", "txn/a", "--raw") == b"\xff"
    shared.fails(3, "kv", "get", "txn/b")
    for wrong in (b"", b"[]", b'{"writes": [{"op": "burn", "key": "a"}]}', b'{"wirtes": []}'):
        shared.fails(2, "kv", "txn", "-", stdin=wrong)
    for usage in (["--if", "a"], ["--put", "a"], ["--put", "=1"], []):
        shared.fails(2, "kv", "txn", *usage)


def test_a_time_to_live_ends(shared: Terminal) -> None:
    """The key goes by itself."""
    shared.ok("kv", "put", "brief", "1", "--ttl", "0.5")
    deadline = time.monotonic() + 10
    while shared.run("kv", "get", "brief").returncode == 0:
        assert time.monotonic() < deadline
    shared.fails(3, "kv", "get", "brief")


def test_leadership_is_handed_over(shared: Terminal) -> None:
    """To the member that was named; a stranger is refused."""
    leader = shared.json("leader", "show")["leader"]
    heir = next(name for name in ("n1", "n2", "n3") if name != leader)
    assert shared.json("leader", "transfer", heir) == {"leader": heir}
    assert shared.ok("leader", "show").decode().strip() == heir
    assert "n9" in shared.fails(3, "leader", "transfer", "n9")


def test_a_node_is_shown_by_name_and_by_id(shared: Terminal) -> None:
    """The same facts either way; an unknown name exits 3."""
    by_name = shared.json("node", "show", "n1")
    assert shared.json("node", "show", by_name["id"])["name"] == "n1"
    assert b"applied_index" in shared.ok("node", "show", "n1")
    assert "n1, n2, n3" in shared.fails(3, "node", "show", "n9")


def test_a_wrong_token_is_denied(shared: Terminal) -> None:
    """Exit 6, whatever the command."""
    other = Terminal(shared.home / "other")
    other.home.mkdir()
    endpoint = shared.nodes()[0]["endpoint"]
    other.fails(6, "kv", "get", "a", "--endpoint", endpoint)
    other.fails(6, "status", "--endpoint", endpoint)


def test_without_a_majority_writes_exit_5_and_stale_reads_work(terminal: Terminal) -> None:
    """JSON stays JSON, members that do not answer are listed, and all is well again after a restart."""
    terminal.ok("dev", "start", "--detach")
    terminal.ok("kv", "put", "a", "1")
    for number in ("2", "3"):
        terminal.ok("dev", "kill", number)
    failed = terminal.run("kv", "put", "a", "2", "--timeout", "2", "-o", "json")
    assert failed.returncode == 5
    assert failed.stdout == b""
    assert json.loads(failed.stderr)["error"]["code"] in {"no_quorum", "outcome_unknown", "unreachable"}
    assert terminal.ok("kv", "get", "a", "--stale") == b"1\n"
    nodes = terminal.json("status")["nodes"]
    assert sorted(node["name"] for node in nodes) == ["n1", "n2", "n3"]
    assert sum(node["state"] == "alive" for node in nodes) == 1
    terminal.ok("dev", "restart", "2")
    terminal.ok("kv", "put", "a", "3")


def damage(*nodes: dict[str, Any]) -> None:
    """From now on these members cannot use their data directories."""
    for node in nodes:
        identity = Path(node["data_dir"]) / "identity.json"
        identity.write_text(identity.read_text().replace('"', '"x', 4))


def test_a_start_that_fails_leaves_no_process_and_the_old_context(terminal: Terminal) -> None:
    """Here two of three cannot use their data; their own words become the error, and what helps is named."""
    terminal.ok("dev", "start", "--nodes", "3", "--detach")
    terminal.ok("dev", "stop")
    damage(*terminal.nodes()[1:])
    message = terminal.fails(1, "dev", "start", "--detach")
    assert "n2 ended while starting" in message
    assert "n3 ended while starting" in message
    assert "raftos dev recover" in message
    assert terminal.daemons() == []
    assert terminal.json("context", "ls")["current"] == "dev"


def test_one_damaged_member_does_not_keep_a_majority_down(terminal: Terminal) -> None:
    """The start says which and fails, the others take writes, and the command it names brings it back."""
    terminal.ok("dev", "start", "--nodes", "3", "--detach")
    terminal.ok("kv", "put", "a", "1")
    terminal.ok("dev", "stop")
    damage(terminal.nodes()[1])
    message = terminal.fails(1, "dev", "start", "--detach")
    assert "n2 ended while starting" in message
    assert "`raftos dev rejoin 2`" in message
    assert terminal.states() == ["running", "dead", "running"]
    terminal.ok("kv", "put", "b", "2")
    terminal.ok("dev", "rejoin", "2")
    assert terminal.states() == ["running"] * 3
    assert terminal.ok("kv", "get", "a") == b"1\n"


def test_a_voter_whose_data_is_gone_is_not_started_empty(terminal: Terminal) -> None:
    """With another that had not received a write yet, it would be a majority that knows nothing of it."""
    terminal.ok("dev", "start", "--nodes", "3", "--detach")
    terminal.ok("kv", "put", "a", "1")
    terminal.ok("dev", "stop")
    shutil.rmtree(terminal.nodes()[1]["data_dir"])
    message = terminal.fails(1, "dev", "start", "--detach")
    assert "n2 has lost its data" in message
    assert "`raftos dev rejoin 2`" in message
    assert terminal.states() == ["running", "dead", "running"]
    assert "`raftos dev rejoin 2`" in terminal.fails(4, "dev", "restart", "2")
    (terminal.home / "dev" / "data" / "n2" / "member.json").unlink()
    terminal.ok("dev", "rejoin", "2")
    assert terminal.ok("kv", "get", "a") == b"1\n"
    terminal.ok("dev", "stop")
    terminal.ok("dev", "start", "--detach")
    terminal.ok("dev", "kill", "2")
    shutil.rmtree(terminal.nodes()[1]["data_dir"])
    assert "`raftos dev rejoin 2`" in terminal.fails(4, "dev", "restart", "2")
    terminal.ok("dev", "stop")
    for node in terminal.nodes():
        shutil.rmtree(node["data_dir"], ignore_errors=True)
    assert "--fresh" in terminal.fails(1, "dev", "start", "--detach")
    terminal.ok("dev", "start", "--fresh", "--nodes", "1", "--detach")


def test_the_last_voter_itself_says_that_it_has_to_stay(terminal: Terminal) -> None:
    """Only a learner is there beside it, and is dead: nobody else could be asked."""
    terminal.ok("dev", "start", "--nodes", "1", "--detach")
    terminal.ok("dev", "add", "--learner")
    terminal.ok("dev", "kill", "2")
    message = terminal.fails(4, "dev", "remove", "1", "--yes", "--force", "--timeout", "5")
    assert "voter" in message
    assert terminal.states() == ["running", "dead"]


def test_a_chosen_port_in_use_is_one_sentence(terminal: Terminal) -> None:
    """Nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in terminal.fails(1, "dev", "start", "--nodes", "1", "--port", port, "--detach")
    assert terminal.daemons() == []


def test_in_the_foreground_ctrl_c_ends_the_whole_cluster(terminal: Terminal) -> None:
    """What happens to members is reported meanwhile."""
    with subprocess.Popen(
        [*terminal.command, "dev", "start", "--nodes", "3"],
        env=terminal.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as foreground:
        try:
            assert foreground.stderr is not None
            wait_until(partial(_says, foreground.stderr, b"Up and taking writes"))
            terminal.ok("kv", "put", "a", "1")
            terminal.ok("dev", "kill", "1")
            time.sleep(1)
            foreground.send_signal(signal.SIGINT)
            _, said = foreground.communicate(timeout=20)
        finally:
            foreground.kill()
    assert foreground.returncode == 0, said
    assert b"n1 is dead" in said
    assert terminal.daemons() == []


def test_a_foreground_start_ends_when_the_cluster_is_stopped_elsewhere(terminal: Terminal) -> None:
    """Two terminals, one cluster."""
    with subprocess.Popen(
        [*terminal.command, "dev", "start", "--nodes", "1"],
        env=terminal.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as foreground:
        try:
            wait_until(lambda: terminal.run("kv", "get", "a").returncode == 3)
            terminal.ok("dev", "stop")
            assert foreground.wait(timeout=10) == 0
        finally:
            foreground.kill()


def test_an_interrupted_start_leaves_no_process(terminal: Terminal) -> None:
    """SIGTERM in the middle of it cleans up as Ctrl-C does."""
    with subprocess.Popen(
        [*terminal.command, "dev", "start", "--detach"],
        env=terminal.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as starting:
        wait_until(lambda: bool(terminal.daemons()))
        starting.terminate()
        assert starting.wait(timeout=20) == 130
    assert terminal.daemons() == []


def _says(stream: IO[bytes], words: bytes) -> bool:
    return words in stream.readline()


def wait_until(condition: Any, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
