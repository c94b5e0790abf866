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
"""

from __future__ import annotations

import re
import sqlite3
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from typing import Annotated, ClassVar

import msgspec

from raftos.errors import InvalidInput, NotFound, TooLarge
from raftos.state.command import Command, Ok, Query, Rejected, Result
from raftos.state.domain import MAX_INTEGER, MAX_ROWS, Context, Domain, described
from raftos.state.events import Event

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
MAX_EXPIRING = 10_000
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

    Rejected with `not_found` when it does not exist, `conflict` when it does not have `expect_version`.
    """

    key: Key
    expect_version: ExpectVersion = None


class DeletePrefix(Command, frozen=True, tag="kv.delete_prefix"):
    """Delete the first keys that begin with a prefix, in key order.

    A bounded step: while the answer says `more`, send the next one under a new request id.
    """

    prefix: Prefix
    limit: Limit = MAX_ROWS


class Compare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One condition of a transaction."""

    key: Key
    version: Annotated[int, described("The version the key must have; 0: it must not exist.", minimum=0)]


class TxnPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="put"):
    """Set a key, as one write of a transaction."""

    key: Key
    value: Value
    ttl_ms: TtlMs = None


class TxnDelete(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="delete"):
    """Delete a key if it exists, as one write of a transaction."""

    key: Key


class Txn(Command, frozen=True, tag="kv.txn"):
    """Compare the versions of several keys, then write several keys: all or nothing.

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

    The leader's control loop proposes it; from anybody else it does no harm.
    """

    keys: Annotated[tuple[Seen, ...], described("The keys.", minItems=1, maxItems=MAX_ROWS)]


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


class Expiring(Query, frozen=True, tag="kv.expiring"):
    """Keys whose time-to-live ends by a time, the earliest first."""

    before_ms: Annotated[int, described("Cluster time in milliseconds since 1970.", minimum=0)]
    limit: Annotated[int, described("The most keys to name at once.", minimum=1, maximum=MAX_EXPIRING)] = (
        MAX_EXPIRING
    )


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


class ExpiringKey(msgspec.Struct, frozen=True):
    key: str
    revision: int
    expires_ms: int


class ExpiringKeys(msgspec.Struct, frozen=True):
    """Keys whose time-to-live ends, the earliest first."""

    keys: list[ExpiringKey]


class KeyWritten(Event, frozen=True, tag="kv.written"):
    """A key has a new value."""

    key: str
    version: int


class KeyDeleted(Event, frozen=True, tag="kv.deleted"):
    """A key is gone, deleted by someone or, if `expired`, because its time was over."""

    key: str
    expired: bool = False


# Limits

_CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f]")


def _check_key(key: str) -> None:
    # Of an ASCII text `isprintable` means the same in every version of Python.
    if key.isascii() and key.isprintable() and 0 < len(key) <= MAX_KEY_BYTES:
        return
    if not key:
        raise InvalidInput("the key is empty; a key has at least one character")
    _check_text("key", key)


def _check_text(what: str, text: str) -> None:
    if _CONTROL_CHARACTERS.search(text):
        raise InvalidInput(f"the {what} contains a control character; leave NUL, tabs and line ends out")
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the {what} is not valid Unicode text") from error
    if size_bytes > MAX_KEY_BYTES:
        raise TooLarge(f"the {what} has {size_bytes} bytes of UTF-8, at most {MAX_KEY_BYTES} are allowed")


def _check_number(name: str, value: int, least: int, most: int = MAX_INTEGER) -> None:
    if not least <= value <= most:
        raise InvalidInput(f"{name} is {value}; it has to be from {least} to {most}")


def _check_count(what: str, count: int, least: int, most: int) -> None:
    if not least <= count <= most:
        raise InvalidInput(f"there are {count} {what}; allowed are {least} to {most}")


def _validate_write(put: Put | TxnPut) -> None:
    _check_key(put.key)
    if len(put.value) > MAX_VALUE_BYTES:
        raise TooLarge(
            f"the value has {len(put.value)} bytes, at most {MAX_VALUE_BYTES} are allowed; split it"
        )
    if put.ttl_ms is not None:
        _check_number("ttl_ms", put.ttl_ms, 1, MAX_TTL_MS)


def _validate_put(command: Put) -> None:
    _validate_write(command)
    if command.expect_version is not None:
        _check_number("expect_version", command.expect_version, 0)


def _validate_delete(command: Delete) -> None:
    _check_key(command.key)
    if command.expect_version is not None:
        _check_number("expect_version", command.expect_version, 0)


def _validate_prefix(command: DeletePrefix | List) -> None:
    _check_text("prefix", command.prefix)
    _check_number("limit", command.limit, 1, MAX_ROWS)


def _validate_txn(command: Txn) -> None:
    _check_count("writes", len(command.writes), 1, MAX_TXN_ITEMS)
    _check_count("comparisons", len(command.compare), 0, MAX_TXN_ITEMS)
    for compare in command.compare:
        _check_key(compare.key)
        _check_number("version", compare.version, 0)
    for write in command.writes:
        _validate_write(write) if isinstance(write, TxnPut) else _check_key(write.key)
    if len({write.key for write in command.writes}) < len(command.writes):
        raise InvalidInput("the transaction writes a key twice; write each key once")
    size_bytes = sum(len(write.value) for write in command.writes if isinstance(write, TxnPut))
    if size_bytes > MAX_TXN_BYTES:
        raise TooLarge(f"the values have {size_bytes} bytes together, at most {MAX_TXN_BYTES} are allowed")


def _validate_expire(command: Expire) -> None:
    _check_count("keys", len(command.keys), 1, MAX_ROWS)
    for seen in command.keys:
        _check_key(seen.key)
        _check_number("revision", seen.revision, 1)


def _validate_get(query: Get) -> None:
    _check_key(query.key)


def _validate_expiring(query: Expiring) -> None:
    _check_number("before_ms", query.before_ms, 0)
    _check_number("limit", query.limit, 1, MAX_EXPIRING)


# Apply

_VERSION = "SELECT version FROM kv WHERE key = ?"
# One statement for a put, although the new version has to come back: `noted` brings it. RETURNING would
# cost as much as the write once more, and so would a SELECT before it.
_WRITE = """
    INSERT INTO kv VALUES (?1, 1, ?2, ?3, ?4) ON CONFLICT (key) DO UPDATE SET
    version = ifnull(noted(version + 1), version + 1), revision = ?2, expires_ms = ?3, value = ?4
