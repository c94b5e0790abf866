"""A small quota on real daemons: filled, refused, emptied and written again, whoever leads."""

from __future__ import annotations

import json

import pytest
from click.testing import Result

from tests.cluster.daemons import Cluster, wait_until

pytestmark = pytest.mark.timeout(120)

HALF = b"v" * (512 * 1024)


def put(cluster: Cluster, key: str, value: bytes = b"x") -> Result:
    return cluster.cli("kv", "put", key, "-", "-o", "json", stdin=value)


def assert_full(cluster: Cluster) -> None:
    """Growing writes are refused with the right code, everything else goes on."""
    refused = put(cluster, "more")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert json.loads(refused.stderr)["error"]["code"] == "no_space"
    assert cluster.cli("kv", "txn", "--put", "more=1").exit_code == 1
    assert cluster.cli("kv", "get", "b", "--raw").stdout_bytes == HALF
    assert "b" in cluster.cli("kv", "ls", "--keys-only").stdout.splitlines()
    status = cluster.cli("status")
    assert status.exit_code == 0
    assert "NOSPACE" in status.stderr
    assert "raftos quota ls" in status.stderr


def test_a_full_state_can_be_read_and_emptied_and_then_written_again(cluster: Cluster) -> None:
    """Every member refuses alike before and after the leader's death and the return of the dead."""
    assert cluster.cli("quota", "set", "state.bytes", "1MiB").exit_code == 0
    for key in "ab":
        assert put(cluster, key, HALF).exit_code == 0
    assert_full(cluster)
    used = json.loads(cluster.cli("quota", "ls", "-o", "json").stdout)["items"]
    kept = next(item for item in used if item["name"] == "state.bytes")
    assert kept["value"] > kept["most"] == 1024 * 1024

    leader = cluster.leader()
    cluster.kill(leader)
    alive = [member for member in cluster.members if member is not leader]
    wait_until("somebody leads again", lambda: put(cluster, "more").exit_code == 1)
    assert_full(cluster)
    for member in alive:
        raised = {alarm["alarm"] for alarm in cluster.status(member)["alarms"]}
        assert raised - {"DOWN"} == {"NOSPACE", "NO_SPARE"}
        assert cluster.is_ready(member), "reads and deletes are served"

    assert cluster.cli("kv", "del", "a").exit_code == 0
    assert put(cluster, "more").exit_code == 0
    cluster.start(leader)
    assert cluster.settle()["alarms"] == []
    for member in cluster.members:
        answer = cluster.request(member, "/v1/quota/list?consistency=stale")
        assert answer.json["items"] == json.loads(cluster.cli("quota", "ls", "-o", "json").stdout)["items"]


def test_a_quota_that_cannot_be(cluster: Cluster) -> None:
    """Unknown names are not found and the known ones named; a state of less than 1 MiB is bad input."""
    unknown = cluster.cli("quota", "set", "kv.nothing", "5")
    assert unknown.exit_code == 3
    assert "kv.keys" in unknown.stderr
    assert cluster.cli("quota", "set", "state.bytes", "1KiB").exit_code == 2
    assert cluster.cli("quota", "set", "kv.keys", "0").exit_code == 0
    refused = put(cluster, "a")
    assert (refused.exit_code, json.loads(refused.stderr)["error"]["code"]) == (1, "limit_reached")
