"""Processes that die, sleep and return under every kind of operation: the whole history has an order.

The short form strikes once with each fault of the table, on one cluster and in one history; `tox -e faults`
draws longer sequences from many seeds.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.cluster.daemons import Cluster
from tests.cluster.faults import OF_FIVE, PROCESS_FAULTS, Arena, Fault, inject_all

pytestmark = pytest.mark.timeout(240)

MORE = 3


def run(
    cluster: Cluster, seed: int, more: int | None, faults: Mapping[str, Fault[Arena]] = PROCESS_FAULTS
) -> None:
    """Strike, and see that some client was left without an answer."""
    arena = Arena(cluster, seed)
    inject_all(arena, faults, more)
    assert arena.load.counts["unknown"] > 0, "no outcome was unknown, which is what faults are for"


def test_each_process_fault_once(cluster: Cluster) -> None:
    """Acknowledged where it says so, refused where not, and in the end one order of it all."""
    run(cluster, 1, None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
def test_process_faults_by_lot(cluster: Cluster, seed: int) -> None:
    """The same in longer sequences, the same fault perhaps twice in a row."""
    run(cluster, seed, MORE)


@pytest.mark.slow
@pytest.mark.parametrize("idle", [5], indirect=True)
def test_five_members(idle: Cluster) -> None:
    """While two are out, writes are acknowledged all the same."""
    idle.start()
    run(idle, 6, MORE, OF_FIVE)
