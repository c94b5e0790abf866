"""Writes on their way: what is gathered, where it goes, and how each call ends."""

from __future__ import annotations

import pytest

from raftos.consensus.messages import Acknowledged, Append, ForwardAnswered, Forwarded, Outcome
from raftos.consensus.proposals import (
    ENOUGH_REQUESTS,
    MAX_BATCH_BYTES,
    MAX_BATCH_REQUESTS,
    MAX_PENDING_BYTES,
)
from raftos.errors import NoQuorum, OutcomeUnknown
from tests.unit.consensus.wire import Frame, Wire, request, requests_of


def no_acknowledgements(frame: Frame) -> bool:
    return not isinstance(frame.message, Acknowledged)


def entry_sizes(wire: Wire, name: str) -> list[int]:
    """How many requests each entry carries that has any."""
    counts = [len(requests_of(payload)[1]) for _, payload in wire.members[name].applied]
    return [count for count in counts if count]


def test_an_idle_leader_proposes_at_once_and_a_busy_one_gathers_what_waits_into_one_entry() -> None:
    wire = Wire()
    wire.elect("a")
    tokens = [wire.propose("a", str(number)) for number in range(20)]
    wire.deliver()
    assert entry_sizes(wire, "a") == [1, 1, 18]
    assert [wire.ended[token] for token in tokens] == [[request(str(number))] for number in range(20)]


