"""Calls of one turn of the event loop, answered together.

Sixty-four clients with one write each cost consensus one proposal this way, and sixty-four readers one read
barrier. Calls whose deadlines are far apart are answered apart, so that nobody waits less because an
impatient one came along. Every caller has its own results, or its own exception.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raftos.errors import Fault, RaftosError

DEADLINE_SLICE_S = 0.02
"""Calls whose deadlines are this close are answered together, before the earliest of them."""


@dataclass(slots=True)
class _Call:
    items: Sequence[Any]
    deadline: float
    future: asyncio.Future[list[Any]]


class Gathering:
    """Calls that arrive within one turn of the event loop, answered together.

    `answer(items, deadline)` gives one result for each item, or raises for all of them.
    """

    def __init__(self, answer: Callable[[list[Any], float], Awaitable[list[Any]]]) -> None:
        self._answer = answer
        self._waiting: list[_Call] = []
        self._serving: set[asyncio.Task[None]] = set()

    def call(self, items: Sequence[Any], deadline: float) -> asyncio.Future[list[Any]]:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            # Not at once: what arrives in the same turn of the loop goes together.
            loop.call_soon(self._hand_over)
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append(_Call(items, deadline, future))
        return future

    def _hand_over(self) -> None:
        calls, self._waiting = self._waiting, []
        groups: defaultdict[int, list[_Call]] = defaultdict(list)
        for call in calls:
            groups[int(call.deadline / DEADLINE_SLICE_S)].append(call)
        for group in groups.values():
            task = asyncio.get_running_loop().create_task(self._serve(group))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, calls: list[_Call]) -> None:
        items = [item for call in calls for item in call.items]
        try:
            results = await self._answer(items, min(call.deadline for call in calls))
        except BaseException as error:
            # Whatever it is, nobody may wait for ever; what is not ours is raised here as well, into the log.
            _fail(calls, error)
            if not isinstance(error, RaftosError):
                raise
            return
        at = 0
        for call in calls:
            if not call.future.done():
                call.future.set_result(results[at : at + len(call.items)])
            at += len(call.items)


def _fail(calls: list[_Call], error: BaseException) -> None:
    """One exception object for each caller: a shared one would collect every caller's traceback."""
    for call in calls:
        if call.future.done():
            continue
        if isinstance(error, RaftosError):
            call.future.set_exception(type(error)(error.message, leader=error.leader))
        elif isinstance(error, Exception):
            bug = f"a bug in raftos: {type(error).__name__}; the member's log says more"
            call.future.set_exception(Fault(bug))
        else:
            call.future.cancel()
