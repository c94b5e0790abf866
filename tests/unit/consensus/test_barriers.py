"""Read barriers: an index is given only to those who asked, and only once it proves something."""

from __future__ import annotations

from raftos.consensus.barriers import _Read
from raftos.consensus.configuration import Remove
from raftos.consensus.messages import Append, BarrierAnswered, BarrierAsked, Confirm, Confirmed, StaleTerm
from raftos.errors import NoQuorum
from tests.unit.consensus.wire import Frame, Wire


def no_confirmations(frame: Frame) -> bool:
    return not isinstance(frame.message, Confirmed)


def test_a_read_on_any_member_waits_until_it_has_applied_what_was_acknowledged_before() -> None:
    wire = Wire()
    wire.elect("a")
    wire.members["b"].apply_stuck = True
    write = wire.propose("a", "x")
    wire.deliver()
    assert write in wire.ended
    reads = {name: wire.read(name) for name in wire.names}
    wire.pass_time(0.1)
    index = wire["a"].core.commit_index
    assert [wire.ended.get(reads[name]) for name in wire.names] == [index, None, index]
    wire.members["b"].apply_stuck = False
    wire.pass_time(0.1)
    assert wire.ended[reads["b"]] == index


def test_all_reads_that_wait_share_one_round_and_later_ones_the_next() -> None:
    """An answer that was under way before a read began proves nothing about it."""
    wire = Wire()
    wire.elect("a")
    first = [wire.read("a") for _ in range(5)]
    second = [wire.read("a") for _ in range(5)]
    rounds = {frame.message.round for frame in wire.waiting(Confirm) if isinstance(frame.message, Confirm)}
    assert len(rounds) == 1
    wire.deliver(lambda frame: isinstance(frame.message, Confirm))
    confirmations = wire.waiting(Confirmed)
    wire.give(confirmations[0])
    assert set(wire.ended) == {first[0]}
    wire.deliver()
    assert set(wire.ended) == {*first, *second}


def test_a_member_asks_the_leader_one_question_at_a_time_for_all_its_reads() -> None:
    wire = Wire()
    wire.elect("a")
    reads = [wire.read("b") for _ in range(10)]
    assert len(wire.waiting(BarrierAsked)) == 1
    wire.delivered.clear()
    wire.deliver()
    assert set(reads) <= set(wire.ended)
    assert len([frame for frame in wire.delivered if isinstance(frame.message, BarrierAsked)]) == 2


def test_a_new_leader_answers_only_after_an_entry_of_its_own_term_has_committed() -> None:
    """Before that it does not know how far its predecessor had committed."""
    wire = Wire()
    wire.elect("a")
    wire.isolate("c")
    write = wire.propose("a", "x")
    wire.deliver(lambda frame: frame.receiver == "b" or not isinstance(frame.message, Append))
    wire.deliver(lambda frame: frame.receiver == "a")
    assert write in wire.ended
    assert wire["b"].core.commit_index < wire["a"].core.commit_index
    committed = wire["a"].core.commit_index
    wire.crash("a")
    wire.heal()
    wire["b"].elections.lost_leader()
    wire.tick("b", after_s=0.025)
    wire.deliver(lambda frame: not isinstance(frame.message, Append))
    assert wire.leaders() == ["b"]
    read = wire.read("b")
    wire.deliver(lambda frame: not isinstance(frame.message, Append))
    assert read not in wire.ended
    wire.pass_time(0.3)
    assert wire.ended[read] >= committed


def test_a_deposed_leader_does_not_answer_by_confirmations_of_another_term() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    wire.until(lambda: wire.leaders() not in ([], ["a"]))
    assert "a" in wire.leaders()
    read = wire.read("a", within_s=0.3)
    wire.heal()
    wire.pass_time(0.025)
    assert "a" not in wire.leaders()
    wire.pass_time(1)
    assert wire.ended[read] >= max(wire[name].core.commit_index for name in "bc")


def test_a_leader_that_reaches_nobody_says_so_at_the_deadline() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    read = wire.read("a", within_s=0.3)
    wire.pass_time(0.4)
    assert isinstance(wire.ended[read], NoQuorum)


def test_a_confirmation_waits_until_the_term_it_speaks_of_is_durable() -> None:
    wire = Wire()
    for name in "bc":
        wire.members[name].disk_stuck = True
    core = wire["b"].core
    wire["b"].received(wire.now, "a", core.links["a"], Append(1, 1, 1, 0, []))
    wire["b"].received(wire.now, "a", core.links["a"], Confirm(1, 1))
    wire.step("b")
    assert core.term == 1
    assert not wire.waiting(Confirmed)
    wire.repair_disk("b")
    assert wire.waiting(Confirmed)


def test_a_confirmation_of_another_term_is_not_given() -> None:
    wire = Wire()
    wire.elect("a")
    core = wire["b"].core
    for term in (core.term - 1, core.term + 1):
        wire["b"].received(wire.now, "a", core.links["a"], Confirm(term, 99))
        wire.step("b")
    assert not wire.waiting(Confirmed)


