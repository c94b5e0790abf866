"""`raftos node promote` and `remove`, and how status shows those who come and go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raftos.client import Client
from raftos.consensus.memory import MemoryCluster
from raftos.errors import Conflict
from tests.unit.cli.conftest import Raftos

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("cluster")]


def add(name: str, role: str = "learner") -> None:
    with Client() as client:
        client.members.add(
            f"id-{name}",
            name,
            peer_address="127.0.0.1:4104",
            endpoint="http://127.0.0.1:4004",
            role="learner" if role == "learner" else "voter",
        )


def test_a_learner_that_is_down_is_shown_as_a_learner(raftos: Raftos) -> None:
    """It never answered; the configuration says what it is."""
    add("n4")
    nodes = json.loads(raftos("status", "-o", "json").stdout)["nodes"]
    assert [(node["name"], node["role"], node["state"]) for node in nodes][-1] == ("n4", "learner", "joining")
    assert "learner" in raftos("status").stdout


@pytest.mark.parametrize("name", ["n4", "id-n4"])
def test_promoting_and_removing_may_be_repeated(raftos: Raftos, name: str) -> None:
    """By name or by id; the second time it says that it was so already, and exits 0."""
    add("n4")
    for verb, first, again in (("promote", "votes now", "votes already"), ("remove", "any more", "already")):
        for said in (first, again):
            done = raftos("node", verb, name)
            assert done.exit_code == 0, done.stderr
            assert said in done.stderr
    done = raftos("node", "remove", name, "-o", "json")
    assert json.loads(done.stdout) == {"id": "id-n4", "name": "n4", "role": "none", "changed": False}


def test_the_leader_can_be_removed(raftos: Raftos, agreement: MemoryCluster) -> None:
    """It hands over first."""
    assert agreement.leader_id == "n1"
    assert raftos("node", "remove", "n1", "--yes").exit_code == 0
    assert agreement.leader_id == "n2"
    assert agreement.configuration.voters == ("n2", "n3")


def test_what_would_break_the_cluster_is_refused(raftos: Raftos, agreement: MemoryCluster) -> None:
    """A conflict, with the reason; so is a member that does not exist not found."""
    agreement.cut("n3")
    refused = raftos("node", "remove", "n2", "--force")
    assert refused.exit_code == 4
    assert "majority" in refused.stderr
    assert raftos("node", "remove", "nobody").exit_code == 3
    assert raftos("node", "promote", "nobody").exit_code == 3


def test_a_join_that_stopped_half_way_is_remarked_on(raftos: Raftos, agreement: MemoryCluster) -> None:
    """It has a name and no place; status says what to do."""
    agreement.changing = True
    with Client(timeout_s=0.3) as client, pytest.raises(Conflict, match="under way"):
        client.members.add("id-n4", "n4", peer_address="127.0.0.1:1", endpoint="http://127.0.0.1:1")
    shown = raftos("status")
    assert "none" in shown.stdout
    assert "n4 has not joined yet" in shown.stderr


def test_a_snapshot_is_saved(raftos: Raftos, tmp_path: Path) -> None:
    """With what is known of it as JSON; a sentence for people."""
    raftos("kv", "put", "a", "1")
    file = tmp_path / "backup"
    done = raftos("snapshot", "save", str(file), "--no-verify", "-o", "json")
    assert done.exit_code == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["file"], value["size_bytes"]) == (str(file), file.stat().st_size)
    assert f"index {value['index']}" in raftos("snapshot", "save", str(file), "--no-verify").stderr


def test_a_damaged_snapshot_does_not_replace_the_old_one(
    raftos: Raftos, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the verification finds, or why it cannot be made: yesterday's backup stays."""
    file = tmp_path / "backup"
    file.write_text("yesterday's")
    done = raftos("snapshot", "save", str(file))  # Agreement in memory makes no real ones.
    assert done.exit_code == 1
    assert f"{file} is as it was" in done.stderr
    said = {"ok": False, "trouble": "chunk 3 is not what was written"}
    monkeypatch.setattr("raftos_cli.offline.run_offline", lambda *_: said)
    done = raftos("snapshot", "save", str(file))
    assert done.exit_code == 1
    assert "chunk 3 is not what was written" in done.stderr
    assert f"{file} is as it was" in done.stderr
    assert [each.name for each in tmp_path.glob("backup*")] == ["backup"]
    assert file.read_text() == "yesterday's"
    said["ok"] = True
    assert "checked" in raftos("snapshot", "save", str(file)).stderr
    assert file.read_text(errors="replace") != "yesterday's"


def test_a_snapshot_that_cannot_be_had_is_one_sentence(
    raftos: Raftos, agreement: MemoryCluster, tmp_path: Path
) -> None:
    """No quorum; a folder that does not exist."""
    assert raftos("snapshot", "save", str(tmp_path / "no" / "backup")).exit_code == 1
    for name in ("n2", "n3"):
        agreement.cut(name)
    assert raftos("snapshot", "save", str(tmp_path / "backup"), "--timeout", "0.5").exit_code == 5
    assert raftos("snapshot", "save", str(tmp_path / "backup"), "--stale", "--no-verify").exit_code == 0
