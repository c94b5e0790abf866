"""Two of three members are dead: what the third may say, what it must not, and that all ends well."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from raftos.errors import NoQuorum, OutcomeUnknown
from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster, running_cluster

pytestmark = pytest.mark.timeout(120)

TIMEOUT_S = 0.8
LATE_S = 1.0
"""How far past its deadline an answer may come on a machine with much else to do."""


@pytest.fixture(scope="module", params=["a follower is left", "the leader is left"])
def left(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Cluster, Member]]:
    """A cluster with one living member, and that member."""
    with running_cluster(tmp_path_factory.mktemp("minority"), 3) as cluster:
        cluster.start()
        with cluster.client() as client:
            client.kv.put("kept", "1")
        cluster.settle()
        leader, [follower, other] = cluster.leader(), cluster.followers()
        survivor = leader if request.param == "the leader is left" else follower
        cluster.kill(other, follower if survivor is leader else leader)
        yield cluster, survivor


def test_a_write_is_refused_within_its_deadline(left: tuple[Cluster, Member]) -> None:
    """Never acknowledged; `no_quorum` only where it certainly was not proposed."""
    cluster, survivor = left
    with cluster.client(survivor, timeout_s=TIMEOUT_S) as client:
        for number in range(3):
            began = time.monotonic()
            with pytest.raises((NoQuorum, OutcomeUnknown)):
                client.kv.put(f"refused/{number}", "1")
            assert time.monotonic() - began < TIMEOUT_S + LATE_S


def test_the_command_line_exits_with_5(left: tuple[Cluster, Member]) -> None:
    """For writes and linearizable reads, through the dead endpoints as well; JSON stays JSON."""
    cluster, survivor = left
    for command in (["kv", "put", "a", "1"], ["kv", "get", "kept"], ["kv", "ls"], ["kv", "del", "kept"]):
        failed = cluster.cli(*command, "--timeout", str(TIMEOUT_S), "-o", "json")
        assert (failed.exit_code, failed.stdout) == (5, ""), failed.output
        assert json.loads(failed.stderr)["error"]["code"] in {"no_quorum", "outcome_unknown"}
    assert cluster.cli("leader", "transfer", "--timeout", str(TIMEOUT_S)).exit_code == 5
    failed = cluster.cli("kv", "get", "kept", "--endpoint", survivor.endpoint, "--timeout", str(TIMEOUT_S))
    assert failed.exit_code == 5
    assert "stale" in failed.stderr


def test_stale_reads_still_work(left: tuple[Cluster, Member]) -> None:
    """From the command line and the API, which says how old they may be."""
    cluster, survivor = left
    assert cluster.cli("kv", "get", "kept", "--stale").stdout == "1\n"
    assert cluster.cli("kv", "ls", "--stale", "--keys-only").stdout == "kept\n"
    ages = []
    for _ in range(2):
        answer = cluster.request(survivor, "/v1/kv/get?key=kept&consistency=stale")
        assert (answer.status, answer.json["value"]) == (200, "1")
        ages.append(int(answer.headers["raftos-age-ms"]))
        time.sleep(0.01)  # The next one has to be older.
    assert 0 < ages[0] < ages[1]


def test_the_api_tells_a_write_from_a_read(left: tuple[Cluster, Member]) -> None:
    """A read that cannot be confirmed is `no_quorum`; both are retryable and in time."""
    cluster, survivor = left
    short: dict[str, str | None] = {"Raftos-Timeout-Ms": "700"}
    began = time.monotonic()
    read = cluster.request(survivor, "/v1/kv/get?key=kept", headers=short)
    assert (read.status, read.error_code()) == (503, "no_quorum")
    write = cluster.request(survivor, "/v1/kv/put", b'{"key": "a", "value": "1"}', short)
    assert (write.status, write.error_code()) in {(503, "no_quorum"), (504, "outcome_unknown")}
    assert read.json["error"]["retryable"]
    assert write.json["error"]["retryable"]
    assert time.monotonic() - began < 2 * 0.7 + LATE_S


def test_status_lists_who_cannot_be_reached(left: tuple[Cluster, Member]) -> None:
    """Three members, one alive, no leader; ready it is not."""
    cluster, survivor = left
    status = in_time(cluster, "status")
    states = {node["name"]: node["state"] for node in status["nodes"]}
    assert states.pop(survivor.name) == "alive"
    assert len(states) == 2
    assert set(states.values()) <= {"unreachable", "down"}
    assert status["leader"] is None
    assert len(in_time(cluster, "node", "ls")["nodes"]) == 3
    assert cluster.cli("leader", "show", "--timeout", str(TIMEOUT_S)).exit_code == 5
    answer = cluster.request(survivor, "/readyz")
    assert (answer.status, answer.error_code()) == (503, "not_ready")
    assert cluster.request(survivor, "/livez").status == 200


def in_time(cluster: Cluster, *command: str) -> Any:
    began = time.monotonic()
    done = cluster.cli(*command, "-o", "json")
    assert done.exit_code == 0, done.stderr
    assert time.monotonic() - began < 3 + LATE_S
    return json.loads(done.stdout)


def test_it_recovers_with_one_more_member(left: tuple[Cluster, Member]) -> None:
    """No refused write turns up, unless it was one of unknown outcome: then once."""
    cluster, survivor = left
    first, second = [member for member in cluster.members if member is not survivor]
    cluster.start(first)
    with cluster.client() as client:
        assert client.kv.put("kept", "2").version == 2
        assert all(item.version == 1 for item in client.kv.list("refused/"))
    cluster.start(second)
    status = cluster.settle()
    assert status["leader"] is not None


def test_nobody_at_all_answers(left: tuple[Cluster, Member]) -> None:
    """Even then `status -o json` is JSON that lists the members; exit 5."""
    cluster, _ = left
    cluster.kill(*cluster.members)
    done = cluster.cli("status", "-o", "json", "--timeout", str(TIMEOUT_S))
    assert done.exit_code == 5
    assert [node["state"] for node in json.loads(done.stdout)["nodes"]] == ["unreachable"] * 3
    failed = cluster.cli("kv", "put", "a", "1", "-o", "json", "--timeout", str(TIMEOUT_S))
    assert failed.exit_code == 5
    assert json.loads(failed.stderr)["error"]["code"] == "unreachable"
