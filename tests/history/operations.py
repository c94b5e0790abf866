"""What clients did and what they were told: the input of every check of this folder.

An operation has a time at which it was invoked and one at which it returned, by one monotonic clock. What
a client was told decides what the checks may assume of it:

    told                                              then it took effect
    done, or a conflict                               at one moment between the two times
    unknown (`OutcomeUnknown`)                        at one moment after the first, however late, or never
    refused (`NoQuorum`, `NotReady`, `Unreachable`)   never

Every write is a small transaction: what it compares, what it sets and what it deletes. A plain put is one
with a single value and no comparison. No two writes of a history set the same value, so that a read tells
whose write it saw; `check_values` holds the history to that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

NEVER = math.inf
"""The return of an operation of unknown outcome."""


class Cell(NamedTuple):
    """What a key holds: its version, 0 where it does not exist, its value and, where known, the revision."""

    version: int
    value: str


ABSENT = Cell(0, "")


class Outcome(Enum):
    DONE = "done"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One call of one client. Times are seconds."""

    client: str
    invoked: float
    returned: float


@dataclass(frozen=True, kw_only=True)
class Read(Operation):
    """One consistent look at one or several keys."""

    found: Mapping[str, Cell]
    revisions: Mapping[str, int] = field(default_factory=dict)
    """Of those that exist."""

    def __str__(self) -> str:
        return "read " + ", ".join(f"{key}={_shown(cell)}" for key, cell in sorted(self.found.items()))


@dataclass(frozen=True, kw_only=True)
class Write(Operation):
    """Compare versions (0: does not exist), then set or delete; all of it or nothing."""

    writes: Mapping[str, str | None]
    """The value of each key, None where it is deleted."""
    compare: Mapping[str, int] = field(default_factory=dict)
    outcome: Outcome = Outcome.DONE
    versions: Mapping[str, int] = field(default_factory=dict)
    """The new version of a key that was set, as far as the client was told."""
    missing: Mapping[str, bool] = field(default_factory=dict)
    """Whether a key to be deleted did not exist, as far as the client was told."""
    revision: int | None = None

    def __str__(self) -> str:
        parts = [f"if {key}@{version}" for key, version in sorted(self.compare.items())]
        for key, value in sorted(self.writes.items()):
            told = f"@{self.versions[key]}" if key in self.versions else ""
            parts.append(f"delete {key}" if value is None else f"put {key}={value}{told}")
        return ", ".join(parts) + ("" if self.outcome is Outcome.DONE else f": {self.outcome.value}")

    @property
    def keys(self) -> set[str]:
        return {*self.writes, *self.compare}


def _shown(cell: Cell) -> str:
    return f"{cell.value}@{cell.version}" if cell.version else "absent"


class Window(NamedTuple):
    """A time during which something was done to the cluster."""

    name: str
    began: float
    ended: float


class Violation(AssertionError):
    """The cluster broke a promise. The message says which, and names the operations."""


def keys_of(operation: Read | Write) -> set[str]:
    return set(operation.found) if isinstance(operation, Read) else operation.keys


def groups(operations: Iterable[Read | Write]) -> list[set[str]]:
    """The keys, those together that some operation names together.

    A history is linearizable if it is for each group alone: they share no operation (Herlihy and Wing 1990).
    """
    found: list[set[str]] = []
    for operation in operations:
        keys = keys_of(operation)
        touched = [group for group in found if group & keys]
        if len(touched) == 1 and keys <= touched[0]:
            continue
        found = [group for group in found if group not in touched]
        found.append(keys.union(*touched))
    return sorted(found, key=min)


def check_values(operations: Sequence[Read | Write]) -> None:
    """Raises ValueError where two writes set the same value: the checks would prove nothing then."""
    known: set[str] = set()
    for operation in operations:
        if isinstance(operation, Write):
            values = [value for value in operation.writes.values() if value is not None]
            if len(set(values)) < len(values) or known & set(values):
                raise ValueError(f"two writes of one value: {operation}")
            known.update(values)
