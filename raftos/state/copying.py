"""Copies of the state: one made while the machine applies, and one put together from a snapshot.

A copy is made on a thread, by SQLite's backup in one step and inside one read transaction: all pages are
of one moment, the machine goes on beside it, and SQLite lets go of Python meanwhile. Where the copy stands
is read from the copy itself. It is made for reading and then removed, so nothing of it is synced.

Until it is done, the write-ahead log cannot begin again, and grows by what is applied meanwhile.

The thread keeps its priority. A lower one was no faster for those who apply, and on busy cores the longest
wait grew: the thread may be held up at the moment when it has Python's lock.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from raftos.durable import sync_folder
from raftos.errors import StartupError
from raftos.levels import FIRST_LEVEL, LEVEL
from raftos.state import place
from raftos.state.storage import FORMAT, OLDEST_FORMAT, connect_reader
from raftos.state.tally import CLUSTER_LEVEL

_STAMP = "SELECT applied_index, time_ms, revision, state_hash, format, cluster_id FROM machine"
_LEVEL = "SELECT value FROM tallies WHERE name = ?"
_SYNC_BYTES = 8 * 2**20
"""So much is written between syncs: one large sync at the end would hold up those of the journal."""


class Copied(NamedTuple):
    """Where the state in a file stands, as that file says."""

    applied_index: int
    time_ms: int
    revision: int
    state_hash: bytes
    format: int
    cluster_id: str
    size_bytes: int


def copied(path: Path) -> Copied:
    """Where a state file stands that nobody has open. Raises sqlite3.Error, OSError."""
    with closing(_connect_closed(path)) as db:
        row = db.execute(_STAMP).fetchone()
    if row is None:
        raise sqlite3.DatabaseError("it holds no state")
    applied_index, time_ms, revision, state_hash, state_format, cluster_id = row
    size_bytes = path.stat().st_size
    return Copied(applied_index, time_ms, revision, state_hash, state_format, cluster_id, size_bytes)


def _connect_closed(path: Path) -> sqlite3.Connection:
    # Immutable: otherwise SQLite makes a write-ahead log beside it, even to read.
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)


def copy_state(source: Path, target: Path) -> Copied:
    """Copy a state that is in use; a file `target` is replaced.

    Raises sqlite3.Error and OSError, and then leaves none.
    """
    place.remove(target)
    try:
        with closing(connect_reader(source)) as state, closing(sqlite3.connect(target)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            state.execute("BEGIN")
            state.execute(_STAMP).fetchone()
            state.backup(copy, pages=-1)
        return copied(target)
    except BaseException:  # Whatever it is, half a copy takes no space.
        place.remove(target)
        raise


def restore_file(pieces: Iterable[bytes], folder: Path, *, index: int, state_hash: bytes) -> Path:
    """Extract the state from a snapshot's pieces into `folder`, durably, as `Machine.replace` takes it.

    Raises StartupError when the disk does not allow it, and when the state does not stand where the
    snapshot's header says (`index`, `state_hash`); what the pieces raise goes on. Then nothing is left.
    """
    path = folder / place.INCOMING_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place.remove(path)
        _write(path, pieces)
        sync_folder(folder)
        sync_folder(folder.parent)
        _compare(copied(path), index, state_hash)
    except (sqlite3.Error, OSError) as error:
        place.remove(path)
        raise StartupError(f"cannot restore a state into {folder}: {error}; free some space") from error
    except BaseException:  # What the pieces raise, a wrong stamp, or a bug: nothing of it may be left.
        place.remove(path)
        raise
    return path


def _compare(found: Copied, index: int, state_hash: bytes) -> None:
    if (found.applied_index, found.state_hash) != (index, state_hash):
        raise StartupError(
            f"the state in the snapshot of index {index} stands at {found.applied_index} with hash "
            f"{found.state_hash.hex()}, its header says {state_hash.hex()}; use another snapshot"
        )


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("wb", buffering=0) as file:
        unsynced_bytes = 0
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) :]
            unsynced_bytes += len(piece)
            if unsynced_bytes >= _SYNC_BYTES:
                os.fdatasync(file.fileno())
                unsynced_bytes = 0
        os.fsync(file.fileno())


def refuse_unfit(path: Path, cluster_id: str, newer_than: int = -1) -> Copied:
    """Where a state file stands that is to become that of a member. Raises StartupError if it must not."""
    try:
        found = copied(path)
        _refuse_unreadable(path, found.format)
    except (sqlite3.Error, OSError) as error:
        raise StartupError(f"cannot read the state in {path}: {error}; extract it again") from error
    if found.cluster_id != cluster_id:
        raise StartupError(
            f"the state in {path} belongs to cluster {found.cluster_id!r}, not to {cluster_id!r}; "
            "use a snapshot of this cluster"
        )
    if found.applied_index <= newer_than:
        raise StartupError(
            f"the state in {path} stands at {found.applied_index}, this member has applied {newer_than}; "
            "it is kept, nothing was changed"
        )
    return found


def _refuse_unreadable(path: Path, state_format: int) -> None:
    """What another version wrote is read where the format is known, and all that came with its level."""
    if not OLDEST_FORMAT <= state_format <= FORMAT:
        raise StartupError(
            f"the state in {path} has format {state_format}, this version reads {OLDEST_FORMAT} to {FORMAT}; "
            "use a snapshot of a neighbouring version of raftos, or start the one that wrote it"
        )
    with closing(_connect_closed(path)) as db:
        row = db.execute(_LEVEL, (CLUSTER_LEVEL,)).fetchone()
    level = max(FIRST_LEVEL, row[0] if row else 0)
    if level > LEVEL:
        raise StartupError(
            f"the state in {path} is of feature level {level}, and this version knows up to {LEVEL}; "
            "start the version that it comes from, or a newer one"
        )
