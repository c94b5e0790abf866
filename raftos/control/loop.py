"""Runs the planners, on the leader only.

Round after round: take a view, ask every planner, submit what they propose. Planners are pure functions
of the view, so a round that failed needs no repair: the next one looks again and proposes what is still
needed. Nothing a round raises ends the loop.

A round begins `interval_s` after the one before has ended, so a slow cluster is never pressed. On losing
leadership the round at hand is dropped; what it submitted is either agreed or not, and conditional anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from traceback import format_exc

import structlog

from raftos.control import liveness, membership, upgrade, upkeep
from raftos.control.view import View
from raftos.errors import RaftosError
from raftos.state.command import Command

Planner = Callable[[View], list[Command]]

PLANNERS: tuple[Planner, ...] = (liveness.plan, membership.plan, upgrade.plan, upkeep.plan)

_log = structlog.get_logger(__name__)


class ControlLoop:
    """One member's control loop.

    `view(leading_ms)` gathers what the planners see, told for how long this member has led (`View`).
    `submit(commands)` proposes each of them under a request id of its own; refusals are its answer, not
    its failure. Both may raise: that is logged, and the next round tries again.
    """

    def __init__(
        self,
        *,
        view: Callable[[int], Awaitable[View]],
        submit: Callable[[Sequence[Command]], Awaitable[object]],
        interval_s: float = 0.5,
        planners: Sequence[Planner] = PLANNERS,
    ) -> None:
        self._view = view
        self._submit = submit
        self._interval_s = interval_s
        self._planners = planners
        self._started = False
        self._leading = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Run whenever this member leads. Needs a running event loop."""
        self._started = True
        self._follow_role()

    async def stop(self) -> None:
        """Stop for good, and return when nothing runs any more."""
        self._started = False
        task = self._task
        self._follow_role()
        if task is not None:
            await asyncio.wait([task])

    def on_role(self, *, leading: bool) -> None:
        """Tell the loop that this member leads now, or does not. A new term as leader is a new beginning."""
        self._leading = False
        self._follow_role()
        self._leading = leading
        self._follow_role()

    def _follow_role(self) -> None:
        wanted = self._started and self._leading
        if wanted and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="control")
        elif not wanted and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        began_s = clock()
        while True:
            await asyncio.sleep(self._interval_s)
            await self._round(int((clock() - began_s) * 1000))

    async def _round(self, leading_ms: int) -> None:
        try:
            view = await self._view(leading_ms)
            commands = [command for planner in self._planners for command in planner(view)]
            if commands:
                await self._submit(commands)
        except RaftosError as error:
            _log.warning("control: the next round tries again", code=error.code, reason=error.message)
        except Exception:  # noqa: BLE001 - Whatever a round meets, the next one starts afresh.
            _log.error("control: a round failed unexpectedly", traceback=format_exc())
