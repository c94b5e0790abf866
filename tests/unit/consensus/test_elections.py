"""When a member campaigns, and when it lets others."""

from __future__ import annotations

import pytest

from tests.unit.consensus.wire import Wire


@pytest.mark.parametrize("luck", range(1, 12))
def test_a_member_whose_disk_hangs_does_not_campaign_and_deposes_nobody_when_it_is_back(luck: int) -> None:
    """The votes it asked for would go out with the first sync, long after another was elected."""
    wire = Wire()
    wire.elect("a")
    for name in wire.names:
        for _ in range(luck):
            wire[name].core.random.random()
    wire.members["a"].disk_stuck = True
    wire.propose("a", "x")
    wire.pass_time(3)
    leader, term = wire.leaders(), wire[wire.leaders()[0]].core.term
    wire.repair_disk("a")
    wire.pass_time(1)
    assert wire.leaders() == leader != ["a"]
    assert [wire[name].core.term for name in wire.names] == [term] * 3
