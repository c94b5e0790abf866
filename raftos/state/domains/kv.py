"""Small values under text keys: configuration, coordination, whatever has no domain of its own.

A key is 1 to 1024 bytes of UTF-8 without control characters; keys are ordered by their bytes. A value
is up to 1 MiB of bytes. Every write gives the key a new `version`, counted from 1 for each key and from
1 again once it was deleted, and the cluster's `revision` of that write, which never repeats.

| a key that  | put                | delete        | time-to-live has passed           |
|-------------|--------------------|---------------|-----------------------------------|
| is missing  | exists, version 1  | `not_found`   | -                                 |
| exists      | version rises by 1 | is missing    | the leader proposes `kv.expire`   |

`expect_version` makes a put or a delete conditional; 0 means "must not exist". A put without `ttl_ms`
takes away an earlier time-to-live. Time passes by command only: a key stays readable until `kv.expire`
was applied, and that names the revision it saw, so a key written again in between stays.

Versions begin again with a key, revisions never do: who must not mistake a new key for an old one names
`expect_revision`. A lock is such a key: its holder touches it to keep it alive, and deletes it by revision.
"""

from __future__ import annotations

import sqlite3
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

import msgspec

from raftos.errors import InvalidInput, NotFound, TooLarge
from raftos.state.command import Command, Ok, Query, Rejected, Result
from raftos.state.domain import MAX_ROWS, Context, Domain, described
from raftos.state.events import Event
from raftos.state.limits import check_count, check_name, check_number, check_text, shown
from raftos.state.tally import ROW_BYTES, STATE_BYTES

SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (
    key TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    expires_ms INTEGER,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS kv_expiry ON kv (expires_ms) WHERE expires_ms IS NOT NULL;
"""

MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_TTL_MS = 10 * 365 * 24 * 3_600_000
MAX_TXN_ITEMS = 128
MAX_TXN_BYTES = MAX_VALUE_BYTES
MAX_EXPIRING = 250
"""The keys of one `kv.expire`: even the longest make no large log entry."""
MAX_EXPIRING_AT_ONCE = 10_000
MAX_KEYS = 10_000_000
KEYS = "kv.keys"
MAX_PAGE_BYTES = 4 * 1024 * 1024
"""A page of `kv.list` ends early once its values reach this; its cursor goes on from there."""

Key = Annotated[
    str,
    described(
        f"The key: 1 to {MAX_KEY_BYTES} bytes of UTF-8, no control characters.",
        minLength=1,
        maxLength=MAX_KEY_BYTES,
    ),
]
Prefix = Annotated[str, described("What the keys begin with; empty for all keys.", maxLength=MAX_KEY_BYTES)]
Value = Annotated[bytes, described(f"The value, up to {MAX_VALUE_BYTES} bytes.", maxLength=MAX_VALUE_BYTES)]
ExpectVersion = Annotated[
    int | None,
    described("The version the key must have now; 0: it must not exist. Otherwise `conflict`.", minimum=0),
]
ExpectRevision = Annotated[
    int | None,
    described("The revision the key must have been written at. Otherwise `conflict`.", minimum=1),
]
TtlMs = Annotated[
    int | None,
    described("Delete the key this many milliseconds from now.", minimum=1, maximum=MAX_TTL_MS),
]
Version = Annotated[int, described("How often the key was written since it exists, from 1.")]
Revision = Annotated[
    int, described("The cluster's revision of the write: grows with every write, never repeats.")
]
Limit = Annotated[int, described("The most keys to take at once.", minimum=1, maximum=MAX_ROWS)]


# Commands


class Put(Command, frozen=True, tag="kv.put"):
    """Set a key to a value.

    Rejected with `conflict` when the key does not have `expect_version`.
    """

    key: Key
    value: Value
    expect_version: ExpectVersion = None
    ttl_ms: TtlMs = None


class Delete(Command, frozen=True, tag="kv.delete"):
    """Delete one key.

    Rejected with `not_found` when it does not exist, `conflict` when it is not what was expected.
    """

    key: Key
    expect_version: ExpectVersion = None
    expect_revision: ExpectRevision = None


class Touch(Command, frozen=True, tag="kv.touch"):
    """Give a key a new time-to-live, and change nothing else of it: neither value, version nor revision.

    Rejected with `not_found` when it does not exist, `conflict` when it is not at `expect_revision`.
    """

    key: Key
    ttl_ms: Annotated[
        int, described("Delete the key this many milliseconds from now.", minimum=1, maximum=MAX_TTL_MS)
    ]
    expect_revision: ExpectRevision = None


class DeletePrefix(Command, frozen=True, tag="kv.delete_prefix"):
    """Delete the first keys that begin with a prefix, in key order.

    A bounded step: while the answer says `more`, send the next one under a new request id.
    """

    prefix: Prefix
    limit: Limit = MAX_ROWS


class Compare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One condition of a transaction: the version or the revision a key must have, or both."""

    key: Key
    version: ExpectVersion = None
    revision: ExpectRevision = None


class TxnPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="put"):
    """Set a key, as one write of a transaction."""

    key: Key
    value: Value
    ttl_ms: TtlMs = None


