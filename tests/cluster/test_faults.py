"""Processes that die, sleep and return under every kind of operation: the whole history has an order.

The short form strikes once with each fault of the table, on one cluster and in one history; `tox -e faults`
draws longer sequences from many seeds.
"""

from __future__ import annotations

import pytest

from tests.cluster.daemons import Cluster
from tests.cluster.faults import OF_FIVE, PROCESS_FAULTS, Arena, inject_all

pytestmark = pytest.mark.timeout(240)

MORE = 3


def test_each_process_fault_once(cluster: Cluster) -> None:
    """Acknowledged where it says so, refused where not, and in the end one order of it all."""
    inject_all(Arena(cluster, 1), PROCESS_FAULTS, None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
def test_process_faults_by_lot(cluster: Cluster, seed: int) -> None:
    """The same in longer sequences, the same fault perhaps twice in a row."""
    inject_all(Arena(cluster, seed), PROCESS_FAULTS, MORE)


@pytest.mark.slow
@pytest.mark.parametrize("idle", [5], indirect=True)
def test_five_members(idle: Cluster) -> None:
    """While two are out, writes are acknowledged all the same."""
    idle.start()
    inject_all(Arena(idle, 6), OF_FIVE, MORE)
