"""What a member does without being asked, each job at its own interval.

    register      until the cluster knows who and where this member is, and its feature level
    sample        the load of this machine
    checkpoint    move SQLite's write-ahead log into the database, on a thread
    beat          tell peers which beacons they lack, forget old ones
    hear          on the leader: ask every member, so that control knows who answers, and compare states
    verdict       where the disk did not take the verdict on this member's state: write it now
    scan          look through the state for damage, table by table, on threads that give way to all else
    control       on the leader: the planners (raftos/control)

A member that only holds its connection open is not alive, so `hear` counts answers, not connections.
A job that fails is logged and tried again; none of them may take the member down.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

import structlog

from raftos import beacons
from raftos.agent.probe import SAMPLE_INTERVAL_S, Probe
from raftos.consensus.base import Role
from raftos.control.loop import ControlLoop
from raftos.control.view import LastHeard, View, gather
from raftos.errors import Expired, RaftosError, Unavailable
from raftos.member import Member
from raftos.state.command import Command, Query
from raftos.state.machine import CannotApply

CHECKPOINT_INTERVAL_S = 2.0
REGISTER_RETRY_S = 0.25
REFUSED_RETRY_S = 10.0
"""A name that is taken, or a bug, does not go away in a moment; each time is logged."""
PATIENCE_S = 2.0
"""Members that start together hear of each other's levels first, and register once."""
LEVEL_RETRY_S = 2.0
"""How soon it is looked again whether all members can read what this one has still to tell."""
VERDICT_RETRY_S = 5.0
SCAN_REST_S = 1.0
"""Between two tables, so that a scan is never what the disk is busy with."""
LOWEST_PRIORITY = 19
REPORTS_PER_LEASE = 5
"""How many times a silent member is asked before `down_after_ms` is over."""

Given = TypeVarTuple("Given")
Found = TypeVar("Found")

_log = structlog.get_logger(__name__)


class Background:
    """Built before consensus starts, so that no change of role is missed; `start` sets it going."""

    def __init__(self, member: Member, probe: Probe) -> None:
        self._member = member
        self._probe = probe
        self._heard = LastHeard()
        self._control = ControlLoop(view=self._view, submit=self._submit)
        self._checkpointed_index = member.machine.applied_index
        self._tasks: list[asyncio.Task[None]] = []
        member.consensus.on_role(self._follow_role)

    def start(self) -> None:
        hear_interval_s = self._member.config.down_after_ms / 1000 / REPORTS_PER_LEASE
        self._control.start()
        self._tasks = [
            asyncio.create_task(self._register(), name="register"),
            asyncio.create_task(_every(SAMPLE_INTERVAL_S, self._sample), name="sample"),
            asyncio.create_task(_every(CHECKPOINT_INTERVAL_S, self._checkpoint), name="checkpoint"),
            asyncio.create_task(_every(beacons.BEAT_S, self._member.beacons.beat), name="beat"),
            asyncio.create_task(_every(hear_interval_s, self._hear), name="hear"),
            asyncio.create_task(_every(VERDICT_RETRY_S, self._keep_verdict), name="verdict"),
        ]
        scan_s = self._member.config.scan_interval_ms / 1000
        if scan_s:
            self._tasks.append(asyncio.create_task(_every(scan_s, self.scan), name="scan"))

    async def stop(self) -> None:
        await self._control.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _follow_role(self, role: Role, _term: int) -> None:
        self._heard.forget()
        self._member.overview.heard.forget()
        self._control.on_role(leading=role == Role.LEADER)

    async def _register(self) -> None:
        patient_until_s = time.monotonic() + PATIENCE_S
        while True:
            patient = time.monotonic() < patient_until_s
            rest_s = REGISTER_RETRY_S if patient else LEVEL_RETRY_S
            try:
                if await self._member.register(patient=patient):
                    return
            except (Unavailable, Expired):
                rest_s = REGISTER_RETRY_S
            except RaftosError as error:
                _log.error("this member could not register itself; it tries again", reason=error.message)
                rest_s = REFUSED_RETRY_S
            except Exception:  # noqa: BLE001 - as in `_every`: without its level no member gets on
                _log.exception("background work failed", job="register")
                rest_s = REFUSED_RETRY_S
            await asyncio.sleep(rest_s)

    async def _sample(self) -> None:
        self._probe.sample()

    async def _checkpoint(self) -> None:
        machine = self._member.machine
        index = machine.applied_index
        if index == self._checkpointed_index:
            return
        try:
            await asyncio.to_thread(machine.checkpoint)
        except CannotApply as error:
            _log.warning("no checkpoint for now", reason=str(error))
        else:
            self._checkpointed_index = index

    async def _keep_verdict(self) -> None:
        self._member.keep_verdict()

    async def scan(self) -> None:
        """Look through the whole state once; damage ends the trust in this member."""
        machine = self._member.machine
        for table in await _aside(machine.tables):
            damage = await _aside(machine.damage, table)
            if damage is not None:
                self._member.distrust(damage)
                return
            await asyncio.sleep(SCAN_REST_S)

    async def _hear(self) -> None:
        if self._member.consensus.status().role == Role.LEADER:
            self._heard.note(await self._member.overview.hear(), time.monotonic())

    # What control sees and does.

    async def _view(self, leading_ms: int) -> View:
        now_s = time.monotonic()
        return await gather(
            self._query,
            self._member.due,
            lambda member_id: self._heard.ms_ago(member_id, now_s),
            now_ms=self._member.consensus.cluster_time_ms(),
            leading_ms=leading_ms,
            down_after_ms=self._member.config.down_after_ms,
            removed=self._member.consensus.status().removed,
            configuration=self._member.overview.everyone(),
        )

    async def _query(self, query: Query) -> Any:
        [answer] = await self._member.query([query], "stale", self._deadline())
        if isinstance(answer, RaftosError):
            raise answer
        return answer

    async def _submit(self, commands: Sequence[Command]) -> list[bytes]:
        requests = [(self._member.new_request_id(), command) for command in commands]
        return await self._member.submit(requests, self._deadline())

    def _deadline(self) -> float:
        return time.monotonic() + self._member.config.request_timeout_ms / 1000


def _aside(look: Callable[[*Given], Found], *given: *Given) -> Awaitable[Found]:
    """Have something looked up on a thread of its own, which nobody waits for when the process ends.

    A big table takes minutes, and SQLite is not interrupted in the middle of it everywhere; the threads of an
    executor would be waited for.
    """
    told: Future[Found] = Future()

    def run() -> None:
        _give_way()
        try:
            told.set_result(look(*given))
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
            told.set_exception(error)

    told.set_running_or_notify_cancel()
    threading.Thread(target=run, name="scan", daemon=True).start()
    return asyncio.wrap_future(told)


def _give_way() -> None:
    """Let this thread run when nobody else wants to; where threads have priorities of their own."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)


async def _every(interval_s: float, job: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await job()
        except Exception:  # noqa: BLE001 - background work must outlive what happens to it; the log says what
            _log.exception("background work failed", job=getattr(job, "__name__", str(job)))