class TxnDelete(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="delete"):
    """Delete a key if it exists, as one write of a transaction."""

    key: Key


class Txn(Command, frozen=True, tag="kv.txn"):
    """Compare several keys, then write several keys: all or nothing.

    Rejected with `conflict` when a comparison fails. The values of one transaction have 1 MiB together.
    """

    writes: Annotated[
        tuple[TxnPut | TxnDelete, ...],
        described("The writes; no key twice.", minItems=1, maxItems=MAX_TXN_ITEMS),
    ]
    compare: Annotated[
        tuple[Compare, ...], described("The conditions; all must hold.", maxItems=MAX_TXN_ITEMS)
    ] = ()


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key and the revision somebody saw it at."""

    key: Key
    revision: Revision


class Expire(Command, frozen=True, tag="kv.expire"):
    """Delete keys whose time-to-live has passed and that are still at the revision that was seen.

    The leader proposes it; from anybody else it does no harm.
    """

    keys: Annotated[tuple[Seen, ...], described("The keys.", minItems=1, maxItems=MAX_EXPIRING)]


# Queries


class Get(Query, frozen=True, tag="kv.get"):
    """The value of one key. `not_found` when it does not exist."""

    point: ClassVar[bool] = True

    key: Key


class List(Query, frozen=True, tag="kv.list"):
    """Keys that begin with a prefix, in key order, a page at a time."""

    prefix: Prefix = ""
    limit: Limit = 100
    cursor: Annotated[str | None, described("The `cursor` of the page before, for the next one.")] = None
    keys_only: Annotated[bool, described("Leave the values out.")] = False


# Answers and events


class Written(msgspec.Struct, frozen=True, gc=False):
    """A key as it was written."""

    key: str
    version: int
    revision: int


class Deleted(msgspec.Struct, frozen=True):
    """A key that was deleted."""

    key: str
    revision: int


class DeletedMany(msgspec.Struct, frozen=True):
    """How many keys were deleted, and whether some are left."""

    deleted: int
    more: bool


class Touched(msgspec.Struct, frozen=True):
    """A key and when its time is over, in cluster time."""

    key: str
    revision: int
    expires_ms: int


class TxnWritten(msgspec.Struct, frozen=True, tag_field="op", tag="put"):
    """What a put of a transaction did."""

    key: str
    version: int


class TxnDeleted(msgspec.Struct, frozen=True, tag_field="op", tag="delete"):
    """What a delete of a transaction did: nothing when the key did not exist."""

    key: str
    deleted: bool


class TxnDone(msgspec.Struct, frozen=True):
    """The results of a transaction's writes, in their order."""

    revision: int
    results: list[TxnWritten | TxnDeleted]


