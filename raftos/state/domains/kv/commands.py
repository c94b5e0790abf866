"""What may be asked: the commands and queries, and the fields they share.

The limits stand in the fields to be shown; `validate.py` holds to them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from raftos.state.command import Command, Query
from raftos.state.domain import MAX_ROWS, described
from raftos.state.domains.kv.limits import (
    MAX_EXPIRING,
    MAX_KEY_BYTES,
    MAX_TTL_MS,
    MAX_TXN_ITEMS,
    MAX_VALUE_BYTES,
)

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

    The leader proposes it.
    """

    internal: ClassVar[bool] = True

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
