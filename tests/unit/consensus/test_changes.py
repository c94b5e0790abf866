"""Members come and go, on a wire driven by hand: what is allowed, what counts, and how it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftos.consensus.base import Role
from raftos.consensus.changes import NEARLY_BYTES, NEARLY_ENTRIES
from raftos.consensus.configuration import Add, Change, Configuration, Promote, Remove, Standing, encode
from raftos.consensus.guard import Rules
from raftos.consensus.messages import (
    Acknowledged,
    Append,
    Confirmed,
    PreVote,
    PreVoteAnswer,
    Removed,
    VoteGranted,
    VoteRequest,
)
from raftos.errors import Busy, Conflict, InvalidInput, NoQuorum, NotFound, OutcomeUnknown
from tests.unit.consensus.wire import TICK_S, Wire, request

LEARN = Add("d", "127.0.0.1:4004", Standing.LEARNER)
JOIN = Add("d", "127.0.0.1:4004", Standing.JOINING)


def grown(standing: Standing = Standing.LEARNER) -> Wire:
    """Three voters led by a, and a fourth member d that was let in."""
    wire = Wire()
    wire.elect("a")
    wire.join("d")
    added = wire.change("a", Add("d", "127.0.0.1:4004", standing))
    wire.pass_time(0.3)
    assert isinstance(wire.ended[added], int)
    return wire


def test_a_learner_is_sent_everything_and_reads_but_does_not_vote() -> None:
    wire = grown()
    write, read = wire.propose("d", "x"), wire.read("d")
    wire.pass_time(0.2)
    assert wire.ended[write] == [request("x")]
    assert isinstance(wire.ended[read], int)
    assert wire.members["d"].requests == [request("x")]
    assert wire["d"].role == Role.LEARNER
    assert wire["a"].core.voters == ("a", "b", "c")


def test_a_learner_counts_in_no_majority() -> None:
    """Two of three voters are away: that a learner has an entry too does not commit it."""
    wire = grown()
    wire.isolate("b")
    wire.isolate("c")
    write = wire.propose("a", "x")
    wire.pass_time(0.3)
    assert wire["a"].replication.matched("d") == wire.members["a"].journal.last_index
    assert write not in wire.ended


def test_a_learner_never_campaigns() -> None:
    wire = grown()
    for name in "abc":
        wire.isolate(name)
    wire.pass_time(5)
    assert not [frame for frame in wire.frames if isinstance(frame.message, PreVote) and frame.sender == "d"]


def test_an_answer_of_a_learner_elects_nobody_and_confirms_nothing() -> None:
    wire = grown()
    wire.crash("a")
    wire.isolate("c")
    b = wire["b"]
    term = b.core.term
    b.elections._due = wire.now
    wire.tick("b")
    answer = PreVoteAnswer(term + 1, True, term, b.elections._question)
    b.received(wire.now, "d", b.core.links["d"], answer)
    assert b.core.term == term
    b.core.engine.campaign(wire.now)
    b.received(wire.now, "d", b.core.links["d"], VoteGranted(term + 1))
    assert not b.core.is_leader


def test_a_learner_confirms_no_read() -> None:
    wire = grown()
    wire.isolate("b")
    wire.isolate("c")
    read = wire.read("a")
    round_ = wire["a"].barriers._round
    assert round_ is not None
    wire["a"].received(wire.now, "d", wire["a"].core.links["d"], Confirmed(round_.term, round_.id))
    wire.step("a")
    assert read not in wire.ended


def test_a_joining_member_votes_by_itself_once_it_has_caught_up() -> None:
    wire = grown(Standing.JOINING)
    wire.until(lambda: "d" in wire["a"].core.voters)
    wire.pass_time(0.2)
    assert all(wire[name].core.voters == ("a", "b", "c", "d") for name in wire.names)
    wire.crash("a")
    wire.isolate("b")
    wire.pass_time(2)
    assert not wire.leaders(), "two of four are no majority"


@pytest.mark.parametrize(
    ("entries", "entry_bytes"), [(NEARLY_ENTRIES + 10, 10), (NEARLY_BYTES // 2**20 + 1, 2**20)]
)
def test_a_joining_member_that_lags_stays_a_learner(entries: int, entry_bytes: int) -> None:
    """A voter that lacks much would hold up every write that needs it, be it many entries or large ones."""
    wire = Wire()
    wire.elect("a")
    wire.join("d")
    for _ in range(entries):
        wire.propose("a", "x" * entry_bytes)
        wire.deliver()
    a, log = wire["a"], wire.members["a"].journal
    wire.change("a", JOIN)
    lagged = False
    while True:
        matched = a.replication.matched("d")
        lags = log.last_index - matched > NEARLY_ENTRIES or log.bytes_since(matched) > NEARLY_BYTES
        lagged |= lags and a.replication.answers("d")
        wire.tick("a", after_s=TICK_S)
        if "d" in a.core.voters:
            break
        wire.give(wire.frames.pop(0))
    assert lagged, "it was never heard while it lacked much, so nothing was refused"
    assert not lags


def test_a_joining_member_that_needs_a_snapshot_stays_a_learner() -> None:
    """However few entries there are: a snapshot may hold more than all of them."""
    wire = Wire(segment_bytes=600)
    wire.elect("a")
    wire.join("d")
    for number in range(40):
        wire.propose("a", f"value {number}")
        wire.deliver()
    wire.pass_time(0.2)
    assert wire.trim("a") < NEARLY_ENTRIES
    wire.change("a", JOIN)
    wire.pass_time(1)
    assert wire["a"].core.learners == ("d",)
    wire.install("d", "a")
    wire.until(lambda: "d" in wire["a"].core.voters)


def test_a_removed_member_is_told_and_disturbs_nobody() -> None:
    wire = Wire()
    wire.elect("a")
    removed = wire.change("a", Remove("c"))
    wire.pass_time(0.3)
    assert isinstance(wire.ended[removed], int)
    assert "was removed" in (wire["c"].core.expelled or "")
    term = wire["a"].core.term
    wire.pass_time(3)
    assert wire.leaders() == ["a"]
    assert wire["a"].core.term == term


def test_who_was_away_when_it_was_removed_is_told_when_it_returns() -> None:
    wire = Wire()
    wire.elect("a")
    wire.crash("c")
    wire.change("a", Remove("c"))
    wire.pass_time(0.5)
    wire.start("c")
    wire.pass_time(0.3)
    assert "was removed" in str(wire["c"].core.expelled)


def test_only_an_agreed_removal_is_told() -> None:
    """Until then the member may still be needed to decide."""
    wire = Wire()
    wire.elect("a")
    wire.isolate("b")
    wire.change("a", Remove("c"))
    wire.pass_time(0.3)
    assert not wire["a"].core.is_gone("c")
    wire.heal()
    wire.pass_time(0.5)
    assert wire["a"].core.is_gone("c")
    assert wire["c"].core.expelled


def test_news_of_ones_removal_that_is_older_than_ones_configuration_is_not_believed() -> None:
    wire = grown()
    d = wire["d"]
    d.received(wire.now, "a", d.core.links["a"], Removed(d.core.configuration_index - 1))
    assert d.core.expelled is None


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (Remove("a"), Conflict),
        (Promote("d"), Conflict),
        (Remove("x"), NotFound),
        (Add("x", "h:1", Standing.VOTER), InvalidInput),
    ],
)
def test_what_would_harm_is_refused_and_changes_nothing(change: Change, refusal: type[Exception]) -> None:
    wire = grown()
    wire.isolate("d")
    wire.pass_time(1.5)
    before = wire.members["a"].journal.last_index
    token = wire.change("a", change)
    assert isinstance(wire.ended[token], refusal)
    assert wire.members["a"].journal.last_index == before


def test_a_removal_that_would_leave_no_majority_is_refused() -> None:
    """Of three one is down: without the other healthy one, a leader alone could decide nothing of two."""
    wire = Wire()
    wire.elect("a")
    wire.crash("c")
    wire.pass_time(1.5)
    refused = wire.change("a", Remove("b"))
    assert "stand still" in str(wire.ended[refused])
    allowed = wire.change("a", Remove("c"))
    wire.pass_time(0.3)
    assert isinstance(wire.ended[allowed], int)


def test_one_change_at_a_time() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("b")
    wire.isolate("c")
    wire.change("a", JOIN)
    second = wire.change("a", Add("e", "h:1", Standing.LEARNER))
    assert "under way" in str(wire.ended[second])


def test_without_the_rule_a_second_change_is_appended_before_the_first_is_agreed_on() -> None:
    """Finding 21: the engine alone does not refuse it."""
    wire = Wire(rules=replace(Rules(), one_change_at_a_time=False))
    wire.elect("a")
    wire.isolate("b")
    wire.isolate("c")
    wire.change("a", JOIN)
    wire.change("a", Add("e", "h:1", Standing.LEARNER))
    assert wire["a"].core.learners == ("d", "e")
    assert wire["a"].core.commit_index < wire["a"].core.configuration_index


def test_a_new_leader_changes_nothing_before_an_entry_of_its_term_is_agreed_on() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    wire.pass_time(2)
    new = next(name for name in wire.leaders() if name != "a")
    other = "c" if new == "b" else "b"
    wire.crash(other)
    wire.crash(new)
    wire.heal()
    wire.start(new)
    wire[new].elections._due = wire.now
    wire.tick(new)
    wire.deliver(lambda frame: isinstance(frame.message, PreVote | PreVoteAnswer | VoteRequest | VoteGranted))
    assert wire[new].core.is_leader
    refused = wire.change(new, JOIN)
    assert "just been elected" in str(wire.ended[refused])


def test_a_change_that_was_truncated_is_undone_and_its_caller_does_not_know() -> None:
    """The configuration in force is the log's; nothing has to be rolled back by hand."""
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    token = wire.change("a", JOIN)
    assert wire["a"].core.followers == {"b", "c", "d"}
    wire.pass_time(3)
    wire.heal()
    wire.pass_time(1)
    assert isinstance(wire.ended[token], OutcomeUnknown)
    assert wire["a"].core.followers == {"b", "c"}


