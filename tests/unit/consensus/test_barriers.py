"""Read barriers: an index is given only to those who asked, and only once it proves something."""

from __future__ import annotations

from raftos.consensus.messages import Confirmed
from tests.unit.consensus.wire import Frame, Wire


def no_confirmations(frame: Frame) -> bool:
    return not isinstance(frame.message, Confirmed)


def test_the_index_for_a_read_of_its_last_life_is_not_taken_for_a_later_read_of_a_member() -> None:
    """A restarted member numbers its questions anew; the leader still works on number 1 of its last life."""
    wire = Wire()
    wire.elect("a")
    wire.read("b")
    wire.deliver(no_confirmations)
    wire.restart("b")
    wire.tick("a", after_s=0.1)
    wire.deliver(no_confirmations)
    write = wire.propose("a", "x")
    wire.deliver(no_confirmations)
    assert write in wire.ended
    read = wire.read("b")
    wire.deliver()
    assert wire.ended[read] >= wire["a"].core.commit_index


def test_a_question_that_the_leader_could_not_confirm_in_time_does_not_end_all_reads_of_a_member() -> None:
    """The followers' disks take 0.7 s a write: enough to keep the leader, not to confirm it within 1 s."""
    wire = Wire()
    wire.elect("a")
    wire.members["b"].disk_stuck = wire.members["c"].disk_stuck = True
    wire.propose("a", "x")
    wire.deliver()
    first = {name: wire.members[name].begin_write() for name in "bc"}
    wire.propose("a", "y")
    wire.read("b", within_s=1.2)
    wire.pass_time(0.7)
    for name, write in first.items():
        wire.finish_write(name, write)
    second = {name: wire.members[name].begin_write() for name in "bc"}
    wire.pass_time(0.7)
    for name, write in second.items():
        wire.finish_write(name, write)
    wire.repair_disk("b")
    wire.repair_disk("c")
    wire.pass_time(0.5)
    assert wire.leaders() == ["a"]
    read = wire.read("b")
    wire.pass_time(0.5)
    assert wire.ended[read] == wire["b"].core.commit_index
