"""Three daemons on what an older version left behind (`tests/fixtures/make_previous.py`)."""

from __future__ import annotations

import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftos.levels import LEVEL
from raftos.state.storage import FILE_NAME, FORMAT
from raftos_cli.devcluster import DevCluster
from tests.cluster.daemons import CONTEXT, Cluster, wait_until
from tests.fixtures.make_previous import KEYS, LOCK, MESSAGES, ROOM, key, value

FIXTURE = Path(__file__).parents[1] / "fixtures" / "previous.tar.xz"


class OldCluster(Cluster):
    """The cluster of the fixture, unpacked into a directory."""

    def __init__(self, directory: Path) -> None:
        folder = directory / "cluster"
        folder.mkdir(mode=0o700, parents=True)
        with tarfile.open(FIXTURE) as archive:
            archive.extractall(folder, filter="data")
        self.take(directory, DevCluster.open(folder))


@pytest.fixture
def old(tmp_path: Path) -> Iterator[OldCluster]:
    """Not started yet."""
    made = OldCluster(tmp_path)
    try:
        yield made
        made.check_logs()
    finally:
        made.close()


def check_contents(cluster: Cluster) -> None:
    """Every key, message and lock that the older version was given."""
    with cluster.client() as client:
        found = {item.key: item.value for item in client.kv.list("previous/")}
        assert found == {key(number): value(number) for number in range(KEYS)}
        history = list(client.chat.history(ROOM, limit=MESSAGES + 1))
        assert [message.sequence for message in history] == list(range(1, MESSAGES + 1))
        assert history[-1].text == f"message {MESSAGES}"
        assert client.lock.show(LOCK).owner == "ada"


def format_of(cluster: Cluster, number: int) -> int:
    db = sqlite3.connect(cluster.dev.data_dir(cluster.members[number]) / "state" / FILE_NAME)
    try:
        return int(db.execute("SELECT format FROM machine").fetchone()[0])
    finally:
        db.close()


def test_a_cluster_of_the_previous_format_is_taken_over_and_its_level_rises(old: OldCluster) -> None:
    """Everything is there, writes go on, a member restarts; the level is enabled by itself, and stays."""
    assert format_of(old, 0) == 2
    old.start()
    check_contents(old)
    status = old.settle()
    assert status["level"] == LEVEL
    assert {node["level"] for node in status["nodes"]} == {LEVEL}
    assert status["alarms"] == []
    with old.client() as client:
        client.kv.put("since", b"then")
    restarted = old.members[0]
    old.kill(restarted)
    old.start(restarted)
    assert old.settle()["level"] == LEVEL
    check_contents(old)
    with old.client(restarted) as client:
        assert client.kv.get("since").value == b"then"
    assert [format_of(old, number) for number in range(3)] == [FORMAT] * 3


def test_one_member_that_is_missing_holds_the_level_down(old: OldCluster) -> None:
    """It may run the older version still, and must be able to read what it misses. All else works."""
    missing, *present = old.members
    old.start(*present)
    check_contents(old)
    wait_until("it is marked down", lambda: old.node(missing, seen_by=present[0])["state"] == "down")
    status = old.status(present[0])
    assert status["level"] == 1
    assert {alarm["alarm"] for alarm in status["alarms"]} == {"DOWN", "NO_SPARE"}
    shown = old.cli("status", "--context", CONTEXT)
    assert shown.exit_code == 0
    assert f"stays at level 1 of {LEVEL} until n1 is upgraded" in shown.stderr
    old.start(missing)
    assert old.settle()["level"] == LEVEL
