"""Locks with real daemons, real processes and real time: exclusion, expiry, fencing, and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.daemons import Cluster, wait_until

pytestmark = pytest.mark.timeout(120)

PROCESSES, ROUNDS = 4, 15
END_S = 60.0
RAFTOS = "from raftos_cli.main import main; main()"

COUNT = """
import sys, time
from pathlib import Path
from raftos import Client

counter, journal = Path(sys.argv[1]), Path(sys.argv[2])
with Client(timeout_s=20) as client:
    for _ in range(int(sys.argv[3])):
        with client.lock("counter") as held:
            number = int(counter.read_text())
            time.sleep(0.01)
            counter.write_text(str(number + 1))
            with journal.open("a") as lines:
                print(held.token, file=lines)
"""

SLEEPER = """
import sys
from raftos import Client
from raftos.errors import Conflict
from raftos.state.domains.kv import Compare, TxnPut

with Client() as client, client.lock("sleeper", ttl_s=2) as held:
    fence = [Compare("lock/sleeper", revision=held.token)]
    client.kv.txn(compare=fence, writes=[TxnPut("protected", b"while it was held")])
    print(held.token, flush=True)
    sys.stdin.readline()
    try:
        client.kv.txn(compare=fence, writes=[TxnPut("protected", b"from the past")])
    except Conflict:
        print("refused, lost" if held.lost else "refused")
    else:
        print("written")
"""


def started(cluster: Cluster, code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another Python program, with this cluster as its current context."""
    with cluster.environment():
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


@contextmanager
def ended(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever happens, none of them is left."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def raftos(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """A command line in a process of its own, to its end."""
    process = started(cluster, RAFTOS, *words)
    with ended(process):
        out, err = process.communicate(timeout=END_S)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def is_free(cluster: Cluster, name: str) -> bool:
    return cluster.cli("lock", "show", name).exit_code == 3


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_one_process_at_a_time_while_the_leader_dies(cluster: Cluster, tmp_path: Path) -> None:
    """A counter in a file that nothing else protects loses no increment, and every tenure has a new token."""
    counter, journal = tmp_path / "counter", tmp_path / "journal"
    counter.write_text("0")
    journal.touch()

    def counted(number: int) -> Callable[[], bool]:
        return lambda: len(journal.read_text().splitlines()) >= number

    workers = [started(cluster, COUNT, str(counter), str(journal), str(ROUNDS)) for _ in range(PROCESSES)]
    with ended(*workers):
        wait_until("some have counted", counted(5))
        victim = cluster.leader()
        cluster.kill(victim)
        wait_until("they count on", counted(20))
        cluster.start(victim)
        for worker in workers:
            _, err = worker.communicate(timeout=END_S)
            assert (worker.returncode, err) == (0, "")
    tokens = [int(line) for line in journal.read_text().splitlines()]
    assert int(counter.read_text()) == len(tokens) == PROCESSES * ROUNDS
    assert tokens == sorted(set(tokens))
    cluster.settle()


def test_a_holder_that_was_stopped_is_fenced_off(shared: Cluster) -> None:
    """It sleeps past its lease, another gets the lock with a greater token, and its late write is refused."""
    sleeper = started(shared, SLEEPER)
    with ended(sleeper), shared.client() as client:
        token = int(line_of(sleeper))
        sleeper.send_signal(signal.SIGSTOP)
        with client.lock("sleeper", wait_s=30) as held:
            assert held.token > token
            sleeper.send_signal(signal.SIGCONT)
            out, err = sleeper.communicate("go on\n", timeout=END_S)
            assert (out, err) == ("refused, lost\n", "")
            assert client.kv.get("protected").value == b"while it was held"
            assert client.lock.show("sleeper").token == held.token


def test_a_lock_outlives_the_time_to_live_only_by_renewal(shared: Cluster) -> None:
    """Held for three of them; a lease that nobody renews is over after one, and is then somebody else's."""
    with shared.client() as client:
        with client.lock("renewed", ttl_s=1) as held:
            time.sleep(3)
            assert not held.lost
            assert client.lock.show("renewed").token == held.token
        first = client.lock.acquire("left alone", ttl_s=1)
        began = time.monotonic()
        second = client.lock.acquire("left alone", ttl_s=1, wait_s=20)
        assert time.monotonic() - began > 0.5
        assert second.token > first.token


# The command line.


def test_a_script_takes_renews_shows_and_releases_by_token(shared: Cluster) -> None:
    """What is printed is what the next command needs; exit codes tell who has it."""
    taken = shared.cli("lock", "acquire", "deploy", "--ttl", "20", "--owner", "ci", "-o", "json")
    lease = json.loads(taken.stdout)
    assert (lease["name"], lease["owner"]) == ("deploy", "ci")
    assert 15 < lease["expires_in_s"] <= 20
    token = str(lease["token"])
    refused = shared.cli("lock", "acquire", "deploy", "--wait", "0")
    assert (refused.exit_code, refused.stdout) == (4, "")
    assert f"held by 'ci' with token {token}" in refused.stderr
    renewed = shared.cli("lock", "renew", "deploy", "--token", token, "--ttl", "500", "-o", "json")
    assert json.loads(renewed.stdout)["expires_in_s"] > 400
    shown = json.loads(shared.cli("lock", "show", "deploy", "-o", "json").stdout)
    assert (shown["token"], shown["owner"]) == (lease["token"], "ci")
    assert shown["expires_in_s"] > 400
    listed = json.loads(shared.cli("lock", "show", "-o", "json").stdout)["items"]
    assert "deploy" in [each["name"] for each in listed]
    assert "deploy" in shared.cli("lock", "show").stdout
    for verb in ("renew", "release"):
        assert shared.cli("lock", verb, "deploy", "--token", "1").exit_code == 4
    assert shared.cli("lock", "release", "deploy", "--token", token).exit_code == 0
    for verb in ("renew", "release"):
        assert shared.cli("lock", verb, "deploy", "--token", token).exit_code == 3
    assert is_free(shared, "deploy")


def test_waiting_is_said_and_ends_with_the_lease(shared: Cluster) -> None:
    """On stderr, so that stdout is the token alone."""
    assert shared.cli("lock", "acquire", "slow", "--ttl", "1", "--owner", "me").exit_code == 0
    waited = shared.cli("lock", "acquire", "slow", "--ttl", "1", "--wait", "20")
    assert waited.exit_code == 0
    assert "waiting: lock 'slow' is held by 'me'" in waited.stderr
    assert waited.stdout.startswith("slow: token ")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["acquire", "a\x01"], 2, "control character"),
        (["acquire", "n" * 501], 2, "at most 500"),
        (["acquire", "a", "--ttl", "0.5"], 2, "lasts 1 to 86400 seconds"),
        (["acquire", "a", "--wait", "-1"], 2, "is not a number of seconds"),
        (["acquire", "a", "--"], 2, "No command"),
        (["acquire", "a", "true"], 2, "unexpected extra argument"),
        (["renew", "a"], 2, "--token"),
        (["renew", "a", "--token", "0"], 2, "whole number"),
        (["show", "nobody's"], 3, "nobody holds lock"),
    ],
)
def test_bad_input_is_a_sentence(
    shared: Cluster, arguments: list[str], exit_code: int, sentence: str
) -> None:
    """Nothing is changed, nothing is printed on stdout."""
    refused = shared.cli("lock", *arguments)
    assert (refused.exit_code, refused.stdout) == (exit_code, "")
    assert sentence in refused.stderr


