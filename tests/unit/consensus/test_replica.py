"""Three replicas in memory, their wire driven by hand: what one member does to the others."""

from __future__ import annotations

from raftos.consensus.messages import BarrierAsked, Forwarded
from tests.unit.consensus.wire import Wire, request


def test_one_member_is_elected_and_a_write_comes_back_from_it() -> None:
    wire = Wire()
    wire.elect("a")
    token = wire.propose("a", "x")
    wire.deliver()
    assert wire.ended[token] == [request("x")]
    wire.pass_time(0.2)
    assert [member.requests for member in wire.members.values()] == [[request("x")]] * 3


def test_a_leader_that_resigned_is_not_asked_again_and_again() -> None:
    """Its last heartbeat is young, but it has said itself that it leads no more: another is elected at once."""
    wire = Wire()
    wire.elect("a")
    wire["a"].troubled(wire.now, "disk full")
    wire.step("a")
    write, read = wire.propose("b", "x"), wire.read("c")
    wire.deliver()
    assert (
        len([frame for frame in wire.delivered if isinstance(frame.message, Forwarded | BarrierAsked)]) == 2
    )
    wire.pass_time(0.2)
    assert wire.leaders() in (["b"], ["c"])
    assert {write, read} <= set(wire.ended)
