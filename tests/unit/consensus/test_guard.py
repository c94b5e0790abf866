"""The guard's rules, case by case."""

from __future__ import annotations

from raftos.consensus.messages import Acknowledged
from tests.unit.consensus.wire import Wire


def test_an_acknowledgement_of_entries_the_leader_does_not_have_changes_nothing() -> None:
    """PySyncObj would look for the entry before the next one, and fail in every turn from then on."""
    wire = Wire()
    wire.elect("a")
    core = wire["a"].core
    for success in (True, False):
        wire["a"].received(
            wire.now, "b", core.links["b"], Acknowledged(core.term, 1000, success, not success)
        )
        wire.step("a")
    wire.pass_time(0.3)
    token = wire.propose("a", "x")
    wire.deliver()
    assert token in wire.ended