def test_a_change_ends_at_its_deadline_as_unknown() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("b")
    wire.isolate("c")
    token = wire.change("a", JOIN, within_s=0.2)
    wire.pass_time(0.3)
    assert isinstance(wire.ended[token], OutcomeUnknown)


def test_a_follower_makes_no_change() -> None:
    wire = Wire()
    wire.elect("a")
    assert isinstance(wire.ended[wire.change("b", JOIN)], NoQuorum)


def test_the_configuration_in_force_survives_a_restart() -> None:
    """Finding 22: before it is applied again, the first configuration would vote."""
    wire = grown(Standing.JOINING)
    wire.until(lambda: "d" in wire["a"].core.voters)
    wire.pass_time(0.3)
    for name in wire.names:
        wire.crash(name)
    for name in wire.names:
        wire.start(name)
        assert wire[name].core.voters == ("a", "b", "c", "d")
    wire.pass_time(3)
    assert len(wire.leaders()) == 1


def test_learners_are_told_only_what_a_lone_voter_has_on_its_disk() -> None:
    """PySyncObj counts a lone voter before its sync; if that fails, a learner would have applied too much."""
    wire = Wire(1)
    wire.pass_time(1)
    wire.join("b")
    wire.change("a", Add("b", "h:1", Standing.LEARNER))
    wire.pass_time(0.3)
    wire.members["a"].disk_stuck = True
    wire.propose("a", "not synced")
    wire.pass_time(0.3)
    assert wire["a"].core.engine.commit_index > wire["a"].core.commit_index
    assert wire.members["b"].requests == []
    wire.repair_disk("a")
    wire.pass_time(0.3)
    assert wire.members["b"].requests == [request("not synced")]


