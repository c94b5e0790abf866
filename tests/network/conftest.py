"""A cluster on a network of its own (`namespaces.py`); needs root, `ip` and `nft`.

Continuous integration has all of them, so there a test that cannot make a network fails; elsewhere it is
skipped and says what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import pytest_runtest_makereport
from tests.network.namespaces import NetworkCluster, cannot, network_cluster

__all__ = ["pytest_runtest_makereport"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "CI" not in os.environ and (reason := cannot()) is not None:
        pytest.skip(reason)


@pytest.fixture
def networked(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NetworkCluster]:
    """Three machines, ready; `parametrize("networked", [5], indirect=True)` gives another size."""
    with network_cluster(tmp_path, getattr(request, "param", 3)) as made:
        made.start()
        yield made
