"""Changes of the members that the cluster or a person refuses: whoever ran, runs on as before."""

from __future__ import annotations

import pytest

from tests.cluster.daemons import Cluster
from tests.cluster.growing import Growing

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture
def growing(cluster: Cluster) -> Growing:
    """At the newest level: until then every change is refused, for another reason."""
    cluster.settle()
    return Growing(cluster)


def test_a_member_is_not_stopped_before_the_others_agree_to_its_rejoining(growing: Growing) -> None:
    """Without a majority nobody is removed: it goes on with its data, and the cluster with it."""
    growing.ok("kv", "put", "a", "1")
    _, second, third = growing.cluster.members
    growing.cluster.kill(second)
    growing.cluster.pause(third)
    refused = growing.run("dev", "rejoin", "1", "--timeout", "2")
    assert refused.returncode == 5, refused.stderr
    assert growing.cluster.dev.state(growing.member("n1")) == "running"
    growing.cluster.resume(third)
    growing.ok("dev", "restart", "1")
    assert growing.ok("kv", "get", "a") == "1\n"


def test_a_recovery_under_a_wrong_name_leaves_the_member_running(growing: Growing) -> None:
    """It was stopped to be looked at."""
    _, *others = growing.cluster.members
    growing.cluster.kill(*others)
    assert growing.run("dev", "recover", "1", "--yes", "prod").returncode == 2
    assert growing.cluster.dev.state(growing.member("n1")) == "running"


def test_a_new_member_takes_a_name_that_nobody_has(growing: Growing) -> None:
    """One that joined without `dev` has n4."""
    growing.ok("kv", "put", "a", "1")
    with growing.cluster.client(growing.member("n1")) as client:
        client.members.add(
            "ab" * 8, "n4", peer_address="127.0.0.1:1", endpoint="http://127.0.0.1:1", role="learner"
        )
    growing.ok("dev", "add")
    assert growing.roles()["n5"] == "follower"
    growing.ok("dev", "remove", "5", "--yes")
    assert "n5" not in growing.roles()