def test_the_cluster_grows_from_one_and_shrinks_to_one() -> None:
    wire = Wire(1)
    wire.pass_time(1)
    for name in "bcde":
        wire.join(name)
        wire.change("a", Add(name, "h:1", Standing.JOINING))
        wire.until(lambda name=name: name in wire["a"].core.voters)  # type: ignore[misc]
        wire.propose("a", name)
    wire.pass_time(0.3)
    assert wire["e"].core.voters == ("a", "b", "c", "d", "e")
    for name in "edcb":
        wire.change("a", Remove(name))
        wire.pass_time(0.3)
        wire.crash(name)
    last = wire.propose("a", "alone")
    wire.pass_time(0.3)
    assert wire.ended[last] == [request("alone")]
    assert wire.members["a"].requests == [request(each) for each in [*"bcde", "alone"]]


def test_acknowledgements_of_a_removed_member_count_no_more() -> None:
    """Finding 20: a message of a node just removed raised an error in the engine's tick."""
    wire = Wire()
    wire.elect("a")
    core = wire["a"].core
    wire.change("a", Remove("c"))
    last = wire.members["a"].journal.last_index
    wire["a"].received(wire.now, "c", core.links["c"], Acknowledged(core.term, last + 1, True, False))
    wire.step("a")
    assert core.commit_index < last, "a and c are no majority of a and b"
    wire.pass_time(0.5)
    assert core.commit_index == last
    assert core.voters == ("a", "b")


def test_leadership_goes_to_voters_only() -> None:
    wire = grown()
    refused = wire.transfer("a", "d")
    assert isinstance(wire.ended[refused], InvalidInput)
    done = wire.transfer("a", None)
    wire.pass_time(1)
    assert wire.ended[done] in {"b", "c"}