"""
_DELETE = "DELETE FROM kv WHERE key = ?"
_DELETE_EXPIRED = "DELETE FROM kv WHERE key = ? AND revision = ? AND expires_ms <= ?"
_KEYS = "SELECT key FROM kv WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
_DELETE_RANGE = "DELETE FROM kv WHERE key BETWEEN ? AND ?"


def _version_of(db: sqlite3.Connection, key: str) -> int:
    row = db.execute(_VERSION, (key,)).fetchone()
    return int(row[0]) if row else 0


def _conflict(key: str, version: int, expected: int) -> Rejected:
    shown = key if len(key) <= 64 else f"{key[:64]}..."
    now = f"is at version {version}" if version else "does not exist"
    wanted = f"not at version {expected}" if expected else "but was expected not to exist"
    return Rejected("conflict", f"key {shown!r} {now}, {wanted}; read it again and decide anew")


def _write(context: Context, put: Put | TxnPut) -> int:
    """Set the key; returns its new version."""
    expires_ms = None if put.ttl_ms is None else context.time_ms + put.ttl_ms
    context.run(_WRITE, (put.key, context.revision, expires_ms, put.value))
    version = context.noted.pop() if context.noted else 1
    context.emit(KeyWritten(put.key, version))
    return version


def apply_put(db: sqlite3.Connection, command: Put, context: Context) -> Result:
    expected = command.expect_version
    if expected is not None:
        version = _version_of(db, command.key)
        if expected != version:
            return _conflict(command.key, version, expected)
    return Ok(Written(command.key, _write(context, command), context.revision))


def apply_delete(db: sqlite3.Connection, command: Delete, context: Context) -> Result:
    key, expected = command.key, command.expect_version
    version = _version_of(db, key)
    if not version:
        return Rejected("not_found", "the key does not exist")
    if expected is not None and expected != version:
        return _conflict(key, version, expected)
    db.execute(_DELETE, (key,))
    context.emit(KeyDeleted(key))
    return Ok(Deleted(key, context.revision))


def apply_delete_prefix(db: sqlite3.Connection, command: DeletePrefix, context: Context) -> Result:
    bounds = (command.prefix, _after(command.prefix), command.limit + 1)
    found = [key for (key,) in db.execute(_KEYS, bounds)]
    keys = found[: command.limit]
    if keys:
        db.execute(_DELETE_RANGE, (keys[0], keys[-1]))
    for key in keys:
        context.emit(KeyDeleted(key))
    return Ok(DeletedMany(len(keys), more=len(found) > len(keys)))


def apply_txn(db: sqlite3.Connection, command: Txn, context: Context) -> Result:
    for compare in command.compare:
        version = _version_of(db, compare.key)
        if version != compare.version:
            return _conflict(compare.key, version, compare.version)
    results = [_apply_write(db, write, context) for write in command.writes]
    return Ok(TxnDone(context.revision, results))


def _apply_write(
    db: sqlite3.Connection, write: TxnPut | TxnDelete, context: Context
) -> TxnWritten | TxnDeleted:
    if isinstance(write, TxnDelete):
        deleted = db.execute(_DELETE, (write.key,)).rowcount > 0
        if deleted:
            context.emit(KeyDeleted(write.key))
        return TxnDeleted(write.key, deleted)
    return TxnWritten(write.key, _write(context, write))


def apply_expire(db: sqlite3.Connection, command: Expire, context: Context) -> Result:
    expired = 0
    for seen in command.keys:
        if db.execute(_DELETE_EXPIRED, (seen.key, seen.revision, context.time_ms)).rowcount:
            expired += 1
            context.emit(KeyDeleted(seen.key, expired=True))
    return Ok(Expired(expired))


# Queries

_GET = "SELECT key, version, revision, value, expires_ms FROM kv WHERE key = ?"
_PAGE = (
    "SELECT key, version, revision, {}, expires_ms FROM kv WHERE key {} ? AND key < ? ORDER BY key LIMIT ?"
)
_EXPIRING = """
    SELECT key, revision, expires_ms FROM kv WHERE expires_ms <= ? ORDER BY expires_ms, key LIMIT ?
"""
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
        raise NotFound("the key does not exist")
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


def expiring(db: sqlite3.Connection, query: Expiring) -> ExpiringKeys:
    rows = db.execute(_EXPIRING, (query.before_ms, query.limit))
    return ExpiringKeys([ExpiringKey(*row) for row in rows])


# Invariants


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


DOMAIN = Domain(
    name="kv",
    schema=SCHEMA,
    commands={
        Put: apply_put,
        Delete: apply_delete,
        DeletePrefix: apply_delete_prefix,
        Txn: apply_txn,
        Expire: apply_expire,
    },
    queries={Get: get, List: list_keys, Expiring: expiring},
    answers={
        Put: Written,
        Delete: Deleted,
        DeletePrefix: DeletedMany,
        Txn: TxnDone,
        Expire: Expired,
        Get: Item,
        List: Page,
        Expiring: ExpiringKeys,
    },
    validate={
        Put: _validate_put,
        Delete: _validate_delete,
        DeletePrefix: _validate_prefix,
        Txn: _validate_txn,
        Expire: _validate_expire,
        Get: _validate_get,
        List: _validate_prefix,
        Expiring: _validate_expiring,
    },
    check=check,
)