class Expired(msgspec.Struct, frozen=True):
    """How many keys were deleted because their time was over."""

    expired: int


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key and what is kept of it; `value` is left out where only keys were asked for."""

    key: str
    version: int
    revision: int
    value: bytes | msgspec.UnsetType = msgspec.UNSET
    expires_ms: int | None = None


class Page(msgspec.Struct, frozen=True):
    """One page; `cursor` leads to the next one, and is None on the last."""

    items: list[Item]
    cursor: str | None


class KeyWritten(Event, frozen=True, tag="kv.written"):
    """A key has a new value."""

    key: str
    version: int


class KeyDeleted(Event, frozen=True, tag="kv.deleted"):
    """A key is gone, deleted by someone or, if `expired`, because its time was over."""

    key: str
    expired: bool = False


# Limits


def _check_key(key: str) -> None:
    check_name("key", key, MAX_KEY_BYTES)


def _check_expected(version: int | None, revision: int | None) -> None:
    if version is not None:
        check_number("expect_version", version, 0)
    if revision is not None:
        check_number("expect_revision", revision, 1)


def _validate_write(put: Put | TxnPut) -> None:
    _check_key(put.key)
    if len(put.value) > MAX_VALUE_BYTES:
        raise TooLarge(
            f"the value has {len(put.value)} bytes, at most {MAX_VALUE_BYTES} are allowed; split it"
        )
    if put.ttl_ms is not None:
        check_number("ttl_ms", put.ttl_ms, 1, MAX_TTL_MS)


def _validate_put(command: Put) -> None:
    _validate_write(command)
    _check_expected(command.expect_version, None)


def _validate_delete(command: Delete) -> None:
    _check_key(command.key)
    _check_expected(command.expect_version, command.expect_revision)


def _validate_touch(command: Touch) -> None:
    _check_key(command.key)
    check_number("ttl_ms", command.ttl_ms, 1, MAX_TTL_MS)
    _check_expected(None, command.expect_revision)


def _validate_prefix(command: DeletePrefix | List) -> None:
    check_text("prefix", command.prefix, MAX_KEY_BYTES)
    check_number("limit", command.limit, 1, MAX_ROWS)


def _validate_txn(command: Txn) -> None:
    check_count("writes", len(command.writes), 1, MAX_TXN_ITEMS)
    check_count("comparisons", len(command.compare), 0, MAX_TXN_ITEMS)
    for compare in command.compare:
        _check_key(compare.key)
        _check_expected(compare.version, compare.revision)
        if compare.version is None and compare.revision is None:
            raise InvalidInput("a comparison names a version or a revision")
    for write in command.writes:
        _validate_write(write) if isinstance(write, TxnPut) else _check_key(write.key)
    if len({write.key for write in command.writes}) < len(command.writes):
        raise InvalidInput("the transaction writes a key twice; write each key once")
    size_bytes = sum(len(write.value) for write in command.writes if isinstance(write, TxnPut))
    if size_bytes > MAX_TXN_BYTES:
        raise TooLarge(f"the values have {size_bytes} bytes together, at most {MAX_TXN_BYTES} are allowed")


def _validate_expire(command: Expire) -> None:
    check_count("keys", len(command.keys), 1, MAX_EXPIRING)
    for seen in command.keys:
        _check_key(seen.key)
        check_number("revision", seen.revision, 1)


def _validate_get(query: Get) -> None:
    _check_key(query.key)


# Apply

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


def _missing(key: str) -> Rejected:
    return Rejected("not_found", f"key {shown(key)} does not exist")


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
        return _missing(command.key)
    refusal = _refusal(db, command.key, command.expect_version, command.expect_revision)
    if refusal is not None:
        return refusal
    db.execute(_DELETE, (command.key,))
    _gone(context, command.key, row[2])
    return Ok(Deleted(command.key, context.revision))


def apply_touch(db: sqlite3.Connection, command: Touch, context: Context) -> Result:
    row = db.execute(_SEEN, (command.key,)).fetchone()
    if not row:
        return _missing(command.key)
    refusal = _refusal(db, command.key, None, command.expect_revision)
    if refusal is not None:
        return refusal
    expires_ms = context.time_ms + command.ttl_ms
    db.execute(_TOUCH, (expires_ms, command.key))
    return Ok(Touched(command.key, row[1], expires_ms))


def apply_delete_prefix(db: sqlite3.Connection, command: DeletePrefix, context: Context) -> Result:
    bounds = (command.prefix, _after(command.prefix), command.limit + 1)
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


def _stores(command: Put | Txn) -> bool:
    return isinstance(command, Put) or any(isinstance(write, TxnPut) for write in command.writes)


# Queries

_GET = "SELECT key, version, revision, value, expires_ms FROM kv WHERE key = ?"
_PAGE = (
    "SELECT key, version, revision, {}, expires_ms FROM kv WHERE key {} ? AND key < ? ORDER BY key LIMIT ?"
)
_EXPIRED = "SELECT key, revision FROM kv WHERE expires_ms <= ? ORDER BY expires_ms, key LIMIT ?"
_LAST_CHARACTER = "\U0010ffff"


def _after(prefix: str) -> str | bytes:
    """The least text greater than all that begin with `prefix`; for SQLite any blob is, if there is none."""
    stem = prefix.rstrip(_LAST_CHARACTER)
    if not stem:
        return b""
    following = ord(stem[-1]) + 1
    # Surrogates are no characters, so UTF-8 skips them.
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)


def _cursor_of(key: str) -> str:
    return urlsafe_b64encode(key.encode()).decode()


def _key_of(cursor: str, prefix: str) -> str:
    try:
        key = urlsafe_b64decode(cursor.encode("ascii")).decode()
    except ValueError as error:
        raise InvalidInput(
            "the cursor is malformed; pass on the one of the page before, unchanged"
        ) from error
    if _cursor_of(key) != cursor or not key.startswith(prefix):
        raise InvalidInput("the cursor belongs to another listing; start without one")
    return key


def get(db: sqlite3.Connection, query: Get) -> Item:
    row = db.execute(_GET, (query.key,)).fetchone()
    if row is None:
        raise NotFound(_missing(query.key).message)
    return Item(*row)


def list_keys(db: sqlite3.Connection, query: List) -> Page:
    value = "NULL" if query.keys_only else "value"
    first, comparison = query.prefix, ">="
    if query.cursor is not None:
        first, comparison = _key_of(query.cursor, query.prefix), ">"
    items: list[Item] = []
    size_bytes = 0
    bounds = (first, _after(query.prefix), query.limit + 1)
    for key, version, revision, content, expires_ms in db.execute(_PAGE.format(value, comparison), bounds):
        if len(items) == query.limit or size_bytes >= MAX_PAGE_BYTES:
            return Page(items, _cursor_of(items[-1].key))
        items.append(Item(key, version, revision, msgspec.UNSET if content is None else content, expires_ms))
        size_bytes += len(content or b"")
    return Page(items, None)


def due(db: sqlite3.Connection, now_ms: int) -> list[Command]:
    """Expire what has outlived its time."""
    keys = [Seen(*row) for row in db.execute(_EXPIRED, (now_ms, MAX_EXPIRING_AT_ONCE))]
    return [Expire(tuple(keys[at : at + MAX_EXPIRING])) for at in range(0, len(keys), MAX_EXPIRING)]


# Invariants

_KEPT_BYTES = "SELECT ifnull(sum(? + length(key) + length(value)), 0) FROM kv"


def kept_bytes(db: sqlite3.Connection) -> int:
    (size_bytes,) = db.execute(_KEPT_BYTES, (ROW_BYTES,)).fetchone()
    return int(size_bytes)


def check(db: sqlite3.Connection) -> Iterator[str]:
    for key, size_bytes, version, revision, expires_ms in db.execute(
        "SELECT key, length(value), version, revision, expires_ms FROM kv"
    ):
        try:
            _check_key(key)
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


DOMAIN = Domain(
    name="kv",
    schema=SCHEMA,
    commands={
        Put: apply_put,
        Delete: apply_delete,
        DeletePrefix: apply_delete_prefix,
        Txn: apply_txn,
        Touch: apply_touch,
        Expire: apply_expire,
    },
    queries={Get: get, List: list_keys},
    answers={
        Put: Written,
        Delete: Deleted,
        DeletePrefix: DeletedMany,
        Txn: TxnDone,
        Touch: Touched,
        Expire: Expired,
        Get: Item,
        List: Page,
    },
    validate={
        Put: _validate_put,
        Delete: _validate_delete,
        DeletePrefix: _validate_prefix,
        Txn: _validate_txn,
        Touch: _validate_touch,
        Expire: _validate_expire,
        Get: _validate_get,
        List: _validate_prefix,
    },
    events={KeyWritten: "key", KeyDeleted: "key"},
    tallies={KEYS: MAX_KEYS},
    kept_bytes=kept_bytes,
    grows={Put: lambda _: True, Txn: _stores},
    due=due,
    check=check,
)
