"""The order of a chat room: sequences from 1 without gaps, one message each, in the order of time.

* A read returns what follows the sequence it asked for, without a gap, and the same as every other read.
* A message that was acknowledged is what every read of its sequence finds.
* A post that begins after another was acknowledged, or was read, has a greater sequence.
* A read that begins after a message was acknowledged, or read, reaches at least as far.
* Nobody reads what was refused, what nobody said, or one message twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.history.operations import Operation, Outcome, Violation


@dataclass(frozen=True, kw_only=True)
class Post(Operation):
    """`sequence` is None unless the post was acknowledged. No text is posted twice."""

    room: str
    text: str
    outcome: Outcome = Outcome.DONE
    sequence: int | None = None

    def __str__(self) -> str:
        told = self.outcome.value if self.sequence is None else f"#{self.sequence}"
        return f"post {self.text} to {self.room}: {told}"


@dataclass(frozen=True, kw_only=True)
class Look(Operation):
    """A read of everything after a sequence, up to the end of the room."""

    room: str
    since: int
    found: tuple[tuple[int, str], ...]

    @property
    def last(self) -> int:
        return self.found[-1][0] if self.found else self.since

    def __str__(self) -> str:
        return f"read {self.room} from #{self.since + 1} to #{self.last}"


def check_room(operations: Sequence[Post | Look]) -> None:
    """Judge the operations of one room. Raises Violation."""
    texts = _check_looks([each for each in operations if isinstance(each, Look)])
    _check_posts([each for each in operations if isinstance(each, Post)], texts)
    _check_order(operations, {text: sequence for sequence, text in texts.items()})


def _check_looks(looks: Sequence[Look]) -> dict[int, str]:
    """The text of each sequence that was read."""
    texts: dict[int, str] = {}
    for look in looks:
        expected = list(range(look.since + 1, look.since + 1 + len(look.found)))
        if [sequence for sequence, _ in look.found] != expected:
            raise Violation(f"{look} by {look.client} has a gap: {[number for number, _ in look.found]}")
        for sequence, text in look.found:
            if texts.setdefault(sequence, text) != text:
                raise Violation(f"#{sequence} of {look.room} was {texts[sequence]!r}, then {text!r}")
    return texts


def _check_posts(posts: Sequence[Post], texts: dict[int, str]) -> None:
    places: dict[int, Post] = {}
    for post in posts:
        if post.sequence is not None:
            first = places.setdefault(post.sequence, post)
            if first is not post:
                raise Violation(f"two messages were acknowledged as one: {first}; {post}")
            if texts.get(post.sequence, post.text) != post.text:
                raise Violation(f"{post}, but {texts[post.sequence]!r} was read there")
    said = {post.text: post for post in posts}
    if len(said) < len(posts):
        raise ValueError("two posts of one text")
    read: dict[str, int] = {}
    for sequence, text in texts.items():
        if text not in said or said[text].outcome is Outcome.REFUSED:
            raise Violation(f"#{sequence} was read, {text!r}, which nobody said or which was refused")
        if read.setdefault(text, sequence) != sequence:
            raise Violation(f"{text!r} is in the room twice: #{read[text]} and #{sequence}")


def _check_order(operations: Sequence[Post | Look], read: Mapping[str, int]) -> None:
    """A sweep over time: the highest sequence known when each operation began is its floor.

    A post of unknown outcome never returns. Its sequence, where somebody read it, has a floor all the same.
    """
    events = [(each.invoked, 0, number) for number, each in enumerate(operations)]
    events += [(each.returned, 1, number) for number, each in enumerate(operations)]
    known = 0
    floors: dict[int, int] = {}
    for _, returns, number in sorted(events):
        if not returns:
            floors[number] = known
            continue
        operation, floor = operations[number], floors.pop(number)
        if isinstance(operation, Look):
            if operation.last < floor:
                raise Violation(f"{operation} by {operation.client} is stale: #{floor} was known before it")
            known = max(known, operation.last if operation.found else 0)
        elif (sequence := read.get(operation.text, operation.sequence)) is not None:
            if sequence <= floor:
                raise Violation(f"{operation} got #{sequence}, but #{floor} was known before it")
            known = max(known, sequence)
