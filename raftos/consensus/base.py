"""The narrow port: bytes in, agreement out.

Everything above `consensus/` sees only this. Two implementations stand behind it: `driver.py`
(PySyncObj, journal, transport) and `memory.py` (its one-process twin for tests).

`propose` takes encoded requests (`state.command.encode_request`) and returns one encoded result for
each, in order. The calls of many callers become one log entry by themselves under load. Outcomes
that are not results are exceptions: `NoQuorum` (never proposed, certainly not applied),
`OutcomeUnknown` (may be applied: send again with the same request ids) and `NotReady`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Protocol, Self

import msgspec

from raftos.consensus.configuration import Change
from raftos.errors import StartupError


class Role(StrEnum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"
    LEARNER = "learner"


class Status(msgspec.Struct, frozen=True):
    """What this member believes of the cluster. Soft: for display and metrics, never for reads."""

    member_id: str
    role: Role
    leader_id: str | None
    term: int
    commit_index: int
    """As far as this member knows; what it is offered a snapshot of is agreed on too."""
    applied_index: int
    last_index: int
    synced_index: int
    voters: tuple[str, ...]
    """The ids of the configuration in force, those who vote."""
    connected: tuple[str, ...]
    has_quorum: bool
    """A leader is known that this member heard from within one election timeout."""
    learners: tuple[str, ...] = ()
    """Those who are only sent the log, the joining ones among them."""
    removed: tuple[str, ...] = ()
    """Ids that belong to nobody any more."""
    first_index: int = 1
    """The first entry that the log still holds; the snapshot has what came before."""
    trouble: str | None = None
    """One sentence when this member cannot acknowledge or apply (disk full), else None."""


class Expelled(StartupError):
    """This member was removed from the cluster: it stops, and does not start again."""


class Snapshot(Protocol):
    """A snapshot file that stays while it is held: `with await consensus.snapshot(...) as held:`."""

    @property
    def index(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes of the file; blocks, so call it on a thread. Raises SnapshotFailed."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


Handler = Callable[[str, bytes], Awaitable[bytes]]


class Consensus(Protocol):
    """The service that `member.py` uses. All deadlines are `time.monotonic()` seconds."""

    async def propose(self, requests: Sequence[bytes], deadline: float) -> list[bytes]:
        """Agree on encoded requests and return their encoded results, durable on a majority.

        Not atomic and not one entry: independent requests, applied in this order.
        Raises NoQuorum, OutcomeUnknown, NotReady.
        """

    async def read_barrier(self, deadline: float) -> int:
        """Return once the local machine contains every write acknowledged before this call.

        The value is the index that was waited for. Raises NoQuorum when the leader cannot be
        confirmed before the deadline.
        """

    async def transfer(self, target_id: str | None, deadline: float) -> str:
        """Hand leadership to `target_id` (or the best follower); returns the new leader's id.

        Raises NoQuorum (no leader), InvalidInput (not a voter), Conflict (did not catch up in time).
        """

    async def change(self, change: Change, deadline: float) -> int:
        """Change who belongs to the cluster; returns the index of the configuration in force, once agreed on.

        Asked again after it is made, it does nothing. Raises NotFound, InvalidInput, LimitReached, Conflict
        (another change under way, or it would leave no majority of reachable voters; the leader cannot be
        removed), NoQuorum, OutcomeUnknown.
        """

    async def snapshot(self, deadline: float) -> Snapshot:
        """A snapshot of this member's state as of now or later, on its disk; leave it to free it again.

        Raises NotReady (in trouble, disk full, or no time), SnapshotFailed (it just went: ask again).
        """

    async def ask(self, member_id: str, body: bytes, timeout_s: float) -> bytes:
        """One soft request to a peer's handler (status, load). Raises Unreachable."""

    def on_ask(self, handler: Handler) -> None:
        """Set the handler that answers the peers' `ask`."""

    def on_role(self, listener: Callable[[Role, int], None]) -> None:
        """Call `listener(role, term)` on the event loop whenever the role or the term changes."""

    def on_applied(self, listener: Callable[[int], None]) -> None:
        """Call `listener(applied_index)` on the event loop after entries were applied."""

    def distrust(self, sentence: str) -> None:
        """What this member applied is wrong, for good: it serves nothing and does not lead.

        May be called before `start`.
        """

    def watching(self, watching: bool) -> None:
        """Tell the cluster that somebody here waits for news: commits are then told to this member at once.

        Without it this member hears of a commit up to 5 ms later. It takes effect within a heartbeat.
        """

    def cluster_time_ms(self) -> int:
        """This member's estimate of cluster time: the last applied stamp plus monotonic time since."""

    def status(self) -> Status:
        """The present state, without waiting."""

    async def start(self) -> None:
        """Open the journal, join the peers. Raises StartupError."""

    async def stop(self) -> None:
        """Leave quietly: pending calls end with OutcomeUnknown or NoQuorum."""
