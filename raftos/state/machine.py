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

A snapshot begins with `copy_to` and ends with `replace`, on this member or on another: there everything in
memory is read anew from the new file. `sync` says what of the log is needed no more after a crash.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from raftos.durable import sync_folder
from raftos.errors import StartupError
from raftos.levels import FIRST_LEVEL, LEVEL
from raftos.state import copying, events, requests, storage, tally
from raftos.state.copying import Copied
from raftos.state.domain import Domain, upgrades_of
from raftos.state.domains import DOMAINS
from raftos.state.events import Told
from raftos.state.place import Place, current_file, put_in_place, remove
from raftos.state.reader import Reader
from raftos.state.storage import CannotApply, StateIncomplete, is_own_trouble
from raftos.state.turn import STAMPS, Position, Stamp, Turn, Vocabulary

__all__ = ["CannotApply", "Copied", "Machine", "Reader", "StateIncomplete"]

_LOAD = "SELECT applied_index, time_ms, revision, horizon_ms, state_hash FROM machine"
_SAVE = "UPDATE machine SET applied_index = ?, time_ms = ?, revision = ?, horizon_ms = ?, state_hash = ?"

Seen = TypeVar("Seen")


class Machine:
    """The state of one member, in the directory `path`. Readers may live on other threads.

    Raises StartupError for the state of another cluster, of a newer format or of a level to come, for damage,
    and when the directory cannot be used; StateIncomplete where a snapshot can mend it. `max_requests` has to
    be equal on all members; tests make it small.
    """

    def __init__(
        self,
        path: Path,
        *,
        cluster_id: str = "",
        domains: Sequence[Domain] = DOMAINS,
        max_requests: int = requests.MAX_REQUESTS,
    ) -> None:
        self._cluster_id = cluster_id
        self._domains = domains
        self._max_requests = max_requests
        self._vocabulary = Vocabulary(domains)
        self._schema = "".join(
            (tally.SCHEMA, events.SCHEMA, requests.SCHEMA, *(domain.schema for domain in domains))
        )
        self._upgrades = upgrades_of(domains)
        self._noted: list[int] = []
        self._copy_lock = threading.Lock()
        self._is_copying = False
        self._synced_folder_of: Path | None = None
        self._sync_trouble = ""
        self._disk_lock = threading.Lock()
        """A sync beside another one that fails could succeed without what that one lost."""
        self._listener: Callable[[Sequence[Told]], None] | None = None
        self._replaced_listener: Callable[[], None] | None = None
        self.faults = 0
        """Commands that ended `Failed` since this process opened the state; above 0 health is red."""
        self._db = storage.open_state(path, cluster_id, self._schema, self._upgrades)
        self._place = Place(path, current_file(path))
        try:
            self._load(self._place.path)
            self._refuse_level()
        except BaseException:  # Whatever it is, nobody else can close what this one has opened.
            self._db.close()
            raise

    def _load(self, path: Path) -> None:
        """Read into memory what is kept there, from the file that is open. Raises StartupError."""
        with storage.startup_sentences(path):
            self._db.create_function("noted", 1, self._noted.append)
            self._position = Position(*self._db.execute(_LOAD).fetchone())
            self._stamps = deque([(self._position.applied_index, self._position.state_hash)], STAMPS)
            self._memory = requests.RequestMemory(self._db, self._position.horizon_ms, self._max_requests)
            defaults = {name: most for domain in self._domains for name, most in domain.tallies.items()}
            self._tallies = tally.Tallies(self._db, defaults)

    def _refuse_level(self) -> None:
        if self.level > LEVEL:
            raise StartupError(
                f"the cluster has enabled feature level {self.level}, and this version knows up to {LEVEL}; "
                "start the version that ran here before, or a newer one"
            )

    @property
    def folder(self) -> Path:
        """Where the state is kept, and files may be put that shall take its place."""
        return self._place.folder

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

    def on_replaced(self, listener: Callable[[], None]) -> None:
        """Call `listener()` when another state took the place of this one: what lies between was not told."""
        self._replaced_listener = listener

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
        except BaseException as error:  # A bug as well: what memory holds has to be what is saved.
            self._memory.rollback()
            self._tallies.rollback()
            with suppress(sqlite3.Error):  # Then the next turn tries again, and says why it cannot.
                self._end_transaction()
            if is_own_trouble(error):
                self._note_lost_sync(error)
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
        return Reader(self._place, self._domains)

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database file; call it on a thread. Raises CannotApply."""
        with self._disk_lock:
            path = self._place.path
            # What the log lacks on the disk must not be moved: a power cut would leave half of it.
            self._refuse_unsynced()
            try:
                storage.checkpoint(path, in_full=not self._is_copying)
            except (sqlite3.Error, OSError) as error:
                if path != self._place.path:
                    return  # Replaced meanwhile: there is nothing to move in the old one.
                self._note_lost_sync(error)
                raise CannotApply(f"cannot write the state to disk: {error}; free some space") from error

    def copy_to(self, path: Path) -> Copied:
        """Copy the state as of one moment into the file `path`; call it on a thread, while others apply.

        Where the copy stands is what it says itself. Raises CannotApply, and leaves no file, when the disk
        does not take it. One copy is made at a time; `path` has to be on no other's way, `COPY_NAME` in the
        folder of the state is removed when that is opened.
        """
        with self._copy_lock:
            self._is_copying = True
            try:
                return self._copy(path)
            finally:
                self._is_copying = False

    def _copy(self, path: Path) -> Copied:
        while True:
            source = self._place.path
            try:
                return copying.copy_state(source, path)
            except (sqlite3.Error, OSError) as error:
                # Replaced meanwhile: then the old file is gone, and the new one is copied.
                if source == self._place.path:
                    raise CannotApply(f"cannot copy the state: {error}; free some space") from error

    def sync(self) -> int:
        """Make durable what is applied; up to which log index it is. Call it on a thread.

        Raises CannotApply. After a failed sync it does so for ever, as `checkpoint` does: see `sync_trouble`.
        """
        with self._disk_lock:
            while True:
                self._refuse_unsynced()
                path, index = self._place.path, self.applied_index
                try:
                    storage.sync_log(path)
                    if self._synced_folder_of != path:
                        sync_folder(path.parent)
                        sync_folder(path.parent.parent)
                        self._synced_folder_of = path
                except OSError as error:
                    if self._place.path == path:
                        self._note_lost_sync(error)
                        raise CannotApply(f"cannot sync the state: {error}; check the disk") from error
                else:
                    if self._place.path == path:
                        return index

    @property
    def sync_trouble(self) -> str:
        """Why the process has to end: a sync failed, whoever asked for it. Else empty.

        What the disk lost looks written from then on, and later syncs succeed without it: this process never
        again knows what of the state is durable.
        """
        return self._sync_trouble

    def _note_lost_sync(self, error: BaseException) -> None:
        if storage.is_lost_sync(error):
            self._sync_trouble = f"cannot sync the state: {error}; check the disk and start again"

    def _refuse_unsynced(self) -> None:
        if self._sync_trouble:
            raise CannotApply(self._sync_trouble)

    def replace(self, incoming: Path) -> None:
        """Go on from the state in `incoming`, a closed and synced file in this folder (`restore_file`).

        Durable when it returns; wherever it is interrupted, the folder holds the old state or the new one.
        Call it where `apply` is called. Readers go over by themselves. Nobody is told of the events between
        the two, only that there may be some (`on_replaced`).

        Raises StartupError and changes nothing for another cluster, for a format or a level that this version
        does not know, and for a position that is not newer. Any error after that, which may be a StartupError
        too, leaves the machine closed: the process has to end, and opens one of the two states when it starts
        again.
        """
        found = copying.refuse_unfit(incoming, self._cluster_id, self.applied_index)
        old, old_path = self._db, self._place.path
        try:
            self._end_transaction()
            path = put_in_place(self._place.folder, incoming)
            self._db = storage.open_file(path, self._cluster_id, self._schema, self._upgrades, found.format)
            self._load(path)
        except BaseException:  # Whatever it is: nobody goes on with a state that may be either.
            old.close()
            self._db.close()
            raise
        self._place.path = path
        old.close()
        with suppress(OSError):  # Opening the state removes what is left.
            remove(old_path)
        if self._replaced_listener is not None:
            self._replaced_listener()

    def tables(self) -> list[str]:
        """What `damage` can be asked about; call both on a thread."""
        return self._look(storage.tables)

    def damage(self, table: str) -> str | None:
        """One sentence when a table is damaged on the disk. Raises sqlite3.Error where it cannot look."""
        return self._look(lambda path: storage.damage(path, table))

    def _look(self, look: Callable[[Path], Seen]) -> Seen:
        """What is seen in the file of the state, not in one that was replaced meanwhile and lost its log."""
        while True:
            path = self._place.path
            try:
                seen = look(path)
            except sqlite3.Error:
                if path == self._place.path:
                    raise
            else:
                if path == self._place.path:
                    return seen

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
        if self._sync_trouble:
            storage.close_unmoved(self._db)
        else:
            self._db.close()
