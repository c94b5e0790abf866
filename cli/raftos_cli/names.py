"""Names that only the cluster or this user's files know, for completion.

They are asked for anew each time, with little patience: a person is typing. Where they cannot be had there
are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click

from raftos.errors import RaftosError
from raftos_cli.base import Invocation

if TYPE_CHECKING:
    from raftos.client import Client

PATIENCE_S = 0.25
MOST_OFFERED = 100

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def from_cluster(ask: Callable[[Client, str], Iterable[str]]) -> Complete:
    """A `shell_complete` of the names that `ask` finds; it is given what is typed already."""

    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        try:
            with ctx.ensure_object(Invocation).client(PATIENCE_S) as client:
                return [name for name in ask(client, incomplete) if name.startswith(incomplete)]
        except RaftosError:
            return []

    return complete


@from_cluster
def keys(client: Client, typed: str) -> Iterator[str]:
    items = client.kv.list(typed, limit=MOST_OFFERED, keys_only=True, stale=True)
    return (item.key for item in items)


@from_cluster
def nodes(client: Client, _typed: str) -> list[str]:
    return [member.name for member in client.members.list(stale=True)]


@from_cluster
def quotas(client: Client, _typed: str) -> list[str]:
    return [quota.name for quota in client.quota.list()]