def test_a_command_runs_while_the_lock_is_held(shared: Cluster) -> None:
    """It knows the lock and the token, nobody else gets in, its output and its exit code come through."""
    inside = (
        f"{sys.executable} -c '{RAFTOS}' lock show job -o json && echo $RAFTOS_LOCK_NAME $RAFTOS_LOCK_TOKEN; "
        f"{sys.executable} -c '{RAFTOS}' lock acquire job --wait 0 2>/dev/null; test $? = 4 && exit 7"
    )
    done = raftos(shared, "lock", "acquire", "job", "--owner", "me", "--", "sh", "-c", inside)
    shown, words = done.stdout.splitlines()
    assert done.returncode == 7, done.stderr
    assert json.loads(shown)["owner"] == "me"
    assert words == f"job {json.loads(shown)['token']}"
    assert is_free(shared, "job")


@pytest.mark.parametrize(
    ("words", "exit_code", "sentence"),
    [
        (["true"], 0, ""),
        (["sh", "-c", "exit 125"], 125, ""),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["sh", "-c", "kill -TERM $$"], 143, ""),
        (["no-such-program"], 127, "'no-such-program' cannot be run: No such file or directory"),
        (["/etc/passwd"], 126, "'/etc/passwd' cannot be run: Permission denied"),
        (["--", "x"], 127, "'--' cannot be run"),
    ],
)
def test_the_exit_code_is_that_of_the_command(
    shared: Cluster, words: list[str], exit_code: int, sentence: str
) -> None:
    """Or says why there was none; the lock is free in any case."""
    done = raftos(shared, "lock", "acquire", "job", "--", *words)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert is_free(shared, "job")


def test_a_lock_that_is_not_to_be_had_runs_no_command(shared: Cluster, tmp_path: Path) -> None:
    """125, so that it is not taken for an exit code of the command."""
    with shared.client() as client, client.lock("taken", owner="somebody"):
        words = ["--wait", "0.2", "--", "touch", str(tmp_path / "ran")]
        done = raftos(shared, "lock", "acquire", "taken", *words)
        assert done.returncode == 125
        assert "held by 'somebody'" in done.stderr
        unreachable = raftos(shared, "lock", "acquire", "a", "--endpoint", "http://127.0.0.1:9",
                             "--timeout", "0.3", "-o", "json", *words)  # fmt: skip
        assert unreachable.returncode == 125
        assert json.loads(unreachable.stderr)["error"]["code"] == "unreachable"
    assert not (tmp_path / "ran").exists()


