"""Handing leadership over (thesis section 3.10): quickly, and with nothing lost or refused.

    idle --(asked)--> waiting --(the target has everything)--> told --(another leads)--> idle
          waiting | told --(deadline)--> idle, the leader is unchanged

While it lasts nothing new is proposed, so that the target can catch up at all; the target is told to
campaign at once, and its question is marked, so that the others do not protect the leader they hear.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from raftos.consensus.core import Core
from raftos.consensus.messages import TimeoutNow
from raftos.consensus.proposals import Proposals
from raftos.consensus.replication import Replication
from raftos.errors import Conflict, InvalidInput, NoQuorum, OutcomeUnknown, RaftosError


@dataclass
class _Transfer:
    token: Hashable
    target: str
    deadline: float
    told: bool = False


class Transfer:
    """The one transfer that may be under way on a leader."""

    def __init__(self, core: Core, replication: Replication, proposals: Proposals) -> None:
        self._core = core
        self._replication = replication
        self._proposals = proposals
        self._under_way: _Transfer | None = None

    @property
    def is_under_way(self) -> bool:
        return self._under_way is not None

    def ask(self, token: Hashable, target: str | None, deadline: float) -> None:
        """Ends as `(token, new leader id)` or an error."""
        core = self._core
        if target == core.member_id and core.is_leader:
            core.finish(token, target)  # It leads already, as the caller wishes.
        elif (refusal := self._refusal(target)) is not None:
            core.finish(token, refusal)
        else:
            until = min(deadline, core.now + core.timings.fallback_s)
            self._under_way = _Transfer(token, target or self._best(), until)
            self._proposals.paused = True

    def _refusal(self, target: str | None) -> RaftosError | None:
        core = self._core
        if not core.is_leader:
            return NoQuorum("this member does not lead (any more); try again")
        if self._under_way is not None:
            return Conflict("another transfer is under way; wait for it to end")
        if target is None and not any(voter in core.links for voter in core.others):
            return Conflict("no other voter is connected, so there is nobody to transfer to")
        if target is not None and target not in core.others:
            return InvalidInput(f"member {target!r} is not a voter of this cluster")
        if target is not None and target not in core.links:
            return Conflict(f"{target} is not connected; the leader is unchanged")
        return None

    def _best(self) -> str:
        linked = [voter for voter in self._core.others if voter in self._core.links]
        return max(linked, key=lambda voter: (self._replication.matched(voter), voter))

    def drive(self, leader: str | None) -> None:
        """Go on, or end it. `leader` is who leads as of now, as far as this member knows."""
        transfer, core = self._under_way, self._core
        if transfer is None:
            return
        if not core.is_leader and leader is not None:
            self._end(transfer, leader)
        elif core.now >= transfer.deadline:
            self._end(transfer, self._unsure(transfer.target))
        elif core.is_leader and not transfer.told and self._has_everything(transfer.target):
            core.send(transfer.target, TimeoutNow(core.term))
            transfer.told = True

    def _has_everything(self, target: str) -> bool:
        return self._replication.matched(target) == self._core.journal.last_index

    def _unsure(self, target: str) -> RaftosError:
        if self._core.is_leader:
            return Conflict(f"{target} did not take over in time; the leader is unchanged")
        return OutcomeUnknown("no leader is known yet after the transfer; see `raftos leader show`")

    def _end(self, transfer: _Transfer, value: object) -> None:
        self._under_way = None
        self._proposals.paused = False
        self._core.finish(transfer.token, value)
