"""Quotas: how much there may be of what the machine counts.

Each tally (`state/tally.py`) has a limit, and `quota.set` changes it: for the whole cluster, through the
log, so that every member refuses the same command. Settable are `state.bytes` and whatever a domain names
in `Domain.tallies`, except what is mere bookkeeping.

| quota         | once it is reached                                                                     |
|---------------|----------------------------------------------------------------------------------------|
| `state.bytes` | what would store more is refused as `no_space`; the alarm NOSPACE says so in the status |
| any other     | what would make one more is refused as `limit_reached`                                 |

A quota may be set below what there is. Nothing is deleted then: reads, deletes and quotas themselves go
on, and growing writes are refused until enough was deleted or the quota raised. `state.bytes` is never
below 1 MiB, so that there is always room for a largest value.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Annotated

import msgspec

from raftos.errors import InvalidInput
from raftos.levels import SHOWN_SINCE
from raftos.state.command import Command, Ok, Query, Rejected, Result
from raftos.state.domain import MAX_ROWS, Context, Domain, described
from raftos.state.events import Event
from raftos.state.limits import MAX_INTEGER, check_name, check_number, shown
from raftos.state.tally import CLUSTER_LEVEL, STATE_BYTES, UNLIMITED

SCHEMA = ""
"""Quotas stand beside the tallies, in the table that the machine keeps itself."""

MAX_NAME_BYTES = 64
MIN_STATE_BYTES = 1024 * 1024

Name = Annotated[
    str,
    described("What is counted; `quota.list` names all.", minLength=1, maxLength=MAX_NAME_BYTES),
]
Most = Annotated[
    int,
    described(
        f"How much there may be; of `{STATE_BYTES}` at least {MIN_STATE_BYTES}.",
        minimum=0,
        maximum=MAX_INTEGER,
    ),
]


# Commands


class Set(Command, frozen=True, tag="quota.set"):
    """Set how much there may be of something; below what there is, growing writes are refused from now on.

    Rejected with `not_found` when nothing of this name is counted.
    """

    name: Name
    most: Most


# Queries


class List(Query, frozen=True, tag="quota.list"):
    """All quotas by name, with how much there is."""


# Answers and events


class Quota(msgspec.Struct, frozen=True):
    """What is counted, how much there is, and how much there may be."""

    name: str
    value: int
    most: int


class Quotas(msgspec.Struct, frozen=True):
    items: list[Quota]


class QuotaChanged(Event, frozen=True, tag="quota.changed"):
    """There may be more or less of something from now on."""

    name: str
    most: int


# Limits


def _validate_set(command: Set) -> None:
    check_name("name", command.name, MAX_NAME_BYTES)
    check_number("most", command.most, MIN_STATE_BYTES if command.name == STATE_BYTES else 0)


# Apply


def apply_set(_db: sqlite3.Connection, command: Set, context: Context) -> Result:
    known = sorted(name for name, most in context.most.items() if most < UNLIMITED)
    if command.name not in known:
        # Below this level it is told as older versions tell it, whose refusal is part of the hash as well.
        tells = shown if context.counts[CLUSTER_LEVEL] >= SHOWN_SINCE else repr
        return Rejected("not_found", f"there is no quota {tells(command.name)}; there are {', '.join(known)}")
    context.most[command.name] = command.most
    context.emit(QuotaChanged(command.name, command.most))
    return Ok(Quota(command.name, context.counts[command.name], command.most))


# Queries

_ALL = "SELECT name, value, most FROM tallies WHERE most < ? ORDER BY name LIMIT ?"


def list_quotas(db: sqlite3.Connection, _query: List) -> Quotas:
    return Quotas([Quota(*row) for row in db.execute(_ALL, (UNLIMITED, MAX_ROWS))])


# Invariants


def check(db: sqlite3.Connection) -> Iterator[str]:
    for name, value, most in db.execute(_ALL, (UNLIMITED, MAX_ROWS)):
        if value < 0:
            yield f"{name} is counted down to {value}"
        try:
            _validate_set(Set(name, most))
        except InvalidInput as error:
            yield error.message


DOMAIN = Domain(
    name="quota",
    schema=SCHEMA,
    commands={Set: apply_set},
    queries={List: list_quotas},
    answers={Set: Quota, List: Quotas},
    validate={Set: _validate_set},
    events={QuotaChanged: "name"},
    check=check,
)
