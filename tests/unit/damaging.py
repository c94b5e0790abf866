"""A state file as a bad disk leaves it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def overwrite(path: Path, table: str) -> None:
    """Fill the first page of one table with what SQLite never writes. Nobody may have the file open."""
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * page_bytes)
        file.write(b"\xa5" * page_bytes)
