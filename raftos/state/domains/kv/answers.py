"""What comes back: the answers, the refusal that writes and reads share, and the events for watchers."""

from __future__ import annotations

import msgspec

from raftos.state.command import Rejected
from raftos.state.events import Event
from raftos.state.limits import shown


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


def missing(key: str) -> Rejected:
    return Rejected("not_found", f"key {shown(key)} does not exist")


# Events


class KeyWritten(Event, frozen=True, tag="kv.written"):
    """A key has a new value."""

    key: str
    version: int


class KeyDeleted(Event, frozen=True, tag="kv.deleted"):
    """A key is gone, deleted by someone or, if `expired`, because its time was over."""

    key: str
    expired: bool = False
