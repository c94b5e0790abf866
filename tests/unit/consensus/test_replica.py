"""Three replicas in memory, their wire driven by hand: what one member does to the others."""

from __future__ import annotations

from raftos.consensus.base import Role
from raftos.consensus.core import Timings
from raftos.consensus.journal import Identity, Journal
from raftos.consensus.messages import Acknowledged, Append, BarrierAsked, Forwarded, StaleTerm, TimeoutNow
from raftos.errors import Conflict, InvalidInput, NoQuorum, OutcomeUnknown
from tests.simulation.storage import SimulatedStorage
from tests.unit.consensus.wire import Frame, Wire, request


def test_a_write_through_any_member_comes_back_and_reaches_all() -> None:
    wire = Wire()
    wire.elect("a")
    tokens = {name: wire.propose(name, name) for name in wire.names}
    wire.deliver()
    assert [wire.ended[tokens[name]] for name in wire.names] == [[request(name)] for name in wire.names]
    wire.pass_time(0.2)
    assert [set(member.requests) for member in wire.members.values()] == [set(map(request, "abc"))] * 3


def promised() -> tuple[Wire, object]:
    """A write of leader "a" that "b" will acknowledge once it is on its disk, which is stuck; "c" is away."""
    wire = Wire()
    wire.elect("a")
    wire.isolate("c")
    wire.members["b"].disk_stuck = True
    write = wire.propose("a", "x")
    wire.deliver()
    return wire, write


def test_a_follower_acknowledges_only_what_is_on_its_disk() -> None:
    wire, write = promised()
    assert not wire.waiting(Acknowledged)
    assert write not in wire.ended
    wire.repair_disk("b")
    wire.deliver()
    assert wire.ended[write] == [request("x")]


def test_a_promise_is_not_sent_over_a_later_link() -> None:
    """Whoever it was made to has forgotten, or will ask again."""
    wire, _ = promised()
    wire.unlink("a", "b")
    wire.link("a", "b")
    wire.repair_disk("b")
    assert not wire.waiting(Acknowledged)
    wire.pass_time(0.5)
    assert wire.members["b"].requests == [request("x")]


def test_a_leader_counts_itself_only_as_far_as_its_own_disk() -> None:
    """Both followers having it would not help if the leader had promised it and forgot."""
    wire = Wire()
    wire.elect("a")
    wire.members["a"].disk_stuck = True
    write = wire.propose("a", "x")
    wire.deliver()
    last = wire.members["a"].journal.last_index
    assert [wire["a"].replication.matched(name) for name in "bc"] == [last, last]
    assert write not in wire.ended
    wire.repair_disk("a")
    assert wire.ended[write] == [request("x")]


def test_a_member_hands_over_only_what_is_on_its_own_disk() -> None:
    wire = Wire()
    wire.elect("a")
    wire.members["c"].disk_stuck = True
    write = wire.propose("a", "x")
    wire.pass_time(0.3)
    assert write in wire.ended
    assert wire["c"].core.engine.commit_index == wire["a"].core.commit_index
    assert wire.members["c"].requests == []
    wire.repair_disk("c")
    assert wire.members["c"].requests == [request("x")]


def test_a_leader_in_trouble_gives_way_and_follows() -> None:
    wire = Wire()
    wire.elect("a")
    write = wire.propose("a", "x")
    wire["a"].troubled(wire.now, "disk full")
    wire.step("a")
    wire.pass_time(2)
    assert wire.leaders() in (["b"], ["c"])
    assert wire.ended[write] == [request("x")]
    assert wire["a"].status().trouble == "disk full"


def test_a_leader_whose_disk_hangs_gives_way_after_one_election_timeout() -> None:
    wire = Wire()
    wire.elect("a")
    wire.members["a"].disk_stuck = True
    write = wire.propose("a", "x")
    assert wire.until(lambda: "a" not in wire.leaders()) <= wire.timings.election_s + 0.1
    wire.pass_time(2)
    assert wire.ended[write] == [request("x")]


def test_a_cluster_of_one_stays_leader_in_trouble_and_refuses_in_time() -> None:
    wire = Wire(1)
    wire.until(lambda: bool(wire.leaders()))
    wire["a"].troubled(wire.now, "disk full")
    token = wire.propose("a", "x", within_s=0.5)
    wire.pass_time(1)
    assert isinstance(wire.ended[token], NoQuorum)
    wire["a"].troubled(wire.now, None)
    again = wire.propose("a", "x")
    wire.pass_time(0.1)
    assert wire.ended[again] == [request("x")]


def test_a_message_of_an_older_link_and_an_answer_of_a_stranger_are_dropped() -> None:
    wire = Wire()
    wire.elect("a")
    core = wire["b"].core
    term, generation = core.term, core.links["a"]
    wire["b"].received(wire.now, "a", generation - 1, StaleTerm(term + 5))
    wire["b"].received(wire.now, "z", generation, StaleTerm(term + 5))
    wire["b"].linked(wire.now, "z", 99)
    wire["b"].received(wire.now, "z", 99, StaleTerm(term + 5))
    wire.step("b")
    assert core.term == term


