"""What is read: one key, keys a page at a time, and the keys whose time is over."""

from __future__ import annotations

import sqlite3
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec

from raftos.errors import InvalidInput, NotFound
from raftos.state.command import Command
from raftos.state.domains.kv.answers import Item, Page, missing
from raftos.state.domains.kv.commands import Expire, Get, List, Seen
from raftos.state.domains.kv.limits import MAX_EXPIRING, MAX_EXPIRING_AT_ONCE, MAX_PAGE_BYTES
from raftos.state.domains.kv.schema import after

_GET = "SELECT key, version, revision, value, expires_ms FROM kv WHERE key = ?"
_PAGE = (
    "SELECT key, version, revision, {}, expires_ms FROM kv WHERE key {} ? AND key < ? ORDER BY key LIMIT ?"
)
_EXPIRED = "SELECT key, revision FROM kv WHERE expires_ms <= ? ORDER BY expires_ms, key LIMIT ?"


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
        raise NotFound(missing(query.key).message)
    return Item(*row)


def list_keys(db: sqlite3.Connection, query: List) -> Page:
    value = "NULL" if query.keys_only else "value"
    first, comparison = query.prefix, ">="
    if query.cursor is not None:
        first, comparison = _key_of(query.cursor, query.prefix), ">"
    items: list[Item] = []
    size_bytes = 0
    bounds = (first, after(query.prefix), query.limit + 1)
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
