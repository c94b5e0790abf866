"""The feature level that the whole cluster has enabled (`raftos/levels.py`).

The leader proposes `cluster.enable` as soon as every member of the configuration has registered a higher
level than the enabled one. It names those members, and here the claim is checked once more against what they
registered, so that a plan made a moment ago enables nothing that somebody who joined since cannot read.

| enabled level | cluster.enable                                                             |
|---------------|----------------------------------------------------------------------------|
| not lower     | `conflict`: levels never go down                                           |
| lower         | raised; `not_enabled` while one of the members named, or alive, is below it |

A member that finds a level enabled which its own version does not know was replaced by an older version. It
cannot go on: it stops at that entry and says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Annotated, ClassVar

import msgspec

from raftos.errors import InvalidInput
from raftos.levels import FIRST_LEVEL, LEVEL
from raftos.state.command import Command, Ok, Query, Rejected, Result
from raftos.state.domain import MAX_ROWS, Context, Domain, described
from raftos.state.events import Event
from raftos.state.limits import check_name, check_number
from raftos.state.storage import CannotApply
from raftos.state.tally import CLUSTER_LEVEL

SCHEMA = ""
"""The level is a tally, and what each member knows a column of `members`."""

MAX_LEVEL = 1_000_000
MAX_ID_BYTES = 256
MOST_NAMED = 5
"""How many of the members behind a refusal names."""


# Commands


class Enable(Command, frozen=True, tag="cluster.enable"):
    """Enable everything that came with a feature level; there is no way back.

    The leader proposes it once every member runs a version that knows the level. Rejected with `not_enabled`
    when one does not, and with `conflict` when the level is enabled already.
    """

    internal: ClassVar[bool] = True

    level: Annotated[int, described("The level to enable.", minimum=1, maximum=MAX_LEVEL)]
    members: Annotated[
        tuple[str, ...],
        described("The ids of all members of the configuration.", minItems=1, maxItems=MAX_ROWS),
    ]


# Queries


class Show(Query, frozen=True, tag="cluster.show"):
    """The enabled feature level."""

    point: ClassVar[bool] = True


# Answers and events


class Level(msgspec.Struct, frozen=True):
    """The feature level that is enabled."""

    level: int


class LevelEnabled(Event, frozen=True, tag="cluster.enabled"):
    """Everything that came with this level can be used from now on. Its `name` is `cluster.level`."""

    name: str
    level: int


# Limits


def _validate_enable(command: Enable) -> None:
    check_number("level", command.level, 1, MAX_LEVEL)
    if not 1 <= len(command.members) <= MAX_ROWS:
        raise InvalidInput(f"name 1 to {MAX_ROWS} members: all of the configuration")
    for member_id in command.members:
        check_name("id", member_id, MAX_ID_BYTES)


# Apply

_LEVEL = "SELECT value FROM tallies WHERE name = ?"
_MEMBERS = "SELECT id, name, state, level FROM members ORDER BY name LIMIT ?"


def apply_enable(db: sqlite3.Connection, command: Enable, context: Context) -> Result:
    enabled = max(FIRST_LEVEL, context.counts[CLUSTER_LEVEL])
    if command.level <= enabled:
        return Rejected("conflict", f"level {enabled} is enabled already, and levels never go down")
    behind = _behind(db, command)
    if behind:
        return Rejected(
            "not_enabled",
            f"level {command.level} stays off: {', '.join(behind[:MOST_NAMED])} cannot read what comes "
            "with it; upgrade every member first",
        )
    if command.level > LEVEL:
        # Not a refusal: the others enable it here and now.
        raise CannotApply(
            f"the cluster enables level {command.level}, and this version knows up to {LEVEL}; "
            "start this member with the version that it ran before, or a newer one"
        )
    context.counts[CLUSTER_LEVEL] = command.level
    context.emit(LevelEnabled(CLUSTER_LEVEL, command.level))
    return Ok(Level(command.level))


def _behind(db: sqlite3.Connection, command: Enable) -> list[str]:
    """Who cannot read what comes with the level, or never said that it can."""
    missing = dict.fromkeys(command.members)
    behind = []
    for member_id, name, state, level in db.execute(_MEMBERS, (MAX_ROWS,)):
        if level < command.level and (state == "alive" or member_id in missing):
            behind.append(name)
        missing.pop(member_id, None)
    return [*behind, *missing]


# Queries


def show(db: sqlite3.Connection, _query: Show) -> Level:
    (value,) = db.execute(_LEVEL, (CLUSTER_LEVEL,)).fetchone()
    return Level(max(FIRST_LEVEL, value))


# Invariants


def check(db: sqlite3.Connection) -> Iterator[str]:
    level = show(db, Show()).level
    if level > LEVEL:
        yield f"level {level} is enabled, and this version knows up to {LEVEL}"


DOMAIN = Domain(
    name="cluster",
    schema=SCHEMA,
    commands={Enable: apply_enable},
    queries={Show: show},
    answers={Enable: Level, Show: Level},
    validate={Enable: _validate_enable},
    events={LevelEnabled: "name"},
    check=check,
)
