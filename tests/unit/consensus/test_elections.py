"""When a member campaigns, and when it lets others."""

from __future__ import annotations

import pytest

from raftos.consensus.configuration import Configuration, encode
from raftos.consensus.guard import Rules
from raftos.consensus.messages import (
    Append,
    PreVote,
    PreVoteAnswer,
    StaleTerm,
    TimeoutNow,
    VoteGranted,
    VoteRequest,
)
from raftos.errors import Conflict
from raftos.levels import FIRST_LEVEL, LEVEL
from tests.unit.consensus.wire import Frame, Wire


class Upgrading(Wire):
    """Member b is of a version that does not number its answers to pre-votes."""

    def __init__(self, level: int) -> None:
        """`level` is the one that b tells."""
        self.level = level
        super().__init__()

    def link(self, one: str, other: str) -> None:
        super().link(one, other)
        for name in {one, other} - {"b"}:
            if "b" in self[name].core.levels:
                self[name].core.levels["b"] = self.level

    def give(self, frame: Frame) -> None:
        message = frame.message
        if frame.sender == "b" and isinstance(message, PreVoteAnswer):
            frame = frame._replace(message=PreVoteAnswer(message.term, message.granted, message.current_term))
        super().give(frame)


def terms(wire: Wire) -> list[int]:
    return [wire[name].core.term for name in wire.names]


def ask(wire: Wire, voter: str, question: PreVote, asker: str = "c") -> bool:
    """What `voter` says to a pre-vote."""
    wire[voter].received(wire.now, asker, wire[voter].core.links[asker], question)
    wire.step(voter)
    answers = [frame for frame in wire.waiting(PreVoteAnswer) if frame.sender == voter]
    wire.frames.clear()
    (answer,) = [frame.message for frame in answers]
    assert isinstance(answer, PreVoteAnswer)
    return answer.granted


def test_a_quiet_cluster_elects_one_leader_and_keeps_it() -> None:
    wire = Wire()
    wire.until(lambda: bool(wire.leaders()))
    wire.pass_time(0.5)
    leader, term = wire.leaders(), terms(wire)
    wire.pass_time(5)
    assert wire.leaders() == leader
    assert terms(wire) == term


def test_a_cluster_of_one_elects_itself_and_commits_only_what_is_durable() -> None:
    wire = Wire(1)
    wire.members["a"].disk_stuck = True
    wire.pass_time(2)
    token = wire.propose("a", "x")
    wire.pass_time(1)
    assert wire.leaders() == ["a"]
    assert token not in wire.ended
    wire.repair_disk("a")
    wire.pass_time(0.1)
    assert token in wire.ended


def test_a_closed_link_to_the_leader_starts_an_election_at_once() -> None:
    """A killed daemon closes its links; waiting for the timeout would only cost time."""
    wire = Wire()
    wire.elect("a")
    wire.crash("a")
    assert wire.until(lambda: bool(wire.leaders())) <= 0.2


def test_a_silent_leader_is_replaced_within_two_and_a_half_election_timeouts() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    assert wire.until(lambda: wire.leaders() not in ([], ["a"])) <= 2.5 * wire.timings.election_s


def test_a_leader_without_a_majority_steps_down_and_its_term_stays() -> None:
    wire = Wire()
    wire.elect("a")
    wire.isolate("a")
    term = wire["a"].core.term
    wire.until(lambda: not wire["a"].core.is_leader)
    assert wire["a"].core.term == term


def test_a_member_that_was_away_for_long_neither_raised_its_term_nor_deposes_anyone() -> None:
    wire = Wire()
    wire.elect("a")
    before = terms(wire)
    wire.isolate("c")
    wire.pass_time(10)
    wire.heal()
    wire.pass_time(2)
    assert wire.leaders() == ["a"]
    assert terms(wire) == before


def test_without_pre_vote_the_same_member_deposes_the_leader() -> None:
    wire = Wire(rules=Rules(pre_vote=False))
    wire.elect("a")
    before = max(terms(wire))
    wire.isolate("c")
    wire.pass_time(10)
    wire.heal()
    wire.pass_time(2)
    assert max(terms(wire)) > before + 3


