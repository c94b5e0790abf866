"""Three replicas in memory, their wire driven by hand: what one member does to the others."""

from __future__ import annotations

from tests.unit.consensus.wire import Wire, request


def test_one_member_is_elected_and_a_write_comes_back_from_it() -> None:
    wire = Wire()
    wire.elect("a")
    token = wire.propose("a", "x")
    wire.deliver()
    assert wire.ended[token] == [request("x")]
    wire.pass_time(0.2)
    assert [member.requests for member in wire.members.values()] == [[request("x")]] * 3
