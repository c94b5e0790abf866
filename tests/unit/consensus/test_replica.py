"""Three replicas in memory, their wire driven by hand: what one member does to the others."""

from __future__ import annotations

from raftos.consensus.messages import BarrierAsked, Forwarded
from raftos.errors import Conflict
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
    """Its last heartbeat is young, but it said itself that it leads no more: another is elected at once."""
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


def test_a_transfer_to_a_member_that_is_down_is_refused_at_once() -> None:
    wire = Wire()
    wire.elect("a")
    wire.crash("c")
    token = wire.transfer("a", "c")
    assert isinstance(wire.ended[token], Conflict)


def test_a_transfer_that_does_not_succeed_holds_writes_up_for_a_second_at_most() -> None:
    """However long its caller would wait: all writes of the cluster wait with it."""
    wire = Wire()
    wire.elect("a")
    wire.isolate("c")
    transfer = wire.transfer("a", "c", within_s=60)
    write = wire.propose("a", "x")
    wire.pass_time(1.1)
    assert isinstance(wire.ended[transfer], Conflict)
    assert wire.ended[write] == [request("x")]


def test_a_transfer_makes_the_target_lead_and_loses_no_write() -> None:
    wire = Wire()
    wire.elect("a")
    before = wire.propose("a", "before")
    transfer = wire.transfer("a", "b")
    during = wire.propose("a", "during"), wire.propose("c", "during too")
    wire.pass_time(0.5)
    assert wire.leaders() == ["b"]
    assert wire.ended[transfer] == "b"
    assert wire.ended[before] == [request("before")]
    assert [wire.ended[token] for token in during] == [[request("during")], [request("during too")]]


def test_a_member_that_cannot_apply_is_handed_one_part_and_no_more() -> None:
    """Its state's disk may be full for hours; the journal keeps what is committed meanwhile, not memory."""
    wire = Wire()
    wire.elect("a")
    wire.members["b"].apply_stuck = True
    for number in range(20):
        wire.propose("a", str(number) * 2**18)
        wire.deliver()
    wire.pass_time(0.2)
    assert len(wire.members["b"].handed_over) == 1
    wire.members["b"].apply_stuck = False
    wire.pass_time(0.2)
    assert wire.members["b"].requests == wire.members["a"].requests
