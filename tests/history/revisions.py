"""Revisions are one order of all writes of a cluster, whatever their keys, and it agrees with time.

* A write has one revision, in every key that it sets and by whoever is told of it; no two writes share one.
* What was seen under one revision of a key is always the same.
* A write that begins after another was acknowledged, or after its revision was read, has a greater one.
* A read that begins after a write of a key was acknowledged finds that revision of it or a later one.

This sees what the checks of single keys cannot: a transaction that is torn apart, two leaders that number
their writes alike, a key that moves ahead of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tests.history.operations import Cell, Outcome, Read, Violation, Write


def check_revisions(operations: Sequence[Read | Write]) -> None:
    """Raises Violation."""
    _check_contents(operations)
    _check_order(operations, _revisions(operations))


def _revisions(operations: Sequence[Read | Write]) -> dict[int, int]:
    """The revision of each write that anybody was told of, by the number of its operation."""
    revisions: dict[int, int] = {}
    writes: dict[int, int] = {}
    for number, revision in _told(operations):
        known = revisions.setdefault(number, revision)
        if known != revision:
            raise Violation(f"{operations[number]} has revision {known} and {revision}")
        first = writes.setdefault(revision, number)
        if first != number:
            raise Violation(f"two writes of revision {revision}: {operations[first]}; {operations[number]}")
    return revisions


def _told(operations: Sequence[Read | Write]) -> Iterator[tuple[int, int]]:
    """Writes, by their numbers, with the revision that their clients, or who read their values, were told."""
    written = {
        value: number
        for number, each in enumerate(operations)
        if isinstance(each, Write)
        for value in each.writes.values()
        if value is not None
    }
    for number, each in enumerate(operations):
        if isinstance(each, Write):
            if each.revision is not None:
                yield number, each.revision
            continue
        for key, revision in each.revisions.items():
            writer = written.get(each.found[key].value)
            if writer is not None:
                yield writer, revision


def _check_contents(operations: Sequence[Read | Write]) -> None:
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


def _check_order(operations: Sequence[Read | Write], revisions: Mapping[int, int]) -> None:
    """A sweep over time: what was known when each operation began is its floor.

    A write of unknown outcome never returns. Its revision, where somebody read it, has a floor all the same.
    """
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
        elif (revision := revisions.get(number)) is not None:
            if revision <= floor:
                raise Violation(f"{operation} has revision {revision}, {floor} was known before it")
            known = max(known, revision)
            for key in operation.versions:
                of_key[key] = max(of_key.get(key, 0), revision)


def _check_read(read: Read, floors: dict[str, int]) -> None:
    for key, revision in read.revisions.items():
        if revision < floors[key]:
            raise Violation(
                f"{read} by {read.client} is of revision {revision}, {floors[key]} came before it"
            )
