"""One member's replica: tick | frame | proposal | synced in; frames, entries and results out.

The replica does no I/O, starts nothing, awaits nothing and reads no clock: every input says what
time it is, `step` finishes the work and `take` hands out what the outside has to do. The same code
runs in the daemon (`driver.py`) and in the simulation, where time is virtual.

Between PySyncObj (`engine.py`) and the world stand the guard's rules and seven parts that share a
`Core`: `Elections` (when to campaign), `Following` (what a follower takes and answers), `Replication`
(what followers are sent), `Proposals` (writes), `Barriers` (linearizable reads), `Transfer` (leadership
handed over) and `Changes` (members that come and go).

    input ──> guard ──> engine (PySyncObj) ──> journal (buffered) ──> disk ──> synced ──> promises
                                         └──> committed and durable here ──> apply ──> results
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from random import Random

from raftos.consensus import guard
from raftos.consensus.barriers import Barriers
from raftos.consensus.base import Role, Status
from raftos.consensus.changes import Changes
from raftos.consensus.configuration import Change, Configuration
from raftos.consensus.core import Core, Frame, Output, ReplicaLog, Timings
from raftos.consensus.elections import Elections
from raftos.consensus.engine import Engine
from raftos.consensus.following import Following
from raftos.consensus.messages import (
    Acknowledged,
    Append,
    BarrierAnswered,
    BarrierAsked,
    Confirm,
    Confirmed,
    ForwardAnswered,
    Forwarded,
    Message,
    Outcome,
    PreVote,
    PreVoteAnswer,
    Removed,
    SnapshotOffered,
    StaleTerm,
    TimeoutNow,
    VoteGranted,
    VoteRequest,
)
from raftos.consensus.proposals import Proposals, entry_payload
from raftos.consensus.replication import Replication
from raftos.consensus.transfer import Transfer
from raftos.levels import LEVEL

ANSWERS = frozenset((Acknowledged, Confirmed, PreVoteAnswer, StaleTerm, VoteGranted))
"""What counts only from members of the configuration in force. Questions and appends of others are heard:
they may belong to a later configuration, and this member learns of it only from them."""
MAX_APPLY_BYTES, MAX_APPLY_ENTRIES = 2**20, 1_000
"""About how much is handed over for applying at once."""


class Replica:
    """The deterministic core of one member."""

    def __init__(
        self,
        *,
        member_id: str,
        configuration: Configuration,
        journal: ReplicaLog,
        applied_index: int,
        time_ms: int,
        wall_ms: int,
        now: float,
        random: Random,
        timings: Timings | None = None,
        rules: guard.Rules | None = None,
    ) -> None:
        """`configuration` is the first one, in force until the log has one of its own.

        `applied_index` and `time_ms` are the machine's; the journal's entries beyond are handed over.
        `wall_ms` is where cluster time begins if no entry has a stamp yet.
        """
        self.core = core = Core(
            member_id, configuration, journal, timings or Timings(), random, rules or guard.Rules()
        )
        core.now = now
        self._journal = journal
        self.elections = Elections(core)
        self.following = Following(core, self.elections)
        self.replication = Replication(core)
        core.engine = Engine(
            member_id,
            journal,
            self.following.send,
            self.replication.send_all,
            now=now,
            heartbeat_s=core.timings.heartbeat_s,
            fallback_s=core.timings.fallback_s,
            applied_index=applied_index,
            append_bytes=core.timings.append_bytes,
        )
        core.engine.configure(now, core.others, core.learners)
        self.proposals = Proposals(core)
        self.barriers = Barriers(core)
        self.handover = Transfer(core, self.replication, self.proposals)
        self.changes = Changes(core, self.replication)
        self.barriers.applied_index = applied_index
        self._handed_over = applied_index
        self._stamp_ms = time_ms
        self._time_ms, self._time_at = time_ms or wall_ms, now
        self._unsynced_since: float | None = None
        self._tick_needed = True
        self._handlers: dict[type[Message], Callable[..., None]] = self._protocol()

    def _protocol(self) -> dict[type[Message], Callable[..., None]]:
        return {
            Append: self.following.append,
            Acknowledged: self._acknowledged,
            PreVote: self.elections.asked,
            PreVoteAnswer: self.elections.answered,
            VoteRequest: self.elections.requested,
            VoteGranted: self.elections.granted,
            StaleTerm: self._stale_term,
            Confirm: self._confirm,
            Confirmed: self.barriers.confirmed,
            BarrierAsked: self.barriers.asked,
            BarrierAnswered: self._barrier_answered,
            Forwarded: self.proposals.forwarded,
            ForwardAnswered: self._forward_answered,
            TimeoutNow: self.elections.timeout_now,
            SnapshotOffered: self.following.offered,
            Removed: self._removed,
        }

    # Inputs. Each may only change state and fill the outbox; `step` concludes.

    def linked(self, now: float, peer: str, generation: int, level: int = LEVEL) -> None:
        """A link to `peer` is up. A newer generation replaces the older one.

        It may be a stranger: one that a configuration names which this member has not heard of yet.
        """
        self.core.now = now
        if peer != self.core.member_id:
            if peer in self.core.links:
                self._drop_link(peer)
            self.core.link(peer, generation, level)
            self.replication.linked(peer)
            self.core.engine.linked(peer)
            self._tick_needed = True

    def unlinked(self, now: float, peer: str, generation: int) -> None:
        self.core.now = now
        if self.core.links.get(peer) == generation:
            self._drop_link(peer)

    def _drop_link(self, peer: str) -> None:
        core = self.core
        core.unlink(peer)
        core.engine.unlinked(peer)
        self.replication.unlinked(peer)
        self.proposals.lost_link(peer)
        self.barriers.forget_question(peer)
        if core.engine.leader == peer and not core.is_leader:
            self.elections.lost_leader()

    def received(self, now: float, peer: str, generation: int, message: Message) -> bool:
        """A message of the link `generation`; anything older is dropped, and answers of strangers.

        Whether a step has something to conclude: the last acknowledgements of an entry change nothing.
        """
        self.core.now = now
        handler = self._handlers.get(type(message))
        if handler is None or self.core.links.get(peer) != generation:
            return False
        if peer not in self.core.followers and self._is_to_be_dropped(peer, message):
            return False
        handler(peer, message)
        return self._tick_needed or not isinstance(message, Acknowledged)

    def _is_to_be_dropped(self, peer: str, message: Message) -> bool:
        """Answers of those whom no configuration in force names; everything of those that are gone."""
        return self.core.rules.members_only and (type(message) in ANSWERS or self.core.is_gone(peer))

    def propose(self, now: float, token: Hashable, requests: Sequence[bytes], deadline: float) -> None:
        """Agree on `requests`; ends as `(token, [result, ...])` or `(token, error)`."""
        self.core.now = now
        self.proposals.propose(token, requests, deadline)

    def read_barrier(self, now: float, token: Hashable, deadline: float) -> None:
        """Ends as `(token, index)` once this member has applied that read index, or `(token, NoQuorum)`."""
        self.core.now = now
        self.barriers.read(token, deadline)

    def transfer(self, now: float, token: Hashable, target: str | None, deadline: float) -> None:
        """Hand leadership over; only on the leader. Ends as `(token, new leader id)` or an error.

        Nothing is proposed meanwhile, so it may take as long as a leader may be out of touch, not longer.
        """
        self.core.now = now
        self.handover.ask(token, target, deadline)

    def change(self, now: float, token: Hashable, change: Change, deadline: float) -> None:
        """Change the members; only on the leader. Ends as `(token, index in the log)` or an error."""
        self.core.now = now
        self.changes.is_paused = self.handover.is_under_way
        self.changes.ask(token, change, deadline)
        self._tick_needed = True  # With fewer voters a majority may have what it had not before.

    def snapshot_made(self, now: float, index: int, term: int, size_bytes: int) -> None:
        """This member has a snapshot on its disk, for those who lack what it contains; the newest counts."""
        self.core.now = now
        if self.core.snapshot is None or index > self.core.snapshot[0]:
            self.core.snapshot = (index, term, size_bytes)

    def snapshot_lost(self, now: float) -> None:
        """The snapshot that this member offers is gone; `snapshot_made` tells of another, if there is one."""
        self.core.now = now
        self.core.snapshot = None

    def wants_snapshot(self, index: int) -> bool:
        """Whether a snapshot that ends at `index` is ahead of what this member knows to be agreed on."""
        return index > self.core.engine.commit_index and not self.core.is_leader

    def install(self, now: float, index: int, term: int, mark: bytes | None, time_ms: int) -> None:
        """The machine was replaced by that of a snapshot which `wants_snapshot` asked for.

        Entries handed over before and not yet applied are part of it: drop them.
        """
        self.core.now = now
        self.following.installed(index, term, mark)
        self.core.output.committed.clear()
        self._handed_over = index
        if time_ms > self._stamp_ms:
            self._learn_time(time_ms)
        self.barriers.applied(index)

    def hearing(self, now: float, peer: str, generation: int) -> None:
        """Bytes arrive from `peer`, of a message too large to have arrived yet."""
        self.core.now = now
        if self.core.links.get(peer) == generation:
            self.following.hears(peer)

    def synced(self, now: float) -> bool:
        """The journal's durable part grew: promises are ready to be taken. Whether a step has more to do."""
        core = self.core
        core.now = now
        self._unsynced_since = None
        core.release()
        if not core.others:
            self._tick_needed = True
        return self._tick_needed or self.replication.has_waiting or self._handed_over < core.commit_index

    def applied(self, now: float, results: Sequence[tuple[int, list[bytes]]], time_ms: int) -> None:
        """Entries of `Output.committed` were applied, with the encoded results of each index."""
        core = self.core
        core.now = now
        if time_ms > self._stamp_ms:
            self._learn_time(time_ms)
        for index, values in results:
            self.proposals.applied(index, values)
        if results:
            self.barriers.applied(results[-1][0])

    def _learn_time(self, stamp_ms: int) -> None:
        """A later stamp was applied: it is the time, but to a leader, for whom its own are past already."""
        core, first = self.core, self._stamp_ms == 0
        self._stamp_ms = stamp_ms
        if first or not core.is_leader or stamp_ms > self.cluster_time_ms(core.now):
            self._time_ms, self._time_at = stamp_ms, core.now

    def troubled(self, now: float, trouble: str | None) -> None:
        """This member cannot keep promises (its disk is full), or can again (None).

        A leader in trouble steps down: it moves to the next term, in which another may lead.
        """
        core = self.core
        core.now = now
        core.trouble = trouble
        if trouble is not None and core.is_leader and core.others:
            core.engine.observe_term(now, core.term + 1)

    def tick(self, now: float) -> None:
        """Time passed. Call at least every tenth of an election timeout."""
        core = self.core
        core.now = now
        self._tick_needed = True
        self._watch_disk()
        self.elections.tick()
        self.proposals.expire()
        self.barriers.expire()
        self.handover.drive(self._reachable_leader())  # As of now: `core.leader` may be this deposed member.
        self.changes.is_paused = self.handover.is_under_way
        self.changes.tick()
        self._notice_removal()

    # Conclusions.

    def step(self, now: float) -> None:
        """Finish the work of the inputs since the last step."""
        core = self.core
        core.now = now
        core.release()
        if self.replication.count_waiting() or self._tick_needed:
            self._tick_needed = False
            core.engine.tick(now)
        core.leader = self._reachable_leader()
        if self.proposals.waiting:
            self.proposals.stamp = self.cluster_time_ms(now) if self._knows_time() else None
        self.proposals.pump()
        self.barriers.pump()
        self.changes.pump()
        self._hand_over()
        self.replication.conclude()
        if self._unsynced_since is None and self._journal.position > self._journal.synced_position:
            self._unsynced_since = now

    def take(self) -> Output:
        """What has to be done outside since the last take."""
        output = self.core.output
        if output:
            self.core.output = Output()
        return output

    def take_frames(self) -> list[Frame]:
        """Of what has to be done, only what is to be sent."""
        output = self.core.output
        frames, output.frames = output.frames, []
        return frames

    def _hand_over(self) -> None:
        """One part at a time: a machine that cannot apply for now must not make a queue of all it misses."""
        commit = self.core.commit_index
        if self.barriers.applied_index == self._handed_over < commit:
            start = self._handed_over + 1
            stop = min(commit + 1, start + MAX_APPLY_ENTRIES)
            entries = self._journal.entries(start, stop, MAX_APPLY_BYTES)
            self.core.output.committed.extend((entry[1], entry_payload(entry[0])) for entry in entries)
            self._handed_over = entries[-1][1]

    def _reachable_leader(self) -> str | None:
        core = self.core
        if core.is_leader:
            return core.member_id
        leader = core.engine.leader
        return leader if leader in core.links and self.elections.hears_leader else None

    # Messages.

    def _acknowledged(self, peer: str, message: Acknowledged) -> None:
        core = self.core
        if message.term > core.term:
            core.engine.observe_term(core.now, message.term)
            self._tick_needed = True
        if self.replication.acknowledged(peer, message):
            self._tick_needed = True

    def _stale_term(self, peer: str, message: StaleTerm) -> None:
        if message.term > self.core.term:
            self.core.engine.observe_term(self.core.now, message.term)

    def _confirm(self, peer: str, message: Confirm) -> None:
        if message.term < self.core.term and self.core.rules.read_match_term:
            self.core.promise(peer, StaleTerm(self.core.term))
        self.barriers.confirm(peer, message)

    def _barrier_answered(self, peer: str, message: BarrierAnswered) -> None:
        if message.index == 0:
            self._resigned(peer)
        self.barriers.answered(peer, message)

    def _forward_answered(self, peer: str, message: ForwardAnswered) -> None:
        if message.outcome == Outcome.NOT_LEADER:
            self._resigned(peer)
        self.proposals.answered(peer, message)

    def _removed(self, peer: str, message: Removed) -> None:
        """A peer says that a configuration without this member is agreed on, which it may never be sent.

        A later one in this log contradicts it only if it is agreed on: as a leader that was deposed, this
        member may have appended one that nobody else has, and nobody will ever take it away. Nor does it
        against a later term: then it is of those that were given up when another became the sole voter.
        """
        core = self.core
        is_later = core.configuration_index <= message.index or message.term > core.term
        if is_later or not core.is_configuration_agreed:
            self._expel(message.index)

    def _notice_removal(self) -> None:
        if self.core.is_gone(self.core.member_id):
            self._expel(self.core.configuration_index)

    def _expel(self, index: int) -> None:
        self.core.expelled = (
            f"this member was removed from the cluster (log entry {index}); its data is of no use any more: "
            "to bring the machine back, let it join under a new id with an empty data directory"
        )

    def _resigned(self, peer: str) -> None:
        """`peer` says that it does not lead: asking it again, until it falls silent, helps nobody."""
        if self.core.leader == peer:
            self.elections.lost_leader()

    # Slow disks.

    def _watch_disk(self) -> None:
        """A leader whose disk has been busy for one election timeout gives way.

        Nobody campaigns with such a disk: the votes asked for would go out when it is done, and depose
        whoever leads by then.
        """
        core, since = self.core, self._unsynced_since
        core.slow_disk = since is not None and core.now - since > core.timings.election_s
        if core.slow_disk and core.is_leader and core.others:
            core.engine.observe_term(core.now, core.term + 1)

    # Views.

    def cluster_time_ms(self, now: float) -> int:
        """The last applied stamp, but a leader's own, plus the monotonic time measured since."""
        return self._time_ms + int((now - self._time_at) * 1000)

    def _knows_time(self) -> bool:
        """Not by the wall clock alone, as long as entries before this leader's first may have a stamp."""
        applied = self.barriers.applied_index
        return self._stamp_ms > 0 or self._journal.term_at(applied) == self.core.term > 0

    @property
    def watching(self) -> bool:
        """Whether somebody here waits for news of commits."""
        return self.following.watching

    @watching.setter
    def watching(self, watching: bool) -> None:
        self.following.watching = watching

    @property
    def role(self) -> Role:
        if self.core.is_leader:
            return Role.LEADER
        if not self.core.is_voter:
            return Role.LEARNER
        return Role.CANDIDATE if self.core.engine.is_candidate else Role.FOLLOWER

    def status(self) -> Status:
        core, journal = self.core, self._journal
        return Status(
            member_id=core.member_id,
            role=self.role,
            leader_id=core.leader,
            term=core.term,
            commit_index=max(core.commit_index, core.offered_index),
            applied_index=self.barriers.applied_index,
            last_index=journal.last_index,
            synced_index=journal.synced_index,
            voters=core.voters,
            learners=core.configuration.learners,
            removed=core.configuration.removed,
            first_index=journal.first_index,
            connected=core.connected,
            has_quorum=core.leader is not None,
            trouble=core.trouble,
        )
