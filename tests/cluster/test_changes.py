"""A member comes and goes while others die, sleep and return: the whole history has an order.

The short form has a change with each fault of the table; `tox -e faults` draws longer sequences from more
seeds. Faults choose among all members, so the guest is struck as well: while it arrives, and later.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.changes import Guest, outgrow_journals
from tests.cluster.daemons import Cluster, running_cluster
from tests.cluster.faults import PROCESS_FAULTS, Arena, inject_all

pytestmark = pytest.mark.timeout(300)

MORE = 5


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Cluster]:
    """Three members at the newest level, and a guest that has not come yet."""
    with running_cluster(tmp_path, 3, guests=1) as made:
        outgrow_journals(made)
        yield made


def run(hosts: Cluster, seed: int, more: int | None) -> None:
    inject_all(Arena(hosts, seed), Guest(hosts, seed).changes(PROCESS_FAULTS), more)


def test_a_change_under_each_process_fault(hosts: Cluster) -> None:
    """Made in the end, whoever dies meanwhile; nothing acknowledged is lost."""
    run(hosts, 1, None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
def test_changes_under_process_faults_by_lot(hosts: Cluster, seed: int) -> None:
    """The same in longer sequences."""
    run(hosts, seed, MORE)
