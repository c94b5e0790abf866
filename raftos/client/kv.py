"""Small values under keys.

Every write is one command with its own request id: however often it has to be sent, it happens once.
The versions of a key start at 1; `expect_version=0` means that the key must not exist. Versions begin
again with a key that was deleted, revisions never repeat: `expect_revision` means this very write of it.
A write that does not meet its expectation raises Conflict and changes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal

import msgspec

from raftos.client.core import Core
from raftos.client.events import AsyncEvents, Event, Wanted
from raftos.errors import InvalidInput
from raftos.state.domain import MAX_ROWS
from raftos.state.domains import tag_of, validate
from raftos.state.domains.kv import (
    Compare,
    Delete,
    Deleted,
    DeletedMany,
    DeletePrefix,
    Get,
    KeyDeleted,
    KeyWritten,
    List,
    Put,
    Touch,
    Touched,
    Txn,
    TxnDelete,
    TxnDone,
    TxnPut,
    Written,
)


class Item(msgspec.Struct, frozen=True):
    """A key and what is kept of it; the value is empty where only keys were asked for."""

    key: str
    version: int
    revision: int
    value: bytes = b""
    expires_ms: int | None = None


class KeyChange(msgspec.Struct, frozen=True):
    """What happened to a key, not what it became: `get` knows its value. Only a put has a `version`."""

    kind: Literal["put", "delete", "expire"]
    key: str
    version: int | None
    revision: int
    time_ms: int


class _Page(msgspec.Struct, frozen=True):
    items: list[Item]
    cursor: str | None


_decode_written = msgspec.msgpack.Decoder(Written).decode
_decode_item = msgspec.msgpack.Decoder(Item).decode
_decode_deleted = msgspec.msgpack.Decoder(Deleted).decode
_decode_touched = msgspec.msgpack.Decoder(Touched).decode
_decode_deleted_many = msgspec.msgpack.Decoder(DeletedMany).decode
_decode_done = msgspec.msgpack.Decoder(TxnDone).decode
_decode_page = msgspec.msgpack.Decoder(_Page).decode


class AsyncKv:
    """`client.kv`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def put(
        self, key: str, value: bytes | str, *, expect_version: int | None = None, ttl_s: float | None = None
    ) -> Written:
        """Write a value; text is stored as UTF-8. The key is deleted `ttl_s` seconds later, if given.

        Raises InvalidInput, TooLarge, Conflict (the key is not at `expect_version`) and, as every call,
        Unauthorized and the kinds of Unavailable.
        """
        command = Put(key, _bytes(value), expect_version, None if ttl_s is None else _milliseconds(ttl_s))
        return await self._core.command(command, _decode_written)

    async def get(self, key: str, *, stale: bool = False) -> Item:
        """The present value; `stale` takes what the member asked has, perhaps old. Raises NotFound."""
        return await self._core.query(Get(key), _decode_item, stale=stale)

    async def delete(
        self, key: str, *, expect_version: int | None = None, expect_revision: int | None = None
    ) -> Deleted:
        """Delete a key. Raises NotFound, Conflict."""
        return await self._core.command(Delete(key, expect_version, expect_revision), _decode_deleted)

    async def touch(self, key: str, *, ttl_s: float, expect_revision: int | None = None) -> Touched:
        """Have the key deleted `ttl_s` seconds from now, and change nothing else of it.

        Neither its value nor its version nor its revision changes, and nobody who watches is told.
        Raises NotFound, Conflict (the key is not of `expect_revision`).
        """
        return await self._core.command(Touch(key, _milliseconds(ttl_s), expect_revision), _decode_touched)

    async def delete_prefix(self, prefix: str) -> int:
        """Delete every key that starts with `prefix`; returns how many there were.

        In steps of at most 1 000 keys, each atomic by itself.
        """
        deleted = 0
        more = True
        while more:
            step = await self._core.command(DeletePrefix(prefix), _decode_deleted_many)
            deleted += step.deleted
            more = step.more
        return deleted

    async def txn(self, *, compare: Sequence[Compare] = (), writes: Sequence[TxnPut | TxnDelete]) -> TxnDone:
        """Compare the versions or revisions of several keys, then write several: all of it or nothing.

        Raises Conflict where a key is not at the version or the revision it was compared with.
        """
        return await self._core.command(Txn(tuple(writes), tuple(compare)), _decode_done)

    def watch(
        self, key: str, *, prefix: bool = False, since: int | None = None, give_up_s: float | None = None
    ) -> AsyncEvents[KeyChange]:
        """Follow the changes of one key, or with `prefix` of all that start with `key`.

        The iterator, `since`, `give_up_s` and the errors are those of `client.events`. Raises InvalidInput
        for what can be no key, as nothing would ever come.
        """
        validate(List(key) if prefix else Get(key))
        wanted = Wanted(
            topics=_CHANGES,
            prefix=key if prefix else "",
            subject=None if prefix else key,
            since=since,
            give_up_s=give_up_s,
        )
        return AsyncEvents(self._core, wanted, _change)

    async def list(
        self, prefix: str = "", *, limit: int | None = None, keys_only: bool = False, stale: bool = False
    ) -> AsyncIterator[Item]:
        """The keys that start with `prefix`, in order, at most `limit` of them.

        Fetched page by page as they are consumed: each page is one consistent state, the whole need
        not be. With `keys_only` the values are empty.
        """
        async for page in self.pages(prefix, limit=limit, keys_only=keys_only, stale=stale):
            for item in page:
                yield item

    async def pages(
        self, prefix: str = "", *, limit: int | None = None, keys_only: bool = False, stale: bool = False
    ) -> AsyncIterator[Sequence[Item]]:
        """The same, a page at a time."""
        left = limit
        cursor = None
        while left is None or left > 0:
            size = MAX_ROWS if left is None else min(left, MAX_ROWS)
            page = await self._core.query(List(prefix, size, cursor, keys_only), _decode_page, stale=stale)
            yield page.items
            cursor = page.cursor
            if cursor is None:
                return
            left = None if left is None else left - len(page.items)


_CHANGES = (tag_of(KeyWritten), tag_of(KeyDeleted))


def _change(event: Event) -> KeyChange:
    fields = event.fields
    if event.type == _CHANGES[0]:
        return KeyChange("put", fields["key"], fields["version"], event.revision, event.time_ms)
    kind: Literal["delete", "expire"] = "expire" if fields.get("expired") else "delete"
    return KeyChange(kind, fields["key"], None, event.revision, event.time_ms)


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _milliseconds(duration_s: float) -> int:
    if not 0 < duration_s < 1e12:
        raise InvalidInput(f"ttl_s is {duration_s:g}; it has to be above 0 and below 1e12 seconds")
    return max(1, round(duration_s * 1000))
