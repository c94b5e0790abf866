"""The SQLite file of one member: how it is opened, and which of its errors mean what.

The writer, the readers and the checkpoints each use a connection of their own. The file is in WAL
mode with `synchronous=NORMAL`: a crash may lose the last transactions but never half of one, and
the log replays what was lost, because the applied index is saved in the same transaction.

Errors divide in two. A *deterministic* one (a constraint, wrong SQL) happens on every member alike
and is a bug in domain code. Everything else is this machine's own trouble (full disk, I/O error,
corruption, a lock): then the member cannot apply, and must never pretend that it did.

**What is durable.** A commit is written to the write-ahead log and not synced. A checkpoint syncs the log
before it moves anything, and SQLite writes over the log from its beginning only after *everything* in it was
moved and the database file synced. At any moment the synced database file and the log as it is now make up
the whole state, however far a checkpoint has come and whether a reader held it up. So to have durable what
was committed it is enough to sync the log (`sync_log`). The database file need not be synced, and must not be
opened for it: closing any descriptor of it would drop the locks that SQLite holds on it in this process.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from raftos.errors import StartupError
from raftos.state import place

FILE_NAME = place.FIRST_NAME
FORMAT = 3
OLDEST_FORMAT = 2
"""Older states are made anew from the log; from this one on they are upgraded where they are."""
CACHE_KIB = 8_192
WAL_KEEP_BYTES = 128 * 1024 * 1024
LOCK_TIMEOUT_S = 2.0
CHECKPOINT_ROUNDS = 8
SHORT_REST_FRAMES = 500
LIST_OF_TABLES = "sqlite_schema"
"""The table in which SQLite keeps what tables there are."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS machine (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    format INTEGER NOT NULL,
    cluster_id TEXT NOT NULL,
    applied_index INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    horizon_ms INTEGER NOT NULL,
    state_hash BLOB NOT NULL
) STRICT;
"""
_SEAL = f"UPDATE machine SET format = {FORMAT};"  # noqa: S608 - a number of this file, nobody's input

_WRITER_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = NORMAL",
    "wal_autocheckpoint = 0",
    f"journal_size_limit = {WAL_KEEP_BYTES}",
    f"cache_size = -{CACHE_KIB}",
    # Debian's build overwrites deleted content with zeros unless told otherwise.
    "secure_delete = OFF",
)
_DETERMINISTIC = frozenset(
    (
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_TOOBIG,
    )
)


class StateIncomplete(StartupError):
    """The state came from a snapshot and is not whole: extract the snapshot again, and put it in place."""


class CannotApply(Exception):
    """This member cannot go on at this index now: it keeps the entry, and tries again later."""


def is_own_trouble(error: BaseException) -> bool:
    """Whether an error comes from this machine, so that other members may not see it."""
    if isinstance(error, sqlite3.Error):
        # Errors raised by the binding itself (a wrong number of parameters) carry no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        return code & 0xFF not in _DETERMINISTIC
    return isinstance(error, OSError | MemoryError)


def is_lost_sync(error: BaseException) -> bool:
    """Whether a sync failed: what it was to write may be lost, and looks written from then on."""
    if isinstance(error, OSError):
        return error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # Those are of opening a file.
    code = getattr(error, "sqlite_errorcode", 0)
    return code in {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}


def _forget_cached_log(path: Path) -> None:
    """Have the log of a state read from the disk: pages that an earlier process failed to sync look written.

    Those of the database file do no harm: what failed to get there is still in the log.
    """
    with suppress(FileNotFoundError):
        descriptor = os.open(place.beside(path, "-wal"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that a database is not whole, rather than that it cannot be used now."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def connect(path: Path) -> sqlite3.Connection:
    """A writing connection. Transactions are begun and ended by hand."""
    db = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    for pragma in _WRITER_PRAGMAS:
        db.execute(f"PRAGMA {pragma}")
    return db


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    db = sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA query_only = ON")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    except BaseException:  # The first statement reads the header, which may be damaged.
        db.close()
        raise
    return db


@contextmanager
def startup_sentences(path: Path) -> Iterator[None]:
    """What goes wrong with a state file is a StartupError, StateIncomplete where a snapshot can mend it."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if isinstance(error, sqlite3.Error) and is_damage(error) and place.generation(path):
            raise _incomplete(path, str(error)) from error
        raise StartupError(
            f"cannot open the state in {path}: {error}; check the disk and its rights"
        ) from error


def open_state(
    directory: Path, cluster_id: str, schema: str, upgrades: Mapping[int, str] = MappingProxyType({})
) -> sqlite3.Connection:
    """Open or create the state of `cluster_id`. Raises StartupError and leaves a foreign file as it was.

    A file of an older format is upgraded: `upgrades[n]` is the SQL that leads from format n to the next.
    One transaction does it all, so a crash in the middle leaves the old format behind, whole.
    """
    with startup_sentences(directory):
        directory.mkdir(parents=True, exist_ok=True)
        path = place.current_file(directory)
        _forget_cached_log(path)
        found = _refuse_foreign(path, cluster_id) if path.exists() else FORMAT
        place.clean(directory, path)
        return open_file(path, cluster_id, schema, upgrades, found)


