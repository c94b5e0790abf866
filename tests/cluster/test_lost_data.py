"""A member whose data is gone may not begin anew under its id: it has promised what it no longer knows."""

from __future__ import annotations

import shutil

import pytest

from tests.cluster.daemons import Cluster, wait_until


@pytest.mark.parametrize("lost", [["."], ["journal", "state"], ["journal"]], ids="+".join)
def test_a_member_that_lost_its_journal_elects_nobody(cluster: Cluster, lost: list[str]) -> None:
    """Of three, one acknowledged a write and forgot it, one never heard of it: they are no majority."""
    cluster.forgive("the journal of this member is gone")
    cluster.settle()
    leader, (forgetful, absent) = cluster.leader(), cluster.followers()
    cluster.kill(absent)
    with cluster.client(leader) as client:
        client.kv.put("precious", b"acknowledged")
    cluster.kill(leader, forgetful)
    for name in lost:
        shutil.rmtree(cluster.dev.data_dir(forgetful) / name)
    cluster.spawn(forgetful, absent)
    wait_until("it refuses to start", lambda: not cluster.is_running(forgetful))
    assert "raftos dev rejoin" in cluster.log(forgetful)
    cluster.spawn(leader)
    cluster.wait_ready(leader, absent)
    with cluster.client(absent) as client:
        assert client.kv.get("precious").value == b"acknowledged"
