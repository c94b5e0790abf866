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

    schema.py     the table, what is counted of it, and where a prefix ends in it
    limits.py     how much there may be
    commands.py   the commands and queries, and their fields
    answers.py    the answers, the refusal that writes and reads share, and the events
    validate.py   whether a request keeps to the limits
    apply.py      what each command does
    queries.py    what each query reads, and what is due
    checks.py     the invariants, and the bytes that are kept
    domain.py     `DOMAIN`, which gathers them

Each of them imports only from those above it.
"""

from raftos.state.domains.kv.answers import (
    Deleted,
    DeletedMany,
    Expired,
    Item,
    KeyDeleted,
    KeyWritten,
    Page,
    Touched,
    TxnDeleted,
    TxnDone,
    TxnWritten,
    Written,
)
from raftos.state.domains.kv.apply import apply_expire, apply_put
from raftos.state.domains.kv.commands import (
    Compare,
    Delete,
    DeletePrefix,
    Expire,
    Get,
    List,
    Put,
    Seen,
    Touch,
    Txn,
    TxnDelete,
    TxnPut,
)
from raftos.state.domains.kv.domain import DOMAIN
from raftos.state.domains.kv.limits import MAX_KEYS, MAX_TTL_MS
from raftos.state.domains.kv.schema import KEYS

__all__ = [
    "DOMAIN",
    "KEYS",
    "MAX_KEYS",
    "MAX_TTL_MS",
    "Compare",
    "Delete",
    "DeletePrefix",
    "Deleted",
    "DeletedMany",
    "Expire",
    "Expired",
    "Get",
    "Item",
    "KeyDeleted",
    "KeyWritten",
    "List",
    "Page",
    "Put",
    "Seen",
    "Touch",
    "Touched",
    "Txn",
    "TxnDelete",
    "TxnDeleted",
    "TxnDone",
    "TxnPut",
    "TxnWritten",
    "Written",
    "apply_expire",
    "apply_put",
]