def test_reads_that_were_asked_of_a_lost_leader_are_asked_of_the_next() -> None:
    wire = Wire()
    wire.elect("a")
    read = wire.read("b")
    assert wire.waiting(BarrierAsked)
    wire.crash("a")
    wire.pass_time(1)
    assert wire.ended[read] == wire["b"].core.commit_index


def test_a_cluster_of_one_reads_by_its_own_durable_term() -> None:
    wire = Wire(1)
    wire.until(lambda: bool(wire.leaders()))
    read = wire.read("a")
    wire.pass_time(0.15)
    assert wire.ended[read] == wire["a"].core.commit_index


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


def test_a_round_ends_when_those_who_have_confirmed_are_a_majority_of_fewer_voters() -> None:
    """Nobody else has to say anything, and the reads that came later begin theirs at once."""
    wire = Wire(2)
    wire.elect("a")
    first, second = wire.read("a"), wire.read("a")
    assert not wire.ended.keys() & {first, second}
    wire.change("a", Remove("b"))
    assert {first, second} <= wire.ended.keys()


def test_a_confirmation_that_comes_late_does_not_count_for_the_next_round() -> None:
    """It says that this member led when the round before began; by now another may lead."""
    wire = Wire()
    wire.elect("a")
    first = wire.read("a")
    wire.deliver(no_confirmations)
    in_time, late = wire.waiting(Confirmed)
    wire.give(in_time)
    assert first in wire.ended
    second = wire.read("a")
    wire.give(late)
    assert second not in wire.ended


def test_a_round_whose_confirmations_are_lost_is_repeated() -> None:
    wire = Wire()
    wire.elect("a")
    read = wire.read("a")
    wire.frames.clear()
    wire.pass_time(0.3)
    assert wire.ended[read] == wire["a"].core.commit_index


def test_an_answer_to_a_question_that_was_given_up_is_not_taken_for_one_to_the_next() -> None:
    """What has been written since the leader looked would be missing."""
    wire = Wire()
    wire.elect("a")
    read = wire.read("b")
    wire.deliver(lambda frame: not isinstance(frame.message, BarrierAnswered))
    [late] = wire.waiting(BarrierAnswered)
    wire["b"].elections.lost_leader()
    wire.step("b")
    wire.tick("a", after_s=wire.timings.heartbeat_s)
    wire.deliver(lambda frame: isinstance(frame.message, Append))
    wire.give(late)
    assert read not in wire.ended
    wire.deliver()
    assert read in wire.ended


def test_a_question_that_one_who_leads_no_more_hands_back_is_asked_of_who_does() -> None:
    wire = Wire()
    wire.elect("a")
    read = wire.read("b")
    wire.deliver(no_confirmations)
    wire.frames.clear()
    wire["a"].core.engine.observe_term(wire.now, wire["a"].core.term + 1)
    wire.step("a")
    [handed_back] = wire.waiting(BarrierAnswered)
    wire.give(handed_back)
    assert read not in wire.ended
    wire.pass_time(2)
    assert wire.ended[read] == wire["b"].core.commit_index


def test_reads_that_were_asked_of_a_silent_leader_are_asked_of_the_next() -> None:
    """Its link is still there."""
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    read = wire.read("b")
    wire.pass_time(3)
    assert wire.ended[read] == wire["b"].core.commit_index


def test_a_read_ends_with_the_entry_that_it_waits_for_and_not_with_the_one_before() -> None:
    wire = Wire()
    wire.elect("a")
    a = wire["a"]
    a.barriers._resolve(_Read(wire.now + 1, "read"), a.barriers.applied_index + 2)
    for ended in (False, True):
        a.applied(wire.now, [(a.barriers.applied_index + 1, [])], 0)
        wire.step("a")
        assert ("read" in wire.ended) == ended


def test_a_read_that_ended_late_holds_up_none_of_those_that_waited_with_it() -> None:
    wire = Wire()
    wire.elect("a")
    a, applied = wire["a"], wire["a"].barriers.applied_index
    for ahead in (1, 9, 2, 10, 11, 3):
        a.barriers._resolve(_Read(wire.now + (0.1 if ahead == 1 else 5), ahead), applied + ahead)
    wire.tick("a", after_s=0.2)
    a.applied(wire.now, [(applied + 3, [])], 0)
    wire.step("a")
    assert [wire.ended.get(ahead) for ahead in (2, 3, 9)] == [applied + 2, applied + 3, None]


def test_who_asks_for_confirmation_in_an_earlier_term_is_told_the_present_one() -> None:
    wire = Wire()
    wire.elect("a")
    b = wire["b"]
    b.received(wire.now, "a", b.core.links["a"], Confirm(b.core.term - 1, 1))
    wire.step("b")
    assert [frame.message for frame in wire.waiting(StaleTerm)] == [StaleTerm(b.core.term)]
