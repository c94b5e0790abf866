"""What bounds a member's log: when a snapshot is made, what may be forgotten, and what is installed.

    log grown by enough --> copy of the state --> snapshot file, durable --> state synced --> log trimmed
    offer of the leader --> fetched (courier.py) --> state extracted aside --> exchanged, log begins after it

Snapshots are made beside the writes, on a thread: the copy is one consistent moment of the
state, which goes on being written. Nothing of the log is dropped before both a snapshot and the state on
this disk contain it durably, and a tail of it stays, so that a follower that was away for a moment need not
fetch everything.

The keeper starts no thread and awaits nothing: jobs that touch files go through `work`, in order, and what
follows comes back on the event loop. So the simulation runs it as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import structlog

from raftos.consensus.configuration import decode
from raftos.consensus.core import Offer
from raftos.consensus.courier import PIECE_BYTES, Courier
from raftos.consensus.journal import Journal
from raftos.consensus.messages import Message, SnapshotPiece, SnapshotWanted
from raftos.consensus.replica import Replica
from raftos.consensus.snapshots import CorruptSnapshot, Header, SnapshotStore, Stored, pieces_of
from raftos.errors import UNDECODABLE, NotReady, RaftosError, StartupError
from raftos.state.copying import Copied, restore_file
from raftos.state.machine import Machine
from raftos.state.place import COPY_NAME
from raftos.state.storage import FORMAT, OLDEST_FORMAT

RETRY_S = 5.0
"""After a snapshot could not be made or installed (disk full), this long until the next try."""
_MEND = "run a version that can, or stop this member and remove that file"

log = structlog.get_logger("raftos.consensus")


class Policy(NamedTuple):
    """When snapshots are made, and how many stay."""

    log_bytes: int = 64 * 2**20
    """After the log has grown by so much ..."""
    least_growth: float = 1.0
    """... and by no less than this share of the last snapshot's size, so that a large state is not written
    anew for every little change."""
    keep: int = 2
    interval_s: float = 0.0
    """Also after so long, if anything changed; 0 for never."""

    @property
    def tail_bytes(self) -> int:
        """So much of the log stays for followers that were away for a moment."""
        return self.log_bytes // 2


class World(Protocol):
    """What the keeper needs done outside."""

    def send(self, peer: str, generation: int, message: Message) -> None: ...

    def work(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run `job` on the snapshot thread, then `done` on the loop with its value or RaftosError."""

    def remove_segments(self, names: list[str]) -> None:
        """Have the disk thread remove journal segments."""

    def exchange(self, path: Path, stored: Stored) -> None:
        """Have the machine and the replica go on from the state file in `path`."""

    def now(self) -> float: ...


def extract(snapshots: SnapshotStore, stored: Stored, folder: Path) -> Path:
    """Put the state of a snapshot into a file beside the present one.

    Raises CorruptSnapshot, SnapshotFailed, StartupError, and leaves nothing.
    """
    refuse_unreadable(stored)
    header = stored.header
    return restore_file(
        snapshots.pieces(stored.name), folder, index=header.index, state_hash=header.state_hash
    )


def refuse_unreadable(stored: Stored) -> None:
    """Raise StartupError for a snapshot that this version could not go on from, before anything gives way."""
    header = stored.header
    if not OLDEST_FORMAT <= header.state_format <= FORMAT:
        raise StartupError(
            f"the snapshot {stored.name}, made by raftos {header.version}, has a state of format "
            f"{header.state_format}, and this version reads {OLDEST_FORMAT} to {FORMAT}; {_MEND}"
        )
    try:
        if header.configuration:
            decode(header.configuration)
    except UNDECODABLE as error:
        raise StartupError(
            f"the snapshot {stored.name}, made by raftos {header.version}, names its members in a way that "
            f"this version cannot read ({error}); {_MEND}"
        ) from error


