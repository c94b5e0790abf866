"""One member's replica: tick | frame | proposal | synced in; frames, entries and results out.

The replica does no I/O, starts nothing, awaits nothing and reads no clock: every input says what
time it is, `step` finishes the work and `take` hands out what the outside has to do. The same code
runs in the daemon (`driver.py`) and in the simulation, where time is virtual.

Between PySyncObj (`engine.py`) and the world stand the guard's rules and four parts that share a
`Core`: `Elections` (when to campaign), `Replication` (what followers are sent), `Proposals` (writes)
and `Barriers` (linearizable reads).

    input ──> guard ──> engine (PySyncObj) ──> journal (buffered) ──> disk ──> synced ──> promises
                                         └──> committed and durable here ──> apply ──> results
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from random import Random

from raftos.consensus import guard
from raftos.consensus.barriers import Barriers
from raftos.consensus.base import Role, Status
from raftos.consensus.core import Core, Frame, Output, ReplicaLog, Timings
from raftos.consensus.elections import Elections
from raftos.consensus.engine import Engine
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
    StaleTerm,
    TimeoutNow,
    VoteGranted,
    VoteRequest,
)
from raftos.consensus.proposals import Proposals, entry_payload
from raftos.consensus.replication import Replication
from raftos.errors import Conflict, InvalidInput, NoQuorum, OutcomeUnknown

MAX_APPLY_BYTES, MAX_APPLY_ENTRIES = 2**20, 1_000
"""About how much is handed over for applying at once."""


class Replica:
    """The deterministic core of one member."""

    def __init__(
        self,
        *,
        member_id: str,
        voters: Sequence[str],
        journal: ReplicaLog,
        applied_index: int,
        time_ms: int,
        wall_ms: int,
        now: float,
        random: Random,
        timings: Timings | None = None,
        rules: guard.Rules | None = None,
    ) -> None:
        """`applied_index` and `time_ms` are the machine's; the journal's entries beyond are handed over.

        `wall_ms` is where cluster time begins if no entry has a stamp yet.
        """
        self.core = core = Core(
            member_id, voters, journal, timings or Timings(), random, rules or guard.Rules()
        )
        core.now = now
        self._journal = journal
        self.replication = Replication(core)
        core.engine = Engine(
            member_id,
            core.others,
            journal,
            self._engine_sends,
            self.replication.send_all,
            now=now,
            heartbeat_s=core.timings.heartbeat_s,
            fallback_s=core.timings.fallback_s,
            applied_index=applied_index,
            append_bytes=core.timings.append_bytes,
        )
        self.elections = Elections(core)
        self.proposals = Proposals(core)
        self.barriers = Barriers(core)
        self.barriers.applied_index = applied_index
        self._handed_over = applied_index
        self._stamp_ms = time_ms
        self._time_ms, self._time_at = time_ms or wall_ms, now
        self._acknowledge_to: int | None = None
        self._last_acknowledged: tuple[str, int | None, Acknowledged] | None = None
        self._acknowledged_at = now
        self.watching = False
        """Whether somebody here waits for news; the leader learns it from the next acknowledgement."""
        self._unsynced_since: float | None = None
        self._tick_needed = True
        self._transfer: tuple[Hashable, str, float, bool] | None = None
        self._handlers: dict[type[Message], Callable[..., None]] = self._protocol()

    def _protocol(self) -> dict[type[Message], Callable[..., None]]:
        return {
            Append: self._append,
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
        }

    # Inputs. Each may only change state and fill the outbox; `step` concludes.

    def linked(self, now: float, peer: str, generation: int) -> None:
        """A link to `peer` is up. A newer generation replaces the older one."""
        self.core.now = now
        if peer in self.core.others:
            if peer in self.core.links:
                self._drop_link(peer)
            self.core.link(peer, generation)
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
        """A message of the link `generation`; anything older, or from a stranger, is dropped.

        Whether a step has something to conclude: the last acknowledgements of an entry change nothing.
        """
        self.core.now = now
        handler = self._handlers.get(type(message))
        if handler is None or self.core.links.get(peer) != generation:
            return False
        handler(peer, message)
        return self._tick_needed or not isinstance(message, Acknowledged)

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
        core = self.core
        core.now = now
        if not core.is_leader:
            core.finish(token, NoQuorum("this member does not lead (any more); try again"))
        elif target == core.member_id:
            core.finish(token, target)  # It leads already, as the caller wishes.
        elif self._transfer is not None:
            core.finish(token, Conflict("another transfer is under way; wait for it to end"))
        elif target is None and not core.links:
            core.finish(token, Conflict("no other member is connected, so there is nobody to transfer to"))
        elif target is not None and target not in core.others:
            core.finish(token, InvalidInput(f"member {target!r} is not a voter of this cluster"))
        elif target is not None and target not in core.links:
            core.finish(token, Conflict(f"{target} is not connected; the leader is unchanged"))
        else:
            best = (
                max(core.links, key=lambda peer: (self.replication.matched(peer), peer))
                if target is None
                else target
            )
            self._transfer = (token, best, min(deadline, now + core.timings.fallback_s), False)
            self.proposals.paused = True

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
        self._drive_transfer()

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

    def _engine_sends(self, peer: str, message: Message) -> None:
        """PySyncObj asks for votes, grants one or acknowledges: promises wait for the disk."""
        if isinstance(message, Acknowledged):
            message = self._acknowledgement(message)
            if self._says_nothing_new(peer, message):
                return
        self.core.promise(peer, message)

    def _acknowledgement(self, message: Acknowledged) -> Acknowledged:
        next_index = message.next_index
        if message.success and self._acknowledge_to is not None:
            next_index = self._acknowledge_to + 1
        return Acknowledged(self.core.term, next_index, message.success, message.reset, self.watching)

    def _says_nothing_new(self, peer: str, message: Acknowledged) -> bool:
        """Whether this leader was told the same on this link less than half a heartbeat ago.

        After each commit a leader sends its new commit index around; answering that would double
        the messages of a quiet cluster. Heartbeats are further apart, so they are answered - unless the
        disk hangs, and with it all answers: then there must not be more of them every time.
        """
        core = self.core
        same = (peer, core.links.get(peer), message)
        recently = core.now - self._acknowledged_at < core.timings.heartbeat_s / 2
        if same == self._last_acknowledged and (recently or core.slow_disk):
            return True
        self._last_acknowledged, self._acknowledged_at = same, core.now
        return False

    def _append(self, peer: str, message: Append) -> None:
        core = self.core
        if not guard.well_formed(message):
            return
        if message.term < core.term:
            core.promise(peer, StaleTerm(core.term))
            return
        admitted = guard.admit_append(self._journal, core.engine.commit_index, message, core.rules)
        self._acknowledge_to = admitted.acknowledge_to
        core.engine.append(core.now, peer, admitted.append)
        self._acknowledge_to = None
        self.elections.heard_leader()

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

    def _resigned(self, peer: str) -> None:
        """`peer` says that it does not lead: asking it again, until it falls silent, helps nobody."""
        if self.core.leader == peer:
            self.elections.lost_leader()

    # Slow disks and transfers.

    def _watch_disk(self) -> None:
        """A leader whose disk has been busy for one election timeout gives way.

        Nobody campaigns with such a disk: the votes asked for would go out when it is done, and depose
        whoever leads by then.
        """
        core, since = self.core, self._unsynced_since
        core.slow_disk = since is not None and core.now - since > core.timings.election_s
        if core.slow_disk and core.is_leader and core.others:
            core.engine.observe_term(core.now, core.term + 1)

    def _drive_transfer(self) -> None:
        """Wait until the target has everything, tell it to campaign, and see who leads then."""
        if self._transfer is None:
            return
        core = self.core
        token, target, deadline, told = self._transfer
        leader = self._reachable_leader()  # As of now: `core.leader` may still be this deposed member.
        if not core.is_leader and leader is not None:
            self._end_transfer(token, leader)
        elif core.now >= deadline:
            unsure: Conflict | OutcomeUnknown = Conflict(
                f"{target} did not take over in time; the leader is unchanged"
            )
            if not core.is_leader:
                unsure = OutcomeUnknown("no leader is known yet after the transfer; see `raftos leader show`")
            self._end_transfer(token, unsure)
        elif core.is_leader and not told and self.replication.matched(target) == self._journal.last_index:
            core.send(target, TimeoutNow(core.term))
            self._transfer = (token, target, deadline, True)

    def _end_transfer(self, token: Hashable, value: object) -> None:
        self._transfer = None
        self.proposals.paused = False
        self.core.finish(token, value)

    # Views.

    def cluster_time_ms(self, now: float) -> int:
        """The last applied stamp, but a leader's own, plus the monotonic time measured since."""
        return self._time_ms + int((now - self._time_at) * 1000)

    def _knows_time(self) -> bool:
        """Not by the wall clock alone, as long as entries before this leader's first may have a stamp."""
        return self._stamp_ms > 0 or self._journal.term_at(self.barriers.applied_index) == self.core.term

    @property
    def role(self) -> Role:
        if self.core.is_leader:
            return Role.LEADER
        return Role.CANDIDATE if self.core.engine.is_candidate else Role.FOLLOWER

    def status(self) -> Status:
        core, journal = self.core, self._journal
        return Status(
            member_id=core.member_id,
            role=self.role,
            leader_id=core.leader,
            term=core.term,
            commit_index=core.commit_index,
            applied_index=self.barriers.applied_index,
            last_index=journal.last_index,
            synced_index=journal.synced_index,
            voters=core.voters,
            connected=core.connected,
            has_quorum=core.leader is not None,
            trouble=core.trouble,
        )
