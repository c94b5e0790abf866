"""kill -9 under concurrent writers, then the reckoning: nothing acknowledged is lost, nothing doubled.

One seed of each runs always, the others with `tox -e faults`. A seed decides what the writers do and the
moments at which members die and return; the machine's own timing does the rest.
"""

from __future__ import annotations

import pytest

from tests.cluster.daemons import Cluster
from tests.cluster.writers import Writers, moment

pytestmark = pytest.mark.timeout(120)

SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
WRITES = 40


@pytest.mark.parametrize("seed", SEEDS)
def test_the_leader_dies(cluster: Cluster, seed: int) -> None:
    """The others go on without it; it returns and catches up."""
    with Writers(cluster, seed) as writers:
        writers.progress(WRITES)
        moment(seed)
        victim = cluster.leader()
        cluster.kill(victim)
        writers.progress(WRITES)
        cluster.start(victim)
        writers.progress(WRITES)
    writers.check()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_follower_dies(cluster: Cluster, seed: int) -> None:
    """Writes go on, those through the dead member's endpoint too."""
    with Writers(cluster, seed) as writers:
        writers.progress(WRITES)
        victim = moment(seed).choice(cluster.followers())
        cluster.kill(victim)
        writers.progress(WRITES)
        cluster.start(victim)
        writers.progress(WRITES)
    writers.check()


@pytest.mark.parametrize("seed", SEEDS)
def test_two_of_three_die(cluster: Cluster, seed: int) -> None:
    """Nothing is acknowledged until one of them returns; what was in flight happened once or not at all."""
    with Writers(cluster, seed) as writers:
        writers.progress(WRITES)
        victims = moment(seed).sample(cluster.members, 2)
        cluster.kill(*victims)
        before = writers.acknowledgements
        writers.trouble(4)
        assert writers.acknowledgements <= before + 2 * len(cluster.members), "acknowledged by one of three"
        cluster.spawn(victims[0])
        writers.progress(WRITES)
        cluster.start(victims[1])
        writers.progress(WRITES)
    writers.check()


@pytest.mark.parametrize("seed", SEEDS)
def test_all_die_at_once(cluster: Cluster, seed: int) -> None:
    """A power cut: what was acknowledged is on a majority of the disks, in whatever order they return."""
    with Writers(cluster, seed) as writers:
        writers.progress(WRITES)
        choice = moment(seed)
        cluster.kill(*cluster.members)
        writers.trouble(4)
        for member in choice.sample(cluster.members, len(cluster.members)):
            cluster.spawn(member)
        writers.progress(WRITES)
    writers.check()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_one_after_another_dies(cluster: Cluster, seed: int) -> None:
    """Ten deaths in a row, leaders preferred, some before the last one has caught up."""
    with Writers(cluster, seed) as writers:
        for death in range(10):
            writers.progress(WRITES)
            choice = moment(seed * 100 + death)
            victim = cluster.leader() if choice.random() < 0.7 else choice.choice(cluster.members)
            cluster.kill(victim)
            moment(seed * 100 + death, 1.0)
            cluster.spawn(victim)
        cluster.wait_ready()
        writers.progress(WRITES)
    writers.check()
