"""Machines for the tests of the state; their invariants are checked when each test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftos.state.domains import chat
from tests.unit.state.feeder import Feeder


@pytest.fixture
def feeders(tmp_path: Path) -> Iterator[Callable[..., Feeder]]:
    """Makes any number of machines, each in a folder of its own."""
    made: list[Feeder] = []

    def make(**settings: object) -> Feeder:
        made.append(Feeder(tmp_path / f"machine{len(made)}", **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for feeder in made:
        feeder.close()


@pytest.fixture
def feeder(feeders: Callable[..., Feeder]) -> Feeder:
    """One machine."""
    return feeders()


@pytest.fixture
def room(feeder: Feeder) -> Feeder:
    """A machine with an empty room `r`, at revision 1."""
    feeder.ok(chat.Create("r"))
    return feeder
