"""Clusters of real daemons for the tests of this folder (`daemons.py`).

`cluster` runs and is this test's own; `idle` is the same, not started yet; `shared` serves a whole file
of tests that leave it as they found it. Whatever happens, no daemon outlives its fixture, and the report
of a failed test ends with the daemons' logs.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.cluster.daemons import Cluster, running_cluster
from tests.cluster.disks import may_mount


@pytest.fixture
def idle(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster that does not run yet; `parametrize("idle", [1], indirect=True)` gives another size."""
    with running_cluster(tmp_path, getattr(request, "param", 3)) as made:
        yield made


@pytest.fixture
def cluster(idle: Cluster) -> Cluster:
    """Three members, ready."""
    idle.start()
    return idle


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members for all tests of a file, ready and quiet: each has registered itself."""
    with running_cluster(tmp_path_factory.mktemp("shared"), 3) as made:
        made.start()
        made.settle()
        yield made


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Continuous integration has the right: there, a test that cannot mount fails.
    if item.get_closest_marker("root") and not may_mount() and "CI" not in os.environ:
        pytest.skip("needs the right to mount a disk: run it as root")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, Cluster):
                report.sections.extend(value.log_tails())
    return report
