"""Watchers of a real cluster: whatever happens to lines and members, they hear all of it, in order, once.

What a watcher heard is compared with what writers were told, and with the log as it stands in the end, read
anew from each member. The lines to the members are cut a hundred times; the member that is watched is killed,
paused and restarted as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from raftos.client import AsyncClient
from raftos.client.events import SILENCE_S, Bookmark, Event
from raftos_cli.devcluster import Member
from tests.cluster.cutter import cutters
from tests.cluster.daemons import Cluster, wait_until
from tests.cluster.writers import Writers

pytestmark = pytest.mark.timeout(180)

SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
CUTS = 100
STRIKES = 4
PATIENCE_S = 60.0


async def until(what: str, condition: Callable[[], bool]) -> None:
    """`wait_until` for coroutines."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        await asyncio.sleep(0.02)


class Watching:
    """A watcher of everything since the beginning, and what it has heard."""

    def __init__(self, cluster: Cluster, client: AsyncClient, choice: random.Random) -> None:
        self._cluster = cluster
        self._choice = choice
        self.events: list[Event] = []
        self.stream = client.events(since=0)

    async def listen(self) -> None:
        """Take events, now and then slowly, until the stream is closed."""
        async for event in self.stream:
            self.events.append(event)
            if self._choice.random() < 0.01:
                await asyncio.sleep(self._choice.uniform(0, 0.1))

    async def reach(self, revision: int) -> None:
        await until(f"revision {revision} is heard", lambda: (self.stream.revision or 0) >= revision)

    async def strike(self, number: int) -> None:
        """Something happens to the member that is watched: it dies, or falls silent for a while."""
        await until("a member is watched", lambda: self.stream.member is not None)
        victim = next(member for member in self._cluster.members if member.name == self.stream.member)
        if number % 2:
            self._cluster.pause(victim)
            await asyncio.sleep(SILENCE_S + 1)
            self._cluster.resume(victim)
        else:
            await asyncio.to_thread(self._cluster.kill, victim)
            await asyncio.sleep(self._choice.uniform(0, 1))
            await asyncio.to_thread(self._cluster.start, victim)


async def watch_through_trouble(cluster: Cluster, seed: int) -> tuple[Writers, list[Event]]:
    """The writers, and what a watcher heard of them while lines and members failed."""
    choice = random.Random(seed)
    async with (
        cutters(cluster.members, choice) as lines,
        cluster.async_client([line.endpoint for line in lines]) as client,
    ):
        watching = Watching(cluster, client, choice)
        listening = asyncio.create_task(watching.listen())
        with Writers(cluster, seed) as writers:
            for number in range(STRIKES):
                cuts = CUTS * (number + 1) // STRIKES
                await until(f"{cuts} lines are cut", lambda: sum(line.cuts for line in lines) >= cuts)  # noqa: B023
                await watching.strike(number)
        for line in lines:
            line.calm = True
        newest = (await asyncio.to_thread(the_log, cluster, cluster.members[0]))[-1].revision
        await watching.reach(newest)
        await watching.stream.aclose()
        await listening
        return writers, watching.events


def the_log(cluster: Cluster, member: Member) -> list[Event]:
    """All events up to the present, as one member tells them anew."""
    found: list[Event] = []
    with cluster.client(member) as client, client.events(since=0) as stream:
        while True:
            for item in stream.news():
                if isinstance(item, Bookmark):
                    return found
                assert isinstance(item, Event)
                found.append(item)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_watcher_hears_everything_once_through_a_hundred_disconnects(cluster: Cluster, seed: int) -> None:
    """Every event in order, none twice, none missing: by the log of each member and the writers' ledger."""
    writers, heard = asyncio.run(watch_through_trouble(cluster, seed))
    writers.check()
    for member in cluster.members:
        # Afterwards the cluster may still have marked a member as alive again.
        assert heard == the_log(cluster, member)[: len(heard)]
    revisions = [event.revision for event in heard]
    assert revisions == sorted(revisions)
    told = {
        (event.fields["key"], event.fields["version"], event.revision)
        for event in heard
        if event.type == "kv.written"
    }
    own = {(key, each.version, each.revision) for key, each in writers.acknowledged.items()}
    counted = {
        (counter, version, revision)
        for counter, versions in writers.counted.items()
        for version, revision in versions.items()
    }
    assert own | counted <= told
    assert len(own | counted) > CUTS


