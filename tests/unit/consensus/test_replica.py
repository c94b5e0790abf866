"""Three replicas in memory, their wire driven by hand: what one member does to the others."""

from __future__ import annotations

from raftos.consensus.core import Timings
from raftos.consensus.messages import Acknowledged, BarrierAsked, Forwarded
from raftos.errors import Conflict
from tests.simulation.storage import SimulatedStorage
from tests.unit.consensus.wire import Frame, Wire, request


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


class CountingStorage(SimulatedStorage):
    """Counts what is read back from the disk."""

    read_bytes = 0

    def read(self, name: str, offset: int, size: int) -> bytes:
        self.read_bytes += size
        return super().read(name, offset, size)


def test_a_follower_with_a_full_window_costs_the_leader_no_reading_with_every_write() -> None:
    """One member a gigabyte behind must not slow down all the others' writes."""
    wire = Wire(timings=Timings(append_bytes=10_000), cache_bytes=5_000)
    storage = wire.members["a"].storage = CountingStorage()
    wire.restart("a")
    wire.elect("a")
    wire.crash("c")
    for _ in range(100):
        wire.propose("a", "x" * 1_000)
        wire.deliver()

    def c_falls_silent(frame: Frame) -> bool:
        silent = wire["a"]._flow.matched("c") > 10
        return not (silent and frame.sender == "c" and isinstance(frame.message, Acknowledged))

    wire.start("c")
    for _ in range(3):
        wire.tick("a", after_s=0.1)
        wire.deliver(c_falls_silent)
    assert 10 < wire["a"]._flow.matched("c") < 50
    before = storage.read_bytes
    for _ in range(50):
        wire.propose("a", "y")
        wire.deliver(c_falls_silent)
    assert storage.read_bytes - before < 50_000
    wire.pass_time(1)
    assert wire.members["c"].requests == wire.members["a"].requests
