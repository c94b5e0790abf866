"""The domains this version knows. A new one is its own file and one name in `DOMAINS`.

Everything that is derived from the domains starts here: the API's routes, the documentation and the
SDK's types from `OFFERED`, `QUERIES` and `Domain.answers`; the limits at the edge from `validate`.
"""

from __future__ import annotations

import msgspec

from raftos.state.command import Command, Query
from raftos.state.domain import Context, Domain, decoder_of, limits_of
from raftos.state.domains import chat, cluster, kv, members, quota

__all__ = [
    "COMMANDS",
    "DOMAINS",
    "EVENTS",
    "OFFERED",
    "QUERIES",
    "Context",
    "Domain",
    "command_decoder",
    "query_decoder",
    "tag_of",
    "validate",
]

DOMAINS: tuple[Domain, ...] = (
    members.DOMAIN,
    kv.DOMAIN,
    chat.DOMAIN,
    quota.DOMAIN,
    cluster.DOMAIN,
)


def tag_of(kind: type[msgspec.Struct]) -> str:
    """`"kv.put"` for the command `Put` of the domain kv."""
    return str(kind.__struct_config__.tag)


COMMANDS: dict[str, type[Command]] = {tag_of(kind): kind for domain in DOMAINS for kind in domain.commands}
QUERIES: dict[str, type[Query]] = {tag_of(kind): kind for domain in DOMAINS for kind in domain.queries}

OFFERED: dict[str, type[Command]] = {tag_of(kind): kind for domain in DOMAINS for kind in domain.offered}

EVENTS: dict[str, str] = {
    tag_of(kind): subject for domain in DOMAINS for kind, subject in domain.events.items()
}
"""Every type of event, with the name of the field that watchers filter by."""

command_decoder = decoder_of(COMMANDS.values())
"""Decodes one msgpack command of any domain."""

query_decoder = decoder_of(QUERIES.values())
"""Decodes one msgpack query of any domain."""

_LIMITS = limits_of(DOMAINS)


def validate(command: Command | Query) -> None:
    """Check a command or a query against its domain's limits. Raises InvalidInput or TooLarge."""
    _LIMITS[type(command)](command)
