"""Followers that lack what their leader has forgotten: offers, installations, and what goes on meanwhile."""

from __future__ import annotations

from raftos.consensus.configuration import Add, Standing
from raftos.consensus.guard import FIRST_INDEX
from raftos.consensus.messages import Acknowledged, Append, SnapshotOffered, StaleTerm
from tests.unit.consensus.wire import Wire, request

SEGMENT_BYTES = 600


def left_behind() -> Wire:
    """A leads; c was away, and a's log begins after what c lacks."""
    wire = Wire(segment_bytes=SEGMENT_BYTES)
    wire.elect("a")
    wire.crash("c")
    for number in range(40):
        wire.propose("a", f"value {number}")
        wire.deliver()
    wire.pass_time(0.2)
    wire.trim("a")
    wire.start("c")
    assert wire.members["a"].journal.first_index > wire.members["c"].journal.last_index
    return wire


def test_who_lacks_what_is_trimmed_is_offered_a_snapshot_and_goes_on_from_there() -> None:
    wire = left_behind()
    wire.until(lambda: bool(wire.members["c"].offers))
    wire.install("c", "a")
    write = wire.propose("c", "after")
    wire.pass_time(0.5)
    assert wire.ended[write] == [request("after")]
    assert wire.members["c"].requests == wire.members["a"].requests


def test_who_is_offered_a_snapshot_knows_how_far_behind_it_is() -> None:
    """Its own log does not say; so it would call itself ready, and a stale read would call itself fresh."""
    wire = left_behind()
    wire.until(lambda: bool(wire.members["c"].offers))
    assert wire["c"].status().commit_index == wire.members["c"].offers[-1].index
    wire.install("c", "a")
    wire.pass_time(0.5)
    status = wire["c"].status()
    assert status.commit_index == status.applied_index == wire["a"].status().commit_index


def test_an_offer_is_repeated_while_the_leader_is_heard_all_the_time() -> None:
    wire = left_behind()
    term = wire["a"].core.term
    wire.pass_time(5)
    assert len(wire.members["c"].offers) >= 5
    assert wire.leaders() == ["a"]
    assert wire["a"].core.term == term


def test_no_entry_is_sent_to_who_waits_for_a_snapshot() -> None:
    """They would be rejected, each with another round of advice."""
    wire = left_behind()
    wire.until(lambda: bool(wire.members["c"].offers))
    seen = len(wire.delivered)
    wire.propose("a", "more")
    wire.pass_time(1)
    sent = [frame.message for frame in wire.delivered[seen:] if frame.receiver == "c"]
    assert not [message for message in sent if isinstance(message, Append) and message.entries]


def test_what_was_agreed_on_while_a_snapshot_travelled_follows_it() -> None:
    wire = left_behind()
    wire.until(lambda: bool(wire.members["c"].offers))
    for number in range(10):
        wire.propose("a", f"meanwhile {number}")
        wire.deliver()
    wire.install("c", "a")
    wire.pass_time(0.5)
    assert wire.members["c"].requests == wire.members["a"].requests


def test_an_offer_of_what_is_there_is_acknowledged_and_nothing_is_fetched() -> None:
    wire = left_behind()
    b, index = wire["b"], wire["b"].core.commit_index
    offer = SnapshotOffered(b.core.term, index, wire.members["b"].journal.last_term, 1_000)
    b.received(wire.now, "a", b.core.links["a"], offer)
    wire.step("b")
    assert not wire.members["b"].offers
    assert not b.wants_snapshot(index)


def test_an_offer_of_an_earlier_term_is_answered_with_the_present_one() -> None:
    wire = left_behind()
    c = wire["c"]
    c.received(wire.now, "a", c.core.links["a"], SnapshotOffered(c.core.term - 1, 900, 1, 1_000))
    wire.step("c")
    assert wire.waiting(StaleTerm)
    assert not wire.members["c"].offers


def test_a_snapshot_is_durable_before_it_is_acknowledged() -> None:
    wire = left_behind()
    wire.until(lambda: bool(wire.members["c"].offers))
    wire.members["c"].disk_stuck = True
    wire.install("c", "a")
    wire.pass_time(0.3)
    assert wire["a"].replication.matched("c") < wire.members["c"].offers[-1].index
    wire.repair_disk("c")
    wire.pass_time(0.3)
    assert wire["a"].replication.matched("c") == wire.members["a"].journal.last_index


def test_an_installed_snapshot_survives_a_restart_with_term_vote_and_configuration() -> None:
    wire = Wire(segment_bytes=SEGMENT_BYTES)
    wire.elect("a")
    wire.join("d")
    wire.isolate("d")
    wire.change("a", Add("d", "h:1", Standing.LEARNER))
    for number in range(40):
        wire.propose("a", f"value {number}")
        wire.deliver()
    wire.pass_time(0.2)
    wire.trim("a")
    wire.heal()
    wire.until(lambda: bool(wire.members["d"].offers))
    wire.install("d", "a")
    wire.pass_time(0.3)
    wire.restart("d")
    assert wire["d"].core.voters == ("a", "b", "c")
    assert wire["d"].core.configuration.learners == ("d",)
    wire.pass_time(0.5)
    assert wire.members["d"].requests == wire.members["a"].requests


