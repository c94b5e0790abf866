"""Claims about the client for ordinary code, from threads, at exits and in wrong places."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from raftos import Client
from raftos.client import sync
from raftos.client.aio import AsyncClient
from raftos.client.beacons import AsyncBeacons
from raftos.client.chat import AsyncChat
from raftos.client.kv import AsyncKv
from raftos.client.leader import AsyncLeader
from raftos.client.lock import AsyncLocks
from raftos.client.members import AsyncMembers
from raftos.client.quota import AsyncQuota
from raftos.client.snapshot import AsyncSnapshot
from raftos.errors import Conflict, InvalidInput, NotFound, OutcomeUnknown, Unreachable

pytestmark = pytest.mark.timeout(30)


def threads() -> int:
    return sum(thread.name == "raftos-client" for thread in threading.enumerate())


def test_the_verbs_work_without_an_event_loop(cluster: list[str]) -> None:
    """Put, get, list, delete and the rest, as plain calls and a plain iterator."""
    with Client() as client:
        assert client.kv.put("a", "1").version == 1
        assert client.kv.get("a").value == b"1"
        assert [item.key for item in client.kv.list()] == ["a"]
        client.kv.delete("a")
        with pytest.raises(NotFound):
            client.kv.get("a")
        assert client.status().leader == client.leader.show().leader
        assert len(client.members.list()) == 3


@pytest.mark.parametrize(
    ("blocking", "original"),
    [
        (sync.Kv, AsyncKv),
        (sync.Chat, AsyncChat),
        (sync.Locks, AsyncLocks),
        (sync.Members, AsyncMembers),
        (sync.Leader, AsyncLeader),
        (sync.Quota, AsyncQuota),
        (sync.Snapshot, AsyncSnapshot),
        (sync.Beacons, AsyncBeacons),
        (sync.Client, AsyncClient),
    ],
)
def test_no_verb_is_missing_here(blocking: type, original: type) -> None:
    """The tables of blocking verbs are complete, with the same parameters and sentences."""
    verbs = {name: verb for name, verb in inspect.getmembers(original) if not name.startswith("_")}
    for unseen in ("pages", "aclose"):
        verbs.pop(unseen, None)
    for name, verb in verbs.items():
        ours = getattr(blocking, name)
        assert inspect.signature(ours).parameters.keys() == inspect.signature(verb).parameters.keys(), name
        assert inspect.getdoc(ours), name


def test_a_lock_is_held_while_the_block_runs(cluster: list[str]) -> None:
    """Renewed meanwhile on the client's own thread, though this one sleeps; given back at the end."""
    with Client() as client:
        with client.lock("a", ttl_s=1, owner="me") as held:
            time.sleep(1.5)
            assert not held.lost
            assert (held.name, held.owner, held.token) == ("a", "me", client.lock.show("a").token)
            with pytest.raises(Conflict, match="'me'"), client.lock("a", wait_s=0):
                pass
        assert client.lock.list() == []
        assert not held.release()


def test_a_thread_is_told_that_the_lock_was_lost(cluster: list[str]) -> None:
    """And one that still waits when it was given back is told that as well."""
    with Client() as client, ThreadPoolExecutor(1) as pool:
        with client.lock("a", ttl_s=1) as held:
            losing = pool.submit(held.until_lost)
            client.kv.delete("lock/a")
            assert "not held with token" in (losing.result(5) or "")
            assert held.lost
        with client.lock("a") as held:
            keeping = pool.submit(held.until_lost)
        assert keeping.result(5) is None


def test_ctrl_c_ends_the_wait_for_a_lock(cluster: list[str]) -> None:
    """The claim is withdrawn: once the holder has gone, the lock is free."""
    with Client() as client:
        with client.lock("a"):
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                client.lock("a").acquire()
        time.sleep(0.3)
        assert client.lock.list() == []


def test_many_threads_share_one_client(cluster: list[str]) -> None:
    """Each thread gets its own answers; no write is lost or doubled."""
    with Client() as client, ThreadPoolExecutor(16) as pool:

        def write(name: int) -> list[int]:
            return [client.kv.put(f"{name}", f"{number}").version for number in range(20)]

        assert list(pool.map(write, range(16))) == [list(range(1, 21))] * 16


def test_errors_arrive_in_the_calling_thread() -> None:
    """As the same types the asynchronous client raises."""
    with Client(["127.0.0.1:9"], timeout_s=0.1) as client, pytest.raises(Unreachable):
        client.kv.put("a", "1")


def test_use_after_close_is_refused() -> None:
    """With a sentence, for every verb, and closing twice is fine."""
    client = Client(["127.0.0.1:9"])
    client.close()
    client.close()
    with pytest.raises(InvalidInput, match="closed"):
        client.kv.put("a", "1")
    with pytest.raises(InvalidInput, match="closed"):
        client.status()
    assert threads() == 0


def test_use_on_its_own_event_loop_is_refused() -> None:
    """A call that would wait for itself is an error and not a deadlock."""
    with Client(["127.0.0.1:9"], timeout_s=0.1) as client:

        async def inside() -> None:
            client.kv.put("a", "1")

        with pytest.raises(InvalidInput, match="wait for itself"):
            client._background.run(inside())


def test_closing_from_another_thread_ends_calls_that_wait() -> None:
    """Nobody hangs on a closed client."""
    client = Client(["127.0.0.1:9"], timeout_s=30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.kv.put, "a", "1")
        threading.Event().wait(0.2)
        client.close()
        with pytest.raises((OutcomeUnknown, Unreachable), match="client was closed"):
            waiting.result(5)


def test_a_forgotten_client_ends_its_thread() -> None:
    """And a client that only its namespace refers to is not forgotten."""
    kv = Client(["127.0.0.1:9"], timeout_s=0.1).kv
    gc.collect()
    with pytest.raises(Unreachable):
        kv.put("a", "1")
    del kv
    patience = time.monotonic() + 5
    while threads() and time.monotonic() < patience:
        time.sleep(0.05)
        gc.collect()
    assert threads() == 0


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=20, check=False
    )


def test_the_interpreter_exits_cleanly_with_a_client_open(cluster: list[str]) -> None:
    """No hang, no traceback, no warning."""
    ended = run("from raftos import Client; client = Client(); print(client.kv.put('a', '1').version)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\n", "")


def test_a_fork_is_told_to_open_its_own_client() -> None:
    """The thread stays in the parent; the child gets a sentence instead of a hang."""
    ended = run(
        "import os; from raftos import Client\n"
        "from raftos.errors import InvalidInput\n"
        "client = Client(['127.0.0.1:9'])\n"
        "if os.fork():\n"
        "    raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "try:\n"
        "    client.kv.put('a', '1')\n"
        "except InvalidInput as error:\n"
        "    print(error)\n"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "after the fork" in ended.stdout


def test_the_daemon_does_not_load_the_client() -> None:
    """`import raftos` alone is cheap; the clients come when they are asked for."""
    ended = run(
        "import sys, raftos\n"
        "assert not [name for name in sys.modules if name.startswith('raftos.')]\n"
        "raftos.Client\n"
        "assert 'raftos.client.sync' in sys.modules and 'aiohttp' not in sys.modules\n"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
