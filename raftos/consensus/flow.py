"""How much a leader has under way to each follower, and what it told it.

PySyncObj sends a follower everything it lacks at once, and again for every rejection. A follower
that is far behind would be sent the whole log in one turn; worse, when its log conflicts, the
rejections of the messages already under way overwrite each other's advice, and it never catches
up. So each follower is in one of two states, as in etcd's `tracker.Progress`:

    probing      one message under way; its answer says where the logs agree
    replicating  a window of two appends' bytes under way

    probing --(success for what is under way)--> replicating
    either  --(rejection, new link, new term)--> probing
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from raftos.consensus.guard import FIRST_INDEX
from raftos.consensus.messages import Acknowledged, Append


@dataclass
class Follower:
    """The progress of one follower in one term."""

    window_bytes: int
    matched: int = FIRST_INDEX
    """The last index known to be on the follower's disk, in this term."""
    told: int = 0
    """The commit index it was sent last, as far as it is not known to have missed it."""
    sent_at: float = 0.0
    answered_at: float = -math.inf
    """When it answered last, in this term."""
    offered_at: float = -math.inf
    """When it was offered a snapshot last."""
    _probing: bool = True
    _under_way: deque[tuple[int, int]] = field(default_factory=deque)
    """(last index, bytes) of every message not yet answered."""
    _under_way_bytes: int = 0

    @property
    def full(self) -> bool:
        """Whether nothing may be sent until it answers."""
        return bool(self._under_way) and (self._probing or self._under_way_bytes >= self.window_bytes)

    def probe(self) -> None:
        """Begin anew: where the logs agree, and what the follower was told, is not known."""
        self._probing, self._under_way_bytes, self.told = True, 0, 0
        self._under_way.clear()

    def sent(self, now: float, append: Append, size_bytes: int) -> None:
        """`append` is on its way, with so many bytes of commands."""
        if append.entries or self._probing:
            self._under_way.append((append.prev_index + len(append.entries), size_bytes))
            self._under_way_bytes += size_bytes
        self.told, self.sent_at = append.commit_index, now

    def acknowledged(self, message: Acknowledged) -> None:
        """An answer of this leader's term."""
        if not message.success:
            self.probe()
            return
        index = message.next_index - 1
        self.matched = max(self.matched, index)
        while self._under_way and self._under_way[0][0] <= index:
            self._under_way_bytes -= self._under_way.popleft()[1]
            self._probing = False


class Flow:
    """The followers' progress, as the leader of one term sees it."""

    def __init__(self, append_bytes: int) -> None:
        self._window_bytes = 2 * append_bytes
        self._term = 0
        self._followers: dict[str, Follower] = {}

    def follower(self, term: int, peer: str) -> Follower:
        """The progress of `peer` in this term; of a new term nothing is known."""
        if term != self._term:
            self._term, self._followers = term, {}
        follower = self._followers.get(peer)
        if follower is None:
            follower = self._followers[peer] = Follower(self._window_bytes)
        return follower

    def linked(self, peer: str) -> None:
        """A new link: whatever was under way on the old one is lost."""
        follower = self._followers.get(peer)
        if follower is not None:
            follower.probe()