def test_a_signal_that_comes_while_the_command_is_being_started_goes_to_it(shared: Cluster) -> None:
    """It is the command's first act to send one; left alone, it would run on without its lock."""
    script = "trap 'echo told; exit 3' TERM; kill -TERM $PPID; sleep 1; echo untold"
    process = started(shared, RAFTOS, "lock", "acquire", "job", "--", "sh", "-c", script)
    with ended(process):
        assert line_of(process) == "told"
        assert process.wait(20) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_go_to_the_command_and_the_lock_stays_until_it_has_ended(
    shared: Cluster, number: signal.Signals
) -> None:
    """It may take its time to clean up."""
    program = (
        "import os, signal, sys, time\n"
        "def end(*_):\n"
        "    os.write(1, b'told\\n')\n"  # It may come while `print` below has not returned: no second one.
        "    time.sleep(0.5)\n"
        "    sys.exit(3)\n"
        f"signal.signal({int(number)}, end)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = started(shared, RAFTOS, "lock", "acquire", "job", "--", sys.executable, "-c", program)
    with ended(process):
        assert line_of(process) == "ready"
        process.send_signal(number)
        told = line_of(process)
        assert told == "told", process.communicate()
        assert not is_free(shared, "job")
        assert process.wait(END_S) == 3
    assert is_free(shared, "job")


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_lost_lock_ends_the_command(shared: Cluster, stubborn: bool) -> None:
    """With SIGTERM, and where that is ignored with SIGKILL; the next holder is left alone."""
    trap = "trap '' TERM; " if stubborn else "trap 'echo told; exit 0' TERM; "
    program = f"{trap}echo ready; while :; do sleep 0.1; done"
    process = started(shared, RAFTOS, "lock", "acquire", "job", "--ttl", "1", "--", "sh", "-c", program)
    with ended(process), shared.client() as client:
        assert line_of(process) == "ready"
        client.kv.delete("lock/job")
        other = client.lock.acquire("job")
        out, err = process.communicate(timeout=END_S)
        assert process.returncode == 125
        assert out == ("" if stubborn else "told\n")
        assert "somebody else may have it" in err
        assert client.lock.show("job").token == other.token
        client.lock.release("job", other.token)


def test_a_holder_that_was_killed_leaves_the_lock_to_run_out(shared: Cluster) -> None:
    """SIGKILL of raftos itself: the next one waits for the time-to-live."""
    process = started(
        shared, RAFTOS, "lock", "acquire", "job", "--ttl", "2", "--", "sh", "-c", "echo $$; read x"
    )
    with ended(process), shared.client() as client:
        command = int(line_of(process))
        token = client.lock.show("job").token
        process.kill()
        with client.lock("job", wait_s=30) as held:
            assert held.token > token
        os.kill(command, signal.SIGKILL)


def test_a_shell_completes_the_names_of_locks(shared: Cluster) -> None:
    """Of those that are held; an unreachable cluster completes nothing, quietly."""
    with shared.client() as client, client.lock("nightly"), shared.environment():
        for words, offered in (("raftos lock show nig", "nightly"), ("raftos lock release nig", "nightly")):
            assert f"plain,{offered}" in completions(words)
        assert completions("raftos lock show --endpoint http://127.0.0.1:9 nig") == []


def completions(words: str) -> list[str]:
    asked = {"_RAFTOS_COMPLETE": "bash_complete", "COMP_LINE": words, "COMP_WORDBREAKS": " "}
    done = subprocess.run(
        [sys.executable, "-c", RAFTOS],
        env={**os.environ, **asked}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_revisions_guard_keys_from_the_command_line(shared: Cluster) -> None:
    """`kv del` and `kv txn` can mean this very write of a key, as a fence has to."""
    revision = json.loads(shared.cli("kv", "put", "guarded", "1", "-o", "json").stdout)["revision"]
    assert shared.cli("kv", "del", "guarded", "--expect-revision", str(revision + 1)).exit_code == 4
    assert shared.cli("kv", "del", "--prefix", "guarded", "--expect-revision", "1").exit_code == 2
    for fence, exit_code in ((f"guarded@{revision + 1}", 4), (f"guarded@{revision}", 0)):
        assert shared.cli("kv", "txn", "--if", fence, "--put", "b=1").exit_code == exit_code
    document = {
        "compare": [{"key": "guarded", "revision": revision}],
        "writes": [{"op": "delete", "key": "b"}],
    }
    assert shared.cli("kv", "txn", "-", stdin=json.dumps(document).encode()).exit_code == 0
    assert shared.cli("kv", "del", "guarded", "--expect-revision", str(revision)).exit_code == 0
    for condition in ("guarded", "@1", "guarded@", "guarded@x", "guarded=1.0"):
        assert shared.cli("kv", "txn", "--if", condition, "--put", "b=1").exit_code == 2
