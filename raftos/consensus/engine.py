"""PySyncObj behind one door: the only file that touches it.

The engine keeps PySyncObj's Raft core - log matching, vote counting, the commit rule - and
replaces everything around it: clock, codec, journal, transport, serializer, randomness, elections'
timing, and the loop that sends appends (`replication.py`). It reads no clock (the caller says what
time it is), does no I/O, and never sees an exception from an apply: its one replicated method does
nothing, because the replica hands committed entries over from the journal.

Seams, all in one place and each checked by a test (`PRIVATE_NAMES`, `MODULE_NAMES`):

    pysyncobj.syncobj.createJournal, .Serializer, .pickle, .monotonicTime, .random,
    .PIPE_NOTIFIER_ENABLED          looked up in the module when used, so replaceable here
    _SyncObj__raftNextIndex         an acknowledgement may not move it back            (finding 1)
    _SyncObj__raftElectionDeadline  the replica decides when to campaign               (finding 6)
    _SyncObj__sendAppendEntries     the replica knows what each follower can take, and sends it
    _SyncObj__newAppendEntriesTime  when the next heartbeat is due
    _SyncObj__raftLastApplied       applied state survives a restart in SQLite
    _SyncObj__raftCommitIndex       what a snapshot holds is committed
    _SyncObj__otherNodes, .__readonlyNodes, .__raftMatchIndex, .__lastResponseTime
                                    the configuration in force is set, never added to   (findings 21 to 24)
    _RAFT_STATE, _getLeader, _onTick, _poller, _applyCommand, _checkCommandsToApply
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Protocol

import pysyncobj.syncobj as so
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from raftos.consensus.guard import FIRST_INDEX, NO_OP, Rules
from raftos.consensus.messages import (
    Acknowledged,
    Append,
    Message,
    VoteGranted,
    VoteRequest,
)

PRIVATE_NAMES = (
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__otherNodes",
    "_SyncObj__readonlyNodes",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__lastResponseTime",
    "_getLeader",
    "_onTick",
    "_poller",
    "_applyCommand",
    "_checkCommandsToApply",
)
MODULE_NAMES = (
    "_RAFT_STATE",
    "createJournal",
    "Serializer",
    "pickle",
    "monotonicTime",
    "random",
    "PIPE_NOTIFIER_ENABLED",
)

APPEND_BYTES = 4 * 2**20
"""About how much one append carries, and how much of the log PySyncObj sees in one look.

It cuts larger entries into `transmission` pieces, wrongly (finding 19).
"""
MAX_APPEND_ENTRIES = 2_000
"""And so many entries at most: reading each costs 10 us, and the event loop has others to serve."""
MAX_ENTRY_BYTES = APPEND_BYTES // 2
"""No log entry is larger: an append carries one at least."""

_NO_OP = bytes((NO_OP,))
_clock = SimpleNamespace(now=0.0)


class EngineLog(Protocol):
    """The journal, as the engine uses it."""

    term: int
    vote: str | None

    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def last_term(self) -> int: ...
    def append(self, payload: bytes, index: int, term: int) -> None: ...
    def truncate_from(self, index: int) -> None: ...
    def term_at(self, index: int) -> int | None: ...
    def entries(self, start: int, stop: int | None = None, max_bytes: int | None = None) -> Sequence[Any]: ...
    def set_hard_state(self, term: int, vote: str | None) -> None: ...


class _Codec:
    """Replaces pickle: a command is its payload, the method number is always 0."""

    @staticmethod
    def dumps(command: tuple[int, tuple[bytes]]) -> bytes:
        return command[1][0]

    @staticmethod
    def loads(payload: bytes) -> tuple[int, tuple[bytes]]:
        return 0, (payload,)


class _NoSerializer:
    """Replaces PySyncObj's snapshots: there is nothing to load, to send or to write."""

    def __init__(self, *_: object) -> None: ...

    def checkSerializing(self) -> tuple[int, None]:  # noqa: N802 - PySyncObj's name
        return so.SERIALIZER_STATE.NOT_SERIALIZING, None

    def cancelTransmisstion(self, _: Node) -> None: ...  # noqa: N802 - PySyncObj's name

    def getTransmissionData(self, _: Node) -> None: ...  # noqa: N802 - PySyncObj's name


