"""Planned changes under concurrent writers: leadership handed round, members restarted one after another.

Unlike a crash, none of this need cost anything: writes wait for a moment, and go on.
"""

from __future__ import annotations

import itertools

import pytest

from tests.cluster.daemons import Cluster
from tests.cluster.writers import Writers

pytestmark = pytest.mark.timeout(120)

WRITES = 40
TRANSFERS = 9


def test_leadership_goes_round_under_load(cluster: Cluster) -> None:
    """Each transfer ends with the member that was named, and writes go on under it."""
    with Writers(cluster, 1) as writers, cluster.client() as client:
        for member in itertools.islice(itertools.cycle(cluster.members), TRANSFERS):
            writers.progress(WRITES)
            assert client.leader.transfer(member.name).leader == member.name
    writers.check()


def test_a_rolling_restart_under_load(cluster: Cluster) -> None:
    """Stopped in good order and started again, each in turn; the leader hands over before it ends."""
    with Writers(cluster, 2) as writers:
        for member in cluster.members:
            writers.progress(WRITES)
            cluster.stop(member)
            writers.progress(WRITES)
            cluster.start(member)
        writers.progress(WRITES)
    writers.check()
