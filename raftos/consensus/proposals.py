"""Requests on their way into the log, and their results on the way back.

    pending --(this member leads)--> in flight in an entry --(applied)--> done
    pending --(a peer leads)-------> forwarded ---------------(answered)--> done
    in flight | forwarded --(leadership or link lost)--> pending again, marked as sent

The leader gathers everything pending into one entry while fewer than two are in flight: an idle
leader proposes at once, a busy one makes larger entries. The second of two waits until it is worth
its syncs. Sending again after a lost leader is safe because the machine remembers request ids:
whichever copy is applied first counts.

At its deadline a call that was never sent ends with `NoQuorum`, one that was with
`OutcomeUnknown`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from raftos.consensus.core import Core
from raftos.consensus.engine import MAX_ENTRY_BYTES
from raftos.consensus.guard import REGULAR
from raftos.consensus.messages import ForwardAnswered, Forwarded, Outcome
from raftos.errors import NoQuorum, OutcomeUnknown, TooLarge
from raftos.state.command import encode_entry

MAX_ENTRIES_IN_FLIGHT = 2
ENOUGH_REQUESTS = 32
"""So many, or as many as are in flight, are worth an entry of their own: each costs every member a sync."""
MAX_FORWARDS_IN_FLIGHT = 4
MAX_BATCH_REQUESTS = 2_000
MAX_BATCH_BYTES = 2**20
MAX_PROPOSAL_BYTES = MAX_ENTRY_BYTES - 64
"""The most one call may propose: an entry of its own, with its envelope."""
MAX_PENDING_BYTES = 64 * 2**20
"""More than this waiting on one member is refused as `NoQuorum`: it would not be proposed in time."""


@dataclass(slots=True)
class _Proposal:
    requests: Sequence[bytes]
    size_bytes: int
    deadline: float
    token: Hashable = None
    """The local call that waits, or None for a peer's."""
    peer: str = ""
    generation: int = 0
    """The link it came over, and its answer goes back over."""
    forward_id: int = 0
    sent: bool = False


