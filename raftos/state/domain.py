"""What a domain is made of.

A domain is one file in `domains/`, always in this order: an opening essay, `SCHEMA`, commands,
answers and events, limits (`validate_...`), apply functions, queries, `check`, and last the
`DOMAIN = Domain(...)` that gathers them. Routes, documentation and SDK types are derived from that
one value, so nothing about a domain is written twice. A domain that has outgrown one file is a folder
of the same name, whose files stand in the same order: `domains/kv/__init__.py` lists them.

The rules an apply function lives by:

* It is deterministic and total: no clock, randomness, environment or set order. Time is
  `context.time_ms`, ids come in the command. It returns `Ok` or `Rejected`.
* It checks everything, then writes: a `Rejected` must leave no write and no event behind.
* It touches at most 1 000 rows; larger work is split into several commands, by `due` or by the client.
* Every table has an explicit primary key, so that a restored copy is identical.

Limits are checked by the domain's validate functions, at the edge before a command is proposed and
once more by the machine before it is applied. They are *described* in the annotations (`described`)
but not enforced by the decoder: a log entry from a member with other limits has to stay readable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any

import msgspec

from raftos.state.command import Command, Query, Result
from raftos.state.events import Event
from raftos.state.tally import Tallies

MAX_ROWS = 1_000
"""The most rows one command touches, and the most items one query returns."""


class Context:
    """What an apply function may know and use besides its command and the tables."""

    __slots__ = ("counts", "events", "most", "noted", "revision", "run", "time_ms")

    def __init__(
        self, db: sqlite3.Connection, noted: list[int], tallies: Tallies, time_ms: int, revision: int
    ) -> None:
        self.time_ms = time_ms
        """Cluster time of the entry, in milliseconds."""
        self.revision = revision
        """The revision this command gets if it ends `Ok`."""
        self.run = db.cursor().execute
        """`db.execute` for a statement without rows, on one cursor: a twentieth of a small write less."""
        self.noted = noted
        """What the SQL function `noted(value)` was called with since it was emptied. It hands a value that
        a statement computed over to Python, and is NULL itself; whoever uses it takes the values out."""
        self.counts = tallies.values
        """The machine's tallies, to read and to add to: `context.counts["kv.keys"] += 1`."""
        self.most = tallies.most
        """How high each tally may be; only the quota domain changes it."""
        self.events: list[tuple[int, Event]] = []

    def emit(self, event: Event) -> None:
        """Tell the watchers; the event carries the command's revision."""
        self.events.append((self.revision, event))


Apply = Callable[[sqlite3.Connection, Any, Context], Result]
Ask = Callable[[sqlite3.Connection, Any], msgspec.Struct]
Validate = Callable[[Any], None]
Due = Callable[[sqlite3.Connection, int], Iterable[Command]]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Everything the rest of raftos knows about a domain."""

    name: str
    """Its tags begin with it, and its file or folder has it too."""
    schema: str
    """SQL statements that create what is missing (`IF NOT EXISTS`)."""
    commands: Mapping[type[Command], Apply]
    queries: Mapping[type[Query], Ask]
    """Each is one SELECT, so that it sees one state; raises NotFound or InvalidInput."""
    answers: Mapping[type[Command | Query], type[msgspec.Struct]]
    """What `Ok.value` of a command, or a query, looks like."""
    validate: Mapping[type[Command | Query], Validate] = field(default_factory=dict)
    """The limits, where there are any: raises InvalidInput or TooLarge, with a sentence."""
    events: Mapping[type[Event], str] = field(default_factory=dict)
    """Every event, with the name of the field that is its subject, which watchers filter by."""
    tallies: Mapping[str, int] = field(default_factory=dict)
    """What the domain counts in `context.counts`, with the most there may be."""
    kept_bytes: Callable[[sqlite3.Connection], int] | None = None
    """The domain's share of the tally `state.bytes`, summed up from its tables anew; for checks only."""
    grows: Mapping[type[Command], Callable[[Any], bool]] = field(default_factory=dict)
    """Commands that may store something, with whether this one does: then it is refused for lack of space."""
    due: Due | None = None
    """What has to be proposed because time passed: `due(db, now_ms)` only reads, and names what it saw."""
    upgrades: Mapping[int, str] = field(default_factory=dict)
    """By format of the state (`storage.FORMAT`), the SQL that turns its tables into those of the next one."""
    check: Callable[[sqlite3.Connection], Iterable[str]]
    """The invariants: one sentence for each that does not hold."""

    @property
    def offered(self) -> list[type[Command]]:
        """The commands that anybody may propose."""
        return [kind for kind in self.commands if not kind.internal]


def limits_of(domains: Iterable[Domain]) -> dict[type, Validate]:
    """For every command and query of these domains, what checks its limits."""
    limits: dict[type, Validate] = {}
    for domain in domains:
        kinds: list[type[Command | Query]] = [*domain.commands, *domain.queries]
        limits.update({kind: domain.validate.get(kind, _no_limits) for kind in kinds})
    return limits


def _no_limits(_: object) -> None:
    return


def upgrades_of(domains: Iterable[Domain]) -> dict[int, str]:
    """By format of the state, the SQL that leads all these domains to the next one."""
    steps: dict[int, str] = {}
    for domain in domains:
        for number, statements in domain.upgrades.items():
            steps[number] = f"{steps.get(number, '')} {statements}"
    return steps


def decoder_of(kinds: Iterable[type[msgspec.Struct]]) -> msgspec.msgpack.Decoder[Any]:
    """A msgpack decoder that tells these tagged kinds apart."""
    return msgspec.msgpack.Decoder(reduce(or_, kinds))


def described(description: str, **limits: Any) -> msgspec.Meta:
    """Documentation of one field; `limits` are JSON schema keywords, shown but not enforced here."""
    return msgspec.Meta(description=description, extra_json_schema=limits or None)
