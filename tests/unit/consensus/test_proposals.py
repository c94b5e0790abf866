"""Writes on their way: what is gathered, where it goes, and how each call ends."""

from __future__ import annotations

from raftos.consensus.messages import Acknowledged, Append, Forwarded
from raftos.errors import NoQuorum, OutcomeUnknown
from tests.unit.consensus.wire import Frame, Wire, request


def no_acknowledgements(frame: Frame) -> bool:
    return not isinstance(frame.message, Acknowledged)


def test_results_of_a_forward_are_not_taken_for_those_of_the_next_life_of_a_member() -> None:
    """A restarted member numbers its forwards anew; the leader still holds number 1 of its last life."""
    wire = Wire()
    wire.elect("a")
    wire.isolate("c")
    wire.propose("b", "old")
    wire.deliver(lambda frame: isinstance(frame.message, Forwarded))
    assert wire.waiting(Append)
    wire.restart("b")
    wire.tick("a", after_s=0.1)
    wire.deliver(no_acknowledgements)
    new = wire.propose("b", "new")
    wire.deliver(no_acknowledgements)
    wire.pass_time(0.3)
    assert wire.ended[new] == [request("new")]


def test_a_leader_answers_forwards_whose_deadline_passed_while_it_proposed_nothing() -> None:
    """Left unanswered they would stay in flight, and four of them would close the way for good."""
    wire = Wire()
    wire.elect("a")
    wire["a"].proposals.paused = True
    late = [wire.propose("b", str(number), within_s=0.1) for number in range(5)]
    wire.pass_time(0.3)
    assert [type(wire.ended[token]) for token in late] == [OutcomeUnknown] * 4 + [NoQuorum]
    wire["a"].proposals.paused = False
    token = wire.propose("b", "in time")
    wire.pass_time(0.3)
    assert wire.ended[token] == [request("in time")]
    assert wire.members["a"].requests == [request("in time")]
