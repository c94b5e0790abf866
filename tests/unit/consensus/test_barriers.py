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
