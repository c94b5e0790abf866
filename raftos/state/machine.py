"""The replicated state machine: log entries in, results out, everything kept in SQLite.

The same entries give the same tables, the same results and the same `state_hash` on every member,
whether they are applied one by one or many at once, and wherever the process was restarted.

One call of `apply` is one SQLite transaction, in which position, revision and hash are saved as well
(`turn.py` says what happens inside). What can go wrong, and what becomes of it:

| what                                   | becomes                                                    |
|----------------------------------------|------------------------------------------------------------|
| the domain refuses                     | `Rejected`: nothing written, nothing emitted               |
| domain code raises (a bug)             | `Failed`: that one command rolled back, `faults` counts it |
| disk full, I/O error, corruption, lock | `CannotApply`: nothing of the call happened; try it again  |
| an entry this version cannot read      | `CannotApply`: upgrade this member                         |
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from raftos.errors import StartupError
from raftos.levels import FIRST_LEVEL, LEVEL
from raftos.state import events, requests, storage, tally
from raftos.state.domain import Domain, upgrades_of
from raftos.state.domains import DOMAINS
from raftos.state.events import Told
from raftos.state.reader import Reader
from raftos.state.storage import CannotApply, is_own_trouble
from raftos.state.turn import STAMPS, Position, Stamp, Turn, Vocabulary

__all__ = ["CannotApply", "Machine", "Reader"]

_LOAD = "SELECT applied_index, time_ms, revision, horizon_ms, state_hash FROM machine"
_SAVE = "UPDATE machine SET applied_index = ?, time_ms = ?, revision = ?, horizon_ms = ?, state_hash = ?"


class Machine:
    """The state of one member, in the directory `path`. Readers may live on other threads.

    Raises StartupError for the state of another cluster or of a newer format, and when the directory
    cannot be used. `max_requests` has to be equal on all members; tests make it small.
    """

    def __init__(
        self,
        path: Path,
        *,
        cluster_id: str = "",
        domains: Sequence[Domain] = DOMAINS,
        max_requests: int = requests.MAX_REQUESTS,
    ) -> None:
        self._path = path
        self._domains = domains
        self._vocabulary = Vocabulary(domains)
        schema = "".join(
            (tally.SCHEMA, events.SCHEMA, requests.SCHEMA, *(domain.schema for domain in domains))
        )
        self._db = storage.open_state(path, cluster_id, schema, upgrades_of(domains))
        self._noted: list[int] = []
        self._db.create_function("noted", 1, self._noted.append)
        self._position = Position(*self._db.execute(_LOAD).fetchone())
        self._stamps = deque([(self._position.applied_index, self._position.state_hash)], STAMPS)
        self._memory = requests.RequestMemory(self._db, self._position.horizon_ms, max_requests)
        defaults = {name: most for domain in domains for name, most in domain.tallies.items()}
        self._tallies = tally.Tallies(self._db, defaults)
        if self.level > LEVEL:
            self._db.close()
            raise StartupError(
                f"the cluster has enabled feature level {self.level}, and this version knows up to {LEVEL}; "
                "start the version that ran here before, or a newer one"
            )
        self._listener: Callable[[Sequence[Told]], None] | None = None
        self.faults = 0
        """Commands that ended `Failed` since this process opened the state; above 0 health is red."""

    @property
    def applied_index(self) -> int:
        """The log index of the last entry applied and saved; 0 before the first."""
        return self._position.applied_index

    @property
    def time_ms(self) -> int:
        """Cluster time of the last applied entry; 0 before the first."""
        return self._position.time_ms

    @property
    def revision(self) -> int:
        """How many commands have succeeded."""
        return self._position.revision

    @property
    def state_hash(self) -> bytes:
        """A rolling hash over index, payload, results and events of every entry up to `applied_index`."""
        return self._position.state_hash

    @property
    def tallies(self) -> Mapping[str, int]:
        """What is counted (`state/tally.py`), as of the last applied entry."""
        return self._tallies.values

    @property
    def limits(self) -> Mapping[str, int]:
        """How high each tally may be."""
        return self._tallies.most

    @property
    def level(self) -> int:
        """The feature level (`raftos/levels.py`) that the cluster has enabled."""
        return max(FIRST_LEVEL, self.tallies[tally.CLUSTER_LEVEL])

    @property
    def stamps(self) -> Sequence[Stamp]:
        """Indexes with the `state_hash` there: that of this start, and the last of those all members note."""
        return tuple(self._stamps)

    def on_events(self, listener: Callable[[Sequence[Told]], None]) -> None:
        """Call `listener(told)` with the events of each turn, right after it was saved."""
        self._listener = listener

    def apply(self, entries: Sequence[tuple[int, bytes]]) -> list[list[bytes]]:
        """Apply entries of consecutive indexes, the first being `applied_index + 1`.

        Returns, for each entry, one encoded result for each of its requests. Raises CannotApply when
        this member cannot: then nothing of the call happened, and the same call may be made again.
        """
        for at, (index, _) in enumerate(entries, self.applied_index + 1):
            if index != at:
                raise ValueError(f"entry {index} was handed over where {at} was due")
        if not entries:
            return []
        try:
            results, told = self._take_turn(entries, guarded=False)
        except CannotApply:
            raise
        except Exception:  # noqa: BLE001 - A bug in domain code, whatever it raises; the guarded turn logs it.
            results, told = self._take_turn(entries, guarded=True)
        # Not within the turn: it is saved, and what a listener raises must not have it taken again.
        if told and self._listener is not None:
            self._listener(told)
        return results

    def _take_turn(
        self, entries: Sequence[tuple[int, bytes]], *, guarded: bool
    ) -> tuple[list[list[bytes]], Sequence[Told]]:
        try:
            self._end_transaction()
            self._db.execute("BEGIN IMMEDIATE")
            turn = Turn(
                self._db,
                self._vocabulary,
                self._memory,
                self._tallies,
                self._position,
                self._noted,
                guarded=guarded,
            )
            results = [turn.entry(index, payload) for index, payload in entries]
            position = turn.position()
            self._tallies.save()
            self._db.execute(_SAVE, msgspec.structs.astuple(position))
            self._db.execute("COMMIT")
        except BaseException as error:
            self._memory.rollback()
            self._tallies.rollback()
            with suppress(sqlite3.Error):  # Then the next turn tries again, and says why it cannot.
                self._end_transaction()
            if is_own_trouble(error):
                raise CannotApply(
                    f"cannot apply log entry {self.applied_index + 1}: {error}; "
                    "this member tries again until its disk allows it"
                ) from error
            raise
        self._memory.commit()
        self._tallies.commit()
        self._position = position
        self._stamps.extend(turn.stamps)
        self.faults += turn.faults
        return results, turn.told

    def _end_transaction(self) -> None:
        # On some errors SQLite has rolled back by itself.
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def reader(self) -> Reader:
        """Another connection for queries; the caller closes it."""
        return Reader(self._path / storage.FILE_NAME, self._domains)

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database file; call it on a thread. Raises CannotApply."""
        try:
            storage.checkpoint(self._path / storage.FILE_NAME)
        except (sqlite3.Error, OSError) as error:
            raise CannotApply(f"cannot write the state to disk: {error}; free some space") from error

    def tables(self) -> list[str]:
        """What `damage` can be asked about; call both on a thread."""
        return storage.tables(self._path / storage.FILE_NAME)

    def damage(self, table: str) -> str | None:
        """One sentence when a table is damaged on the disk. Raises sqlite3.Error where it cannot look."""
        return storage.damage(self._path / storage.FILE_NAME, table)

    def check(self) -> None:
        """Raise AssertionError with one sentence for each invariant that does not hold."""
        wrong = [*self._memory.check(), *events.check(self._db, self.revision)]
        for domain in self._domains:
            wrong += [f"{domain.name}: {sentence}" for sentence in domain.check(self._db)]
        kept_bytes = sum(domain.kept_bytes(self._db) for domain in self._domains if domain.kept_bytes)
        if kept_bytes != self.tallies[tally.STATE_BYTES]:
            wrong.append(f"{self.tallies[tally.STATE_BYTES]} bytes are counted, {kept_bytes} are kept")
        if wrong:
            raise AssertionError("; ".join(wrong))

    def close(self) -> None:
        self._db.close()
