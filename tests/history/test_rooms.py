"""The check of chat rooms: tables of what it lets pass and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.history.operations import NEVER, Outcome, Violation
from tests.history.rooms import Look, Post, check_room


def post(invoked: float, returned: float, text: str, sequence: int | None = None) -> Post:
    outcome = Outcome.UNKNOWN if returned == NEVER else Outcome.DONE if sequence else Outcome.REFUSED
    return Post(
        client="p",
        invoked=invoked,
        returned=returned,
        room="lobby",
        text=text,
        outcome=outcome,
        sequence=sequence,
    )


def look(invoked: float, returned: float, found: str, since: int = 0) -> Look:
    """`found` is one letter for each message."""
    messages = tuple(enumerate(found, since + 1))
    return Look(client="l", invoked=invoked, returned=returned, room="lobby", since=since, found=messages)


A, B = post(0, 1, "a", 1), post(2, 3, "b", 2)

GOOD: dict[str, Sequence[Post | Look]] = {
    "nothing": [],
    "in order": [A, B, look(4, 5, "ab"), look(4, 5, "b", since=1), look(4, 5, "", since=2)],
    "posts that overlap come in any order": [post(0, 9, "b", 2), post(1, 8, "a", 1), look(10, 11, "ab")],
    "read while it is posted": [post(0, 9, "a", 1), look(1, 2, "a")],
    "unknown and there": [A, post(2, NEVER, "x"), look(4, 5, "a"), look(6, 7, "ax")],
    "unknown and not there": [A, post(2, NEVER, "x"), post(3, 4, "b", 2), look(6, 7, "ab")],
    "unknown and before an acknowledged one": [post(0, NEVER, "x"), post(1, 2, "b", 2), look(4, 5, "xb")],
    "refused and not there": [A, post(2, 3, "x"), look(6, 7, "a")],
}
BAD: dict[str, Sequence[Post | Look]] = {
    "a gap": [A, B, Look(client="l", invoked=4, returned=5, room="lobby", since=0, found=((2, "b"),))],
    "lost": [A, B, look(4, 5, "a")],
    "back in time": [post(0, 9, "a", 1), look(1, 2, "a"), look(3, 4, "")],
    "another text": [A, look(4, 5, "x"), post(0, NEVER, "x")],
    "a text that changes": [post(0, NEVER, "a"), post(0, NEVER, "b"), look(1, 2, "a"), look(3, 4, "b")],
    "twice": [A, look(4, 5, "aa")],
    "an unknown one twice": [A, post(0, NEVER, "x"), look(4, 5, "axx")],
    "refused and there": [A, post(2, 3, "x"), look(6, 7, "ax")],
    "said by nobody": [A, look(6, 7, "a?")],
    "two acknowledged as one": [A, post(0, 1, "b", 1)],
    "against the order of time": [post(0, 1, "b", 2), post(2, 3, "a", 1)],
    "behind what was read": [look(0, 1, "ab"), post(2, 3, "c", 2), post(0, NEVER, "a"), post(0, NEVER, "b")],
    "an unknown one behind what was acknowledged": [
        post(0, 1, "b", 2), post(2, NEVER, "x"), look(4, 5, "xb")],
    "an unknown one behind what was read": [
        post(0, NEVER, "b"), look(1, 2, "b", since=1), post(3, NEVER, "x"), look(4, 5, "xb")],
}  # fmt: skip


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_it_accepts(operations: Sequence[Post | Look]) -> None:
    check_room(operations)


@pytest.mark.parametrize("operations", BAD.values(), ids=BAD)
def test_it_refuses(operations: Sequence[Post | Look]) -> None:
    with pytest.raises(Violation):
        check_room(operations)


def test_two_posts_of_one_text_are_no_history() -> None:
    with pytest.raises(ValueError, match="one text"):
        check_room([A, post(2, 3, "a", 2)])
