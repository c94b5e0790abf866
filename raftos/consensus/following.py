"""A follower's side of the log: what it takes from a leader, and what it answers.

Every append passes the guard, then PySyncObj, which answers through `Following.send`; the answer says no
more than the message proved, carries this member's term, and waits for the disk. What the leader has
trimmed comes as a snapshot: it is offered, fetched by the outside in its own time, and `installed` here.
"""

from __future__ import annotations

from raftos.consensus import guard
from raftos.consensus.core import Core, Offer
from raftos.consensus.elections import Elections
from raftos.consensus.messages import Acknowledged, Append, Message, SnapshotOffered, StaleTerm


class Following:
    """What one member does with what leaders send. On a leader it is silent."""

    def __init__(self, core: Core, elections: Elections) -> None:
        self._core = core
        self._elections = elections
        self._acknowledge_to: int | None = None
        self._last_acknowledged: tuple[str, int | None, Acknowledged] | None = None
        self._acknowledged_at = core.now
        self.watching = False
        """Whether somebody here waits for news; the leader learns it from the next acknowledgement."""

    def send(self, peer: str, message: Message) -> None:
        """PySyncObj asks for votes, grants one or acknowledges: promises wait for the disk."""
        if isinstance(message, Acknowledged):
            message = self._acknowledgement(message)
            if self._says_nothing_new(peer, message):
                return
        self._core.promise(peer, message)

    def _acknowledgement(self, message: Acknowledged) -> Acknowledged:
        next_index = message.next_index
        if message.success and self._acknowledge_to is not None:
            next_index = self._acknowledge_to + 1
        return Acknowledged(self._core.term, next_index, message.success, message.reset, self.watching)

    def _says_nothing_new(self, peer: str, message: Acknowledged) -> bool:
        """Whether this leader was told the same on this link less than half a heartbeat ago.

        After each commit a leader sends its new commit index around; answering that would double
        the messages of a quiet cluster. Heartbeats are further apart, so they are answered - unless the
        disk hangs, and with it all answers: then there must not be more of them every time.
        """
        core = self._core
        same = (peer, core.links.get(peer), message)
        recently = core.now - self._acknowledged_at < core.timings.heartbeat_s / 2
        if same == self._last_acknowledged and (recently or core.slow_disk):
            return True
        self._last_acknowledged, self._acknowledged_at = same, core.now
        return False

    def append(self, peer: str, message: Append) -> None:
        core = self._core
        if not guard.well_formed(message):
            return
        if message.term < core.term:
            core.promise(peer, StaleTerm(core.term))
            return
        admitted = guard.admit_append(core.journal, core.engine.commit_index, message, core.rules)
        self._acknowledge_to = admitted.acknowledge_to
        core.engine.append(core.now, peer, admitted.append)
        self._acknowledge_to = None
        core.adopt()
        self._elections.heard_leader()

    def hears(self, peer: str) -> None:
        """Bytes of something large arrive from the leader: it lives, though the message is not here yet."""
        core = self._core
        if peer == core.engine.leader and not core.is_leader:
            self._elections.heard_leader()
            self._repeat_acknowledgement(peer)

    def _repeat_acknowledgement(self, peer: str) -> None:
        """So that the leader hears this member too, which has nothing new to acknowledge as yet.

        Only a success may be said twice: a rejection would have the leader search for common ground again.
        """
        core, last = self._core, self._last_acknowledged
        if last is None or core.now - self._acknowledged_at < core.timings.heartbeat_s:
            return
        to, generation, message = last
        if (
            to == peer
            and generation == core.links.get(peer)
            and message.success
            and message.term == core.term
        ):
            self._acknowledged_at = core.now
            core.promise(peer, message)

    # Snapshots.

    def offered(self, peer: str, offer: SnapshotOffered) -> None:
        """Fetch what this member lacks; what it has already it acknowledges."""
        core = self._core
        if offer.term < core.term:
            core.promise(peer, StaleTerm(core.term))
            return
        if offer.term > core.term or core.is_leader:
            return  # The next heartbeat settles who leads; the offer comes again.
        if offer.index <= core.engine.commit_index:
            self._acknowledge(peer, offer.index)
        else:
            core.offered_index = max(core.offered_index, offer.index)
            generation = core.links[peer]
            core.output.offers.append(
                Offer(peer, generation, offer.index, offer.index_term, offer.size_bytes)
            )

    def _acknowledge(self, peer: str, index: int) -> None:
        self._core.promise(peer, Acknowledged(self._core.term, index + 1, True, True, self.watching))

    def installed(self, index: int, term: int, mark: bytes | None) -> None:
        """The state is now that of the snapshot: the log begins after it, or goes on where it matches."""
        core = self._core
        core.journal.install(index, term, mark)
        core.engine.installed(index)
        core.adopt()
        leader = core.engine.leader
        if leader is not None and leader in core.links and not core.is_leader:
            self._acknowledge(leader, index)
