"""Revisions are one order of all writes of a cluster, whatever their keys, and it agrees with time.

* No two writes share a revision, and what was seen under one revision of a key is always the same.
* A write that begins after another was acknowledged, or after its revision was read, has a greater one.
* A read that begins after a write of a key was acknowledged finds that revision of it or a later one.

This sees what the checks of single keys cannot: a transaction that is torn apart, two leaders that number
their writes alike, a key that moves ahead of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.history.operations import Cell, Outcome, Read, Violation, Write


def check_revisions(operations: Sequence[Read | Write]) -> None:
    """Raises Violation."""
    _check_unique(operations)
    _check_order(operations)


def _check_unique(operations: Sequence[Read | Write]) -> None:
    writes: dict[int, Write] = {}
    for operation in operations:
        if isinstance(operation, Write) and operation.revision is not None:
            first = writes.setdefault(operation.revision, operation)
            if first is not operation:
                raise Violation(f"two writes of revision {operation.revision}: {first}; {operation}")
    content: dict[tuple[str, int], Cell] = {}
    for key, revision, cell in _seen(operations):
        known = content.setdefault((key, revision), cell)
        if known != cell:
            raise Violation(f"{key} of revision {revision} was {known} and {cell}")


def _seen(operations: Sequence[Read | Write]) -> Iterator[tuple[str, int, Cell]]:
    """Each key with a revision, and its version and value then, by whoever was told so."""
    for operation in operations:
        if isinstance(operation, Read):
            for key, revision in operation.revisions.items():
                yield key, revision, operation.found[key]
        elif operation.outcome is Outcome.DONE and operation.revision is not None:
            for key, version in operation.versions.items():
                value = operation.writes[key]
                assert value is not None
                yield key, operation.revision, Cell(version, value)


def _check_order(operations: Sequence[Read | Write]) -> None:
    """A sweep over time: what was known when each operation began is its floor."""
    events = [(each.invoked, 0, number) for number, each in enumerate(operations)]
    events += [(each.returned, 1, number) for number, each in enumerate(operations)]
    known, of_key = 0, dict[str, int]()
    floors: dict[int, tuple[int, dict[str, int]]] = {}
    for _, returns, number in sorted(events):
        operation = operations[number]
        if not returns:
            keys = operation.found if isinstance(operation, Read) else ()
            floors[number] = known, {key: of_key.get(key, 0) for key in keys}
            continue
        floor, key_floors = floors.pop(number)
        if isinstance(operation, Read):
            _check_read(operation, key_floors)
            known = max(known, *operation.revisions.values(), 0)
        elif operation.outcome is Outcome.DONE and operation.revision is not None:
            if operation.revision <= floor:
                raise Violation(f"{operation} has revision {operation.revision}, {floor} was known before it")
            known = max(known, operation.revision)
            for key in operation.versions:
                of_key[key] = max(of_key.get(key, 0), operation.revision)


def _check_read(read: Read, floors: dict[str, int]) -> None:
    for key, revision in read.revisions.items():
        if revision < floors[key]:
            raise Violation(
                f"{read} by {read.client} is of revision {revision}, {floors[key]} came before it"
            )
