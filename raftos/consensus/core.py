"""What the parts of a replica share: who we are, who is linked, and what goes out.

Elections, proposals and barriers are three separate thoughts about one member. `Core` is the
ground they stand on: the engine, the journal, the links, and the outbox with its one important
rule - a message that makes a promise (a vote, an acknowledgement, a confirmation) waits until
everything it promises is durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from raftos.consensus.engine import APPEND_BYTES, Engine, EngineLog
from raftos.consensus.guard import Rules
from raftos.consensus.messages import Message
from raftos.errors import RaftosError


class ReplicaLog(EngineLog, Protocol):
    """The journal, as the replica uses it: the log plus how much of it is durable."""

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


@dataclass(slots=True)
class Output:
    """What the outside has to do after a step: send, apply, tell."""

    frames: list[Frame] = field(default_factory=list)
    committed: list[tuple[int, bytes]] = field(default_factory=list)
    """(index, command) to apply, in order; the answer comes back through `Replica.applied`."""
    done: list[tuple[Hashable, object]] = field(default_factory=list)
    """(token, results | read index | error): calls that have ended."""

    def __bool__(self) -> bool:
        return bool(self.frames or self.committed or self.done)


class Core:
    """The ground of one replica. Its parts read it; only the replica changes the time."""

    def __init__(
        self,
        member_id: str,
        voters: Sequence[str],
        journal: ReplicaLog,
        timings: Timings,
        random: Random,
        rules: Rules,
    ) -> None:
        self.member_id = member_id
        self.voters = tuple(sorted(voters))
        self.others = tuple(voter for voter in self.voters if voter != member_id)
        self.majority = len(self.voters) // 2 + 1
        self.journal = journal
        self.timings = timings
        self.random = random
        self.rules = rules
        self.now = 0.0
        self.links: dict[str, int] = {}
        self.connected: tuple[str, ...] = ()
        """The peers of `links`, sorted."""
        self.output = Output()
        self.engine: Engine
        self.leader: str | None = None
        """The leader this member can reach now: itself, or a linked peer it hears from."""
        self.trouble: str | None = None
        """Why this member cannot keep its promises (disk full), or None."""
        self.slow_disk = False
        """Whether the present write has taken longer than an election timeout."""
        self._held: deque[tuple[int, str, int, Message]] = deque()

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

    def link(self, peer: str, generation: int) -> None:
        self.links[peer] = generation
        self.connected = tuple(sorted(self.links))

    def unlink(self, peer: str) -> None:
        del self.links[peer]
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