def test_a_pre_vote_is_refused_while_a_leader_is_heard_unless_the_leader_sent_the_asker() -> None:
    wire = Wire()
    wire.elect("a")
    journal, term = wire.members["b"].journal, wire["b"].core.term
    question = PreVote(term + 1, journal.last_index, journal.last_term, transfer=False)
    assert not ask(wire, "b", question)
    assert ask(wire, "b", PreVote(term + 1, journal.last_index, journal.last_term, transfer=True))
    wire.now += wire.timings.election_s
    assert ask(wire, "b", question)


@pytest.mark.parametrize(
    ("terms_ahead", "index_ahead", "log_term_ahead", "granted"),
    [
        (1, 0, 0, True),
        (1, 5, 0, True),
        (1, -1, 1, True),
        (0, 0, 0, False),
        (1, -1, 0, False),
        (1, 9, -1, False),
    ],
)
def test_a_pre_vote_needs_a_higher_term_and_a_log_that_is_as_far(
    terms_ahead: int, index_ahead: int, log_term_ahead: int, granted: bool
) -> None:
    wire = Wire()
    wire.elect("a")
    wire.now += wire.timings.election_s
    journal, term = wire.members["b"].journal, wire["b"].core.term
    question = PreVote(
        term + terms_ahead,
        journal.last_index + index_ahead,
        journal.last_term + log_term_ahead,
        transfer=False,
    )
    assert ask(wire, "b", question) == granted
    assert wire["b"].core.term == term


def test_of_two_members_that_ask_at_once_the_lower_id_gives_way() -> None:
    wire = Wire()
    wire.elect("a")
    wire.crash("a")
    for name in "bc":
        wire[name].elections._due = wire.now
        wire[name].tick(wire.now)
        wire.step(name)
    wire.deliver()
    assert wire.leaders() == ["c"]


def test_a_vote_request_waits_until_the_candidates_own_vote_is_durable() -> None:
    """Restarted before that, it might vote for another in the same term."""
    wire = Wire()
    wire.elect("a")
    wire.crash("a")
    wire.members["b"].disk_stuck = True
    wire["b"].elections.lost_leader()
    wire.tick("b", after_s=0.025)
    wire.deliver()
    assert wire["b"].core.engine.is_candidate
    assert not wire.waiting(VoteRequest)
    wire.repair_disk("b")
    assert wire.waiting(VoteRequest)


def test_a_vote_is_sent_only_when_it_is_durable() -> None:
    wire = Wire()
    wire.elect("a")
    wire.crash("a")
    wire.members["c"].disk_stuck = True
    wire["b"].elections.lost_leader()
    wire.tick("b", after_s=0.025)
    wire.deliver()
    assert wire["b"].core.engine.is_candidate
    assert not wire.leaders()
    wire.repair_disk("c")
    wire.deliver()
    assert wire.leaders() == ["b"]


def test_a_member_votes_once_in_a_term_even_across_a_restart() -> None:
    wire = Wire()
    wire.elect("a")
    journal, term = wire.members["b"].journal, wire["b"].core.term
    wire.crash("a")
    request = VoteRequest(term + 1, journal.last_index + 1, term)
    wire["b"].received(wire.now, "c", wire["b"].core.links["c"], request)
    wire.step("b")
    assert wire.waiting(VoteGranted)
    wire.restart("b")
    wire.start("a")
    assert wire.members["b"].journal.vote == "c"
    wire.frames.clear()
    wire["b"].received(wire.now, "a", wire["b"].core.links["a"], request)
    wire.step("b")
    assert not wire.waiting(VoteGranted)


def test_votes_are_counted_once_for_each_voter() -> None:
    """PySyncObj counts messages: one voter heard twice would be a majority of five."""
    wire = Wire(5)
    wire["a"].elections.lost_leader()
    wire.tick("a", after_s=0.025)
    wire.deliver(lambda frame: not isinstance(frame.message, VoteGranted))
    assert wire["a"].core.engine.is_candidate
    one = next(frame for frame in wire.waiting(VoteGranted) if frame.sender == "b")
    for _ in range(4):
        wire.give(one)
    assert not wire.leaders()
    wire.deliver()
    assert wire.leaders() == ["a"]


