"""Read barriers: how a read knows that it sees every write acknowledged before it began.

The leader takes its commit index, *then* asks the voters whether it still leads (thesis section
6.4). All reads that wait share one round; a read that arrives while a round is under way waits for
the next, because an answer already on its way proves nothing about it. The leader answers only
after an entry of its own term has committed, and a confirmation counts only from a voter whose
durable term is the leader's.

Other members ask the leader for an index in the same way: one question under way at a time, shared
by all reads that were waiting when it was sent.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable
from dataclasses import dataclass

from raftos.consensus.core import Core
from raftos.consensus.messages import BarrierAnswered, BarrierAsked, Confirm, Confirmed
from raftos.errors import NoQuorum


@dataclass(frozen=True)
class _Read:
    deadline: float
    token: Hashable = None
    """The local call that waits, or None for a peer's question."""
    peer: str = ""
    generation: int = 0
    """The link it came over, and its answer goes back over."""
    question: int = 0


@dataclass
class _Round:
    id: int
    term: int
    index: int
    reads: list[_Read]
    confirmed: set[str]
    sent_at: float


class Barriers:
    """The reads that wait on one member."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiting: list[_Read] = []
        self._round: _Round | None = None
        self._round_id = 0
        self._asked: tuple[int, str, list[_Read]] | None = None
        self._behind: list[tuple[int, int, _Read]] = []
        self._sequence = 0
        self.applied_index = 0

    def read(self, token: Hashable, deadline: float) -> None:
        self._waiting.append(_Read(deadline, token))

    def asked(self, peer: str, message: BarrierAsked) -> None:
        if self._core.is_leader:
            # It never expires: a peer asks one question at a time, and waits for the answer to each.
            generation = self._core.links[peer]
            self._waiting.append(_Read(math.inf, None, peer, generation, message.id))
        else:
            self._core.send(peer, BarrierAnswered(message.id, 0))

    def pump(self) -> None:
        """Begin, repeat or abandon what the present role allows."""
        if self._round is not None and (not self._core.is_leader or self._round.term != self._core.term):
            self._abandon_round()
        if self._asked is not None and self._core.leader != self._asked[1]:
            self._waiting = self._asked[2] + self._waiting
            self._asked = None
        if self._core.is_leader:
            self._pump_leader()
        else:
            self._pump_follower()

    def _pump_leader(self) -> None:
        core = self._core
        self._finish_if_confirmed()  # With fewer voters those who have confirmed may be a majority now.
        if self._round is not None and core.now - self._round.sent_at >= core.timings.heartbeat_s:
            self._send_round(self._round)
        if self._round is None and self._waiting and self._may_answer():
            self._round_id += 1
            reads, self._waiting = self._waiting, []
            self._round = _Round(self._round_id, core.term, core.commit_index, reads, set(), core.now)
            self._send_round(self._round)

    def _may_answer(self) -> bool:
        core = self._core
        return not core.rules.read_own_term or core.journal.term_at(core.commit_index) == core.term

    def _send_round(self, round_: _Round) -> None:
        round_.sent_at = self._core.now
        if self._core.journal.synced_term == self._core.term and self._core.is_voter:
            round_.confirmed.add(self._core.member_id)
        self._core.broadcast(Confirm(round_.term, round_.id))
        self._finish_if_confirmed()

    def confirm(self, peer: str, message: Confirm) -> None:
        """A leader asks whether its term is still ours. The answer waits for the disk.

        Not for one that hangs, though: the leader asks again with every heartbeat.
        """
        core = self._core
        if core.slow_disk:
            return
        if message.term == core.term or not core.rules.read_match_term:
            core.promise(peer, Confirmed(message.term, message.round))

    def confirmed(self, peer: str, message: Confirmed) -> None:
        round_ = self._round
        if round_ is not None and (message.round, message.term) == (round_.id, round_.term):
            round_.confirmed.add(peer)
            self._finish_if_confirmed()

    def _finish_if_confirmed(self) -> None:
        round_ = self._round
        if round_ is None or len(round_.confirmed.intersection(self._core.voters)) < self._core.majority:
            return
        self._round = None
        if not self._core.rules.read_new_round:
            round_.reads.extend(self._waiting)
            self._waiting = []
        for read in round_.reads:
            self._resolve(read, round_.index)

    def _abandon_round(self) -> None:
        assert self._round is not None
        self._waiting = self._round.reads + self._waiting
        self._round = None

    def _pump_follower(self) -> None:
        core = self._core
        questions = [read for read in self._waiting if read.token is None]
        for read in questions:
            core.answer(read.peer, read.generation, BarrierAnswered(read.question, 0))
        if questions:
            self._waiting = [read for read in self._waiting if read.token is not None]
        if self._waiting and self._asked is None and core.leader is not None:
            self._round_id += 1
            self._asked = (self._round_id, core.leader, self._waiting)
            self._waiting = []
            core.send(core.leader, BarrierAsked(self._round_id))

    def answered(self, peer: str, message: BarrierAnswered) -> None:
        if self._asked is None or self._asked[:2] != (message.id, peer):
            return
        reads, self._asked = self._asked[2], None
        if message.index == 0:
            self._waiting = reads + self._waiting
            return
        for read in reads:
            self._resolve(read, message.index)

    def _resolve(self, read: _Read, index: int) -> None:
        if read.token is None:
            self._core.answer(read.peer, read.generation, BarrierAnswered(read.question, index))
        elif index <= self.applied_index:
            self._core.finish(read.token, index)
        else:
            self._sequence += 1
            heapq.heappush(self._behind, (index, self._sequence, read))

    def applied(self, index: int) -> None:
        self.applied_index = index
        while self._behind and self._behind[0][0] <= index:
            wanted, _, read = heapq.heappop(self._behind)
            self._core.finish(read.token, wanted)

    def forget_question(self, peer: str) -> None:
        """The link to `peer` closed: its questions and our question to it are void."""
        self._waiting = [read for read in self._waiting if read.peer != peer]
        if self._asked is not None and self._asked[1] == peer:
            self._waiting = self._asked[2] + self._waiting
            self._asked = None

    def expire(self) -> None:
        """End the reads whose deadline has passed. Called on ticks, not on every step."""
        now = self._core.now
        self._waiting = self._keep(self._waiting, now)
        if self._round is not None:
            self._round.reads = self._keep(self._round.reads, now)
        if self._asked is not None:
            self._asked = (*self._asked[:2], self._keep(self._asked[2], now))
        late = [item for item in self._behind if item[2].deadline <= now]
        if late:
            self._behind = [item for item in self._behind if item[2].deadline > now]
            heapq.heapify(self._behind)
            self._keep([item[2] for item in late], now)

    def _keep(self, reads: list[_Read], now: float) -> list[_Read]:
        if all(read.deadline > now for read in reads):
            return reads
        for read in reads:
            if read.deadline <= now and read.token is not None:
                self._core.finish(
                    read.token,
                    NoQuorum("no leader could be confirmed in time; a stale read still works"),
                )
        return [read for read in reads if read.deadline > now]