def open_file(
    path: Path, cluster_id: str, schema: str, upgrades: Mapping[int, str], found: int
) -> sqlite3.Connection:
    """Open one state file, which has the format `found`, and make of it what this version needs.

    Raises StartupError.
    """
    steps = [upgrades.get(number, "") for number in range(found, FORMAT)]
    with startup_sentences(path):
        db = connect(path)
        try:
            db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {schema} {' '.join(steps)} {_SEAL} COMMIT;")
            db.execute(
                "INSERT OR IGNORE INTO machine VALUES (1, ?, ?, 0, 0, 0, 0, zeroblob(16))",
                (FORMAT, cluster_id),
            )
        except BaseException:  # Nobody has the connection yet who could close it.
            db.close()
            raise
        return db


def _refuse_foreign(path: Path, cluster_id: str) -> int:
    """The format of a file that is ours."""
    # A connection that may write would, on closing, fold a write-ahead log that is not ours into the
    # file; and where there is none, only an immutable one does not leave an empty one behind.
    immutable = "" if place.beside(path, "-wal").exists() else "&immutable=1"
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{immutable}", uri=True)
    try:
        row = None
        if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'machine'").fetchone():
            row = db.execute("SELECT format, cluster_id FROM machine").fetchone()
    except sqlite3.DatabaseError as error:
        if not place.generation(path):
            raise
        raise _incomplete(path, str(error)) from error
    finally:
        db.close()
    if row is None:
        if place.generation(path):
            raise _incomplete(path, "it is empty")
        return FORMAT
    if row[0] > FORMAT:
        raise StartupError(
            f"{path} has format {row[0]}, this version knows {FORMAT}; start the newer version that wrote it"
        )
    if row[0] < OLDEST_FORMAT:
        raise StartupError(
            f"{path} has format {row[0]}, this version reads {OLDEST_FORMAT} to {FORMAT}; remove the folder "
            "it is in, and this member makes its state anew from the log"
        )
    if row[1] != cluster_id:
        raise StartupError(
            f"{path} belongs to cluster {row[1]!r}, not to {cluster_id!r}; use another data directory"
        )
    return int(row[0])


def tables(path: Path) -> list[str]:
    """The names of all tables that have pages of their own; that of their list alone where it is damaged.

    Raises sqlite3.Error where it cannot look.
    """
    try:
        with closing(connect_reader(path)) as db:
            rows = db.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 ORDER BY name"
            )
            return [name for (name,) in rows]
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return [LIST_OF_TABLES]


def damage(path: Path, table: str) -> str | None:
    """What is wrong with the pages of one table, which are read from the disk anew; or None.

    Finds broken pages and trees, and values that cannot be, not a value that merely changed: for that the
    states of members are compared. Raises sqlite3.Error where it cannot look.
    """
    quoted = table.replace("'", "''")
    try:
        with closing(connect_reader(path)) as db:
            found = [row[0] for row in db.execute(f"PRAGMA quick_check('{quoted}')") if row[0] != "ok"]
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        found = [str(error)]
    return f"the table {table!r} in {path.name} is damaged ({found[0].splitlines()[-1]})" if found else None


def _incomplete(path: Path, reason: str) -> StateIncomplete:
    return StateIncomplete(
        f"the state in {path} came from a snapshot and is not whole: {reason}; remove the folder it is in, "
        "and the newest snapshot is extracted anew at the next start"
    )


def sync_log(path: Path) -> None:
    """Make durable what has been committed to a state file. Raises OSError."""
    descriptor = os.open(place.beside(path, "-wal"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint(path: Path, *, in_full: bool = True) -> None:
    """Move the WAL into the database file, on a connection of its own.

    A passive checkpoint holds nobody up, but SQLite starts the WAL again from its beginning only when
    *nothing* is left in it, and under steady writing something always is: it would grow without bound.
    Past `WAL_KEEP_BYTES` passive checkpoints are therefore repeated, each with less to do than the one
    before, and the short rest is moved while the writer waits.

    While somebody reads for long, the rest cannot be moved, and the writer would wait in vain until a lock
    times out: then `in_full` has to be false, and the log grows.
    """
    # It has to exist: a checkpoint must not create the file that a replacement has just removed.
    uri = f"{path.resolve().as_uri()}?mode=rw"
    db = sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        frames = _move(db, "PASSIVE")
        if not in_full or frames * page_bytes < WAL_KEEP_BYTES:
            return
        for _ in range(CHECKPOINT_ROUNDS):
            before, frames = frames, _move(db, "PASSIVE")
            if frames - before < SHORT_REST_FRAMES:
                break
        _move(db, "FULL")
    finally:
        db.close()


def close_unmoved(db: sqlite3.Connection) -> None:
    """Close the last connection without moving the WAL, as SQLite does otherwise.

    Before Python 3.12 there is no way to tell it: then it stays open until the process ends, at once.
    """
    if sys.version_info >= (3, 12):
        db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        db.close()


def _move(db: sqlite3.Connection, mode: str) -> int:
    """How many frames the WAL had when this checkpoint began."""
    _, frames, _ = db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    return int(frames)
