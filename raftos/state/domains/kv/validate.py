"""Whether a command or a query keeps to the limits: otherwise InvalidInput or TooLarge, with a sentence."""

from __future__ import annotations

from raftos.errors import InvalidInput, TooLarge
from raftos.state.domain import MAX_ROWS
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
from raftos.state.domains.kv.limits import (
    MAX_EXPIRING,
    MAX_KEY_BYTES,
    MAX_TTL_MS,
    MAX_TXN_BYTES,
    MAX_TXN_ITEMS,
    MAX_VALUE_BYTES,
)
from raftos.state.limits import check_count, check_name, check_number, check_text


def check_key(key: str) -> None:
    check_name("key", key, MAX_KEY_BYTES)


def _check_expected(version: int | None, revision: int | None) -> None:
    if version is not None:
        check_number("expect_version", version, 0)
    if revision is not None:
        check_number("expect_revision", revision, 1)


def _validate_write(put: Put | TxnPut) -> None:
    check_key(put.key)
    if len(put.value) > MAX_VALUE_BYTES:
        raise TooLarge(
            f"the value has {len(put.value)} bytes, at most {MAX_VALUE_BYTES} are allowed; split it"
        )
    if put.ttl_ms is not None:
        check_number("ttl_ms", put.ttl_ms, 1, MAX_TTL_MS)


def validate_put(command: Put) -> None:
    _validate_write(command)
    _check_expected(command.expect_version, None)


def validate_delete(command: Delete) -> None:
    check_key(command.key)
    _check_expected(command.expect_version, command.expect_revision)


def validate_touch(command: Touch) -> None:
    check_key(command.key)
    check_number("ttl_ms", command.ttl_ms, 1, MAX_TTL_MS)
    _check_expected(None, command.expect_revision)


def validate_prefix(command: DeletePrefix | List) -> None:
    check_text("prefix", command.prefix, MAX_KEY_BYTES)
    check_number("limit", command.limit, 1, MAX_ROWS)


def validate_txn(command: Txn) -> None:
    check_count("writes", len(command.writes), 1, MAX_TXN_ITEMS)
    check_count("comparisons", len(command.compare), 0, MAX_TXN_ITEMS)
    for compare in command.compare:
        check_key(compare.key)
        _check_expected(compare.version, compare.revision)
        if compare.version is None and compare.revision is None:
            raise InvalidInput("a comparison names a version or a revision")
    for write in command.writes:
        _validate_write(write) if isinstance(write, TxnPut) else check_key(write.key)
    if len({write.key for write in command.writes}) < len(command.writes):
        raise InvalidInput("the transaction writes a key twice; write each key once")
    size_bytes = sum(len(write.value) for write in command.writes if isinstance(write, TxnPut))
    if size_bytes > MAX_TXN_BYTES:
        raise TooLarge(f"the values have {size_bytes} bytes together, at most {MAX_TXN_BYTES} are allowed")


def validate_expire(command: Expire) -> None:
    check_count("keys", len(command.keys), 1, MAX_EXPIRING)
    for seen in command.keys:
        check_key(seen.key)
        check_number("revision", seen.revision, 1)


def validate_get(query: Get) -> None:
    check_key(query.key)
