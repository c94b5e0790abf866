"""Members that come and go while a cluster serves, with real daemons and the command line of users."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from raftos.errors import StartupError
from raftos_cli.devcluster import PORTS, hold_port
from tests.cluster.daemons import EXPELLED, Cluster, wait_until
from tests.cluster.growing import Growing
from tests.cluster.writers import Writers

pytestmark = pytest.mark.timeout(300)

WRITES = 30
OTHER_PORTS = range(PORTS.stop, PORTS.stop + 2_000)


@pytest.fixture
def growing(cluster: Cluster) -> Growing:
    """At the newest level, which is enabled once each member has told its own: until then none may go."""
    cluster.settle()
    return Growing(cluster)


@pytest.mark.parametrize("idle", [1], indirect=True)
def test_grown_and_shrunk_under_load_nothing_is_lost(growing: Growing) -> None:
    """1 -> 3 -> 5 -> 3 -> 1 members: every acknowledged write is there, and once."""
    with Writers(growing.cluster, 4) as writers:
        for _ in range(4):
            writers.progress(WRITES)
            growing.ok("dev", "add")
        assert sorted(growing.roles()) == ["n1", "n2", "n3", "n4", "n5"]
        for number in ("2", "4", "3", "5"):
            writers.progress(WRITES)
            growing.ok("dev", "remove", number, "--yes")
        writers.progress(WRITES)
    assert growing.roles() == {"n1": "leader"}
    writers.check()


def test_the_leader_is_removed_under_load(growing: Growing) -> None:
    """It hands over and stops by itself, nothing is lost, and a restart explains what to do."""
    leader = growing.cluster.leader()
    with Writers(growing.cluster, 5) as writers:
        writers.progress(WRITES)
        growing.ok("node", "remove", leader.name, "--yes")
        writers.progress(WRITES)
    growing.cluster.wait_expelled(leader)
    growing.cluster.members = [each for each in growing.cluster.members if each.name != leader.name]
    writers.check()
    states = {node["name"]: node["state"] for node in growing.json("dev", "status")["nodes"]}
    assert states[leader.name] == "removed"
    refused = growing.run("dev", "restart", leader.name)
    assert refused.returncode == 4
    assert "dev rejoin" in refused.stderr
    again = growing.run("node", "remove", leader.name)
    assert (again.returncode, "already" in again.stderr) == (0, True)
    growing.cluster.forgive(EXPELLED)


def test_a_member_that_was_removed_meanwhile_does_not_come_back(growing: Growing) -> None:
    """It is told so by the others once it runs, and ends; so does the restart, with what it was told."""
    member = growing.cluster.followers()[0]
    growing.cluster.kill(member)
    growing.ok("node", "remove", member.name, "--yes")
    growing.cluster.forgive(EXPELLED)
    refused = growing.run("dev", "restart", member.name)
    assert refused.returncode == 1, refused.stderr
    assert f"{member.name} ended while starting" in refused.stderr
    assert EXPELLED in refused.stderr


def test_a_lost_leader_is_replaced_with_one_command(growing: Growing) -> None:
    """Its data directory is deleted while it is dead; it comes back under its name and a new id."""
    leader = growing.cluster.leader()
    growing.ok("kv", "put", "a", "1")
    growing.cluster.kill(leader)
    shutil.rmtree(growing.cluster.dev.data_dir(leader))
    growing.ok("dev", "rejoin", leader.name)
    member = growing.member(leader.name)
    assert member.id != leader.id
    assert growing.roles()[leader.name] in {"leader", "follower"}
    with growing.cluster.client(member) as client:
        assert client.kv.get("a").value == b"1"
    growing.cluster.settle()


def test_a_damaged_member_rejoins_and_its_data_is_kept(growing: Growing) -> None:
    """It refuses to start; rejoined, it is whole, and what it had is still there for people."""
    member = growing.cluster.followers()[0]
    growing.cluster.kill(member)
    journal = growing.cluster.dev.data_dir(member) / "journal"
    segment = max(journal.iterdir(), key=lambda file: file.stat().st_size)
    raw = bytearray(segment.read_bytes())
    raw[40] ^= 0xFF
    segment.write_bytes(raw)
    assert growing.run("dev", "restart", member.name).returncode == 1
    growing.cluster.forgive("journal")
    growing.ok("dev", "rejoin", member.name)
    kept = growing.cluster.dev.home(member) / f"data.was-{member.id}"
    assert (kept / "journal" / segment.name).read_bytes() == bytes(raw)
    growing.cluster.settle()


def test_a_learner_answers_reads_and_votes_once_promoted(growing: Growing) -> None:
    """Stale and linearizable, a learner also while it is down; of four voters, three need its vote."""
    growing.ok("dev", "add", "--learner")
    growing.ok("kv", "put", "a", "1")
    learner = growing.member("n4")
    assert growing.roles()["n4"] == "learner"
    with growing.cluster.client(learner) as client:
        assert client.kv.get("a").value == b"1"
        assert client.kv.get("a", stale=True).value == b"1"
    growing.cluster.kill(learner)
    assert growing.roles()["n4"] == "learner"
    growing.ok("dev", "restart", "4")
    growing.ok("node", "promote", "n4")
    assert growing.roles()["n4"] == "follower"
    promoted, leader = growing.member("n4"), growing.cluster.leader()
    growing.cluster.pause(promoted)
    growing.cluster.kill(leader)
    assert growing.run("kv", "put", "b", "1", "--timeout", "1").returncode == 5
    growing.cluster.resume(promoted)
    growing.ok("kv", "put", "b", "1")
    growing.ok("dev", "restart", leader.name)
    growing.cluster.settle()


def test_a_removal_that_would_break_the_cluster_is_refused(growing: Growing) -> None:
    """One of three is dead: the other follower has to stay, the dead one may go, and writes go on."""
    dead, alive = growing.cluster.followers()
    growing.cluster.kill(dead)
    for force in ([], ["--force"]):
        assert growing.run("node", "remove", alive.name, "--yes", *force).returncode == 4
    growing.ok("node", "remove", dead.name, "--yes")
    growing.ok("kv", "put", "a", "1")


def test_addresses_may_change_over_a_restart_of_all(growing: Growing) -> None:
    """Grown to four, stopped, and started at other ports: it is the same cluster."""
    growing.ok("dev", "add")
    growing.ok("kv", "put", "a", "1")
    before = growing.member("n4")
    growing.ok("dev", "stop")
    first = str(free_ports(4))
    growing.ok("dev", "start", "--detach", "--port", first, "--data-dir", growing.cluster.dev.directory)
    after = growing.member("n4")
    assert (after.id, after.api_port) == (before.id, int(first) + 3)
    assert growing.ok("kv", "get", "a") == "1\n"
    assert len(growing.roles()) == 4
    growing.cluster.settle()


def free_ports(number: int) -> int:
    """The first of so many free ports in a row, where no other cluster of the tests looks for its own."""
    for first in random.sample(OTHER_PORTS, len(OTHER_PORTS)):
        with ExitStack() as held, suppress(StartupError):
            for port in range(first, first + number):
                hold_port(held, 0, port)
            return first
    pytest.fail("there are not so many free ports in a row")


def test_a_member_of_its_own_joins_and_starts_again(
    growing: Growing, tmp_path: Path, running: Callable[[list[str]], subprocess.Popen[bytes]]
) -> None:
    """`raftos start --join` in the foreground; the second time without --join, and without asking anybody.

    Its folder is locked only until it runs: by then only another daemon is refused, by the daemon itself.
    """
    program = [sys.executable, "-c", "from raftos_cli.main import main; main()"]
    start = [*program, "start", "--data-dir", str(tmp_path / "mine")]
    daemon = running([*start, "--name", "n9", "--join", growing.cluster.members[1].endpoint])
    wait_until("n9 votes", lambda: growing.roles().get("n9") == "follower")
    assert running([*start, "--prepare"]).wait(20) == 0
    daemon.terminate()
    assert daemon.wait(20) == 0
    daemon = running(start)
    wait_until("n9 is back", lambda: _state(growing, "n9") == "alive")
    daemon.terminate()
    assert daemon.wait(20) == 0
    endpoint = f"http://127.0.0.1:{(port := free_ports(1))}"
    running([*start, "--port", str(port)])
    wait_until("n9 is known by its new address", lambda: _endpoint(growing, "n9") == endpoint)
    wait_until("n9 is back", lambda: _state(growing, "n9") == "alive")
    assert growing.ok("kv", "put", "there", "1", "--endpoint", endpoint)


def _state(growing: Growing, name: str) -> str | None:
    return next((node["state"] for node in growing.json("status")["nodes"] if node["name"] == name), None)


def _endpoint(growing: Growing, name: str) -> str | None:
    return next((node["endpoint"] for node in growing.json("status")["nodes"] if node["name"] == name), None)


@pytest.fixture
def running(growing: Growing) -> Iterator[Callable[[list[str]], subprocess.Popen[bytes]]]:
    """Start a program in the cluster's home; whatever was started ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(command: list[str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "RAFTOS_HOME": str(growing.home)}
        started.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