def test_an_append_of_an_earlier_term_is_answered_with_the_present_one() -> None:
    """Its leader then gives way; a member of a higher term would else never be heard."""
    wire = Wire()
    wire.elect("a")
    wire["b"].received(wire.now, "a", wire["b"].core.links["a"], Append(0, 1, 1, 0, []))
    wire.step("b")
    assert [frame.message for frame in wire.waiting(StaleTerm)] == [StaleTerm(wire["b"].core.term)]


def test_a_frame_that_arrives_twice_changes_nothing_the_second_time() -> None:
    wire = Wire()
    wire.elect("a")
    tokens = [wire.propose(name, name) for name in "abc"]
    reads = [wire.read(name) for name in "abc"]
    while wire.frames:
        frame = wire.frames.pop(0)
        wire.give(frame)
        wire.give(frame)
    wire.pass_time(0.3)
    assert [wire.ended[token] for token in tokens] == [[request(name)] for name in "abc"]
    assert set(reads) <= set(wire.ended)
    assert wire.leaders() == ["a"]
    assert len({tuple(member.applied) for member in wire.members.values()}) == 1


def test_a_member_that_missed_much_catches_up_and_conflicting_entries_go() -> None:
    wire = Wire(timings=Timings(append_bytes=400))
    wire.elect("a")
    wire.isolate("a")
    lost = [wire.propose("a", f"lost {number}", within_s=0.2) for number in range(2)]
    wire.until(lambda: wire.leaders() not in ([], ["a"]))
    (leader,) = set(wire.leaders()) - {"a"}
    for number in range(100):
        wire.propose(leader, f"{number} {'x' * 50}")
        wire.deliver()
    wire.heal()
    wire.pass_time(1.5)
    assert all(isinstance(wire.ended[token], OutcomeUnknown) for token in lost)
    assert wire.members["a"].requests == wire.members[leader].requests
    assert len(wire.members["a"].requests) == 100


def test_a_long_conflicting_tail_is_replaced_within_a_few_round_trips_for_each_entry() -> None:
    """Leaders that never reach a majority leave a few entries each; going back goes one by one."""
    wire = Wire()
    wire.elect("a")
    member = wire.members["c"]
    wire.crash("c")
    journal = Journal.open(member.storage, Identity("wire", "c"))
    term = journal.last_term
    for number in range(1, 60):
        journal.append(b"\x01", journal.last_index + 1, term + number)
        journal.set_hard_state(term + number, None)
    write = journal.take()
    assert write is not None
    journal.writer.write(write)
    wire.start("c")
    wire.propose("a", "x", within_s=9)
    wire.propose("b", "y", within_s=9)
    wire.pass_time(4)
    assert len({tuple(one.applied) for one in wire.members.values()}) == 1
    assert set(wire.members["c"].requests) <= {request("x"), request("y")}


def test_a_restart_in_every_place_loses_no_acknowledged_write() -> None:
    """Before each frame in turn one member is restarted."""
    for place in range(12):
        for name in "abc":
            wire = Wire()
            wire.elect("a")
            first = wire.propose("a", "first")
            second = wire.propose("b", "second")
            for _ in range(place):
                if wire.frames:
                    wire.give(wire.frames.pop(0))
            wire.restart(name)
            wire.pass_time(2.5)
            known = [wire.ended[token] for token in (first, second) if token in wire.ended]
            applied = {tuple(member.requests) for member in wire.members.values()}
            assert len(applied) == 1
            (requests,) = applied
            assert all(set(result) <= set(requests) for result in known if isinstance(result, list))


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
        silent = wire["a"].replication.matched("c") > 10
        return not (silent and frame.sender == "c" and isinstance(frame.message, Acknowledged))

    wire.start("c")
    for _ in range(3):
        wire.tick("a", after_s=0.1)
        wire.deliver(c_falls_silent)
    assert 10 < wire["a"].replication.matched("c") < 50
    before = storage.read_bytes
    for _ in range(50):
        wire.propose("a", "y")
        wire.deliver(c_falls_silent)
    assert storage.read_bytes - before < 50_000
    wire.pass_time(1)
    assert wire.members["c"].requests == wire.members["a"].requests


def test_what_cannot_be_transferred_says_why() -> None:
    wire = Wire()
    wire.elect("a")
    on_follower, to_stranger = wire.transfer("b", "c"), wire.transfer("a", "z")
    first, second = wire.transfer("a", None), wire.transfer("a", "b")
    wire.pass_time(0.5)
    assert isinstance(wire.ended[on_follower], NoQuorum)
    assert isinstance(wire.ended[to_stranger], InvalidInput)
    assert isinstance(wire.ended[second], Conflict)
    assert [wire.ended[first]] == wire.leaders() != ["a"]


