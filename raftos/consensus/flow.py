"""How much a leader has under way to each follower.

PySyncObj sends a follower everything it lacks at once, and again for every rejection. A follower
that is far behind would be sent the whole log in one turn; worse, when its log conflicts, the
rejections of the messages already under way overwrite each other's advice, and it never catches
up. So each follower is in one of two states, as in etcd's `tracker.Progress`:

    probing      one message under way; its answer says where the logs agree
    replicating  a window of two appends' bytes under way

    probing --(success for what is under way)--> replicating
    either  --(rejection, new link, new term)--> probing

What may not be sent now is swallowed and the follower parked: PySyncObj believes that it was sent
everything, for otherwise it would read the next megabytes from the disk again with every proposal.
When there is room it is sent back to where the follower was parked. So that a follower with a full
window still hears its leader, a heartbeat on ground known to be common goes instead.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from raftos.consensus.guard import FIRST_INDEX, Log
from raftos.consensus.messages import Acknowledged, Append


@dataclass
class _Follower:
    matched: int = FIRST_INDEX
    """The last index known to be on the follower's disk, in this term."""
    probing: bool = True
    under_way: deque[tuple[int, int]] = field(default_factory=deque)
    """(last index, bytes) of every message not yet answered."""
    under_way_bytes: int = 0
    sent_at: float = 0.0
    parked_at: int | None = None
    """The first index that was swallowed, or None."""

    def full(self, window_bytes: int) -> bool:
        return bool(self.under_way) and (self.probing or self.under_way_bytes >= window_bytes)

    def probe(self) -> None:
        self.probing, self.under_way_bytes, self.parked_at = True, 0, None
        self.under_way.clear()


class Flow:
    """The followers' progress, as the leader of one term sees it."""

    def __init__(self, log: Log, heartbeat_s: float, append_bytes: int) -> None:
        self._log = log
        self._heartbeat_s = heartbeat_s
        self._window_bytes = 2 * append_bytes
        self._term = 0
        self._followers: dict[str, _Follower] = {}

    def matched(self, peer: str) -> int:
        """The last index that `peer` acknowledged in this term."""
        follower = self._followers.get(peer)
        return FIRST_INDEX if follower is None else follower.matched

    def linked(self, peer: str) -> None:
        """A new link: whatever was under way on the old one is lost."""
        follower = self._followers.get(peer)
        if follower is not None:
            follower.probe()

    def admit(self, now: float, peer: str, append: Append) -> Append | None:
        """What to send instead of `append`: itself, or a heartbeat or nothing to a follower now parked."""
        if append.term != self._term:
            self._term, self._followers = append.term, {}
        follower = self._followers.setdefault(peer, _Follower())
        if follower.full(self._window_bytes):
            if follower.parked_at is None:
                follower.parked_at = append.prev_index + 1
            return self._heartbeat(now, follower, append)
        size = sum(len(command) for command, _, _ in append.entries)
        if append.entries or follower.probing:
            follower.under_way.append((append.prev_index + len(append.entries), size))
            follower.under_way_bytes += size
        follower.sent_at = now
        return append

    def _heartbeat(self, now: float, follower: _Follower, append: Append) -> Append | None:
        if now - follower.sent_at < self._heartbeat_s:
            return None
        follower.sent_at = now
        index = follower.matched
        return Append(append.term, min(append.commit_index, index), index, self._log.term_at(index) or 0, [])

    def may_wait(self, now: float, append: Append, peer: str) -> bool:
        """Whether `append` only spreads the commit index, to a follower that will hear soon anyway."""
        follower = self._followers.get(peer)
        return (
            follower is not None
            and not append.entries
            and append.term == self._term
            and not follower.probing
            and follower.parked_at is None
            and now - follower.sent_at < self._heartbeat_s
        )

    def acknowledged(self, peer: str, message: Acknowledged) -> None:
        """An answer of this leader's term."""
        follower = self._followers.get(peer)
        if follower is None:
            return
        if not message.success:
            follower.probe()
            return
        index = message.next_index - 1
        follower.matched = max(follower.matched, index)
        while follower.under_way and follower.under_way[0][0] <= index:
            follower.under_way_bytes -= follower.under_way.popleft()[1]
            follower.probing = False

    def resume(self, peer: str) -> int | None:
        """Where to send `peer` on from, if it was parked and now has room."""
        follower = self._followers.get(peer)
        if follower is None or follower.full(self._window_bytes):
            return None
        index, follower.parked_at = follower.parked_at, None
        return index
