"""`raftos kv watch`: the changes of keys, as they happen, with the new values where they are known.

Events say that a key changed, not to what. The values are read afterwards, those of all changes at hand in
one linearizable batch, and shown only where the key is still at the revision of the change: a line never
shows the value of a later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from raftos_cli.base import Command, Invocation, Text, pass_invocation
from raftos_cli.following import Revision, told
from raftos_cli.kv import preview, text_or_base64
from raftos_cli.names import keys
from raftos_cli.output import one_line

if TYPE_CHECKING:
    from raftos.client import Client
    from raftos.client.kv import KeyChange

VALUES_AT_ONCE = 32
"""A value may have a mebibyte, and all that were read at once are held."""


@click.command(
    "watch",
    cls=Command,
    examples="""
        raftos kv watch greeting
        raftos kv watch config/ --prefix
        raftos kv watch jobs/ --prefix --since 0 -o json
    """,
)
@click.argument("key", type=Text(), shell_complete=keys)
@click.option("--prefix", is_flag=True, help="Watch every key that starts with KEY.")
@click.option(
    "--since", type=Revision(), metavar="REV", help="First the changes after this revision.  [default: now]"
)
@pass_invocation
def watch(run: Invocation, key: str, prefix: bool, since: int | None) -> None:
    """Print the changes of KEY as they happen.

    It goes on until it is interrupted, at another member when one is lost. A line is PUT KEY VERSION
    REVISION VALUE, the value left out where the key has changed again, or DELETE (or EXPIRE) KEY -
    REVISION. In JSON each line is one object, with the whole value.
    """
    from raftos.client.events import Bookmark

    with run.client() as client, client.kv.watch(key, prefix=prefix, since=since) as stream:
        for news in told(run, stream):
            changes = [item for item in news if not isinstance(item, Bookmark)]
            for start in range(0, len(changes), VALUES_AT_ONCE):
                _print(run, client, changes[start : start + VALUES_AT_ONCE])


def _print(run: Invocation, client: Client, changes: Sequence[KeyChange]) -> None:
    values = _values(client, {change.key for change in changes if change.kind == "put"})
    for change in changes:
        _print_one(run, change, values.get((change.key, change.revision)))


def _values(client: Client, keys: set[str]) -> dict[tuple[str, int], bytes]:
    """(key, revision) -> the value it has now; what cannot be read now is left out."""
    from raftos.errors import RaftosError
    from raftos.state.domains.kv import Get

    outcomes = client.batch([Get(key) for key in sorted(keys)]) if keys else []
    return {(item.key, item.revision): item.value for item in outcomes if not isinstance(item, RaftosError)}


def _print_one(run: Invocation, change: KeyChange, value: bytes | None) -> None:
    def text() -> str:
        version = "-" if change.version is None else change.version
        shown = "" if value is None else f" {preview(value)}"
        return f"{change.kind.upper()} {one_line(change.key)} {version} {change.revision}{shown}"

    run.output.line(_as_json(change, value), text)


def _as_json(change: KeyChange, value: bytes | None) -> dict[str, Any]:
    version = {} if change.version is None else {"version": change.version}
    shown = {} if value is None else text_or_base64(value)
    where = {"revision": change.revision, "time_ms": change.time_ms}
    return {"kind": change.kind, "key": change.key, **version, **where, **shown}
