"""All of it as one value: what the rest of raftos knows about the domain."""

from __future__ import annotations

from raftos.state.domain import Domain
from raftos.state.domains.kv.answers import (
    Deleted,
    DeletedMany,
    Expired,
    Item,
    KeyDeleted,
    KeyWritten,
    Page,
    Touched,
    TxnDone,
    Written,
)
from raftos.state.domains.kv.apply import (
    apply_delete,
    apply_delete_prefix,
    apply_expire,
    apply_put,
    apply_touch,
    apply_txn,
)
from raftos.state.domains.kv.checks import check, kept_bytes
from raftos.state.domains.kv.commands import (
    Delete,
    DeletePrefix,
    Expire,
    Get,
    List,
    Put,
    Touch,
    Txn,
    TxnPut,
)
from raftos.state.domains.kv.limits import MAX_KEYS
from raftos.state.domains.kv.queries import due, get, list_keys
from raftos.state.domains.kv.schema import KEYS, SCHEMA
from raftos.state.domains.kv.validate import (
    validate_delete,
    validate_expire,
    validate_get,
    validate_prefix,
    validate_put,
    validate_touch,
    validate_txn,
)


def _stores(command: Put | Txn) -> bool:
    return isinstance(command, Put) or any(isinstance(write, TxnPut) for write in command.writes)


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
        Put: validate_put,
        Delete: validate_delete,
        DeletePrefix: validate_prefix,
        Txn: validate_txn,
        Touch: validate_touch,
        Expire: validate_expire,
        Get: validate_get,
        List: validate_prefix,
    },
    events={KeyWritten: "key", KeyDeleted: "key"},
    tallies={KEYS: MAX_KEYS},
    kept_bytes=kept_bytes,
    grows={Put: lambda _: True, Txn: _stores},
    due=due,
    check=check,
)
