"""Whether a history of overlapping calls has an order in which a sequential object could have answered it.

The algorithm is Lowe's just-in-time linearization ("Testing for linearizability", 2017), a form of Wing and
Gong's search: time goes forward from event to event, and at every moment there is a set of
**configurations**. One configuration is a guess of what has happened so far: which of the calls that are
under way have taken effect (a bitset), and the state that left.

    a call is invoked      it is under way in every configuration
    a call returns         each configuration lets calls under way take effect, in every order, until
                           this one has; the others of its kind that cannot get there are dropped

No configuration left means that no order exists, and the call that returned last is the one that no
longer fits. A call of unknown outcome stays under way for ever, and takes effect only where that helps
another to return. Three things keep the search small, and lose nothing:

* Configurations that are equal are kept once.
* Of two that differ only in unknown calls that have taken effect, the one with fewer can do all that the
  other can.
* Unknown calls that are `alike` (the same effect, seen by nobody) are interchangeable: only the one that was
  invoked first is tried.

Calls of unknown outcome are what makes a search long. So it is first tried with as few of them as possible
at each return and with few configurations, then with some more, and only then with all: an order that was
found is one, however it was found, and only the whole search can say that there is none. Limit: a search of
more than `limit` configurations is given up; the verdict is `undecided` then, which is no acquittal.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Generic, TypeVar

from tests.history.operations import NEVER

State = TypeVar("State", bound=Hashable)
Item = TypeVar("Item")

LIMIT = 2_000_000
"""Configurations of one history: some tens of seconds."""
MOST_ORDERS = 16
"""Configurations whose orders are compared for the longest: any one would do."""


SEARCHES = ((0, 30), (1, 300), (math.inf, math.inf))
"""For each search: how many more unknown calls than necessary a return may take, and how many configurations
are kept. The last one is the whole search."""


class _GivenUpError(Exception):
    """The search has looked at as many configurations as it may."""


@dataclass(frozen=True, eq=False)
class Call(Generic[Item]):
    """One call. `returned` is NEVER for one that may take effect at any later time or never."""

    item: Item
    invoked: float
    returned: float
    alike: Hashable | None = None
    """What all interchangeable calls of unknown outcome share; None for a call like no other."""


@dataclass(frozen=True, eq=False)
class Step(Generic[Item]):
    """The last call that took effect, and what came before it."""

    before: Step[Item] | None
    call: Call[Item]

    def order(self) -> list[Call[Item]]:
        steps: list[Call[Item]] = []
        step: Step[Item] | None = self
        while step is not None:
            steps.append(step.call)
            step = step.before
        return steps[::-1]


@dataclass(frozen=True)
class Verdict(Generic[Item, State]):
    """`blamed` is None for a linearizable history; else the call whose return no longer fits.

    `order` is one order of effects, of everything or of what came before the blamed call returned; `states`
    are the states in which the object could have been just then.
    """

    order: list[Call[Item]]
    blamed: Call[Item] | None = None
    states: frozenset[State] = frozenset()
    undecided: bool = False
    """Whether an order may exist all the same: the search for it was given up."""

    @property
    def accepted(self) -> bool:
        return self.blamed is None and not self.undecided


Apply = Callable[[State, Item], State | None]
"""The state after a call took effect with the answer it had; None if it cannot have had that answer."""
_Configurations = dict[tuple[int, State], Step[Item] | None]


def linearize(
    calls: Sequence[Call[Item]], initial: State, apply: Apply[State, Item], limit: int = LIMIT
) -> Verdict[Item, State]:
    """Judge a history, in up to three searches of at most `limit` configurations each."""
    verdict: Verdict[Item, State] = Verdict([])
    for more, width in SEARCHES:
        try:
            verdict = _Search(apply, limit, more, width).run(calls, initial)
        except _GivenUpError:
            verdict = replace(verdict, undecided=True)
        else:
            if verdict.accepted:
                return verdict
    return verdict


class _Search(Generic[Item, State]):
    def __init__(self, apply: Apply[State, Item], limit: int, more: float, width: float) -> None:
        self._apply = apply
        self._left = limit
        self._more = more
        self._width = width
        self._under_way: dict[Call[Item], int] = {}
        """Each call under way and its bit, in the order of their invocations."""
        self._free_bits: list[int] = []
        self._unknown_bits = 0

    def run(self, calls: Sequence[Call[Item]], initial: State) -> Verdict[Item, State]:
        present: _Configurations[State, Item] = {(0, initial): None}
        for call, returns in _events(calls):
            if not returns:
                self._begin(call)
                continue
            reached = self._let_return(call, present)
            if not reached:
                order, states = _longest(present.values()), frozenset(state for _, state in present)
                return Verdict(order, call, states)
            present = reached
            self._free_bits.append(self._under_way.pop(call))
        return Verdict(_longest(present.values()))

    def _begin(self, call: Call[Item]) -> None:
        # While n calls are under way and no bit was given back, the first n bits are taken.
        bit = self._free_bits.pop() if self._free_bits else 1 << len(self._under_way)
        self._under_way[call] = bit
        if call.returned == NEVER:
            self._unknown_bits |= bit

    def _let_return(
        self, call: Call[Item], present: _Configurations[State, Item]
    ) -> _Configurations[State, Item]:
        """The configurations in which `call` has taken effect, without its bit, which is free again."""
        bit = self._under_way[call]
        reached: _Configurations[State, Item] = {}
        seen: dict[tuple[int, State], list[int]] = {}
        # What took fewer unknown calls is seen first.
        waiting = deque((done, state, step, 0) for (done, state), step in present.items())
        most = math.inf
        while waiting and len(reached) < self._width:
            done, state, step, cost = waiting.popleft()
            if cost > most:
                break
            if self._is_needless(done, state, seen):
                continue
            if done & bit:
                reached[done & ~bit, state] = step
                most = min(most, cost + self._more)
                continue
            for call_bit, after, following in self._next_steps(done, state, step):
                if call_bit & self._unknown_bits:
                    waiting.append((done | call_bit, after, following, cost + 1))
                else:
                    waiting.appendleft((done | call_bit, after, following, cost))
        return reached

    def _is_needless(self, done: int, state: State, seen: dict[tuple[int, State], list[int]]) -> bool:
        """Whether a configuration was seen that can do all that this one can; notes this one otherwise."""
        self._left -= 1
        if self._left < 0:
            raise _GivenUpError
        unknown = done & self._unknown_bits
        others = seen.setdefault((done ^ unknown, state), [])
        if any(other & unknown == other for other in others):
            return True
        others.append(unknown)
        return False

    def _next_steps(
        self, done: int, state: State, step: Step[Item] | None
    ) -> list[tuple[int, State, Step[Item]]]:
        tried: set[Hashable] = set()
        found = []
        for call, bit in self._under_way.items():
            if done & bit or (call.alike is not None and call.alike in tried):
                continue
            tried.add(call.alike)
            after = self._apply(state, call.item)
            if after is not None:
                found.append((bit, after, Step(step, call)))
        return found


def _events(calls: Sequence[Call[Item]]) -> list[tuple[Call[Item], bool]]:
    """All invocations and returns in their order; at the same moment calls overlap."""
    events = [(call.invoked, 0, number) for number, call in enumerate(calls)]
    events += [(call.returned, 1, number) for number, call in enumerate(calls) if call.returned != NEVER]
    return [(calls[number], returns == 1) for _, returns, number in sorted(events)]


def _longest(steps: Iterable[Step[Item] | None]) -> list[Call[Item]]:
    return max((step.order() for step in islice(steps, MOST_ORDERS) if step is not None), key=len, default=[])