def test_an_entry_carries_at_most_so_many_requests() -> None:
    wire = Wire()
    wire.elect("a")
    half = ["x"] * (MAX_BATCH_REQUESTS // 2 + 1)
    for _ in range(4):
        wire.propose("a", *half)
    wire.deliver()
    assert entry_sizes(wire, "a") == [len(half)] * 4


def test_an_entry_carries_at_most_so_many_bytes_unless_one_call_alone_has_more() -> None:
    wire = Wire()
    wire.elect("a")
    for size in (1, 1, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES + 9, 1):
        wire.propose("a", "x" * size)
    wire.deliver()
    assert entry_sizes(wire, "a") == [1] * 6


def test_at_most_two_entries_are_under_way() -> None:
    wire = Wire()
    wire.elect("a")
    before = wire.members["a"].journal.last_index
    for number in range(10):
        wire.propose("a", str(number))
    assert wire.members["a"].journal.last_index == before + 2


@pytest.mark.parametrize("under_way", [3, ENOUGH_REQUESTS, 5 * ENOUGH_REQUESTS])
def test_a_second_entry_waits_until_it_carries_as_many_as_the_first_or_enough(under_way: int) -> None:
    wire = Wire()
    wire.elect("a")
    before = wire.members["a"].journal.last_index
    wire.propose("a", *["x"] * under_way)
    enough = min(under_way, ENOUGH_REQUESTS)
    for _ in range(enough - 1):
        wire.propose("a", "x")
    assert wire.members["a"].journal.last_index == before + 1
    wire.propose("a", "x")
    assert wire.members["a"].journal.last_index == before + 2
    wire.deliver()
    assert entry_sizes(wire, "a") == [under_way, enough]


def test_what_waits_to_be_worth_an_entry_goes_when_the_one_under_way_is_done() -> None:
    wire = Wire()
    wire.elect("a")
    wire.propose("a", *["x"] * 10)
    token = wire.propose("a", "y")
    wire.deliver()
    assert wire.ended[token] == [request("y")]
    assert entry_sizes(wire, "a") == [10, 1]


def test_more_than_can_wait_is_refused_as_not_proposed() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    tokens = [
        wire.propose("a", "x" * MAX_BATCH_BYTES) for _ in range(MAX_PENDING_BYTES // MAX_BATCH_BYTES + 4)
    ]
    refused = [token for token in tokens if isinstance(wire.ended.get(token), NoQuorum)]
    assert 1 <= len(refused) <= 4
    assert set(wire.ended) == set(refused)


def test_at_its_deadline_a_call_that_was_sent_is_unknown_and_one_that_was_not_is_refused() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    sent = [wire.propose("a", "x", within_s=0.2) for _ in range(2)]
    waiting = wire.propose("a", "y", within_s=0.2)
    longer = wire.propose("a", "z", within_s=0.5)
    wire.pass_time(0.3)
    assert all(isinstance(wire.ended[token], OutcomeUnknown) for token in sent)
    assert isinstance(wire.ended[waiting], NoQuorum)
    assert longer not in wire.ended
    wire.heal()
    wire.pass_time(0.5)
    assert wire.ended[longer] == [request("z")]
    assert request("y") not in wire.members["a"].requests


def test_a_call_that_ended_late_does_not_shift_the_results_of_the_others_in_its_entry() -> None:
    wire = Wire()
    wire.elect("a")
    wire["a"].proposals.paused = True
    wire.propose("a", "one", within_s=0.2)
    wire.propose("a", "two", "three", within_s=5)
    wire["a"].proposals.paused = False
    last = wire.propose("a", "four", within_s=5)
    wire.isolate("a")
    wire.pass_time(0.3)
    wire.heal()
    wire.pass_time(0.2)
    assert [value for value in wire.ended.values() if isinstance(value, list)] == [
        [request("two"), request("three")],
        [request("four")],
    ]
    assert wire.ended[last] == [request("four")]


def test_without_a_leader_a_call_waits_and_is_refused_at_its_deadline() -> None:
    wire = Wire()
    for name in "bc":
        wire.crash(name)
    token = wire.propose("a", "x", within_s=0.5)
    wire.pass_time(0.4)
    assert token not in wire.ended
    wire.pass_time(0.2)
    assert isinstance(wire.ended[token], NoQuorum)


def test_a_call_on_a_follower_goes_to_the_leader_and_comes_back() -> None:
    wire = Wire()
    wire.elect("a")
    tokens = [wire.propose("b", f"b{number}", f"B{number}") for number in range(6)]
    wire.deliver()
    assert [wire.ended[token] for token in tokens] == [
        [request(f"b{number}"), request(f"B{number}")] for number in range(6)
    ]


def test_a_follower_has_at_most_four_forwards_under_way_and_gathers_meanwhile() -> None:
    wire = Wire()
    wire.elect("a")
    for number in range(10):
        wire.propose("b", str(number))
    assert len(wire.waiting(Forwarded)) == 4
    wire.deliver()
    assert wire.members["a"].requests == [request(str(number)) for number in range(10)]


def test_what_was_forwarded_to_a_lost_leader_is_sent_to_the_next_and_is_answered() -> None:
    wire = Wire()
    wire.elect("a")
    token = wire.propose("b", "x")
    wire.crash("a")
    wire.pass_time(1)
    assert wire.ended[token] == [request("x")]


def test_what_a_lost_leader_had_under_way_is_proposed_again_by_the_next() -> None:
    """The machine tells the copies apart by their request ids; the calls end once."""
    wire = Wire()
    wire.elect("a")
    own, forwarded = wire.propose("a", "own"), wire.propose("b", "forwarded")
    wire.deliver(lambda frame: isinstance(frame.message, Forwarded))
    wire.isolate("a")
    wire.until(lambda: wire.leaders() not in ([], ["a"]))
    wire.heal()
    wire.pass_time(1)
    assert wire.ended[own] == [request("own")]
    assert wire.ended[forwarded] == [request("forwarded")]
    requests = [set(member.requests) for member in wire.members.values()]
    assert requests == [{request("own"), request("forwarded")}] * 3


def overtake(wire: Wire) -> tuple[object, str]:
    """A call of an isolated leader "a", and the other one whose entry is agreed on at its index meanwhile."""
    wire.elect("a")
    wire.isolate("a")
    ours = wire.propose("a", "ours", within_s=9)
    wire.until(lambda: wire.leaders() not in ([], ["a"]))
    (other,) = set(wire.leaders()) - {"a"}
    theirs = wire.propose(other, "theirs")
    wire.pass_time(0.2)
    assert wire.ended[theirs] == [request("theirs")]
    return ours, other


def test_an_entry_of_another_leader_at_the_index_of_ours_does_not_answer_our_call() -> None:
    wire = Wire()
    ours, _ = overtake(wire)
    wire.heal()
    wire.pass_time(1)
    assert wire.ended[ours] == [request("ours")]


def test_a_member_that_does_not_lead_hands_a_forward_back() -> None:
    wire = Wire()
    wire.elect("a")
    wire["b"].received(wire.now, "c", wire["b"].core.links["c"], Forwarded(7, 1000, [request("x")]))
    wire.step("b")
    (answer,) = wire.waiting(ForwardAnswered)
    assert answer.message == ForwardAnswered(7, Outcome.NOT_LEADER, [])


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


def test_what_was_forwarded_to_a_silent_leader_is_sent_to_the_next() -> None:
    """Its link is still there."""
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    token = wire.propose("b", "x")
    wire.pass_time(3)
    assert wire.ended[token] == [request("x")]


def test_results_of_an_entry_that_took_the_place_of_ours_are_not_our_answer() -> None:
    """Not even for a moment: here the call is not proposed again before that entry is applied."""
    wire = Wire()
    ours, other = overtake(wire)
    wire.heal()
    wire.tick(other, after_s=wire.timings.heartbeat_s)
    wire.deliver(lambda frame: not isinstance(frame.message, Forwarded))
    assert wire.members["a"].requests == [request("theirs")]
    assert ours not in wire.ended


def test_each_forwarded_call_ends_at_its_own_deadline() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    tokens = [wire.propose("b", text, within_s=within_s) for text, within_s in (("x", 0.1), ("y", 0.2))]
    wire.pass_time(0.3)
    assert all(isinstance(wire.ended[token], OutcomeUnknown) for token in tokens)
