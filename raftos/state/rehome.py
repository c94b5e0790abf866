"""Make the state of one cluster that of another, new one: for restoring a snapshot.

The new cluster has an id of its own, so that machines of the old one cannot join it by mistake, and its
members are other machines. Everything else stays: keys, rooms, events, the memory of requests, revisions,
the hash. Nothing depends on where or when it is done, so members that each do it alone hold equal states.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from raftos.errors import StartupError


def adopt(path: Path, cluster_id: str) -> None:
    """Give the state in a closed file to another cluster, durably. Raises StartupError.

    Interrupted, it left the file as it was, or gave it away.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as db:
            db.isolation_level = None
            # Whole in the one file, with nothing beside it that would have to move along.
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript("BEGIN IMMEDIATE; DELETE FROM members;")
            db.execute("UPDATE machine SET cluster_id = ?", (cluster_id,))
            db.execute("COMMIT")
        _sync(path)
    except (sqlite3.Error, OSError) as error:
        raise StartupError(
            f"cannot give the state in {path} to another cluster: {error}; extract it again"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
