"""The sequential object behind `kv`: a few keys with versions, read and written by small transactions.

    key       a write that sets it       a write that deletes it
    absent    version 1                  stays absent (`missing`)
    present   the next version           absent; versions begin again

A write takes effect if every key it compares is at its version, and is a conflict otherwise. Before the
search two things are worked out, which change no verdict and keep the search small:

* a write of unknown outcome whose value some read returned did take effect, before that read returned;
* a value that no read returned is like any other such value, so writes of them are alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from tests.history.linearizability import LIMIT, Call, Verdict, linearize
from tests.history.operations import (
    ABSENT,
    NEVER,
    Cell,
    Outcome,
    Read,
    Write,
    check_values,
    groups,
    keys_of,
)

UNSEEN = "(unseen)"
"""Stands for every value that no read returned."""

KeyOperation = Read | Write
State = tuple[Cell, ...]
"""The cells of a group's keys, in the order of the keys."""


def judge(operations: Sequence[KeyOperation], limit: int = LIMIT) -> list[Verdict[KeyOperation, State]]:
    """One verdict for each group of keys that belong together, in the order of their least keys.

    Raises ValueError where two writes set one value.
    """
    check_values(operations)
    certain = [each for each in operations if not (isinstance(each, Write) and _had_no_effect(each))]
    return [
        judge_group(sorted(group), [each for each in certain if keys_of(each) & group], limit)
        for group in groups(certain)
    ]


def judge_group(
    keys: Sequence[str], operations: Sequence[KeyOperation], limit: int = LIMIT
) -> Verdict[KeyOperation, State]:
    """The verdict on the operations of one group of keys."""
    seen = _first_seen(operations)
    place = {key: number for number, key in enumerate(keys)}
    calls = [_call(each, seen) for each in operations]

    def apply(state: State, operation: KeyOperation) -> State | None:
        if isinstance(operation, Read):
            return state if _fits(state, operation.found, place) else None
        return _write(state, operation, place, seen)

    return linearize(calls, (ABSENT,) * len(keys), apply, limit)


def _had_no_effect(write: Write) -> bool:
    return write.outcome is Outcome.REFUSED


def _first_seen(operations: Sequence[KeyOperation]) -> dict[str, tuple[float, int]]:
    """For each value that a read returned: when the first such read returned, and the version it saw."""
    seen: dict[str, tuple[float, int]] = {}
    for operation in operations:
        if isinstance(operation, Read):
            for cell in operation.found.values():
                if cell.version:
                    seen[cell.value] = min(
                        seen.get(cell.value, (NEVER, 0)), (operation.returned, cell.version)
                    )
    return seen


def _call(operation: KeyOperation, seen: Mapping[str, tuple[float, int]]) -> Call[KeyOperation]:
    invoked, returned = operation.invoked, operation.returned
    if isinstance(operation, Read) or operation.outcome is not Outcome.UNKNOWN:
        return Call(operation, invoked, returned)
    sightings = {key: seen[value] for key, value in operation.writes.items() if value and value in seen}
    if not sightings:
        return Call(operation, invoked, NEVER, _effect(operation))
    known_by = max(invoked, min(at for at, _ in sightings.values()))
    versions = {key: version for key, (_, version) in sightings.items()}
    return Call(replace(operation, outcome=Outcome.DONE, versions=versions), invoked, known_by)


def _effect(write: Write) -> Hashable:
    """What two writes of values that nobody saw have to share to be interchangeable."""
    sets = frozenset((key, value is None) for key, value in write.writes.items())
    return sets, frozenset(write.compare.items())


def _fits(state: State, found: Mapping[str, Cell], place: Mapping[str, int]) -> bool:
    return all(state[place[key]] == cell for key, cell in found.items())


def _write(state: State, write: Write, place: Mapping[str, int], seen: Mapping[str, object]) -> State | None:
    holds = all(state[place[key]].version == version for key, version in write.compare.items())
    if write.outcome is Outcome.CONFLICT:
        return None if holds else state
    if not holds:
        return None
    cells = list(state)
    for key, value in write.writes.items():
        cell = cells[place[key]]
        if value is None:
            after, as_told = ABSENT, write.missing.get(key, cell == ABSENT) == (cell == ABSENT)
        else:
            after = Cell(cell.version + 1, value if value in seen else UNSEEN)
            as_told = write.versions.get(key, after.version) == after.version
        if not as_told:
            return None
        cells[place[key]] = after
    # Of a call that may never have taken effect nothing is gained by one that changes nothing.
    unchanged = write.outcome is Outcome.UNKNOWN and tuple(cells) == state
    return None if unchanged else tuple(cells)