class HeldSnapshot:
    """A snapshot file that stays while this is open: `base.Snapshot`."""

    def __init__(self, snapshots: SnapshotStore, stored: Stored) -> None:
        self._snapshots = snapshots
        self._pin = snapshots.pin(stored.name)
        self.index = stored.header.index
        self.size_bytes = stored.size_bytes

    def read(self, offset: int, size: int) -> bytes:
        return self._snapshots.read(self._pin.stored.name, offset, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pin.release()


@dataclass(frozen=True)
class Waiting:
    """Somebody wants a snapshot that contains `index`."""

    index: int
    done: Callable[[Stored | RaftosError], None]


class Keeper:
    """The snapshots of one running member. All calls come on the event loop."""

    def __init__(
        self,
        world: World,
        snapshots: SnapshotStore,
        journal: Journal,
        machine: Machine,
        replica: Replica,
        policy: Policy,
        *,
        first: bytes | None = b"",
        version: str = "",
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self.courier = Courier(
            snapshots, world.send, world.work, self._arrived, self._lost, piece_bytes=piece_bytes
        )
        self._world = world
        self._snapshots = snapshots
        self._journal = journal
        self._machine = machine
        self._copy = machine.folder / COPY_NAME
        self._replica = replica
        self._policy = policy
        self._first = first
        """The configuration in force before the log had one; None where only the log can tell."""
        self._version = version
        self._making = False
        self._waiting: list[Waiting] = []
        self._untrimmed: int | None = None
        """The durable index to trim by, once it is durable that the journal begins after a snapshot."""
        self._distrust: str | None = None
        self._not_installed: tuple[int, str] | None = None
        """The index of a snapshot that could not be installed, and why."""
        self._made_at = self._not_before = world.now()
        if snapshots.newest is not None:
            self._tell_replica(snapshots.newest)

    def _tell_replica(self, stored: Stored) -> None:
        header = stored.header
        self._replica.snapshot_made(self._world.now(), header.index, header.term, stored.size_bytes)

    # What happens outside.

    def offered(self, offers: list[Offer]) -> None:
        for offer in offers:
            self.courier.offered(self._world.now(), offer)

    def received(self, peer: str, generation: int, message: SnapshotWanted | SnapshotPiece) -> None:
        if isinstance(message, SnapshotPiece):
            self.courier.piece(self._world.now(), peer, generation, message)
        else:
            self.courier.wanted(self._world.now(), peer, generation, message)

    def distrust(self, sentence: str) -> None:
        """What is applied here is wrong, for good: a snapshot that is being written is not kept."""
        self._distrust = sentence

    def tick(self) -> None:
        """Make a snapshot if it is time to. Call it several times a second."""
        now = self._world.now()
        self.courier.tick(now, self._replica.replication.matched)
        if self._untrimmed is not None:
            self._trim(self._untrimmed)
        if not self._making and now >= self._not_before and self._is_due(now):
            self._make()

    def want(self, index: int, done: Callable[[Stored | RaftosError], None]) -> None:
        """Call `done` with a snapshot that contains the applied entry `index`, or with why there is none."""
        trouble = self._replica.core.trouble
        if trouble is not None:
            done(NotReady(f"this member makes no snapshot: {trouble}; ask another member"))
            return  # What it has applied may be wrong, and would outlive it.
        newest = self._snapshots.newest
        if newest is not None and newest.header.index >= index:
            done(newest)
            return
        self._waiting.append(Waiting(index, done))
        if not self._making:
            self._make()

    # Making one.

    def _is_due(self, now: float) -> bool:
        newest = self._snapshots.newest
        index = newest.header.index if newest else 0
        if self._machine.applied_index <= index or self._replica.core.trouble is not None:
            return False  # What a member in trouble has applied may be wrong, or its disk full.
        if self._configuration_at(self._machine.applied_index) is None:
            return False
        if index < self._journal.first_index - 1:
            return True  # Without one, a follower that lacks the beginning could never catch up.
        late = 0 < self._policy.interval_s <= now - self._made_at
        size_bytes = newest.size_bytes if newest else 0
        enough_bytes = max(self._policy.log_bytes, self._policy.least_growth * size_bytes)
        return late or self._journal.bytes_since(index) >= enough_bytes

    def _configuration_at(self, index: int) -> bytes | None:
        """Who belonged to the cluster as of an index; None before this member has heard of it."""
        mark = self._journal.mark_at(index)
        return mark.payload if mark else self._first

    def _make(self) -> None:
        self._making = True
        self._world.work(lambda: self._machine.copy_to(self._copy), self._copied)

    def _copied(self, copied: Copied | RaftosError) -> None:
        trouble = self._replica.core.trouble
        if trouble is not None:
            # Since the copy was begun: what is in it may be wrong.
            copied = NotReady(f"no snapshot of a member in trouble: {trouble}")
        if isinstance(copied, RaftosError):
            self._world.work(self._remove_copy, lambda _: None)
            self._failed(copied)
            return
        term = self._journal.term_at(copied.applied_index)
        if term is None:
            # A snapshot was installed meanwhile that goes further than this copy.
            self._world.work(self._remove_copy, lambda _: self._made(self._snapshots.newest))
            return
        configuration = self._configuration_at(copied.applied_index)
        if configuration is None:
            why = NotReady("this member does not know the others yet; ask one of them")
            self._world.work(self._remove_copy, lambda _: self._failed(why))
            return
        header = Header(
            cluster_id=copied.cluster_id,
            index=copied.applied_index,
            term=term,
            configuration=configuration,
            time_ms=copied.time_ms,
            revision=copied.revision,
            state_hash=copied.state_hash,
            state_format=copied.format,
            raw_bytes=copied.size_bytes,
            version=self._version,
            created_ms=time.time_ns() // 1_000_000,
        )
        self._world.work(lambda: self._write(header), self._written)

    def _write(self, header: Header) -> Stored:
        try:
            return self._snapshots.write(header, pieces_of(self._copy))
        finally:
            self._remove_copy()

    def _remove_copy(self) -> None:
        self._copy.unlink(missing_ok=True)

    def _written(self, stored: Stored | RaftosError) -> None:
        if isinstance(stored, RaftosError):
            self._failed(stored)
            return
        if self._distrust is not None:
            why = NotReady(f"no snapshot of a member in trouble: {self._distrust}")
            self._world.work(lambda: self._snapshots.discard(stored.name), lambda _: self._failed(why))
            return
        log.info("made a snapshot", index=stored.header.index, size_bytes=stored.size_bytes)
        self._tell_replica(stored)
        self._made(stored)
        self._forget()

    def _made(self, stored: Stored | None) -> None:
        self._making = False
        self._made_at = self._world.now()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if stored is not None and stored.header.index >= each.index:
                each.done(stored)
            else:
                self.want(each.index, each.done)

    def _failed(self, why: RaftosError) -> None:
        log.error("no snapshot could be made", reason=why.message)
        self._making = False
        self._not_before = self._world.now() + RETRY_S
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.done(why)

    def _lost(self) -> None:
        """One is gone that others may need: another takes its place now, and not when the log has grown."""
        self._replica.snapshot_lost(self._world.now())
        if self._snapshots.newest is not None:
            self._tell_replica(self._snapshots.newest)
        if not self._making:
            self._make()

    # Forgetting what it contains.

    def _forget(self) -> None:
        self._world.work(self._forget_snapshots, self._trim)

    def _forget_snapshots(self) -> int:
        """On the thread: old snapshots go; the index up to which the state is durable."""
        self._snapshots.keep(self._policy.keep)
        return self._machine.sync()

    def _trim(self, durable_index: int | RaftosError) -> None:
        newest, before_first = self._snapshots.newest, self._journal.first_index - 1
        if isinstance(durable_index, RaftosError) or newest is None:
            log.warning("the log is not trimmed for now", reason=str(durable_index))
            self._untrimmed = None
            return
        self._untrimmed = durable_index if self._journal.synced_index < before_first else None
        tail_index = self._journal.index_before_bytes(self._policy.tail_bytes)
        index = min(newest.header.index, durable_index, tail_index, self._journal.synced_index)
        needed = self.courier.needed_index()
        if needed is not None:
            index = min(index, needed)
        if index >= before_first:  # Just after an installation all of what came before is to go.
            self._journal.trim(index)
        names = self._journal.take_removals()
        if names:
            log.info("trimmed the log", first_index=self._journal.first_index, segments=len(names))
            self._world.remove_segments(names)

    # Installing one.

    def _arrived(self, stored: Stored) -> None:
        if not self._replica.wants_snapshot(stored.header.index):
            self.courier.installed()
            return
        self._world.work(lambda: self._extract(stored), lambda path: self._extracted(stored, path))

    def _extract(self, stored: Stored) -> Path:
        return extract(self._snapshots, stored, self._machine.folder)

    def _extracted(self, stored: Stored, path: Path | RaftosError) -> None:
        if isinstance(path, RaftosError):
            self._keep_for_later(stored, path)
            return
        if self._replica.wants_snapshot(stored.header.index):
            self._world.exchange(path, stored)
            self._tell_replica(stored)
            self._forget()
        else:
            self._world.work(lambda: path.unlink(missing_ok=True), lambda _: None)
        self.courier.installed()

    def _keep_for_later(self, stored: Stored, why: RaftosError) -> None:
        """It need not be fetched again, unless it was damaged since it came."""
        log.error("the snapshot cannot be extracted", reason=why.message)
        self._not_installed = stored.header.index, f"the leader's snapshot cannot be installed: {why.message}"
        if isinstance(why, CorruptSnapshot):
            self._world.work(lambda: self._snapshots.discard(stored.name), lambda _: None)
        self.courier.not_installed(self._world.now() + RETRY_S)

    @property
    def trouble(self) -> str | None:
        """Why this member cannot catch up, or None. It says nothing about what it has applied so far."""
        if self._not_installed is None or not self._replica.wants_snapshot(self._not_installed[0]):
            return None
        return self._not_installed[1]
