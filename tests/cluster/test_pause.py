"""SIGSTOP: a member that is alive and silent, and wakes up believing that no time has passed.

The dangerous one is a paused leader. When it wakes up it still thinks that it leads, and clients are
connected to it: it must neither acknowledge a write of the past nor answer a read from it. Those tests
speak plain HTTP to it, so that its own first answer counts and no client of ours stands between.
"""

from __future__ import annotations

import json

import pytest

from tests.cluster.daemons import Cluster
from tests.cluster.writers import Writers, moment

pytestmark = pytest.mark.timeout(120)

SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
WRITES = 40
READS = 40


@pytest.mark.parametrize("seed", SEEDS)
def test_a_paused_leader_is_replaced(cluster: Cluster, seed: int) -> None:
    """Writes go on under a new leader, and the old one follows when it wakes up."""
    with Writers(cluster, seed) as writers:
        writers.progress(WRITES)
        moment(seed)
        sleeper = cluster.leader()
        cluster.pause(sleeper)
        writers.progress(WRITES)
        cluster.resume(sleeper)
        writers.progress(WRITES)
    writers.check()
    assert cluster.leader() is not sleeper


@pytest.mark.parametrize("seed", SEEDS)
def test_a_paused_follower_hinders_nobody(cluster: Cluster, seed: int) -> None:
    """The leader stays in its term; the sleeper catches up without disturbing it."""
    with Writers(cluster, seed) as writers:
        writers.progress(WRITES)
        leader = cluster.leader()
        term = cluster.status(leader)["term"]
        sleeper = moment(seed).choice(cluster.followers())
        cluster.pause(sleeper)
        writers.progress(WRITES)
        cluster.resume(sleeper)
        writers.progress(WRITES)
    writers.check()
    assert cluster.leader() is leader
    assert cluster.status(leader)["term"] == term


def test_a_leader_that_wakes_up_never_answers_from_the_past(cluster: Cluster) -> None:
    """Reads that wait in its socket when it wakes up see what was acknowledged while it slept."""
    for _ in range(3):
        sleeper = cluster.leader()
        with cluster.client(*(member for member in cluster.members if member is not sleeper)) as elsewhere:
            elsewhere.kv.put("told", "before")
            cluster.pause(sleeper)
            newest = elsewhere.kv.put("told", "meanwhile").version
            reads = [cluster.send(sleeper, "/v1/kv/get?key=told") for _ in range(READS)]
            cluster.resume(sleeper)
            answers = [cluster.receive(read) for read in reads]
        versions = [answer.json["version"] for answer in answers if answer.status == 200]
        refusals = {answer.error_code() for answer in answers if answer.status != 200}
        assert min(versions) >= newest, "a stale read through the deposed leader"
        assert refusals <= {"no_quorum", "not_ready"}
    cluster.settle()


def test_a_write_that_waits_for_a_sleeping_leader_is_answered_truly(cluster: Cluster) -> None:
    """Acknowledged: it is there. Refused: it is not. What the new leader acknowledged stays in any case."""
    sleeper = cluster.leader()
    body = json.dumps({"key": "late", "value": "from the past", "expect_version": 0}).encode()
    with cluster.client(*(member for member in cluster.members if member is not sleeper)) as elsewhere:
        cluster.pause(sleeper)
        late = cluster.send(sleeper, "/v1/kv/put", body)
        elsewhere.kv.put("meanwhile", "1")
        cluster.resume(sleeper)
        answer = cluster.receive(late)
        keys = {item.key for item in elsewhere.kv.list()}
    outcome = "acknowledged" if answer.status == 200 else answer.error_code()
    assert (outcome, "late" in keys) in {
        ("acknowledged", True),
        ("no_quorum", False),
        ("outcome_unknown", True),
        ("outcome_unknown", False),
    }
    assert "meanwhile" in keys
    cluster.settle()
