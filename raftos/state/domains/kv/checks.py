"""What always holds of the table, and the bytes it keeps."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from raftos.errors import InvalidInput
from raftos.state.domains.kv.limits import MAX_VALUE_BYTES
from raftos.state.domains.kv.schema import KEYS
from raftos.state.domains.kv.validate import check_key
from raftos.state.tally import ROW_BYTES

_KEPT_BYTES = "SELECT ifnull(sum(? + length(key) + length(value)), 0) FROM kv"


def kept_bytes(db: sqlite3.Connection) -> int:
    (size_bytes,) = db.execute(_KEPT_BYTES, (ROW_BYTES,)).fetchone()
    return int(size_bytes)


def check(db: sqlite3.Connection) -> Iterator[str]:
    for key, size_bytes, version, revision, expires_ms in db.execute(
        "SELECT key, length(value), version, revision, expires_ms FROM kv"
    ):
        try:
            check_key(key)
        except InvalidInput as error:
            yield error.message
        if size_bytes > MAX_VALUE_BYTES:
            yield f"the value of {key!r} is too large"
        if version < 1 or revision < version:
            yield f"{key!r} is at version {version} of revision {revision}"
        if expires_ms is not None and expires_ms < 1:
            yield f"{key!r} expires at {expires_ms}"
    [(count,)] = db.execute("SELECT count(*) FROM kv")
    [(tallied,)] = db.execute("SELECT value FROM tallies WHERE name = ?", (KEYS,))
    if count != tallied:
        yield f"{tallied} keys are counted, {count} are kept"
