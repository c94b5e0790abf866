"""Histories made on purpose: the answers of a sequential object, its calls stretched until they overlap.

Each call takes effect at a moment of its own and is stretched to both sides of it, so the result is
linearizable by construction. Some calls of unknown outcome take effect, others do not. Tests then change
one answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.history.operations import ABSENT, NEVER, Cell, Outcome, Read, Write

KEYS = ("a", "b", "left", "right")
PAIR = KEYS[2:]
"""These two are written by transactions, and read together."""


class Object:
    """The sequential object. `lie` makes one of its answers wrong, or one of its effects."""

    def __init__(self, choice: random.Random, *, reach: float = 3.0, unknown: float = 0.1) -> None:
        self.cells = dict.fromkeys(KEYS, ABSENT)
        self.revision = 0
        self.revisions: dict[str, int] = {}
        self._choice = choice
        self._reach = reach
        self._unknown = unknown
        self._values = 0

    def history(self, size: int) -> list[Read | Write]:
        return [self._next(float(moment)) for moment in range(size)]

    def _times(self, moment: float) -> tuple[float, float]:
        before, after = (self._choice.uniform(0, self._reach) for _ in range(2))
        return moment - before, moment + after

    def _next(self, moment: float) -> Read | Write:
        kind = self._choice.choices(["read", "put", "cas", "delete", "pair"], [4, 2, 4, 1, 2])[0]
        keys = PAIR if kind == "pair" else (self._choice.choice(KEYS),)
        invoked, returned = self._times(moment)
        client = f"client {self._choice.randrange(5)}"
        if kind == "read" or (kind == "pair" and self._choice.random() < 0.5):
            return Read(
                client=client,
                invoked=invoked,
                returned=returned,
                found={key: self.cells[key] for key in keys},
                revisions={key: self.revisions[key] for key in keys if self.cells[key].version},
            )
        compare = {}
        if kind in {"cas", "pair"}:
            wrong = self._choice.random() < 0.2
            compare = {key: self.cells[key].version + (1 if wrong else 0) for key in keys}
        writes = {key: None if kind == "delete" else self._value() for key in keys}
        return self._write(client, invoked, returned, writes, compare)

    def _value(self) -> str:
        self._values += 1
        return f"v{self._values}"

    def _write(
        self,
        client: str,
        invoked: float,
        returned: float,
        writes: dict[str, str | None],
        compare: dict[str, int],
    ) -> Write:
        unknown = self._choice.random() < self._unknown
        holds = all(self.cells[key].version == version for key, version in compare.items())
        happens = holds and not (unknown and self._choice.random() < 0.5)
        missing = {key: self.cells[key] == ABSENT for key, value in writes.items() if value is None}
        versions = self._apply(writes) if happens else {}
        outcome = Outcome.DONE if holds else Outcome.CONFLICT
        return Write(
            client=client,
            invoked=invoked,
            returned=NEVER if unknown else returned,
            writes=writes,
            compare=compare,
            outcome=Outcome.UNKNOWN if unknown else outcome,
            versions={} if unknown else versions,
            missing={} if unknown else missing,
            revision=self.revision if happens and not unknown else None,
        )

    def _apply(self, writes: dict[str, str | None]) -> dict[str, int]:
        self.revision += 1
        versions = {}
        for key, value in writes.items():
            if value is None:
                self.cells[key] = ABSENT
            else:
                versions[key] = self.cells[key].version + 1
                self.cells[key] = Cell(versions[key], value)
                self.revisions[key] = self.revision
        return versions


def overlapping(seed: int, size: int, *, reach: float = 3.0, unknown: float = 0.1) -> Sequence[Read | Write]:
    """A linearizable history of `size` operations; about `reach` of them overlap on each side."""
    return Object(random.Random(seed), reach=reach, unknown=unknown).history(size)
