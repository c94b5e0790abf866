"""`raftos kv`: small values under keys.

Values are bytes. `get` prints them as they are and then one newline, so that a terminal and `$(...)`
both read well; `--raw` leaves the newline out, for bytes that have to stay exactly what they are. In
JSON a value is text, and `value_base64` where it is not UTF-8.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from raftos.errors import InvalidInput
from raftos_cli.base import Group, Invocation, Seconds, Text, WholeNumber, pass_invocation, stale_option
from raftos_cli.names import keys
from raftos_cli.output import Column, print_table

if TYPE_CHECKING:
    from raftos.client.kv import Item
    from raftos.state.domains.kv import Compare, TxnDelete, TxnDeleted, TxnPut, TxnWritten

PREVIEW_CHARACTERS = 40
_CONDITION = re.compile("(.+)([=@])([0-9]{1,16})", re.DOTALL)

kv = Group(
    "kv",
    files={"watch": "raftos_cli.kvwatch"},
    help="Small values under keys, durable and versioned.",
    examples="""
        raftos kv put greeting hello
        raftos kv get greeting
        raftos kv ls
    """,
)

expect_version_option = click.option(
    "--expect-version",
    type=WholeNumber(0),
    metavar="N",
    help="Only if the key is at this version; 0: only if it does not exist.",
)
expect_revision_option = click.option(
    "--expect-revision", type=WholeNumber(1), metavar="N", help="Only if this revision wrote the key."
)


@kv.command(
    "put",
    examples="""
        raftos kv put greeting hello
        echo hello | raftos kv put greeting -
        raftos kv put photo --file photo.jpg
        raftos kv put session me --expect-version 0 --ttl 30
    """,
)
@click.argument("key", type=Text(), shell_complete=keys)
@click.argument("value", required=False, metavar="VALUE")
@click.option("--file", type=click.File("rb"), metavar="F", help="Take the value from a file.")
@click.option("--ttl", type=Seconds(), metavar="SECONDS", help="Delete the key after this time.")
@expect_version_option
@pass_invocation
def put(
    run: Invocation, key: str, value: str | None, file: Any, ttl: float | None, expect_version: int | None
) -> None:
    """Write VALUE under KEY; - reads it from stdin.

    Exits 4 if the key is not at the expected version.
    """
    content = _content(value, file)
    with run.client() as client:
        written = client.kv.put(key, content, expect_version=expect_version, ttl_s=ttl)
    run.output.data(written, lambda: f"{key}: version {written.version}, revision {written.revision}")


@kv.command(
    "get",
    examples="""
        raftos kv get greeting
        raftos kv get photo --raw > photo.jpg
        raftos kv get greeting -o json
    """,
)
@click.argument("key", type=Text(), shell_complete=keys)
@click.option("--raw", is_flag=True, help="Print no newline after the value.")
@stale_option
@pass_invocation
def get(run: Invocation, key: str, raw: bool, stale: bool) -> None:
    """Print the value of KEY and a newline. Exits 3 if there is none."""
    with run.client() as client:
        entry = client.kv.get(key, stale=stale)

    def printed() -> None:
        click.echo(entry.value, nl=not raw)

    run.output.data(entry_value(entry), printed)


@kv.command(
    "del",
    examples="""
        raftos kv del greeting
        raftos kv del greeting --expect-version 3
        raftos kv del --prefix config/
    """,
)
@click.argument("key", type=Text(), shell_complete=keys)
@click.option("--prefix", is_flag=True, help="Delete every key that starts with KEY.")
@expect_version_option
@expect_revision_option
@pass_invocation
def delete(
    run: Invocation, key: str, prefix: bool, expect_version: int | None, expect_revision: int | None
) -> None:
    """Delete KEY. Exits 3 if there is none, 4 if it is not what was expected."""
    if prefix and (expect_version, expect_revision) != (None, None):
        raise click.UsageError("--prefix deletes whatever is there; it takes no expectation.")
    with run.client() as client:
        if prefix:
            count = client.kv.delete_prefix(key)
            run.output.data({"deleted": count}, lambda: f"{count} deleted")
        else:
            deleted = client.kv.delete(key, expect_version=expect_version, expect_revision=expect_revision)
            run.output.data(deleted, lambda: f"{key}: deleted, revision {deleted.revision}")


@kv.command(
    "ls",
    examples="""
        raftos kv ls
        raftos kv ls config/ --keys-only
        raftos kv ls -o json --limit 100
    """,
)
@click.argument("prefix", type=Text(), default="", shell_complete=keys)
@click.option("--keys-only", is_flag=True, help="Print one key a line and nothing else.")
@click.option("--limit", type=WholeNumber(1), metavar="N", help="At most so many.  [default: all]")
@stale_option
@pass_invocation
def ls(run: Invocation, prefix: str, keys_only: bool, limit: int | None, stale: bool) -> None:
    """List the keys that start with PREFIX, or all, in order."""
    with run.client() as client:
        items = list(client.kv.list(prefix, limit=limit, keys_only=keys_only, stale=stale))

    def table() -> str | None:
        if keys_only:
            return "\n".join(item.key for item in items) or None
        columns = [Column("KEY", wraps=True), Column("VERSION", number=True), Column("REVISION", number=True)]
        rows = [[item.key, item.version, item.revision, preview(item.value)] for item in items]
        print_table([*columns, Column("VALUE")], rows)
        return None

    run.output.data({"items": [entry_value(item, with_value=not keys_only) for item in items]}, table)


@kv.command(
    "txn",
    examples="""
        raftos kv txn --if a=3 --put a=new --del b
        raftos kv txn --if lock/backup@57 --put last=monday
        raftos kv txn changes.json
        echo '{"writes": [{"op": "delete", "key": "b"}]}' | raftos kv txn -
    """,
)
@click.argument("document", type=click.File("rb"), required=False)
@click.option(
    "--if",
    "conditions",
    multiple=True,
    metavar="KEY=VERSION",
    help="Only if KEY is at VERSION; 0: does not exist. KEY@REVISION: only if REVISION wrote it.",
)
@click.option("--put", "puts", multiple=True, metavar="KEY=VALUE", help="Write VALUE under KEY.")
@click.option("--del", "deletes", multiple=True, metavar="KEY", shell_complete=keys, help="Delete KEY.")
@pass_invocation
def txn(
    run: Invocation,
    document: Any,
    conditions: tuple[str, ...],
    puts: tuple[str, ...],
    deletes: tuple[str, ...],
) -> None:
    """Compare several keys, then write several, all or nothing.

    Given as options (puts happen before deletes), or as a JSON DOCUMENT, - being stdin, like
    {"compare": [{"key", "version" or "revision"}], "writes": [{"op": "put" or "delete", "key",
    "value"}]}. Exits 4, having changed nothing, if a key is not what it was compared with.
    """
    if (document is None) == (not (conditions or puts or deletes)):
        raise click.UsageError("Give either a DOCUMENT or --if, --put and --del.")
    compare, writes = (
        _from_document(document.read()) if document else _from_options(conditions, puts, deletes)
    )
    with run.client() as client:
        done = client.kv.txn(compare=compare, writes=writes)
    run.output.data(done, lambda: "\n".join([*map(_told, done.results), f"revision {done.revision}"]))


class DocumentPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="put"):
    """A put as people write it: one of text and base64."""

    key: str
    value: str | None = None
    value_base64: bytes | None = None
    ttl_ms: int | None = None

    def write(self) -> TxnPut:
        """The same for the cluster. Raises InvalidInput."""
        from raftos.state.domains.kv import TxnPut

        if (self.value is None) == (self.value_base64 is None):
            raise InvalidInput(f"the put of {self.key!r} needs either `value` or `value_base64`")
        value = self.value_base64 if self.value is None else self.value.encode()
        return TxnPut(self.key, value or b"", self.ttl_ms)


class DocumentDelete(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="delete"):
    key: str

    def write(self) -> TxnDelete:
        from raftos.state.domains.kv import TxnDelete

        return TxnDelete(self.key)


class DocumentCompare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    version: int | None = None
    revision: int | None = None


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A transaction as a JSON document."""

    writes: list[DocumentPut | DocumentDelete]
    compare: list[DocumentCompare] = []


