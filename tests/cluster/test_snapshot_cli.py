"""Back up, look, restore, and go on after a majority is lost: with real daemons and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.daemons import Cluster, wait_until
from tests.cluster.growing import Growing

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def growing(cluster: Cluster) -> Growing:
    return Growing(cluster)


def test_a_cluster_is_saved_inspected_and_restored_into_another(growing: Growing, tmp_path: Path) -> None:
    """The new cluster has all keys and other ids; the old one goes on beside it."""
    with growing.cluster.client() as client:
        for number in range(200):
            client.kv.put(f"k/{number}", str(number))
        revision = client.kv.put("last", "1").revision
    backup = tmp_path / "backup"
    saved = growing.json("snapshot", "save", backup)
    assert saved["size_bytes"] == backup.stat().st_size
    growing.ok("kv", "put", "later", "1")
    said = growing.json("snapshot", "inspect", backup)
    assert (said["ok"], said["index"]) == (True, saved["index"])
    assert said["revision"] >= revision
    other = tmp_path / "other"
    try:
        growing.ok("snapshot", "restore", backup, "--nodes", "5", "--detach", home=other)
        assert growing.ok("kv", "get", "k/199", home=other) == "199\n"
        assert growing.run("kv", "get", "later", home=other).returncode == 3
        growing.ok("kv", "put", "new", "1", home=other)
        status = json.loads(growing.ok("status", "-o", "json", home=other))
        assert [node["state"] for node in status["nodes"]] == ["alive"] * 5
        assert not {node["id"] for node in status["nodes"]} & {
            member.id for member in growing.cluster.members
        }
        stamps = {
            (stamp["index"], stamp["hash"]) for node in status["nodes"] if (stamp := node["state_hash"])
        }
        assert len(stamps) == len(dict(stamps)), "members that stand at one index have one hash"
        refused = growing.run("snapshot", "restore", backup, home=other)
        assert (refused.returncode, "running already" in refused.stderr) == (4, True)
        growing.ok("dev", "stop", home=other)
        refused = growing.run("snapshot", "restore", backup, home=other)
        assert (refused.returncode, "not empty" in refused.stderr) == (2, True)
    finally:
        growing.run("dev", "stop", "--purge", home=other)
    assert growing.ok("kv", "get", "later") == "1\n"


def test_a_damaged_backup_is_found_out(growing: Growing, tmp_path: Path) -> None:
    """By inspect, and by restore before there is a cluster of it."""
    backup = tmp_path / "backup"
    growing.ok("snapshot", "save", backup)
    raw = bytearray(backup.read_bytes())
    raw[len(raw) // 2] ^= 1
    backup.write_bytes(raw)
    assert growing.run("snapshot", "inspect", backup).returncode == 1
    assert growing.run("snapshot", "restore", backup, "--detach", home=tmp_path / "other").returncode == 1
    assert not (tmp_path / "other" / "dev" / "data").exists()


def test_one_member_goes_on_after_a_majority_is_lost(growing: Growing) -> None:
    """What it had stays, it takes writes, and the others come back under new ids with one command each."""
    growing.ok("kv", "put", "a", "1")
    growing.cluster.settle()
    first, *others = growing.cluster.members
    growing.cluster.kill(*others)
    refused = growing.run("dev", "recover", "1")
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    wrong = growing.run("dev", "recover", "1", "--yes", "prod")
    assert (wrong.returncode, "nothing was changed" in wrong.stderr) == (2, True)
    growing.ok("dev", "recover", "1", "--yes", "dev")
    assert growing.ok("kv", "get", "a") == "1\n"
    growing.ok("kv", "put", "b", "2")
    wait_until("the lost ones are forgotten", lambda: growing.roles() == {first.name: "leader"})
    assert growing.run("dev", "restart", "2").returncode == 4
    for other in others:
        growing.ok("dev", "rejoin", other.name)
    assert len(growing.roles()) == 3
    growing.cluster.settle()
    with growing.cluster.client(growing.member("n3")) as client:
        assert client.kv.get("b").value == b"2"


def test_recovery_is_refused_while_others_run(growing: Growing) -> None:
    """Two parts of one cluster must never go on apart."""
    refused = growing.run("dev", "recover", "1", "--yes", "dev")
    assert refused.returncode == 4
    assert "still run" in refused.stderr
    wait_until("the cluster serves", lambda: growing.run("kv", "put", "a", "1").returncode == 0)