def test_votes_of_an_earlier_term_do_not_count() -> None:
    wire = Wire()
    wire["a"].elections.lost_leader()
    wire.tick("a", after_s=0.025)
    wire.deliver(lambda frame: not isinstance(frame.message, VoteGranted))
    late = wire.waiting(VoteGranted)
    wire["a"].core.engine.campaign(wire.now)
    wire.step("a")
    for frame in late:
        wire.give(frame)
    assert not wire.leaders()


def test_the_order_to_campaign_is_taken_only_from_the_leader_of_this_term() -> None:
    wire = Wire()
    wire.elect("a")
    term = wire["b"].core.term
    for sender, order in (("c", TimeoutNow(term)), ("a", TimeoutNow(term - 1))):
        wire["b"].received(wire.now, sender, wire["b"].core.links[sender], order)
        wire.step("b")
        assert not wire.waiting(PreVote)
    wire["b"].received(wire.now, "a", wire["b"].core.links["a"], TimeoutNow(term))
    wire.step("b")
    assert wire.waiting(PreVote)


def test_a_leader_that_meets_a_higher_term_gives_way_to_a_leader_of_a_term_above() -> None:
    """A member that campaigned alone before it was cut off would otherwise never follow again."""
    wire = Wire()
    wire.elect("a")
    wire["c"].core.engine.campaign(wire.now)
    wire.step("c")
    wire.frames.clear()
    ahead = wire["c"].core.term
    wire.pass_time(3)
    assert len(wire.leaders()) == 1
    assert len(set(terms(wire))) == 1
    assert terms(wire)[0] > ahead - 1


def test_five_members_elect_with_two_of_them_gone() -> None:
    wire = Wire(5)
    wire.elect("e")
    wire.crash("e")
    wire.crash("d")
    wire.until(lambda: bool(wire.leaders()))
    token = wire.propose("a", "x")
    wire.pass_time(0.5)
    assert token in wire.ended


def test_a_member_that_hears_no_majority_does_not_even_ask() -> None:
    wire = Wire(5)
    for name in "cde":
        wire.crash(name)
    wire.delivered.clear()
    wire.pass_time(3)
    assert not [frame for frame in wire.delivered if isinstance(frame.message, PreVote)]


@pytest.mark.parametrize("luck", range(1, 12))
def test_a_member_whose_disk_hangs_does_not_campaign_and_deposes_nobody_when_it_is_back(luck: int) -> None:
    """The votes it asked for would go out with the first sync, long after another was elected."""
    wire = Wire()
    wire.elect("a")
    for name in wire.names:
        for _ in range(luck):
            wire[name].core.random.random()
    wire.members["a"].disk_stuck = True
    wire.propose("a", "x")
    wire.pass_time(3)
    leader, term = wire.leaders(), wire[wire.leaders()[0]].core.term
    wire.repair_disk("a")
    wire.pass_time(1)
    assert wire.leaders() == leader != ["a"]
    assert terms(wire) == [term] * 3


def test_a_member_in_trouble_follows_and_does_not_campaign() -> None:
    wire = Wire()
    wire.elect("a")
    wire["b"].troubled(wire.now, "disk full")
    wire.crash("a")
    wire.delivered.clear()
    wire.pass_time(2)
    assert wire.leaders() == ["c"]
    assert not any(_campaigns(frame, "b") for frame in wire.delivered)


def _campaigns(frame: Frame, name: str) -> bool:
    return frame.sender == name and isinstance(frame.message, PreVote | VoteRequest | Append)


def test_votes_of_those_whom_an_installed_snapshot_has_removed_elect_nobody() -> None:
    """With two of them a candidate would lead five members by one vote besides its own."""
    wire = Wire(7)
    g = wire["g"]
    g.elections._campaign()
    term = g.core.term
    for voter in "ef":
        g.received(wire.now, voter, g.core.links[voter], VoteGranted(term))
    g.install(wire.now, 20, 1, encode(Configuration.of("abcdg")), 0)
    g.received(wire.now, "a", g.core.links["a"], VoteGranted(term))
    assert not g.core.is_leader