# The command line.


@contextmanager
def running(cluster: Cluster, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command line as a process of its own, with its output in a pipe."""
    command = [sys.executable, "-c", "from raftos_cli.main import main; main()", *arguments]
    environment = {**os.environ, "RAFTOS_HOME": str(cluster.directory / "home")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """How it ends on Ctrl-C: its exit code, and what else it wrote, but for the end of the line with ^C."""
    process.send_signal(signal.SIGINT)
    output, messages = process.communicate(timeout=10)
    return process.returncode, output, messages.removeprefix("\n")


def test_kv_watch_shows_each_change_with_its_value(shared: Cluster) -> None:
    """A line for each, as it happens; Ctrl-C ends it with 130 and without a word."""
    with running(shared, "kv", "watch", "w/", "--prefix", "--since", "0") as watching:
        first = json.loads(shared.cli("kv", "put", "w/a", "1", "-o", "json").stdout)["revision"]
        assert lines_of(watching, 1) == [f"PUT w/a 1 {first} 1"]
        shared.cli("kv", "put", "other", "1")
        shared.cli("kv", "put", "w/a", "two words")
        shared.cli("kv", "del", "w/a")
        put, deleted = lines_of(watching, 2)
        assert put.split()[:3] == ["PUT", "w/a", "2"]
        assert deleted.startswith("DELETE w/a - ")
        assert interrupted(watching) == (130, "", "")


def test_kv_watch_in_json_has_whole_values(shared: Cluster) -> None:
    """One object a line, bytes as base64, and no value where it was overwritten before it was read."""
    with shared.client() as client:
        client.kv.put("j/a", "old")
        begin = client.kv.put("j/a", b"\xff").revision
        client.kv.put("j/a", "new", ttl_s=0.1)
    with running(shared, "kv", "watch", "j/a", "--since", str(begin - 2), "-o", "json") as watching:
        old, middle, new, expired = map(json.loads, lines_of(watching, 4))
    assert [(each["kind"], each["key"]) for each in (old, middle, new)] == [("put", "j/a")] * 3
    assert old.keys() == middle.keys() == {"kind", "key", "version", "revision", "time_ms"}
    assert new.get("value", "new") == "new"
    assert expired.keys() == {"kind", "key", "revision", "time_ms"}
    assert expired["kind"] == "expire"


def test_events_end_at_the_present_unless_they_are_followed(shared: Cluster) -> None:
    """What is kept, chosen by revision, topic and prefix; in JSON one object a line."""
    with shared.client() as client:
        revision = client.kv.put("e/a", "1").revision
        client.kv.put("e/b", "1")
    since = str(revision - 1)
    shown = shared.cli("events", "--since", since, "--prefix", "e/", "-o", "json")
    assert [json.loads(line)["key"] for line in shown.stdout.splitlines()] == ["e/a", "e/b"]
    table = shared.cli("events", "--since", since, "--topic", "kv.written", "--prefix", "e/a").stdout
    assert table.split()[0] == str(revision)
    assert table.split()[2:] == ["kv.written", "e/a", "version=1"]
    newest = shared.cli("events", "--since", "-1", "-o", "json").stdout.splitlines()
    assert [json.loads(line)["revision"] for line in newest] == [revision + 1]
    refused = shared.cli("events", "--since", "999999")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "in the future" in refused.stderr


def test_a_command_nobody_reads_any_more_ends(shared: Cluster) -> None:
    """Quietly, and soon, even if nothing happens that it could print."""
    with running(shared, "events", "-f") as following:
        assert len(lines_of(following, 1)) == 1
        assert following.stdout
        following.stdout.close()
        following.stdout = None
        assert following.wait(10) == 0
        assert following.stderr
        assert following.stderr.read() == ""


def test_a_follower_survives_the_death_of_each_member(cluster: Cluster) -> None:
    """The lines go on, without a gap and without a trace of what happened."""
    with running(cluster, "kv", "watch", "k", "--since", "0", "-o", "json") as watching:
        for number, victim in enumerate(cluster.members, 1):
            cluster.kill(victim)
            wait_until("a write succeeds", lambda: cluster.cli("kv", "put", "k", "x").exit_code == 0)
            assert json.loads(lines_of(watching, 1)[0])["version"] == number
            cluster.start(victim)
        assert interrupted(watching) == (130, "", "")