class _Node(str, Node):  # type: ignore[misc]  # PySyncObj has no types
    """A member under PySyncObj's name for it: as a string it is hashed and compared without Python code."""

    __slots__ = ()
    id = property(attrgetter("_id"))


_NOBODY = _Node("")


class _JournalAdapter:
    """The journal under PySyncObj's names; its positions count from the first entry it may ask about.

    That is the entry before the log's first, of which only the term is known: a snapshot ends with it.
    PySyncObj wants to know of entries where they are and of which term, never what is in them: it counts
    on them, and what it applies does nothing. So it is given no commands.
    """

    def __init__(self, log: EngineLog, committed: int) -> None:
        self.committed = committed
        """The commit index: PySyncObj tells its journal of every change."""
        self._log = log

    @property
    def _first(self) -> int:
        return max(self._log.first_index - 1, FIRST_INDEX)

    def __len__(self) -> int:
        return self._log.last_index - self._first + 1

    def __getitem__(self, item: int | slice) -> Any:
        # PySyncObj asks for single entries, dozens of times a turn, only to know where the log ends
        # and begins.
        if item == -1:
            return b"", self._log.last_index, self._log.last_term
        first = self._first
        if isinstance(item, int):
            return b"", first + item, self._log.term_at(first + item)
        start = first + (item.start or 0)
        # An open range is asked for by a follower: is the entry there, and is there anything behind it?
        stop = start + 2 if item.stop is None else min(first + item.stop, start + MAX_APPEND_ENTRIES)
        last = self._log.last_index
        return [(_NO_OP, index, self._log.term_at(index)) for index in range(start, min(stop, last + 1))]

    def add(self, command: bytes, index: int, term: int) -> None:
        self._log.append(command, index, term)

    def deleteEntriesFrom(self, position: int) -> None:  # noqa: N802 - PySyncObj's name
        self._log.truncate_from(self._first + position)

    def setCurrentTerm(self, term: int, vote: str | None) -> None:  # noqa: N802 - PySyncObj's name
        self._log.set_hard_state(term, vote)

    def getCurrentTerm(self) -> int:  # noqa: N802 - PySyncObj's name
        return self._log.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802 - PySyncObj's name
        return self._log.vote

    def getRaftCommitIndex(self) -> int:  # noqa: N802 - PySyncObj's name
        return self.committed

    def setRaftCommitIndex(self, index: int) -> None:  # noqa: N802 - PySyncObj's name
        self.committed = index

    def onOneSecondTimer(self) -> None: ...  # noqa: N802 - PySyncObj's name

    def _destroy(self) -> None: ...


Send = Callable[[str, Message], None]


class _Outbox(Transport):  # type: ignore[misc]  # PySyncObj has no types
    """PySyncObj's transport: turns its dictionaries into messages and hands them to the replica.

    Appends do not come this way: the replica makes them (`replication.py`).
    """

    def __init__(self, send: Send) -> None:
        super().__init__(None, None, [])
        self._send = send

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        translate = _OUTGOING.get(message["type"])
        if translate is not None:
            self._send(node.id, translate(message))
        return True


_OUTGOING: dict[str, Callable[[dict[str, Any]], Message]] = {
    # The replica writes its own term over the 0: PySyncObj's answer carries none (finding 3).
    "next_node_idx": lambda m: Acknowledged(0, m["next_node_idx"], m["success"], m["reset"]),
    "request_vote": lambda m: VoteRequest(m["term"], m["last_log_index"], m["last_log_term"]),
    "response_vote": lambda m: VoteGranted(m["term"]),
}


