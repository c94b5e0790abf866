"""The cluster as one member sees it: who answers, what it says, and what is wrong.

Soft: everybody is asked at once, and whoever does not answer in time is listed as `unreachable` (`down` once
the cluster has agreed that it is), never left out. Any member can be asked. What takes time to notice only
the leader knows, because it asks all the time (`hear`); its report tells it to whoever asks later.

The leader also compares states (`reports.judge`) and tells a member whose state is wrong. That member looks
for itself before it believes it: the verdict names an index and the right hash there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
import structlog

from raftos.alarms import Heard, Picture, raised
from raftos.config import Config
from raftos.consensus.base import Consensus, Role, Status
from raftos.errors import UNDECODABLE, RaftosError, Unavailable
from raftos.reports import (
    Alarm,
    Judgement,
    NodeView,
    Reading,
    Report,
    StatusView,
    Verdict,
    decode_report,
    encode_verdict,
    judge,
)
from raftos.state.machine import Machine

ASK_TIMEOUT_S = 0.3
ASK_REPORT = b"report"
TELL_VERDICT = b"verdict"

_log = structlog.get_logger(__name__)

Records = Mapping[str, Any]
"""What the cluster has agreed about its members, by id."""


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Overview:
    """Made by the member, which gives its own `report`, the `records` of its state, and heeds a verdict."""

    def __init__(
        self,
        config: Config,
        consensus: Consensus,
        machine: Machine,
        *,
        report: Callable[[], Report],
        records: Callable[[], Records],
        heed: Callable[[Verdict], None],
    ) -> None:
        self._config = config
        self._consensus = consensus
        self._machine = machine
        self._report = report
        self._records = records
        self._heed = heed
        self._judged = Judgement({}, {})
        self.heard = Heard(config)

    # Asking.

    def everyone(self) -> tuple[str, ...]:
        """The ids of all who vote or learn."""
        status = self._consensus.status()
        return (*status.voters, *status.learners)

    async def readings(self) -> dict[str, Reading]:
        """What everybody says who answers within 300 ms, this member's own report among it."""
        own = self._config.member_id
        others = [each for each in self.everyone() if each != own]
        answers = await asyncio.gather(*map(self._ask, others))
        found = {each: reading for each, reading in zip(others, answers, strict=True) if reading}
        return {own: Reading(self._report()), **found}

    async def _ask(self, member_id: str) -> Reading | None:
        asked_ms, asked_s = wall_ms(), time.monotonic()
        try:
            report = decode_report(await self._consensus.ask(member_id, ASK_REPORT, ASK_TIMEOUT_S))
        except (Unavailable, TimeoutError, *UNDECODABLE):
            return None  # Whatever the reason, it did not answer: the caller lists it so.
        half_ms = int((time.monotonic() - asked_s) * 500) + 1
        if report.wall_ms is None:
            return Reading(report)
        return Reading(report, report.wall_ms - asked_ms - half_ms, half_ms)

    # What users are shown.

    async def status(self) -> StatusView:
        """The whole cluster, asking everybody; takes at most about 300 ms."""
        readings = await self.readings()
        reports = {member_id: reading.report for member_id, reading in readings.items()}
        newest = max(reports.values(), key=lambda report: (report.term, report.leader_id is not None))
        records = self._records()
        nodes = [
            self._node_view(each, newest.leader_id, reports.get(each), records.get(each))
            for each in dict.fromkeys((*self.everyone(), *records))
        ]
        leader = reports.get(newest.leader_id or "")
        return StatusView(
            cluster=self._config.cluster,
            leader=self._names(records).get(newest.leader_id, newest.leader_id) if newest.leader_id else None,
            term=newest.term,
            commit_index=max(report.commit_index for report in reports.values()),
            nodes=sorted(nodes, key=lambda node: node.name),
            alarms=raised(
                self._picture(
                    records,
                    readings,
                    voters=self._consensus.status().voters,
                    clock=newest.leader_id if leader and newest.leader_id else self._config.member_id,
                    lagging=leader.lagging if leader else {},
                )
            ),
            level=self._machine.level,
        )

    def alarms(self) -> list[Alarm]:
        """What is known without asking: all of the cluster on a leader, else what concerns this member."""
        status = self._consensus.status()
        own = self._config.member_id
        if status.role == Role.LEADER and self.heard.readings:
            readings = {**self.heard.readings, own: Reading(self._report())}
            lagging = self.heard.lagging
            return raised(
                self._picture(self._records(), readings, voters=status.voters, clock=own, lagging=lagging)
            )
        return raised(self._picture({}, {own: Reading(self._report())}))

    def _picture(
        self,
        records: Records,
        readings: Mapping[str, Reading],
        *,
        voters: tuple[str, ...] = (),
        clock: str = "",
        lagging: Mapping[str, int] | None = None,
    ) -> Picture:
        reports = {member_id: reading.report for member_id, reading in readings.items()}
        belong = set(self.everyone())
        return Picture(
            config=self._config,
            tallies=self._machine.tallies,
            limits=self._machine.limits,
            names=self._names(records),
            voters=voters or (self._config.member_id,),
            readings=readings,
            clock=clock,
            down=[each for each, record in records.items() if record.state == "down" and each in belong],
            lagging={each: behind for each, behind in (lagging or {}).items() if each in belong},
            judgement=judge(reports, voters),
        )

    def _names(self, records: Records) -> dict[str, str]:
        known = {voter.id: voter.name for voter in self._config.voters}
        return known | {member_id: record.name for member_id, record in records.items()}

    def _node_view(
        self, member_id: str, leader_id: str | None, report: Report | None, record: Any
    ) -> NodeView:
        status = self._consensus.status()
        known = record or self._config.voter(member_id)
        view = NodeView(
            id=member_id,
            name=known.name if known else member_id,
            role=_role_of(member_id, leader_id, status),
            state=_state_of(member_id, status, record),
            endpoint=known.endpoint if known else "",
            version=(record.version or None) if record else None,
            level=record.level if record else None,
        )
        if report is None:
            return view
        return msgspec.structs.replace(
            view,
            state="alive",
            applied_index=report.applied_index,
            synced_index=report.synced_index,
            version=report.version,
            level=report.level,
            load=report.load,
            trouble=report.lost or report.trouble,
            state_hash=report.state_hash,
        )

    # What the leader does with it.

    async def hear(self) -> dict[str, Report]:
        """One round on the leader: ask everybody, remember it, and tell a member that its state is wrong."""
        readings = await self.readings()
        self.heard.note(readings, time.monotonic(), self.everyone())
        reports = {member_id: reading.report for member_id, reading in readings.items()}
        judged = judge(reports, self._consensus.status().voters)
        if judged != self._judged and (judged.wrong or judged.suspects):
            _log.critical(
                "members have applied the same log to different states",
                wrong={member_id: verdict.index for member_id, verdict in judged.wrong.items()},
                suspects=judged.suspects,
            )
        self._judged = judged
        for member_id, verdict in judged.wrong.items():
            await self._tell(member_id, verdict)
        return reports

    async def _tell(self, member_id: str, verdict: Verdict) -> None:
        if member_id == self._config.member_id:
            self._heed(verdict)
            return
        try:
            body = TELL_VERDICT + b" " + encode_verdict(verdict)
            await self._consensus.ask(member_id, body, ASK_TIMEOUT_S)
        except RaftosError as error:
            _log.warning("the verdict did not arrive; the next round", member=member_id, reason=error.message)


def _role_of(
    member_id: str, leader_id: str | None, status: Status
) -> Literal["leader", "follower", "learner", "none"]:
    if member_id == leader_id:
        return "leader"
    if member_id in status.voters:
        return "follower"
    return "learner" if member_id in status.learners else "none"


def _state_of(
    member_id: str, status: Status, record: Any
) -> Literal["joining", "down", "unreachable", "removed"]:
    """The state of a member that does not answer."""
    if member_id in status.removed:
        return "removed"
    return record.state if record and record.state != "alive" else "unreachable"
