"""When to campaign, and whether to encourage others to.

PySyncObj campaigns on a timer. Here the timer starts a **pre-vote** instead (thesis section 9.6):
would a majority vote for me in the next term? Only then does the engine raise the term.

    waiting --(no leader heard for 1..2 election_s, or its link closed)--> asking
    asking  --(majority says yes)--> campaign: term + 1, real votes, which wait for the disk
    asking  --(a leader is heard, unless it has just told us to; or a peer asks with a higher id)--> waiting

Only voters ask, and only their answers count. Everybody answers, learners too: a learner may have been made a
voter by an entry that it has not seen yet.

A member says yes if it hears no live leader (or the question is marked as a transfer), the asker's
log is at least as up to date, and the term asked for is higher than its own. Two members that ask
at the same moment would split the votes: the one with the lower id gives way.
"""

from __future__ import annotations

import math

from raftos.consensus.core import Core
from raftos.consensus.messages import PreVote, PreVoteAnswer, TimeoutNow, VoteGranted, VoteRequest
from raftos.levels import FIRST_LEVEL, NUMBERED_SINCE

_LOST_LEADER_S = 0.02
"""After the leader's link closed: at most this long before the first pre-vote."""
_RETRIES_S = (0.03, 0.06, 0.12, 0.25)
"""Spacing of the first pre-votes after a lost link; later ones follow the election timeout."""


class Elections:
    """The election timer, the pre-vote and the votes of one member."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._asked_term = self._question = 0
        self._asked_at = -math.inf
        self._granted: set[str] = set()
        self._transfer = False
        self._votes: set[str] = set()
        self._electorate = core.configuration
        """The configuration in force when the votes were asked for."""
        self._attempts = 0
        self.heard_at = -math.inf
        """When a leader of this term was last heard."""
        self._due = core.now + (0.2 + core.random.random()) * core.timings.election_s

    def heard_leader(self) -> None:
        """An append of the present leader arrived: it lives."""
        self.heard_at = self._core.now
        if not self._transfer or self._core.now - self._asked_at >= self._core.timings.election_s:
            # In a transfer the leader lives and its heartbeats go on: they must not undo its own order, until
            # it has long been given up.
            self._granted.clear()
        self._attempts = 0
        self._postpone()

    def lost_leader(self) -> None:
        """The leader's link closed: ask at once, without waiting for the timeout."""
        self.heard_at = -math.inf
        self._attempts = 0
        self._due = self._core.now + self._core.random.random() * _LOST_LEADER_S

    def tick(self) -> None:
        core = self._core
        if core.is_leader or not core.fit_to_lead or not core.is_voter:
            self._postpone()
        elif core.now >= self._due:
            self._ask(transfer=False)

    def _postpone(self) -> None:
        self._due = self._core.now + (1 + self._core.random.random()) * self._core.timings.election_s

    def _ask(self, *, transfer: bool) -> None:
        core = self._core
        self._schedule_retry()
        if sum(voter in core.links for voter in core.others) + 1 < core.majority:
            return
        self._asked_term, self._transfer, self._granted = core.term + 1, transfer, {core.member_id}
        self._question += 1
        self._asked_at = core.now
        if core.rules.pre_vote:
            last_index, last_term = core.journal.last_index, core.journal.last_term
            core.broadcast(PreVote(self._asked_term, last_index, last_term, transfer, self._question))
            self._campaign_if_wanted()
        else:
            self._campaign()

    def _schedule_retry(self) -> None:
        core = self._core
        if self._attempts < len(_RETRIES_S) and self.heard_at == -math.inf:
            wait = _RETRIES_S[self._attempts] * (0.5 + core.random.random())
        else:
            wait = (0.5 + core.random.random()) * core.timings.election_s
        self._attempts += 1
        self._due = core.now + wait

    def _campaign_if_wanted(self) -> None:
        if len(self._granted) >= self._core.majority:
            self._campaign()

    def _campaign(self) -> None:
        core = self._core
        self._granted.clear()
        self._votes, self._electorate = set(), core.configuration
        self._due = core.now + (0.5 + core.random.random()) * core.timings.election_s
        core.engine.campaign(core.now)

    def asked(self, peer: str, question: PreVote) -> None:
        """Answer a pre-vote; nothing about this member's term or vote changes."""
        granted = self._would_vote(question)
        if granted and self._granted and peer > self._core.member_id:
            self._granted.clear()
        if granted and not self._granted:
            self._due = max(self._due, self._core.now + 0.2 * self._core.timings.election_s)
        self._core.promise(peer, PreVoteAnswer(question.term, granted, self._core.term, question.question))

    def _would_vote(self, question: PreVote) -> bool:
        core = self._core
        if question.term <= core.term or (self.hears_leader and not question.transfer):
            return False
        return (question.last_term, question.last_index) >= (core.journal.last_term, core.journal.last_index)

    @property
    def hears_leader(self) -> bool:
        """Whether this member leads, or heard a leader within one election timeout."""
        core = self._core
        return core.is_leader or core.now - self.heard_at < core.timings.election_s

    def answered(self, peer: str, answer: PreVoteAnswer) -> None:
        core = self._core
        if answer.current_term > core.term:
            core.engine.observe_term(core.now, answer.current_term)
            self._granted.clear()
        elif answer.granted and self._granted and self._is_asked(peer, answer):
            if peer in core.others:
                self._granted.add(peer)
            self._campaign_if_wanted()

    def _is_asked(self, peer: str, answer: PreVoteAnswer) -> bool:
        """Whether it answers the present question; an earlier one may have been granted for a transfer.

        An older version does not say which. Its answers count all the same, or it could elect nobody.
        """
        core = self._core
        is_older = answer.question == 0 and core.levels.get(peer, FIRST_LEVEL) < NUMBERED_SINCE
        is_present = answer.question == self._question or is_older or not core.rules.answer_once
        return is_present and answer.term == self._asked_term == core.term + 1

    def requested(self, peer: str, request: VoteRequest) -> None:
        """A real request: the engine decides, and its answer waits for the disk."""
        core = self._core
        if request.term > core.term:
            self._granted.clear()
            self._postpone()
        core.engine.vote_requested(core.now, peer, request)

    def granted(self, peer: str, vote: VoteGranted) -> None:
        """Count each voter once, and no learner: PySyncObj counts messages.

        None once a snapshot has brought another configuration, of which those counted may be no members.
        """
        core = self._core
        if peer not in core.others or peer in self._votes or core.configuration is not self._electorate:
            return
        if vote.term == core.term and core.engine.is_candidate:
            self._votes.add(peer)
            core.engine.vote_granted(core.now, peer, vote)

    def timeout_now(self, peer: str, message: TimeoutNow) -> None:
        """The leader hands over: ask at once, marked so that the others do not protect the leader."""
        core = self._core
        if message.term == core.term and peer == core.leader and core.fit_to_lead and core.is_voter:
            self._ask(transfer=True)