class Engine(SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    """One member's Raft core. Every call says what time it is and returns at once."""

    _SyncObj__newAppendEntriesTime: float
    _SyncObj__raftCommitIndex: int

    def __init__(
        self,
        member_id: str,
        log: EngineLog,
        send: Send,
        send_appends: Callable[[], None],
        *,
        now: float,
        heartbeat_s: float,
        fallback_s: float,
        applied_index: int,
        append_bytes: int = APPEND_BYTES,
    ) -> None:
        _clock.now = now
        committed = max(applied_index, FIRST_INDEX, log.first_index - 1)
        self._log = log
        self._heartbeat_s = heartbeat_s
        self.is_leader = self.is_candidate = False
        self._journal = _JournalAdapter(log, committed)
        so.createJournal = lambda _: self._journal
        self._outbox = _Outbox(send)
        self._send_appends = send_appends
        self._nodes: dict[str, _Node] = {}
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,
            appendEntriesPeriod=heartbeat_s,
            raftMinTimeout=heartbeat_s * 4,
            raftMaxTimeout=heartbeat_s * 5,
            connectionTimeout=heartbeat_s * 5,
            leaderFallbackTimeout=fallback_s,
            appendEntriesBatchSizeBytes=append_bytes,
            onStateChanged=self._state_changed,
        )
        conf.logCompactionMinEntries = conf.logCompactionMinTime = math.inf
        super().__init__(_Node(member_id), [], conf, transport=self._outbox)
        self._SyncObj__raftLastApplied = committed
        self._poller = SimpleNamespace(poll=lambda _: None)
        self._hold_elections()

    @replicated  # type: ignore[untyped-decorator]  # PySyncObj has no types
    def hand_over(self, payload: bytes) -> None:
        """The one replicated method. It does nothing: the replica reads committed entries itself."""

    def configure(self, now: float, voters: Iterable[str], learners: Iterable[str]) -> None:
        """Who, besides this member, counts, and who is only sent the log.

        PySyncObj's own commands of membership are never used: they are pickled, applied again after a
        restart, and a promoted learner counts without ever voting. What it knows of a member it keeps.
        """
        others = {self._node(voter) for voter in voters}
        readers = {self._node(learner) for learner in learners}
        self._SyncObj__otherNodes, self._SyncObj__readonlyNodes = others, readers
        known = others | readers
        positions, matched = self._SyncObj__raftNextIndex, self._SyncObj__raftMatchIndex
        for gone in [node for node in matched if node not in known]:
            del matched[gone]
            positions.pop(gone, None)
        for node in known:
            positions.setdefault(node, self._log.last_index + 1)
            matched.setdefault(node, 0)
            self._SyncObj__lastResponseTime.setdefault(node, now)

    def _node(self, peer: str) -> _Node:
        node = self._nodes.get(peer)
        if node is None:
            node = self._nodes[peer] = _Node(peer)
        return node

    def linked(self, peer: str) -> None:
        self._outbox._onNodeConnected(self._node(peer))

    def unlinked(self, peer: str) -> None:
        self._outbox._onNodeDisconnected(self._node(peer))

    def tick(self, now: float) -> None:
        """Commit, step down, send a heartbeat where it is due. Never campaigns by itself."""
        _clock.now = now
        self._onTick(0)

    def campaign(self, now: float) -> None:
        """Raise the term and ask for votes. Only after a majority said in a pre-vote that it would vote."""
        _clock.now = now
        self._SyncObj__raftElectionDeadline = -math.inf
        self._onTick(0)
        self._hold_elections()

    def propose(self, now: float, payload: bytes) -> int:
        """Append an entry as the leader and send it; returns its index."""
        _clock.now = now
        self.hand_over(payload)
        self._checkCommandsToApply()
        self._SyncObj__sendAppendEntries()
        return self._log.last_index

    def append_as_leader(self, now: float, command: bytes, adopt: Callable[[], None]) -> int:
        """Append a command that PySyncObj does not know, and send it; returns its index.

        `adopt` is called between the two: who is sent a configuration is for that configuration to say.
        """
        _clock.now = now
        self._log.append(command, self._log.last_index + 1, self._log.term)
        adopt()
        self._SyncObj__sendAppendEntries()
        return self._log.last_index

    def installed(self, index: int) -> None:
        """A snapshot that ends at `index` was installed: what it holds is committed and applied."""
        self._SyncObj__raftCommitIndex = max(self._SyncObj__raftCommitIndex, index)
        self._journal.committed = self._SyncObj__raftCommitIndex
        self._SyncObj__raftLastApplied = max(self._SyncObj__raftLastApplied, index)

    def observe_term(self, now: float, term: int) -> None:
        """A higher term exists: move to it as a follower that has not voted."""
        self._deliver(
            now,
            _NOBODY,
            {"type": "request_vote", "term": term, "last_log_term": -1, "last_log_index": -1},
        )

    def append(self, now: float, peer: str, message: Append) -> None:
        self._deliver(
            now,
            self._node(peer),
            {
                "type": "append_entries",
                "term": message.term,
                "commit_index": message.commit_index,
                "prevLogIdx": message.prev_index,
                "prevLogTerm": message.prev_term,
                "entries": message.entries,
            },
        )

    def acknowledged(self, now: float, peer: str, message: Acknowledged, rules: Rules) -> None:
        node, positions = self._node(peer), self._SyncObj__raftNextIndex
        before = positions.get(node, 0)
        next_index = max(message.next_index, FIRST_INDEX + 1)
        self._deliver(
            now,
            node,
            {
                "type": "next_node_idx",
                "next_node_idx": next_index,
                "reset": message.reset,
                "success": message.success,
            },
        )
        if rules.keep_next_index and message.success and not message.reset and node in positions:
            positions[node] = max(before, positions[node])

    def vote_requested(self, now: float, peer: str, message: VoteRequest) -> None:
        self._deliver(
            now,
            self._node(peer),
            {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            },
        )

    def vote_granted(self, now: float, peer: str, message: VoteGranted) -> None:
        self._deliver(now, self._node(peer), {"type": "response_vote", "term": message.term})

    @property
    def leader(self) -> str | None:
        node = self._getLeader()
        return None if node is None else node.id

    @property
    def term(self) -> int:
        return self._log.term

    @property
    def commit_index(self) -> int:
        return self._journal.committed

    def _deliver(self, now: float, node: Node, message: dict[str, Any]) -> None:
        _clock.now = now
        self._outbox._onMessageReceived(node, message)
        self._hold_elections()

    def next_index(self, peer: str) -> int:
        """The first index to send to `peer` next."""
        return int(self._SyncObj__raftNextIndex.get(self._node(peer), self._log.last_index + 1))

    def sent(self, peer: str, last_index: int) -> None:
        """`peer` was sent all entries up to `last_index`."""
        self._SyncObj__raftNextIndex[self._node(peer)] = last_index + 1

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802 - PySyncObj's name
        """In place of PySyncObj's own, which sends a follower all that it lacks, or spins (finding 18)."""
        self._SyncObj__newAppendEntriesTime = _clock.now + self._heartbeat_s
        self._send_appends()

    def _state_changed(self, _: int, state: int) -> None:
        self.is_leader = state == so._RAFT_STATE.LEADER
        self.is_candidate = state == so._RAFT_STATE.CANDIDATE

    def _hold_elections(self) -> None:
        self._SyncObj__raftElectionDeadline = math.inf


def _install_seams() -> None:
    so.Serializer = _NoSerializer
    so.pickle = _Codec
    so.monotonicTime = lambda: _clock.now
    so.random = SimpleNamespace(random=lambda: 0.5)
    so.PIPE_NOTIFIER_ENABLED = False


_install_seams()