def test_a_restarted_leader_knows_its_trimmed_log_and_leads_on() -> None:
    wire = left_behind()
    wire.until(lambda: bool(wire.members["c"].offers))
    wire.install("c", "a")
    wire.restart("a")
    wire.until(lambda: len(wire.leaders()) == 1)
    write = wire.propose("a", "again")
    wire.pass_time(0.5)
    assert wire.ended[write] == [request("again")]
    assert len({tuple(member.requests) for member in wire.members.values()}) == 1


def test_what_was_to_be_applied_when_a_snapshot_is_installed_is_not_handed_over_any_more() -> None:
    """The driver takes a long catching up in turns, and between two of them a snapshot may come."""
    wire = left_behind()
    wire.until(lambda: bool(wire.members["c"].offers))
    c, last = wire["c"], wire.members["c"].journal.last_index
    [(command, index, term)] = wire.members["b"].journal.entries(last + 1, last + 2)
    previous = Append(c.core.term, index, last, wire.members["c"].journal.last_term, [(command, index, term)])
    c.received(wire.now, "a", c.core.links["a"], previous)
    wire.sync("c")
    assert c.core.output.committed
    wire.install("c", "a")
    assert wire.members["c"].requests == wire.members["a"].requests


def test_an_older_snapshot_that_is_finished_late_is_not_offered() -> None:
    """One was being made while another arrived: the log begins after that one, and the older is of no use."""
    wire = left_behind()
    newest = wire["a"].core.snapshot
    assert newest is not None
    wire["a"].snapshot_made(wire.now, 2, 1, 1_000)
    wire.until(lambda: bool(wire.members["c"].offers))
    assert wire.members["c"].offers[-1].index == newest[0]


def test_what_a_snapshot_holds_is_agreed_on_as_soon_as_it_is_installed() -> None:
    """Not only once the leader is heard again: the same one would be fetched once more."""
    wire = left_behind()
    wire.until(lambda: bool(wire.members["c"].offers))
    index = wire.members["c"].offers[-1].index
    wire.isolate("c")
    wire.install("c", "a")
    assert wire["c"].core.commit_index == index
    assert not wire["c"].wants_snapshot(index)


def test_who_waits_for_a_snapshot_hears_its_leader_on_the_ground_that_all_logs_share() -> None:
    """The leader's log has forgotten what this follower has, and the terms of it too."""
    wire = left_behind()
    wire.delivered.clear()
    wire.pass_time(0.5)
    heard = [frame.message for frame in wire.delivered if frame.receiver == "c"]
    appends = [message for message in heard if isinstance(message, Append)]
    assert {(append.prev_index, append.prev_term) for append in appends} == {(FIRST_INDEX, 0)}


def test_a_snapshot_that_ends_before_the_log_begins_is_not_offered() -> None:
    """The newest was found damaged: with the one before it a follower would still lack what lies between."""
    wire = left_behind()
    wire["a"].snapshot_lost(wire.now)
    wire["a"].snapshot_made(wire.now, 2, 1, 1_000)
    wire.delivered.clear()
    wire.pass_time(2)
    assert not [frame for frame in wire.delivered if isinstance(frame.message, SnapshotOffered)]


def test_an_acknowledgement_that_is_said_again_waits_for_the_disk_like_the_first() -> None:
    """While bytes of something large arrive, what came before them may not be durable yet."""
    wire = Wire()
    wire.elect("a")
    wire.members["b"].disk_stuck = True
    wire.propose("a", "x")
    wire.deliver()
    wire.now += wire.timings.heartbeat_s
    wire["b"].hearing(wire.now, "a", wire["b"].core.links["a"])
    wire.step("b")
    assert not wire.waiting(Acknowledged)
    wire.repair_disk("b")
    assert wire.waiting(Acknowledged)


def test_a_rejection_is_not_said_again() -> None:
    """Each one makes the leader search for common ground anew."""
    wire = Wire()
    wire.elect("a")
    b, ahead = wire["b"], wire.members["b"].journal.last_index + 5
    b.received(wire.now, "a", b.core.links["a"], Append(b.core.term, 0, ahead, b.core.term, []))
    wire.step("b")
    assert wire.waiting(Acknowledged)
    wire.frames.clear()
    wire.now += wire.timings.heartbeat_s
    b.hearing(wire.now, "a", b.core.links["a"])
    wire.step("b")
    assert not wire.frames


def test_bytes_of_one_that_does_not_lead_are_no_sign_of_the_leader() -> None:
    wire = Wire()
    wire.elect("a")
    b = wire["b"]
    wire.now += wire.timings.election_s
    b.hearing(wire.now, "c", b.core.links["c"])
    assert not b.elections.hears_leader


def test_what_was_said_on_a_link_that_closed_is_said_again_on_the_next() -> None:
    wire = Wire()
    wire.elect("a")
    wire.tick("a", after_s=wire.timings.heartbeat_s)
    wire.deliver()
    wire.unlink("a", "b")
    wire.link("a", "b")
    wire.now += wire.timings.heartbeat_s / 4
    wire["a"].replication.send_all()
    wire.step("a")
    wire.deliver(lambda frame: frame.receiver == "b")
    assert [frame for frame in wire.waiting(Acknowledged) if frame.sender == "b"]