def _from_document(content: bytes) -> tuple[list[Compare], list[TxnPut | TxnDelete]]:
    from raftos.state.domains.kv import Compare

    try:
        document = msgspec.json.decode(content, type=Document)
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"the document is no transaction: {error}") from error
    compare = [Compare(each.key, each.version, each.revision) for each in document.compare]
    return compare, [write.write() for write in document.writes]


def _from_options(
    conditions: tuple[str, ...], puts: tuple[str, ...], deletes: tuple[str, ...]
) -> tuple[list[Compare], list[TxnPut | TxnDelete]]:
    from raftos.state.domains.kv import Compare, TxnDelete, TxnPut

    compare = []
    for condition in conditions:
        found = _CONDITION.fullmatch(condition)
        if found is None:
            raise click.UsageError(
                f"--if takes KEY=VERSION or KEY@REVISION, like --if a=3; {condition!r} is not like that."
            )
        key, sign, number = found.groups()
        compare.append(Compare(key, int(number)) if sign == "=" else Compare(key, revision=int(number)))
    writes: list[TxnPut | TxnDelete] = []
    for put in puts:
        key, equals, value = put.partition("=")
        if not key or not equals:
            raise click.UsageError(f"--put takes KEY=VALUE, like --put a=1; {put!r} is not like that.")
        writes.append(TxnPut(key, os.fsencode(value)))
    return compare, writes + [TxnDelete(key) for key in deletes]


def _told(result: TxnWritten | TxnDeleted) -> str:
    from raftos.state.domains.kv import TxnWritten

    if isinstance(result, TxnWritten):
        return f"{result.key}: version {result.version}"
    return f"{result.key}: {'deleted' if result.deleted else 'was not there'}"


def _content(value: str | None, file: Any) -> bytes:
    """The bytes to write: from the argument, from stdin (-) or from a file, exactly one of them."""
    if (value is None) == (file is None):
        raise click.UsageError("Give either VALUE, which may be - for stdin, or --file.")
    if value is None:
        content: bytes = file.read()
        return content
    return sys.stdin.buffer.read() if value == "-" else os.fsencode(value)


def entry_value(entry: Item, *, with_value: bool = True) -> dict[str, Any]:
    """A key with its value as JSON shows it."""
    value = text_or_base64(entry.value) if with_value else {}
    expires = {} if entry.expires_ms is None else {"expires_ms": entry.expires_ms}
    return {"key": entry.key, **value, "version": entry.version, "revision": entry.revision, **expires}


def text_or_base64(value: bytes) -> dict[str, str]:
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode()}


def preview(value: bytes) -> str:
    """The beginning of a value, on one line."""
    start = value[: 4 * PREVIEW_CHARACTERS].decode(errors="replace")
    shown = "".join(character if character.isprintable() else "\ufffd" for character in start)
    return shown if len(shown) <= PREVIEW_CHARACTERS else shown[: PREVIEW_CHARACTERS - 1] + "\u2026"