def test_a_lone_voter_sends_nothing_of_a_term_that_is_not_on_its_disk() -> None:
    """After a crash it would lead in the same term again, and its learner take other entries for these."""
    wire = Wire(1)
    wire.pass_time(1)
    wire.join("b")
    wire.change("a", Add("b", "h:1", Standing.LEARNER))
    wire.propose("a", "first")
    wire.pass_time(0.3)
    wire.crash("a")
    wire.members["a"].disk_stuck = True
    wire.start("a")
    wire.until(lambda: wire.leaders() == ["a"])
    wire.propose("a", "lost")
    wire.pass_time(0.3)
    wire.crash("a")
    wire.members["a"].disk_stuck = False
    wire.start("a")
    wire.until(lambda: wire.leaders() == ["a"])
    wire.propose("a", "kept")
    wire.pass_time(0.5)
    assert wire.members["a"].requests == [request("first"), request("kept")]
    assert wire.members["b"].requests == wire.members["a"].requests


def test_a_deposed_leader_with_a_later_configuration_of_its_own_hears_of_its_removal() -> None:
    """That configuration is nobody else's, and as the others send it nothing any more, it would stay."""
    wire = Wire()
    wire.elect("b")
    wire.isolate("b")
    for number in range(10):
        wire.propose("b", f"{number}")
    wire.change("b", LEARN)
    for peer in "ac":
        wire.unlink("b", peer)
    wire.until(lambda: bool({"a", "c"}.intersection(wire.leaders())))
    wire.pass_time(1.5)
    [leader] = wire.leaders()
    removed = wire.change(leader, Remove("b"))
    wire.pass_time(0.3)
    assert wire["b"].core.configuration_index > wire.ended[removed]
    wire.heal()
    for peer in "ac":
        wire.link("b", peer)
    wire.pass_time(1)
    assert "was removed" in str(wire["b"].core.expelled)


def test_a_removal_that_only_the_removed_has_heard_of_does_not_stop_those_that_are_left() -> None:
    """It does not vote for those that lack the entry, nor campaign, being no member: so it is not sent it."""
    wire = Wire()
    wire.elect("a")
    wire.cut.add(("a", "b"))
    wire.change("a", Remove("c"))
    wire.deliver()
    wire.crash("a")
    wire.heal()
    write = wire.propose("b", "x")
    wire.pass_time(3)
    assert wire.ended[write] == [request("x")]


def test_an_acknowledgement_that_waits_for_the_leaders_disk_does_not_outlive_its_member() -> None:
    """Finding 20, by another way: the engine knows the removed member no more, and would fail."""
    wire = grown()
    wire.members["a"].disk_stuck = True
    wire.propose("a", "x")
    wire.deliver()
    assert wire["a"].replication.has_waiting
    removed = wire.change("a", Remove("d"))
    wire.repair_disk("a")
    wire.deliver()
    assert wire.ended[removed] == wire["a"].core.configuration_index


def test_who_lacked_entries_when_it_was_removed_is_sent_no_more() -> None:
    """Its answer came just before."""
    wire = grown()
    wire.isolate("d")
    wire.propose("a", "x")
    wire.frames.clear()
    a = wire["a"]
    lacking = Acknowledged(a.core.term, 2, success=False, reset=True)
    a.received(wire.now, "d", a.core.links["d"], lacking)
    wire.change("a", Remove("d"))
    assert not [frame for frame in wire.waiting(Append) if frame.receiver == "d"]


def test_what_a_smaller_majority_has_already_is_agreed_on_at_once() -> None:
    """Nobody need say anything more: two of four had it, and now they are two of three."""
    wire = Wire(4)
    wire.elect("a")
    for name in "cd":
        wire.isolate(name)
    write = wire.propose("a", "x")
    wire.deliver()
    assert write not in wire.ended
    wire.isolate("b")
    wire.change("a", Remove("d"))
    assert wire.ended[write] == [request("x")]


def test_nothing_is_changed_while_leadership_is_handed_over() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("b")
    wire.transfer("a", "b")
    refused = wire.change("a", LEARN)
    assert isinstance(wire.ended[refused], Busy)


def test_a_later_configuration_that_nobody_agreed_on_is_no_reason_to_doubt_ones_removal() -> None:
    """Not even if it is heard of in a term that the deposed leader has come to by itself."""
    wire = Wire()
    wire.elect("b")
    wire.isolate("b")
    wire.change("b", LEARN)
    b = wire["b"]
    b.received(wire.now, "a", b.core.links["a"], Removed(b.core.configuration_index - 1, b.core.term))
    assert b.core.expelled


def test_a_member_that_a_snapshot_names_among_the_removed_stops() -> None:
    wire = Wire()
    without_c = Configuration(Configuration.of("ab").peers, ("c",))
    wire["c"].install(wire.now, 20, 1, encode(without_c), 0)
    wire.step("c")
    wire.tick("c")
    assert "was removed" in str(wire["c"].core.expelled)
