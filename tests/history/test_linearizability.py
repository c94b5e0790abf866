"""The checker itself: it accepts what has an order, refuses what has none, and does both in time."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.history.linearizability import Call, linearize
from tests.history.made import overlapping
from tests.history.operations import ABSENT, NEVER, Cell, Outcome, Read, Violation, Write, groups
from tests.history.registers import judge
from tests.history.revisions import check_revisions

Operations = Sequence[Read | Write]


def read(invoked: float, returned: float, found: Cell = ABSENT, key: str = "k") -> Read:
    return Read(client="r", invoked=invoked, returned=returned, found={key: found})


def put(invoked: float, returned: float, value: str, version: int | None = None, **more: Any) -> Write:
    key = more.pop("key", "k")
    versions = {} if version is None else {key: version}
    if returned == NEVER:
        more["outcome"] = Outcome.UNKNOWN
    return Write(
        client="w", invoked=invoked, returned=returned, writes={key: value}, versions=versions, **more
    )


def delete(invoked: float, returned: float, **more: Any) -> Write:
    if returned == NEVER:
        more["outcome"] = Outcome.UNKNOWN
    return Write(client="d", invoked=invoked, returned=returned, writes={"k": None}, **more)


def pair(invoked: float, returned: float, left: str, right: str, **more: Any) -> Write:
    return Write(
        client="p", invoked=invoked, returned=returned, writes={"left": left, "right": right}, **more
    )


def both(invoked: float, returned: float, left: Cell, right: Cell) -> Read:
    return Read(client="r", invoked=invoked, returned=returned, found={"left": left, "right": right})


ONE, TWO = Cell(1, "x"), Cell(2, "y")
CONFLICT = Outcome.CONFLICT
REFUSED = Outcome.REFUSED

GOOD: dict[str, Operations] = {
    "nothing at all": [],
    "a read of what was never written": [read(0, 1)],
    "one after another": [put(0, 1, "x", 1), read(2, 3, ONE), put(4, 5, "y", 2), read(6, 7, TWO)],
    "a read that overlaps a write sees it": [put(0, 10, "x", 1), read(1, 2, ONE)],
    "or does not": [put(0, 10, "x", 1), read(1, 2)],
    "writes that overlap, in the order of their versions": [put(0, 10, "x", 1), put(0, 10, "y", 2)],
    "later invoked, earlier in effect": [put(0, 10, "y", 2), put(5, 10, "x", 1)],
    "unknown, and never happened": [put(0, NEVER, "x"), read(2, 3), read(100, 101)],
    "unknown, and happened at once": [put(0, NEVER, "x"), read(2, 3, ONE)],
    "unknown, and happened very late": [put(0, NEVER, "x"), read(2, 3), read(100, 101, ONE)],
    "unknown, and only its version tells": [put(0, NEVER, "x"), put(1, 2, "y", 2)],
    "unknown, and overwritten unseen": [put(0, NEVER, "x"), put(5, 6, "y", 2), read(7, 8, TWO)],
    "an unknown delete in between": [put(0, 1, "x", 1), delete(2, NEVER), put(8, 9, "y", 1)],
    "refused, and did not happen": [put(0, 1, "x", outcome=REFUSED), read(2, 3)],
    "swapped at the version it expected": [put(0, 1, "x", 1), put(2, 3, "y", 2, compare={"k": 1})],
    "a conflict with what overlaps": [put(0, 9, "x", 1), put(1, 2, "y", compare={"k": 0}, outcome=CONFLICT)],
    "a swap that conflicts, rightly": [put(0, 1, "x", 1), put(2, 3, "y", compare={"k": 0}, outcome=CONFLICT)],
    "a delete of what is missing": [delete(0, 1, missing={"k": True}), read(2, 3)],
    "versions begin again": [put(0, 1, "x", 1), delete(2, 3, missing={"k": False}), put(4, 5, "y", 1)],
    "a pair, seen whole": [pair(0, 5, "x", "y"), both(1, 2, ABSENT, ABSENT), both(3, 4, ONE, Cell(1, "y"))],
    "an unknown pair, seen in one key": [pair(0, NEVER, "x", "y"), both(3, 4, ONE, Cell(1, "y"))],
}  # fmt: skip

BAD: dict[str, tuple[Operations, int]] = {
    "a stale read": ([put(0, 1, "x", 1), read(2, 3)], 1),
    "a read of an older value": ([put(0, 1, "x", 1), put(2, 3, "y", 2), read(4, 5, ONE)], 2),
    "back in time, although the write overlaps": ([put(0, 9, "x", 1), read(1, 2, ONE), read(3, 4)], 2),
    "a read of the future": ([read(0, 1, ONE), put(2, 3, "x", 1)], 0),
    "a value that nobody wrote": ([put(0, 1, "y", 1), read(2, 3, ONE)], 1),
    "a lost write": ([put(0, 1, "x", 1), put(2, 3, "y", 1)], 1),
    "a doubled write": ([put(0, 1, "x", 1), read(2, 3, Cell(2, "x"))], 1),
    "a write doubled unseen": ([put(0, 1, "x", 1), put(2, 3, "y", 3)], 1),
    "an unknown write that happened twice": (
        [put(0, NEVER, "z"), read(2, 3, Cell(1, "z")), put(4, 5, "x", 2), read(6, 7, Cell(3, "z"))], 3),
    "an unknown write that came and went": ([put(0, NEVER, "x"), read(2, 3, ONE), read(4, 5)], 2),
    "a refused write that happened": ([put(0, 1, "x", outcome=REFUSED), read(2, 3, ONE)], 0),
    "a swap that must not succeed": ([put(0, 1, "x", 1), put(2, 3, "y", 2, compare={"k": 0})], 1),
    "two swaps of one version": (
        [put(0, 1, "x", 1), put(2, 9, "y", 2, compare={"k": 1}), put(2, 9, "z", 2, compare={"k": 1})], 2),
    "a conflict with nothing": ([put(0, 1, "x", compare={"k": 0}, outcome=CONFLICT)], 0),
    "a delete that missed what is there": ([put(0, 1, "x", 1), delete(2, 3, missing={"k": True})], 1),
    "a delete of nothing": ([delete(0, 1, missing={"k": False})], 0),
    "half a pair": ([pair(0, 1, "x", "y"), both(2, 3, ONE, ABSENT)], 1),
    "half a pair, while it is written": ([pair(0, 9, "x", "y"), both(2, 3, ONE, ABSENT)], 1),
    "half an unknown pair": ([pair(0, NEVER, "x", "y"), both(2, 3, ABSENT, Cell(1, "y"))], 1),
}  # fmt: skip


def is_linearizable(operations: Operations) -> bool:
    return all(verdict.accepted for verdict in judge(operations))


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_it_accepts(operations: Operations) -> None:
    assert is_linearizable(operations)


@pytest.mark.parametrize(("operations", "blamed"), BAD.values(), ids=BAD)
def test_it_refuses(operations: Operations, blamed: int) -> None:
    """And blames the operation with which it became impossible (of those not refused)."""
    [verdict] = [verdict for verdict in judge(operations) if verdict.blamed is not None]
    assert verdict.blamed is not None
    certain = [each for each in operations if not (isinstance(each, Write) and each.outcome is REFUSED)]
    blamed_item = verdict.blamed.item
    assert (blamed_item.invoked, blamed_item.returned) == (certain[blamed].invoked, certain[blamed].returned)


def test_two_writes_of_one_value_are_no_history() -> None:
    with pytest.raises(ValueError, match="two writes of one value"):
        judge([put(0, 1, "x", 1), put(2, 3, "x", 2)])


def test_keys_that_share_a_transaction_are_judged_together() -> None:
    operations: Operations = [
        pair(0, 1, "x", "y"),
        put(0, 1, "z", 1),
        put(0, 1, "q", 1, key="other"),
        read(0, 1),
    ]
    assert groups(operations) == [{"k"}, {"left", "right"}, {"other"}]


# Made histories.

seeds = st.integers(0, 2**32)


@settings(max_examples=150, deadline=None)
@given(seed=seeds, size=st.integers(1, 60), reach=st.floats(0.1, 6), unknown=st.floats(0, 0.4))
def test_every_stretched_sequential_history_is_accepted(
    seed: int, size: int, reach: float, unknown: float
) -> None:
    operations = overlapping(seed, size, reach=reach, unknown=unknown)
    assert is_linearizable(operations)
    check_revisions(operations)


def lies(operations: Operations) -> Iterator[tuple[str, int, Read | Write]]:
    """Each way to change one operation so that no order can exist, whatever overlaps."""
    written = {value for each in operations if isinstance(each, Write) for value in each.writes.values()}
    for number, each in enumerate(operations):
        if isinstance(each, Read):
            for key, cell in each.found.items():
                # All writes returned before it began, and then some: nothing could have made that version.
                doubled = Cell(cell.version + len(operations) + 1, cell.value)
                yield "doubled write", number, replace(each, found={**each.found, key: doubled})
                if cell.version and cell.value in written:
                    yield (
                        "invented value",
                        number,
                        replace(each, found={**each.found, key: Cell(cell.version, "?")}),
                    )
        elif each.outcome is Outcome.DONE and each.compare:
            wrong = {key: version + len(operations) + 1 for key, version in each.compare.items()}
            yield "wrong swap", number, replace(each, compare=wrong)


@settings(max_examples=150, deadline=None)
@given(seed=seeds, size=st.integers(5, 60), pick=st.randoms(use_true_random=False))
def test_one_lie_anywhere_is_found(seed: int, size: int, pick: random.Random) -> None:
    """A read of a write that was doubled or invented, or a swap that succeeded wrongly."""
    operations = list(overlapping(seed, size))
    possible = list(lies(operations))
    assume(possible)
    _, number, lie = pick.choice(possible)
    operations[number] = lie
    assert not is_linearizable(operations)


@settings(max_examples=150, deadline=None)
@given(seed=seeds, size=st.integers(10, 60), pick=st.randoms(use_true_random=False))
def test_a_stale_read_at_the_end_is_found(seed: int, size: int, pick: random.Random) -> None:
    """After everything has returned, a read that finds what a key held before an acknowledged write."""
    operations = list(overlapping(seed, size, unknown=0))
    writes = [each for each in operations if isinstance(each, Write) and each.versions]
    assume(writes)
    stale = pick.choice(writes)
    key, version = pick.choice(sorted(stale.versions.items()))
    later = [
        each
        for each in operations
        if isinstance(each, Write)
        and key in each.writes
        and each.outcome is Outcome.DONE
        and each is not stale
    ]
    assume(any(each.invoked > stale.returned for each in later))
    value = stale.writes[key]
    assert value is not None
    operations.append(read(size + 100, size + 101, Cell(version, value), key))
    assert not is_linearizable(operations)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, size=st.integers(10, 60), pick=st.randoms(use_true_random=False))
def test_a_lost_write_is_found(seed: int, size: int, pick: random.Random) -> None:
    """A last acknowledged put that the end does not know of."""
    operations = list(overlapping(seed, size, unknown=0))
    keys = sorted({key for each in operations for key in getattr(each, "versions", {})})
    assume(keys)
    key = pick.choice(keys)
    operations += [put(size + 10, size + 11, "last", None, key=key), read(size + 20, size + 21, ABSENT, key)]
    assert not is_linearizable(operations)


def count(state: int, item: tuple[str, int]) -> int | None:
    """A counter: `add` by an amount, or `is` an amount."""
    kind, amount = item
    if kind == "add":
        return state + amount
    return state if state == amount else None


def has_an_order(calls: Sequence[Call[tuple[str, int]]]) -> bool:
    """By trying every order of every choice of unknown calls."""
    certain = [call for call in calls if call.returned != NEVER]
    unknown = [call for call in calls if call.returned == NEVER]
    for size in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, size):
            if any(map(is_an_order, itertools.permutations([*certain, *chosen]))):
                return True
    return False


def is_an_order(calls: Sequence[Call[tuple[str, int]]]) -> bool:
    state = 0
    latest = float("-inf")
    for each in calls:
        latest = max(latest, each.invoked)
        after = count(state, each.item)
        if after is None or each.returned < latest:
            return False
        state = after
    return True


call = st.builds(
    lambda item, invoked, lasts: Call(item, invoked, invoked + lasts, item if lasts == NEVER else None),
    st.tuples(st.sampled_from(["add", "is"]), st.integers(0, 3)),
    st.integers(0, 8),
    st.sampled_from([0.5, 2.5, 5.5, NEVER]),
)


@settings(max_examples=300, deadline=None)
@given(calls=st.lists(call, max_size=6))
def test_it_agrees_with_trying_every_order(calls: list[Call[tuple[str, int]]]) -> None:
    assert linearize(calls, 0, count).accepted == has_an_order(calls)


@settings(max_examples=100, deadline=None)
@given(calls=st.lists(call, max_size=8))
def test_the_order_it_gives_is_one(calls: list[Call[tuple[str, int]]]) -> None:
    verdict = linearize(calls, 0, count)
    assert is_an_order(verdict.order)
    if verdict.blamed is None:
        assert {each for each in calls if each.returned != NEVER} <= set(verdict.order)


# Time.


def test_thousands_of_operations_take_seconds() -> None:
    """Ten thousand operations, of which twenty overlap at any time and some are of unknown outcome."""
    operations = overlapping(1, 10_000, reach=10, unknown=0.003)
    began = time.perf_counter()
    assert is_linearizable(operations)
    assert time.perf_counter() - began < 30


def test_it_says_so_when_it_gives_up() -> None:
    """Unlike writes of unknown outcome multiply; the limit is kept, and is no acquittal."""
    calls = [Call(("add", 1 << number), 0, NEVER) for number in range(40)]
    verdict = linearize([*calls, Call(("is", 1 << 41), 1, 2)], 0, count, limit=10_000)
    assert verdict.undecided
    assert not verdict.accepted


def test_many_calls_of_unknown_outcome_take_seconds() -> None:
    """A tenth of three thousand, which no search through all of them would get through."""
    operations = overlapping(7, 3_000, reach=5, unknown=0.1)
    began = time.perf_counter()
    assert is_linearizable(operations)
    assert time.perf_counter() - began < 30


# Revisions.


def with_revision(operation: Read | Write, *revisions: int) -> Read | Write:
    """The revision that a write has, or those of the keys that were read, in their order."""
    if isinstance(operation, Write):
        [revision] = revisions
        return replace(operation, revision=revision)
    return replace(operation, revisions=dict(zip(operation.found, revisions, strict=True)))


REVISIONS: dict[str, Operations] = {
    "two writes of one revision": [
        with_revision(put(0, 9, "x", 1), 1), with_revision(put(0, 9, "y", 1, key="other"), 1)],
    "two writes of one revision, as they are read": [
        put(0, NEVER, "x"), put(0, NEVER, "y", key="other"),
        with_revision(read(1, 2, ONE), 5), with_revision(read(1, 2, TWO, "other"), 5)],
    "a write that is read under another revision": [
        with_revision(put(0, 1, "x", 1), 5), with_revision(read(2, 3, ONE), 7)],
    "half a pair under another revision": [
        with_revision(pair(0, 1, "x", "y"), 5), with_revision(both(2, 3, ONE, Cell(1, "y")), 5, 6)],
    "an unknown pair of two revisions": [
        pair(0, NEVER, "x", "y"), with_revision(both(2, 3, ONE, Cell(1, "y")), 5, 6)],
    "a later write of a lower revision": [
        with_revision(put(0, 1, "x", 1), 2), with_revision(put(2, 3, "y", 1, key="other"), 1)],
    "a write of a revision that was read before": [
        with_revision(read(0, 1, ONE), 5), with_revision(put(2, 3, "y", 1, key="other"), 4)],
    "an unknown write of a revision from before it was asked for": [
        with_revision(put(0, 1, "x", 1), 5), put(2, NEVER, "y", key="other"),
        with_revision(read(4, 5, Cell(1, "y"), "other"), 4)],
    "a read of an older revision": [
        with_revision(put(0, 1, "x", 1), 5), with_revision(read(2, 3, TWO), 4)],
    "two contents of one revision": [
        with_revision(read(0, 9, ONE), 5), with_revision(read(0, 9, TWO), 5)],
}  # fmt: skip


@pytest.mark.parametrize("operations", REVISIONS.values(), ids=REVISIONS)
def test_revisions_are_one_order(operations: Operations) -> None:
    with pytest.raises(Violation):
        check_revisions(operations)
