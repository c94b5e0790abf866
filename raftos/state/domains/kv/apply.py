"""What the commands do to the table: each checks everything, then writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from raftos.state.command import Ok, Rejected, Result
from raftos.state.domain import Context
from raftos.state.domains.kv.answers import (
    Deleted,
    DeletedMany,
    Expired,
    KeyDeleted,
    KeyWritten,
    Touched,
    TxnDeleted,
    TxnDone,
    TxnWritten,
    Written,
    missing,
)
from raftos.state.domains.kv.commands import Delete, DeletePrefix, Expire, Put, Touch, Txn, TxnDelete, TxnPut
from raftos.state.domains.kv.schema import KEYS, after
from raftos.state.limits import shown
from raftos.state.tally import ROW_BYTES, STATE_BYTES

_SEEN = "SELECT version, revision, length(key) + length(value) FROM kv WHERE key = ?"
# One statement for a put, although the new version and the old size have to come back: `noted` brings both
# in one number, the size in its lower 21 bits. RETURNING would cost as much as the write once more, and so
# would a SELECT before it.
_WRITE = """
    INSERT INTO kv VALUES (?1, 1, ?2, ?3, ?4) ON CONFLICT (key) DO UPDATE SET
    version = ifnull(noted(version + 1 << 21 | length(value)), version + 1),
    revision = ?2, expires_ms = ?3, value = ?4
"""
_TOUCH = "UPDATE kv SET expires_ms = ? WHERE key = ?"
_DELETE = "DELETE FROM kv WHERE key = ?"
_DUE = "SELECT length(key) + length(value) FROM kv WHERE key = ? AND revision = ? AND expires_ms <= ?"
_KEYS = "SELECT key, length(key) + length(value) FROM kv WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
_DELETE_RANGE = "DELETE FROM kv WHERE key BETWEEN ? AND ?"


def _refusal(
    db: sqlite3.Connection, key: str, version: int | None, revision: int | None = None
) -> Rejected | None:
    """Why the key is not what was expected, if so."""
    at_version, at_revision, _ = db.execute(_SEEN, (key,)).fetchone() or (0, 0, 0)
    if version is not None and version != at_version:
        now = f"is at version {at_version}"
        wanted = f"not at version {version}" if version else "but was expected not to exist"
    elif revision is not None and revision != at_revision:
        now = f"is of revision {at_revision}"
        wanted = f"not of revision {revision}"
    else:
        return None
    seen = now if at_version else "does not exist"
    return Rejected("conflict", f"key {shown(key)} {seen}, {wanted}; read it again and decide anew")


def _crowded(db: sqlite3.Connection, context: Context, keys: Sequence[str]) -> Rejected | None:
    """Whether writing these keys would make too many."""
    if context.counts[KEYS] + len(keys) <= context.most[KEYS]:
        return None
    new = sum(db.execute(_SEEN, (key,)).fetchone() is None for key in keys)
    if not new or context.counts[KEYS] + new <= context.most[KEYS]:
        return None
    return Rejected(
        "limit_reached", f"there are {context.counts[KEYS]} keys, as many as there may be; delete some"
    )


def _write(context: Context, put: Put | TxnPut) -> int:
    """Set the key; returns its new version."""
    expires_ms = None if put.ttl_ms is None else context.time_ms + put.ttl_ms
    context.run(_WRITE, (put.key, context.revision, expires_ms, put.value))
    if context.noted:
        noted = context.noted.pop()
        version = noted >> 21
        context.counts[STATE_BYTES] += len(put.value) - (noted & 0x1F_FFFF)
    else:
        version = 1
        context.counts[KEYS] += 1
        context.counts[STATE_BYTES] += ROW_BYTES + len(put.key) + len(put.value)
    context.emit(KeyWritten(put.key, version))
    return version


def _gone(context: Context, key: str, size_bytes: int, *, expired: bool = False) -> None:
    """Account for a key that was deleted."""
    context.counts[KEYS] -= 1
    context.counts[STATE_BYTES] -= ROW_BYTES + size_bytes
    context.emit(KeyDeleted(key, expired))


def apply_put(db: sqlite3.Connection, command: Put, context: Context) -> Result:
    expected = command.expect_version
    refusal = None if expected is None else _refusal(db, command.key, expected)
    if refusal is None and context.counts[KEYS] >= context.most[KEYS]:
        refusal = _crowded(db, context, [command.key])
    return refusal or Ok(Written(command.key, _write(context, command), context.revision))


def apply_delete(db: sqlite3.Connection, command: Delete, context: Context) -> Result:
    row = db.execute(_SEEN, (command.key,)).fetchone()
    if not row:
        return missing(command.key)
    refusal = _refusal(db, command.key, command.expect_version, command.expect_revision)
    if refusal is not None:
        return refusal
    db.execute(_DELETE, (command.key,))
    _gone(context, command.key, row[2])
    return Ok(Deleted(command.key, context.revision))


def apply_touch(db: sqlite3.Connection, command: Touch, context: Context) -> Result:
    row = db.execute(_SEEN, (command.key,)).fetchone()
    if not row:
        return missing(command.key)
    refusal = _refusal(db, command.key, None, command.expect_revision)
    if refusal is not None:
        return refusal
    expires_ms = context.time_ms + command.ttl_ms
    db.execute(_TOUCH, (expires_ms, command.key))
    return Ok(Touched(command.key, row[1], expires_ms))


def apply_delete_prefix(db: sqlite3.Connection, command: DeletePrefix, context: Context) -> Result:
    bounds = (command.prefix, after(command.prefix), command.limit + 1)
    found = db.execute(_KEYS, bounds).fetchall()
    taken = found[: command.limit]
    if taken:
        db.execute(_DELETE_RANGE, (taken[0][0], taken[-1][0]))
    for key, size_bytes in taken:
        _gone(context, key, size_bytes)
    return Ok(DeletedMany(len(taken), more=len(found) > len(taken)))


def apply_txn(db: sqlite3.Connection, command: Txn, context: Context) -> Result:
    refusals = (_refusal(db, each.key, each.version, each.revision) for each in command.compare)
    refusal = next(filter(None, refusals), None) or _crowded(
        db, context, [write.key for write in command.writes if isinstance(write, TxnPut)]
    )
    if refusal is not None:
        return refusal
    results = [_apply_write(db, write, context) for write in command.writes]
    return Ok(TxnDone(context.revision, results))


def _apply_write(
    db: sqlite3.Connection, write: TxnPut | TxnDelete, context: Context
) -> TxnWritten | TxnDeleted:
    if isinstance(write, TxnPut):
        return TxnWritten(write.key, _write(context, write))
    row = db.execute(_SEEN, (write.key,)).fetchone()
    if row:
        db.execute(_DELETE, (write.key,))
        _gone(context, write.key, row[2])
    return TxnDeleted(write.key, deleted=row is not None)


def apply_expire(db: sqlite3.Connection, command: Expire, context: Context) -> Result:
    expired = 0
    for seen in command.keys:
        row = db.execute(_DUE, (seen.key, seen.revision, context.time_ms)).fetchone()
        if row:
            db.execute(_DELETE, (seen.key,))
            _gone(context, seen.key, row[0], expired=True)
            expired += 1
    return Ok(Expired(expired))
