"""What a leader sends its followers: entries, heartbeats, and the news of what is committed.

PySyncObj says when (an entry was proposed, a heartbeat is due) and keeps the position up to which
each follower was sent the log; what goes, and whether it may go now, is decided here (`flow.py`). A
follower whose window is full is sent nothing more, but a heartbeat on ground known to be common, so
that it still hears its leader; when it answers, it is sent what follows.

News of a commit costs a message to each follower and, in a stream of lone writes, comes just before
the next entry, which carries it anyway. So it waits `NOTICE_S` for company - unless the follower
said in its last acknowledgement that somebody there waits for news (`Acknowledged.watching`).
"""

from __future__ import annotations

from collections.abc import Sequence

from raftos.consensus import guard
from raftos.consensus.core import Core
from raftos.consensus.engine import MAX_APPEND_ENTRIES
from raftos.consensus.flow import Flow, Follower
from raftos.consensus.guard import FIRST_INDEX
from raftos.consensus.messages import Acknowledged, Append, Entry, SnapshotOffered
from raftos.levels import MEMBERSHIP_SINCE

NOTICE_S = 0.005
"""How long the news that entries are committed may wait for another message to the same follower."""


class Replication:
    """The leader's side of appends and acknowledgements. On a follower it is silent."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._log = core.journal
        self._flow = Flow(core.timings.append_bytes)
        self._waiting: dict[str, None] = {}
        """Followers that have acknowledged more than our own disk has, in order."""
        self._behind: dict[str, None] = {}
        """Followers that have answered and lack entries, in order."""
        self._watching: set[str] = set()
        self._news, self._news_at = 0, core.now
        """The newest commit index, and since when it is known here."""
        self._spread = 0
        """The commit index that every linked follower was told."""

    def answers(self, peer: str) -> bool:
        """Whether a follower has lately answered this leader."""
        return self._core.now - self._follower(peer).answered_at < self._core.timings.fallback_s

    def matched(self, peer: str) -> int:
        """The last index that `peer` acknowledged in this term."""
        return self._follower(peer).matched

    def linked(self, peer: str) -> None:
        """A new link: the next heartbeat finds out where the follower is."""
        self._flow.linked(peer)

    def unlinked(self, peer: str) -> None:
        self._waiting.pop(peer, None)
        self._behind.pop(peer, None)
        self._watching.discard(peer)

    def _follower(self, peer: str) -> Follower:
        return self._flow.follower(self._core.term, peer)

    # Sending.

    def send_all(self) -> None:
        """Send every follower what it lacks, or an empty append; those that lack the same get the same."""
        made: dict[int, tuple[Append, int]] = {}
        for peer in self._linked_followers():
            self._send(peer, made)

    def _linked_followers(self) -> list[str]:
        followers = self._core.followers
        return [peer for peer in self._core.links if peer in followers]

    def _send(self, peer: str, made: dict[int, tuple[Append, int]]) -> None:
        core, engine = self._core, self._core.engine
        if self._log.synced_term != core.term and core.rules.durable_first:
            return  # A lone voter elects itself at once, and after a crash might lead in this term again.
        follower = self._follower(peer)
        if follower.full:
            self._send_heartbeat(peer, follower)
            return
        start = engine.next_index(peer)
        if start < self._log.first_index:
            self._offer_snapshot(peer, follower)
            return
        if start not in made:
            made[start] = self._append(start)
        append, size_bytes = made[start]
        follower.sent(core.now, append, size_bytes)
        if append.entries:
            engine.sent(peer, append.entries[-1][1])
        core.send(peer, append)

    def _append(self, start: int) -> tuple[Append, int]:
        """An append of the entries from `start` on, and how many bytes its commands have.

        It tells the commit index as far as this disk has come: alone among voters, PySyncObj commits before.
        """
        core, log = self._core, self._log
        entries: Sequence[Entry] = ()
        if start <= log.last_index:
            entries = log.entries(start, start + MAX_APPEND_ENTRIES, core.timings.append_bytes)
        prev_term = log.term_at(start - 1)
        assert prev_term is not None, f"the log does not reach back to entry {start - 1}"
        append = Append(core.term, core.commit_index, start - 1, prev_term, list(entries))
        return append, sum([len(command) for command, _, _ in entries])

    def _send_heartbeat(self, peer: str, follower: Follower) -> None:
        """Let a follower that can take no more hear its leader, on ground known to be common."""
        core = self._core
        if core.now - follower.sent_at >= core.timings.heartbeat_s:
            follower.sent_at = core.now
            index = follower.matched
            term = self._log.term_at(index)
            if term is None:
                # It is trimmed from this log. The first entry is the same in all logs, of term 0.
                index, term = FIRST_INDEX, 0
            core.send(peer, Append(core.term, min(core.commit_index, index), index, term, []))

    def _offer_snapshot(self, peer: str, follower: Follower) -> None:
        """The log does not reach back so far: the follower fetches a snapshot, in its own time."""
        core, snapshot = self._core, self._core.snapshot
        self._send_heartbeat(peer, follower)
        if snapshot is None or snapshot[0] < self._log.first_index - 1:
            return  # It is being made: the keeper sees to it that there is one.
        if core.levels.get(peer, 0) < MEMBERSHIP_SINCE:
            return  # Its version could not read the offer; once upgraded it can.
        if core.now - follower.offered_at >= core.timings.election_s:
            follower.offered_at = core.now
            core.send(peer, SnapshotOffered(core.term, *snapshot))

    # Acknowledgements.

    def acknowledged(self, peer: str, message: Acknowledged) -> bool:
        """Take note of an answer; whether something may be committed, or has to be sent, now."""
        self._note_watching(peer, watching=message.watching)
        if not self._counts(message):
            return False
        follower = self._follower(peer)
        follower.answered_at = self._core.now
        was_full = follower.full
        follower.acknowledged(message)
        may_send = was_full or not message.success
        if may_send:
            self._spread = 0
        may_commit = self._count(peer, message)
        if self._core.engine.next_index(peer) <= self._log.last_index and not follower.full:
            self._behind[peer] = None
            may_send = True
        return may_commit or may_send

    def _note_watching(self, peer: str, *, watching: bool) -> None:
        if watching:
            self._watching.add(peer)
        else:
            self._watching.discard(peer)

    def _counts(self, message: Acknowledged) -> bool:
        core = self._core
        return core.is_leader and guard.acknowledgement_counts(
            core.term, self._log.last_index, message, core.rules
        )

    def _count(self, peer: str, message: Acknowledged) -> bool:
        """Feed an acknowledgement to the engine as far as our own disk has come; the rest waits."""
        core = self._core
        part, more = guard.durable_part(message, self._log.synced_index, core.rules)
        if more:
            self._waiting[peer] = None
        core.engine.acknowledged(core.now, peer, part, core.rules)
        return part.next_index - 1 > core.engine.commit_index

    @property
    def has_waiting(self) -> bool:
        """Whether acknowledgements wait for our own disk."""
        return bool(self._waiting)

    def count_waiting(self) -> bool:
        """Feed the acknowledgements that waited for our own disk; whether something may be committed now.

        Of each follower the furthest: the answer to a heartbeat may have come after it, and says less.
        """
        if not self._waiting:
            return False
        waiting, self._waiting = self._waiting, {}
        if not self._core.is_leader:
            return False
        term = self._core.term
        counted = [
            self._count(peer, Acknowledged(term, self.matched(peer) + 1, success=True, reset=False))
            for peer in waiting
            if peer in self._core.followers
        ]
        return any(counted)

    # The end of a step.

    def conclude(self) -> None:
        """Send on to those who answered, and spread the news."""
        if self._behind:
            behind, self._behind = self._behind, {}
            if self._core.is_leader:
                for peer in behind:
                    if peer in self._core.followers:
                        self._send(peer, {})
        if self.has_news:
            self._spread_news()

    @property
    def has_news(self) -> bool:
        """Whether some follower is to be told of a commit, within NOTICE_S if nothing else happens."""
        return self._core.is_leader and self._core.commit_index != self._spread

    def _spread_news(self) -> None:
        core, commit = self._core, self._core.commit_index
        if commit != self._news:
            self._news, self._news_at = commit, core.now
        is_late = core.now - self._news_at >= NOTICE_S
        if not (is_late or self._watching or core.output.frames):
            return
        addressed = {peer for peer, _, _ in core.output.frames}
        all_know = True
        for peer in self._linked_followers():
            follower = self._follower(peer)
            if follower.told >= commit or follower.full:
                continue
            if is_late or peer in self._watching or peer in addressed:
                self._send(peer, {})
            else:
                all_know = False
        if all_know:
            self._spread = commit