def test_a_status_says_what_a_member_believes() -> None:
    wire = Wire()
    wire.elect("a")
    wire.propose("a", "x")
    wire.pass_time(0.2)
    leader, follower = wire["a"].status(), wire["b"].status()
    assert (leader.role, follower.role) == (Role.LEADER, Role.FOLLOWER)
    assert leader.leader_id == follower.leader_id == "a"
    assert leader.commit_index == follower.applied_index == leader.synced_index
    assert (follower.connected, follower.has_quorum) == (("a", "c"), True)
    wire.isolate("b")
    wire.pass_time(1)
    assert not wire["b"].status().has_quorum


def test_a_member_whose_disk_is_full_for_long_does_not_gather_promises_it_cannot_keep() -> None:
    """Reads go on through the others, thousands of rounds a second, for as long as nobody makes space."""
    wire = Wire()
    wire.elect("a")
    wire.members["c"].disk_stuck = True
    wire.propose("a", "x")
    wire.pass_time(1)
    held = len(wire["c"].core._held)
    for _ in range(100):
        reads = [wire.read("a") for _ in range(10)]
        wire.pass_time(0.1)
        assert set(reads) <= set(wire.ended)
    assert len(wire["c"].core._held) <= held + 1
    wire.repair_disk("c")
    wire.pass_time(0.5)
    wire.crash("b")
    read = wire.read("a")
    wire.pass_time(0.2)
    assert read in wire.ended


def test_a_sync_keeps_the_promises_of_what_it_has_written_and_not_of_what_came_meanwhile() -> None:
    wire, _ = promised()
    under_way, written = wire.members["b"].begin_write(), wire.members["b"].journal.last_index
    wire.propose("a", "y")
    wire.deliver()
    wire.finish_write("b", under_way)
    assert wire["a"].replication.matched("b") == written
    wire.repair_disk("b")
    wire.deliver()
    assert wire["a"].replication.matched("b") == written + 1


def test_the_end_of_an_older_link_is_not_that_of_the_present_one() -> None:
    wire = Wire()
    wire.elect("a")
    b = wire["b"]
    b.unlinked(wire.now, "a", b.core.links["a"] - 1)
    assert "a" in b.core.links


def test_what_was_asked_over_a_link_is_asked_again_when_another_takes_its_place() -> None:
    """Also where the leader is heard over the new one at once, so that it never seems to be gone."""
    wire = Wire()
    wire.elect("a")
    write, read = wire.propose("b", "x"), wire.read("b")
    wire.frames.clear()
    a, b, log = wire["a"], wire["b"], wire.members["a"].journal
    generation = b.core.links["a"] + 100
    a.linked(wire.now, "b", generation)
    b.linked(wire.now, "a", generation)
    heartbeat = Append(a.core.term, a.core.commit_index, log.last_index, log.last_term, [])
    b.received(wire.now, "a", generation, heartbeat)
    wire.step("b")
    wire.pass_time(0.5)
    assert wire.ended[write] == [request("x")]
    assert isinstance(wire.ended[read], int)


def test_an_acknowledgement_of_a_later_term_deposes_a_leader() -> None:
    wire = Wire()
    wire.elect("a")
    a = wire["a"]
    later = Acknowledged(a.core.term + 1, 2, success=True, reset=False)
    a.received(wire.now, "b", a.core.links["b"], later)
    assert not a.core.is_leader
    assert a.core.term == later.term


def test_leadership_is_handed_over_once_the_target_has_everything_and_nothing_is_proposed_meanwhile() -> None:
    """Who lacks something would get no votes, and who is sent more and more would never have it all."""
    wire = Wire()
    wire.elect("a")
    wire.isolate("b")
    wire.propose("a", "x")
    wire.deliver()
    wire.transfer("a", "b")
    last = wire.members["a"].journal.last_index
    write = wire.propose("a", "y")
    wire.tick("a", after_s=0.025)
    assert wire.members["a"].journal.last_index == last
    assert not wire.waiting(TimeoutNow)
    wire.heal()
    wire.pass_time(1)
    assert wire.leaders() == ["b"]
    assert wire.ended[write] == [request("y")]


def test_leadership_goes_to_the_voter_that_has_most() -> None:
    """Nothing is proposed until another has caught up."""
    wire = Wire()
    wire.elect("a")
    wire.isolate("c")
    wire.propose("a", "x")
    wire.deliver()
    done = wire.transfer("a", None)
    wire.pass_time(0.5)
    assert wire.ended[done] == "b"


def test_a_deposed_leader_that_knows_no_successor_at_the_deadline_says_that_it_does_not_know() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    done = wire.transfer("a", "b", within_s=0.2)
    wire["a"].core.engine.observe_term(wire.now, wire["a"].core.term + 1)
    wire.tick("a", after_s=0.3)
    assert isinstance(wire.ended[done], OutcomeUnknown)
