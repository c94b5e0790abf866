"""Changes of who belongs to the cluster: what the leader allows, and how they end.

    asked --(allowed, appended)--> under way --(agreed on)--> done, with the index of the configuration
    under way --(leadership lost)--> outcome unknown: asked again at the new leader, it is made once

One change is under way at a time, and none before an entry of the leader's own term is agreed on: with
both, any two majorities that could decide share a member (thesis section 4.1, and its erratum). A change is
refused if it would leave a cluster whose voters, as far as the leader hears, are no majority.

A joining member becomes a voter by itself: the leader proposes it as soon as the member has nearly
caught up, so that it does not hold the others up from the moment it counts.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from raftos.consensus.configuration import (
    Change,
    Configuration,
    Promote,
    Remove,
    Standing,
    changed,
    encode,
)
from raftos.consensus.core import Core
from raftos.consensus.messages import Removed
from raftos.consensus.replication import Replication
from raftos.errors import Busy, Conflict, NoQuorum, OutcomeUnknown, RaftosError
from raftos.levels import MEMBERSHIP_SINCE

NEARLY_ENTRIES, NEARLY_BYTES = 200, 16 * 2**20
"""A member that lacks no more than this, and no snapshot, has caught up: the rest is on its way."""


@dataclass
class _UnderWay:
    token: Hashable
    index: int
    term: int
    deadline: float


class Changes:
    """Changes of the configuration, on whichever member leads."""

    def __init__(self, core: Core, replication: Replication) -> None:
        self._core = core
        self._replication = replication
        self._waiting: list[_UnderWay] = []
        self.is_paused = False
        """A transfer of leadership is under way: nothing is appended."""

    def ask(self, token: Hashable, change: Change, deadline: float) -> None:
        """Ends as `(token, index of the configuration)` or an error."""
        core = self._core
        try:
            index = self._make(change)
        except RaftosError as refusal:
            core.finish(token, refusal)
        else:
            self._waiting.append(_UnderWay(token, index, core.term, deadline))

    def _make(self, change: Change) -> int:
        """Append the configuration that the change leads to; the index of the one that is then in force."""
        core = self._core
        if not core.is_leader:
            raise NoQuorum("this member does not lead (any more); try again")
        after = changed(core.configuration, change)
        if after == core.configuration:
            return core.configuration_index
        self._require_calm()
        self._require_allowed(change, after)
        return self._append(after)

    def _append(self, configuration: Configuration) -> int:
        core = self._core
        return core.engine.append_as_leader(core.now, encode(configuration), core.adopt)

    def _require_calm(self) -> None:
        core = self._core
        if self.is_paused:
            raise Busy("leadership is being transferred; try again in a moment")
        if core.rules.one_change_at_a_time and not core.is_configuration_agreed:
            raise Busy("another change of the members is under way; try again when it has ended")
        if not self._has_own_entry:
            raise Busy("this leader has just been elected; try again in a moment")

    @property
    def _has_own_entry(self) -> bool:
        return self._core.journal.term_at(self._core.commit_index) == self._core.term

    def _require_allowed(self, change: Change, after: Configuration) -> None:
        if isinstance(change, Remove) and change.id == self._core.member_id:
            raise Conflict("the leader is not removed; transfer leadership first: `raftos leader transfer`")
        if isinstance(change, Promote):
            self._require_caught_up(change.id)
        self._require_majority(after)

    def _require_caught_up(self, peer: str) -> None:
        journal, matched = self._core.journal, self._replication.matched(peer)
        if not self._is_heard(peer):
            raise Conflict(f"{peer} does not answer, so it is not promoted; see `raftos status`")
        if matched < journal.first_index - 1:
            raise Conflict(f"{peer} has not caught up yet, it needs a snapshot first; try again later")
        lacks, size_bytes = journal.last_index - matched, journal.bytes_since(matched)
        if lacks > NEARLY_ENTRIES or size_bytes > NEARLY_BYTES:
            raise Conflict(
                f"{peer} has not caught up yet, it lacks {lacks} entries, {size_bytes} bytes; try again later"
            )

    def _require_majority(self, after: Configuration) -> None:
        """Adding one that only learns changes no majority, and is allowed with any number of voters down."""
        if after.voters == self._core.voters:
            return
        heard = [voter for voter in after.voters if self._is_heard(voter)]
        needed = len(after.voters) // 2 + 1
        if len(heard) < needed:
            raise Conflict(
                f"the cluster would stand still: of its then {len(after.voters)} voters {needed} are needed "
                f"and {len(heard)} answer; bring members back first, or see the how-to about a lost quorum"
            )

    def _is_heard(self, peer: str) -> bool:
        core = self._core
        return peer == core.member_id or (peer in core.links and self._replication.answers(peer))

    # As time passes.

    def pump(self) -> None:
        """End what was agreed on, or what this member cannot see the end of any more."""
        if not self._waiting:
            return
        core, waiting = self._core, self._waiting
        self._waiting = []
        for each in waiting:
            if not core.is_leader or core.term != each.term:
                core.finish(each.token, _unknown())
            elif each.index <= core.commit_index:
                core.finish(each.token, each.index)
            else:
                self._waiting.append(each)

    def tick(self) -> None:
        """End what is late, let joining members vote, and tell those who were removed."""
        core = self._core
        for late in [each for each in self._waiting if each.deadline <= core.now]:
            self._waiting.remove(late)
            core.finish(late.token, _unknown())
        if core.is_leader:
            self._promote_one()
        for peer in core.connected:
            self.tell_if_gone(peer)

    def tell_if_gone(self, peer: str) -> None:
        """Who was removed for good would go on asking for votes, and not know why nobody listens."""
        if self._core.is_gone(peer) and self._core.levels.get(peer, 0) >= MEMBERSHIP_SINCE:
            self._core.send(peer, Removed(self._core.configuration_index, self._core.term))

    def _promote_one(self) -> None:
        for peer in self._core.configuration.peers:
            if peer.standing == Standing.JOINING:
                try:
                    self._make(Promote(peer.id))
                except RaftosError:
                    continue  # Not yet: a refusal changes nothing, and the next tick asks again.
                return


def _unknown() -> OutcomeUnknown:
    return OutcomeUnknown(
        "the change of the members may or may not be made; ask again, which makes it once at most"
    )