class Proposals:
    """The writes that wait on one member."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pending: deque[_Proposal] = deque()
        self._pending_bytes = 0
        self._in_flight: dict[int, list[_Proposal]] = {}
        self._leading_term = 0
        self._forwards: dict[int, list[_Proposal]] = {}
        self._forwarded_to: str | None = None
        self._forward_id = 0
        self._next_expiry = math.inf
        self.paused = False
        """A leadership transfer is under way: nothing new is proposed."""
        self.stamp: int | None = None
        """The cluster time that the next entry carries, in ms; None while the replica does not know it."""

    def propose(self, token: Hashable, requests: Sequence[bytes], deadline: float) -> None:
        size = sum(map(len, requests))
        if size > MAX_PROPOSAL_BYTES:
            self._core.finish(token, TooLarge(f"one write may have {MAX_PROPOSAL_BYTES} bytes; split it"))
            return
        if self._pending_bytes + size > MAX_PENDING_BYTES:
            self._core.finish(
                token, NoQuorum("too many writes are waiting on this member; try again, or slow down")
            )
            return
        self._add(_Proposal(requests, size, deadline, token))

    def forwarded(self, peer: str, message: Forwarded) -> None:
        """A peer hands over requests: propose them here, or say that another leads."""
        if not self._core.is_leader:
            self._core.send(peer, ForwardAnswered(message.id, Outcome.NOT_LEADER, []))
            return
        deadline = self._core.now + message.time_left_ms / 1000
        size = sum(map(len, message.requests))
        generation = self._core.links[peer]
        self._add(_Proposal(message.requests, size, deadline, None, peer, generation, message.id))

    def _add(self, proposal: _Proposal) -> None:
        self._pending.append(proposal)
        self._pending_bytes += proposal.size_bytes
        self._next_expiry = min(self._next_expiry, proposal.deadline)

    @property
    def waiting(self) -> bool:
        """Whether something waits to be proposed or forwarded."""
        return bool(self._pending)

    def pump(self) -> None:
        core = self._core
        if self._leading_term and (not core.is_leader or core.term != self._leading_term):
            self._lost_leadership()
        if self._forwarded_to is not None and core.leader != self._forwarded_to:
            self._take_back()
        if core.is_leader:
            self._leading_term = core.term
            if not self.paused and core.trouble is None and self.stamp is not None:
                self._propose_pending(self.stamp)
        elif self._pending and core.leader is not None:
            self._forward_pending(core.leader)

    def _propose_pending(self, stamp: int) -> None:
        core = self._core
        while self._pending and self._is_worth_an_entry():
            batch = self._gather()
            requests = [request for proposal in batch for request in proposal.requests]
            payload = encode_entry(stamp, requests)
            self._in_flight[core.engine.propose(core.now, payload)] = batch

    def _is_worth_an_entry(self) -> bool:
        """Whether what is pending goes now, or with what comes while the entry in flight is agreed on."""
        if not self._in_flight:
            return True
        if len(self._in_flight) >= MAX_ENTRIES_IN_FLIGHT:
            return False
        enough = min(ENOUGH_REQUESTS, *map(_count, self._in_flight.values()))
        return _count(self._pending) >= enough

    def _gather(self) -> list[_Proposal]:
        """The next proposals that fit into one entry or one forward; at least one."""
        batch: list[_Proposal] = []
        count = size = 0
        while self._pending:
            proposal = self._pending[0]
            count += len(proposal.requests)
            size += proposal.size_bytes
            if batch and (count > MAX_BATCH_REQUESTS or size > MAX_BATCH_BYTES):
                break
            batch.append(self._pending.popleft())
            proposal.sent = True
            self._pending_bytes -= proposal.size_bytes
        return batch

    def _forward_pending(self, leader: str) -> None:
        core = self._core
        self._forwarded_to = leader
        while self._pending and len(self._forwards) < MAX_FORWARDS_IN_FLIGHT:
            batch = self._gather()
            self._forward_id += 1
            self._forwards[self._forward_id] = batch
            requests = [request for proposal in batch for request in proposal.requests]
            time_left_ms = int(1000 * max(0.0, max(proposal.deadline for proposal in batch) - core.now))
            core.send(leader, Forwarded(self._forward_id, time_left_ms, requests))

    def answered(self, peer: str, message: ForwardAnswered) -> None:
        if peer != self._forwarded_to:
            return
        batch = self._forwards.pop(message.id, None)
        if batch is None:
            return
        if message.outcome == Outcome.RESULTS:
            self._finish(batch, message.results)
        else:
            self._again(batch)

    def applied(self, index: int, results: list[bytes]) -> None:
        """Entry `index` was applied here; if it carries our proposals, they are done."""
        batch = self._in_flight.pop(index, None)
        if batch is not None:
            self._finish(batch, results)

    def _finish(self, batch: list[_Proposal], results: list[bytes]) -> None:
        start = 0
        for proposal in batch:
            end = start + len(proposal.requests)
            own = results[start:end] if len(batch) > 1 else results
            start = end
            if proposal.token is None:
                self._answer(proposal, Outcome.RESULTS, own)
            elif proposal.token is not _NOBODY:
                self._core.finish(proposal.token, own)

    def _answer(self, proposal: _Proposal, outcome: Outcome, results: list[bytes]) -> None:
        message = ForwardAnswered(proposal.forward_id, outcome, results)
        self._core.answer(proposal.peer, proposal.generation, message)

    def lost_link(self, peer: str) -> None:
        """`peer` is gone: what it forwarded and still waits here, it will send again to whoever leads."""
        self._drop_pending_of(peer)
        if peer == self._forwarded_to:
            self._take_back()

    def _drop_pending_of(self, peer: str) -> None:
        if any(proposal.peer == peer for proposal in self._pending):
            self._pending = deque(proposal for proposal in self._pending if proposal.peer != peer)
            self._pending_bytes = sum(proposal.size_bytes for proposal in self._pending)

    def _take_back(self) -> None:
        """Whoever it was forwarded to is gone, or leads no more: it has to be sent again."""
        batches, self._forwards, self._forwarded_to = self._forwards, {}, None
        for batch in reversed(list(batches.values())):
            self._again(batch)

    def _lost_leadership(self) -> None:
        batches = [*self._in_flight.values(), list(self._pending)]
        self._in_flight, self._leading_term = {}, 0
        self._pending, self._pending_bytes = deque(), 0
        for batch in reversed(batches):
            self._again(batch)

    def _again(self, batch: list[_Proposal]) -> None:
        """Back to the head of the queue, in order; a peer's is handed back instead."""
        for proposal in reversed(batch):
            if proposal.token is None:
                self._answer(proposal, Outcome.NOT_LEADER, [])
            elif proposal.token is not _NOBODY:
                self._pending.appendleft(proposal)
                self._pending_bytes += proposal.size_bytes

    def expire(self) -> None:
        """End the calls whose deadline has passed. Called on ticks, not on every step."""
        now = self._core.now
        if now < self._next_expiry:
            return
        self._pending = deque(self._keep(self._pending, now))
        self._pending_bytes = sum(proposal.size_bytes for proposal in self._pending)
        for batches in (self._in_flight, self._forwards):
            for key in list(batches):
                self._expire_within(batches[key], now)
        waiting = [
            *self._pending,
            *(p for b in (self._in_flight, self._forwards) for batch in b.values() for p in batch),
        ]
        self._next_expiry = min((p.deadline for p in waiting if p.deadline > now), default=math.inf)

    def _keep(self, proposals: Sequence[_Proposal], now: float) -> list[_Proposal]:
        for proposal in proposals:
            if proposal.deadline <= now:
                if proposal.token is None:
                    # Silence would hold one of the peer's forwards in flight for ever.
                    self._answer(proposal, Outcome.LATE, [])
                else:
                    self._core.finish(proposal.token, _late(proposal))
        return [proposal for proposal in proposals if proposal.deadline > now]

    def _expire_within(self, batch: list[_Proposal], now: float) -> None:
        """End late calls of a batch on its way; the batch keeps its shape for the results to come."""
        for position, proposal in enumerate(batch):
            if proposal.deadline <= now and proposal.token is not None:
                self._core.finish(proposal.token, _late(proposal))
                batch[position] = _Proposal(
                    proposal.requests, proposal.size_bytes, math.inf, _NOBODY, sent=True
                )


def _count(proposals: Iterable[_Proposal]) -> int:
    return sum(len(proposal.requests) for proposal in proposals)


_NOBODY = object()
"""The token of a call that has ended already while its batch is still on its way."""


def _late(proposal: _Proposal) -> NoQuorum | OutcomeUnknown:
    if proposal.sent:
        return OutcomeUnknown("the write may or may not be applied; send it again with the same request id")
    return NoQuorum(
        "no leader took the write in time, so it was not applied; check the members with `raftos status`"
    )


def entry_payload(command: bytes) -> bytes:
    """What the machine applies of a log command: nothing for a no-op."""
    return command[1:] if command[0] == REGULAR else b""