@pytest.mark.parametrize(("level", "leaders"), [(FIRST_LEVEL, ["a"]), (LEVEL, [])])
def test_a_pre_vote_without_a_number_counts_from_an_older_version_only(
    level: int, leaders: list[str]
) -> None:
    """During an upgrade it may be the only other one that runs, and lack an entry that was agreed on."""
    wire = Upgrading(level)
    wire.elect("a")
    wire.isolate("b")
    wire.propose("a", "x")
    wire.pass_time(0.1)
    wire.crash("c")
    wire.restart("a")
    wire.heal()
    wire.pass_time(3)
    assert wire.leaders() == leaders


def asked_by_c() -> tuple[Wire, Frame]:
    """C and b take their leader for gone, c asks, and the answer with b's consent is on its way."""
    wire = Wire()
    wire.elect("a")
    for name in "bc":
        wire[name].elections.lost_leader()
    wire.tick("c", after_s=0.02)
    wire.deliver(lambda frame: frame.receiver == "b")
    [answer] = wire.waiting(PreVoteAnswer)
    return wire, answer


def test_consent_that_arrives_after_a_leader_was_heard_does_not_count() -> None:
    """That leader lives, and the campaign would depose it."""
    wire, consent = asked_by_c()
    wire.tick("a", after_s=wire.timings.heartbeat_s)
    wire.deliver(lambda frame: isinstance(frame.message, Append))
    wire.give(consent)
    assert not wire["c"].core.engine.is_candidate


def test_consent_to_a_term_that_has_come_meanwhile_does_not_count_for_the_next() -> None:
    wire, consent = asked_by_c()
    c = wire["c"]
    c.received(wire.now, "a", c.core.links["a"], StaleTerm(c.core.term + 1))
    wire.give(consent)
    assert not c.core.engine.is_candidate


def test_who_is_not_answered_asks_again_at_intervals() -> None:
    """Only answers to the latest question count: asked at every tick, slow ones would never do."""
    wire = Wire()
    wire.elect("a")
    wire.crash("a")
    wire.isolate("c")
    wire.pass_time(1)
    questions = [frame for frame in wire.waiting(PreVote) if frame.sender == "c"]
    assert 1 <= len(questions) < 10


def test_a_late_vote_of_an_earlier_term_does_not_take_the_place_of_the_voters_present_one() -> None:
    wire = Wire(5)
    a = wire["a"]
    for _ in range(2):
        a.elections._campaign()
    term = a.core.term
    for voter, voted in (("b", term - 1), ("b", term), ("c", term)):
        a.received(wire.now, voter, a.core.links[voter], VoteGranted(voted))
    assert a.core.is_leader


def test_a_member_in_trouble_does_not_follow_the_order_to_campaign() -> None:
    wire = Wire()
    wire.elect("a")
    b = wire["b"]
    b.troubled(wire.now, "disk full")
    b.received(wire.now, "a", b.core.links["a"], TimeoutNow(b.core.term))
    wire.step("b")
    assert not wire.waiting(PreVote)


def test_consent_to_a_transfer_that_was_given_up_deposes_nobody() -> None:
    """Its caller was told that the leader is unchanged."""
    wire = Wire()
    wire.elect("a")
    term = wire["a"].core.term
    done = wire.transfer("a", "b")
    wire.tick("a", after_s=0.025)
    wire.deliver(lambda frame: not isinstance(frame.message, PreVoteAnswer))
    [consent] = [frame for frame in wire.waiting(PreVoteAnswer) if frame.sender == "c"]
    wire.frames = [frame for frame in wire.frames if not isinstance(frame.message, PreVoteAnswer)]
    wire.pass_time(10)
    assert isinstance(wire.ended[done], Conflict)
    wire.give(consent)
    wire.deliver()
    assert wire["a"].core.term == term
    assert wire.leaders() == ["a"]
