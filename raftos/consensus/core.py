"""What the parts of a replica share: who we are, who is linked, and what goes out.

Elections, proposals and barriers are three separate thoughts about one member. `Core` is the
ground they stand on: the engine, the journal, the links, and the outbox with its one important
rule - a message that makes a promise (a vote, an acknowledgement, a confirmation) waits until
everything it promises is durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from raftos.consensus.configuration import Configuration, decode
from raftos.consensus.engine import APPEND_BYTES, Engine, EngineLog
from raftos.consensus.guard import Rules
from raftos.consensus.messages import Message
from raftos.errors import RaftosError


class Mark(Protocol):
    """A remembered entry of the log: the configuration in force."""

    @property
    def index(self) -> int: ...
    @property
    def payload(self) -> bytes: ...


class ReplicaLog(EngineLog, Protocol):
    """The journal, as the replica uses it: the log plus how much of it is durable."""

    @property
    def mark(self) -> Mark | None: ...
    def install(self, index: int, term: int, mark: bytes | None) -> None: ...
    def bytes_since(self, index: int) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def synced_position(self) -> int: ...
    @property
    def synced_index(self) -> int: ...
    @property
    def synced_term(self) -> int: ...


@dataclass(frozen=True)
class Timings:
    """Seconds. An election starts after one to two `election_s` without a word from a leader."""

    heartbeat_s: float = 0.1
    election_s: float = 0.5
    append_bytes: int = APPEND_BYTES
    """About how much one append carries; the simulation uses little, to see many messages."""

    @property
    def fallback_s(self) -> float:
        """A leader that no majority answered for this long steps down."""
        return 2 * self.election_s


Frame = tuple[str, int, Message]
"""(peer, generation of the link, message)"""


@dataclass(frozen=True, slots=True)
class Offer:
    """A snapshot that this member lacks and its leader has."""

    peer: str
    generation: int
    index: int
    term: int
    """Of the last entry it contains."""
    size_bytes: int


@dataclass(slots=True)
class Output:
    """What the outside has to do after a step: send, apply, tell."""

    frames: list[Frame] = field(default_factory=list)
    committed: list[tuple[int, bytes]] = field(default_factory=list)
    """(index, command) to apply, in order; the answer comes back through `Replica.applied`."""
    done: list[tuple[Hashable, object]] = field(default_factory=list)
    """(token, results | read index | error): calls that have ended."""
    offers: list[Offer] = field(default_factory=list)
    """Snapshots to fetch, of which the answer comes back through `Replica.install`."""

    def __bool__(self) -> bool:
        return bool(self.frames or self.committed or self.done or self.offers)


class Core:
    """The ground of one replica. Its parts read it; only the replica changes the time."""

    def __init__(
        self,
        member_id: str,
        first: Configuration,
        journal: ReplicaLog,
        timings: Timings,
        random: Random,
        rules: Rules,
    ) -> None:
        """`first` is in force as long as the log has no configuration of its own."""
        self.member_id = member_id
        self.journal = journal
        self.timings = timings
        self.random = random
        self.rules = rules
        self.now = 0.0
        self.links: dict[str, int] = {}
        self.levels: dict[str, int] = {}
        """The feature level of each linked peer's version."""
        self.connected: tuple[str, ...] = ()
        """The peers of `links`, sorted."""
        self.output = Output()
        self.engine: Engine
        self._first = first
        self._configure()
        self.snapshot: tuple[int, int, int] | None = None
        """(index, its term, bytes) of the newest snapshot on this member's disk."""
        self.offered_index = 0
        """The end of the furthest snapshot that was offered: so far is agreed on, whatever this log has."""
        self.expelled: str | None = None
        """Why this member does not belong to the cluster any more, or None."""
        self.leader: str | None = None
        """The leader this member can reach now: itself, or a linked peer it hears from."""
        self.trouble: str | None = None
        """Why this member cannot keep its promises (disk full), or None."""
        self.slow_disk = False
        """Whether the present write has taken longer than an election timeout."""
        self._held: deque[tuple[int, str, int, Message]] = deque()

    # Who belongs to the cluster. The newest configuration of the log is in force, agreed on or not yet.

    def adopt(self) -> None:
        """Take over the configuration that the log has come to by now, if it is another one."""
        if self.journal.mark != self._mark:
            self._configure()
            self.engine.configure(self.now, self.others, self.learners)

    def _configure(self) -> None:
        mark = self.journal.mark
        self.configuration = configuration = decode(mark.payload) if mark else self._first
        self.configuration_index = mark.index if mark else 0
        """Where in the log the configuration in force is; 0 for the first."""
        self.voters = configuration.voters
        self.others = tuple(voter for voter in self.voters if voter != self.member_id)
        """The other voters: whose votes and confirmations are asked for, and count."""
        self.learners = tuple(each for each in configuration.learners if each != self.member_id)
        self.followers = frozenset((*self.others, *self.learners))
        """Everybody else who is sent the log."""
        self.majority = len(self.voters) // 2 + 1
        self.is_voter = self.member_id in self.voters
        self._away = frozenset(configuration.removed)
        self._mark = mark

    @property
    def is_configuration_agreed(self) -> bool:
        return self.configuration_index <= self.commit_index

    def is_gone(self, peer: str) -> bool:
        """Whether a peer was removed for good: as long as that is not agreed on, it is a peer still."""
        return peer in self._away and self.is_configuration_agreed

    @property
    def term(self) -> int:
        return self.journal.term

    @property
    def fit_to_lead(self) -> bool:
        return self.trouble is None and not self.slow_disk

    @property
    def is_leader(self) -> bool:
        return self.engine.is_leader

    @property
    def commit_index(self) -> int:
        """The commit index as far as this member may act on it: never past its own durable log."""
        if not self.rules.durable_first:
            return min(self.engine.commit_index, self.journal.last_index)
        return min(self.engine.commit_index, self.journal.synced_index)

    def link(self, peer: str, generation: int, level: int) -> None:
        self.links[peer], self.levels[peer] = generation, level
        self.connected = tuple(sorted(self.links))

    def unlink(self, peer: str) -> None:
        del self.links[peer], self.levels[peer]
        self.connected = tuple(sorted(self.links))

    def send(self, peer: str, message: Message) -> None:
        """Send now, on the present link; without a link the message is dropped."""
        generation = self.links.get(peer)
        if generation is not None:
            self.output.frames.append((peer, generation, message))

    def answer(self, peer: str, generation: int, message: Message) -> None:
        """Answer on the link of the question. Over a later one the peer may count its questions anew."""
        if self.links.get(peer) == generation:
            self.output.frames.append((peer, generation, message))

    def broadcast(self, message: Message) -> None:
        """Send to all other voters."""
        for peer in self.others:
            self.send(peer, message)

    def promise(self, peer: str, message: Message) -> None:
        """Send once everything written so far is durable, if the link is still the same."""
        if not self.rules.durable_first or self.journal.synced_position >= self.journal.position:
            self.send(peer, message)
            return
        generation = self.links.get(peer)
        if generation is not None:
            self._held.append((self.journal.position, peer, generation, message))

    def release(self) -> None:
        """Send the promises that have become durable."""
        while self._held and self._held[0][0] <= self.journal.synced_position:
            _, peer, generation, message = self._held.popleft()
            if self.links.get(peer) == generation:
                self.output.frames.append((peer, generation, message))

    def finish(self, token: Hashable, value: object | RaftosError) -> None:
        self.output.done.append((token, value))
