"""The service of one member: submit, query, status.

Everything a user asks of this member comes through here, whichever door it came in by.

**Writes.** All calls of one turn of the event loop become one proposal, so sixty-four clients with
one write each cost consensus one future, not sixty-four.

**Reads.** Linearizable queries of one turn share one read barrier; stale ones skip it and say how
old they may be. A point query (one row by its key) is answered on the loop, everything that scans
on the reader thread: docs/decisions/point-reads.md says why.

**Status.** Soft, and made by `overview.py`, which asks everybody.

**Trust.** A member whose state is known to be wrong (`distrust`) serves nothing, linearizable or stale, takes
no writes, does not lead, and says so until it is replaced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar, TypeVarTuple

import msgspec

from raftos import beacons
from raftos.config import Config
from raftos.consensus.base import Consensus, Handler
from raftos.errors import (
    UNDECODABLE,
    Conflict,
    Expired,
    Fault,
    InvalidInput,
    NoQuorum,
    NotEnabled,
    NotFound,
    NotReady,
    RaftosError,
    Unavailable,
    error_for,
)
from raftos.gathering import Gathering
from raftos.levels import FIRST_LEVEL, LEVEL, TOLD_SINCE
from raftos.overview import ASK_REPORT, TELL_VERDICT, Overview, wall_ms
from raftos.reports import (
    Alarm,
    LeaderView,
    Report,
    StateHash,
    StatusView,
    Verdict,
    decode_verdict,
    encode_report,
)
from raftos.state import events
from raftos.state.command import (
    Command,
    Failed,
    Query,
    Rejected,
    created_ms,
    decode_result,
    encode_request,
    is_ok,
    new_request_id,
)
from raftos.state.domains import members, validate
from raftos.state.machine import Machine, Reader
from raftos.state.requests import REFUSED_AFTER_MS
from raftos.trust import Trust

Given = TypeVarTuple("Given")
Value = TypeVar("Value")
Consistency = Literal["linearizable", "stale"]

APPLY_LAG_ENTRIES = 1_000
"""A member further than this behind what it knows to be committed does not call itself ready."""


class Member:
    """Built by node.py from its configuration, the port to consensus and the machine behind it.

    `load()` gives this node's present load without waiting. All deadlines are `time.monotonic()` seconds.
    """

    def __init__(
        self,
        config: Config,
        consensus: Consensus,
        machine: Machine,
        *,
        endpoint: str | None = None,
        version: str = "",
        load: Callable[[], dict[str, int | float]] = dict,
        trust: Trust | None = None,
    ) -> None:
        self.config = config
        self.consensus = consensus
        self.machine = machine
        self.version = version
        own = config.voter(config.member_id)
        self.endpoint = endpoint or (own.endpoint if own else f"http://{config.api_address}")
        self._load = load
        self._trust = trust or Trust()
        self._loop_reader = machine.reader()
        self._thread_reader = machine.reader()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")
        self._writes = Gathering(consensus.propose)
        self._writing_alone = False
        self._reads = Gathering(self._answer_behind_barrier)
        self._fresh_at = time.monotonic()
        self.beacons = beacons.Beacons(config.member_id, consensus)
        self.overview = Overview(
            config, consensus, machine, report=self.report, records=self.records, heed=self._heed
        )
        self._peer_answers: Mapping[bytes, Handler] = {
            ASK_REPORT: self._answer_report,
            TELL_VERDICT: self._hear_verdict,
            beacons.ASK: self.beacons.hear,
        }
        consensus.on_ask(self._answer_peer)
        consensus.on_applied(self._note_freshness)
        if self._trust.lost is not None:
            consensus.distrust(self._trust.lost)

    # Writes and reads

    def admit(self, command: Command) -> None:
        """Check a command before it is submitted. Raises InvalidInput, TooLarge, NotEnabled."""
        if command.since > self.machine.level:
            tag = command.__struct_config__.tag
            behind = [record.name for record in self.records().values() if record.level < command.since]
            raise NotEnabled(
                f"{tag} can be used once every member knows level {command.since}; these do not yet: "
                f"{', '.join(sorted(behind)) or 'some'}; upgrade them"
            )
        validate(command)

    async def submit(self, requests: Sequence[tuple[bytes, Command]], deadline: float) -> list[bytes]:
        """Agree on commands with their 16-byte request ids; one encoded result each, in order.

        Raises NoQuorum, OutcomeUnknown, NotReady: then for all of them.
        """
        self._require_trust()
        encoded = [encode_request(*request) for request in requests]
        if self._writing_alone:
            return await self._writes.call(encoded, deadline)
        # A lone write does not wait for the next turn of the loop; while it is under way, others gather.
        self._writing_alone = True
        try:
            return await self.consensus.propose(encoded, deadline)
        finally:
            self._writing_alone = False

    async def submit_own(self, command: Command, deadline: float) -> None:
        """Agree on a command under a request id made here. Raises its refusal, and as `submit`."""
        asked_at, request_id = time.monotonic(), self.new_request_id()
        [result] = await self.submit([(request_id, command)], deadline)
        if await self.was_behind(request_id, result, asked_at, deadline):
            [result] = await self.submit([(self.new_request_id(), command)], deadline)
        if not is_ok(result):
            raise refusal_of(result)

    async def was_behind(self, request_id: bytes, result: bytes, asked_at: float, deadline: float) -> bool:
        """Whether an id, made here at `asked_at`, was refused because this member's clock had stood still.

        A member that starts has the time of the last entry it applied. If the cluster had nothing to agree on
        for ten minutes, its ids are too old, until the entry with the first of them sets its clock: then the
        command may be sent under a new one. An id that was not *that* old may have been taken, and forgotten
        before it was sent once more: that is no reason to apply it again.
        """
        if is_ok(result) or not isinstance(refusal_of(result), Expired):
            return False
        if not self._was_too_old(request_id, asked_at):
            try:
                await self.consensus.read_barrier(deadline)  # The answer may be here before the entry.
            except Unavailable:
                return False
        return self._was_too_old(request_id, asked_at)

    def _was_too_old(self, request_id: bytes, asked_at: float) -> bool:
        """Whether an id would have been refused at `asked_at` already, by the clock as it is now."""
        then_ms = self.consensus.cluster_time_ms() - int((time.monotonic() - asked_at) * 1000)
        return created_ms(request_id) < then_ms - REFUSED_AFTER_MS

    async def query(
        self, queries: Sequence[Query], consistency: Consistency, deadline: float
    ) -> list[Any | RaftosError]:
        """Answer queries, in order; a query that fails gives its error in its place.

        Linearizable: contains every write acknowledged before this call, or raises NoQuorum. Raises NotReady
        when the state is not to be trusted.
        """
        self._require_trust()
        if consistency == "stale":
            return await self._answer_queries(queries)
        return await self._reads.call(queries, deadline)

    async def due(self, now_ms: int) -> list[Command]:
        """What the domains want proposed because it is `now_ms` of cluster time; from this member's state."""
        return await self._on_thread(self._thread_reader.due, now_ms)

    async def past_events(self, after_revision: int, most_bytes: int) -> events.Page:
        """The events kept after a revision, about `most_bytes` of them. Raises NotReady."""
        self._require_trust()
        return await self._on_thread(self._thread_reader.events, after_revision, most_bytes)

    def latest_events(self, after_revision: int, most_bytes: int) -> events.Page:
        """The same without waiting: up to the last one applied, unless it says that there are more."""
        self._require_trust()
        return self._loop_reader.events(after_revision, most_bytes)

    def new_request_id(self) -> bytes:
        return new_request_id(self.consensus.cluster_time_ms())

    def age_ms(self) -> int:
        """How long ago this member last knew itself in touch with a leader and fully applied."""
        self._note_freshness(0)
        return int((time.monotonic() - self._fresh_at) * 1000)

    async def _answer_behind_barrier(self, queries: list[Query], deadline: float) -> list[Any | RaftosError]:
        await self.consensus.read_barrier(deadline)
        return await self._answer_queries(queries)

    async def _answer_queries(self, queries: Sequence[Query]) -> list[Any | RaftosError]:
        if all(query.point for query in queries):
            return _answer_all(self._loop_reader, queries)
        return await self._on_thread(_answer_all, self._thread_reader, queries)

    def _on_thread(self, read: Callable[[*Given], Value], *given: *Given) -> asyncio.Future[Value]:
        return asyncio.get_running_loop().run_in_executor(self._thread, read, *given)

    def _note_freshness(self, _applied_index: int) -> None:
        status = self.consensus.status()
        if status.has_quorum and status.applied_index >= status.commit_index:
            self._fresh_at = time.monotonic()

    # The state of this member

    def not_ready(self) -> str | None:
        """One sentence saying why this member cannot serve, or None when it can."""
        status = self.consensus.status()
        if status.trouble:
            return status.trouble
        if status.leader_id is None or not status.has_quorum:
            return "no leader is known: a majority of the members cannot be reached"
        behind = status.commit_index - status.applied_index
        if behind > APPLY_LAG_ENTRIES:
            return f"this member is catching up: {behind} entries are not applied yet"
        return None

    def report(self) -> Report:
        """What this member says of itself."""
        status = self.consensus.status()
        return Report(
            role=status.role,
            leader_id=status.leader_id,
            term=status.term,
            commit_index=status.commit_index,
            applied_index=self.machine.applied_index,
            synced_index=status.synced_index,
            version=self.version,
            load=self._load(),
            trouble=status.trouble or self._fault(),
            state_hash=StateHash(self.machine.applied_index, self.machine.state_hash.hex()),
            level=LEVEL,
            lost=self._trust.lost,
            wall_ms=wall_ms(),
            stamps=list(self.machine.stamps),
            lagging=dict(self.overview.heard.lagging),
        )

    def distrust(self, reason: str) -> None:
        """The state of this member is wrong, because of `reason`: it serves no more, also after a restart."""
        self._trust.lose(reason)
        if self._trust.lost is not None:
            self.consensus.distrust(self._trust.lost)

    def keep_verdict(self) -> None:
        """Write down why the state is not to be trusted, where the disk did not take it before."""
        self._trust.keep()

    @property
    def lost(self) -> str | None:
        """Why the state of this member is not to be trusted, or None."""
        return self._trust.lost

    def _require_trust(self) -> None:
        if self._trust.lost is not None:
            raise NotReady(self._trust.lost)

    def _fault(self) -> str | None:
        faults = self.machine.faults
        return f"{faults} commands ended in a bug of raftos since the start; see the log" if faults else None

    async def _answer_peer(self, peer_id: str, body: bytes) -> bytes:
        kind, _, content = body.partition(b" ")
        answer = self._peer_answers.get(kind)
        if answer is None:
            raise InvalidInput("this version does not know what the peer asks")
        return await answer(peer_id, content)

    async def _answer_report(self, _peer_id: str, _content: bytes) -> bytes:
        return encode_report(self.report())

    async def _hear_verdict(self, peer_id: str, content: bytes) -> bytes:
        """The leader found that this state is wrong; only a difference that is really here counts."""
        try:
            verdict = decode_verdict(content)
        except UNDECODABLE as error:
            raise InvalidInput("this version does not understand the verdict") from error
        if peer_id == self.consensus.status().leader_id:
            self._heed(verdict)
        return b""

    def _heed(self, verdict: Verdict) -> None:
        noted = {self.machine.applied_index: self.machine.state_hash, **dict(self.machine.stamps)}
        found = noted.get(verdict.index, verdict.right)
        if found != verdict.right:
            self.distrust(f"at entry {verdict.index} it differs from the state of a majority of the members")

    # The cluster, as seen from here

    async def reports(self) -> dict[str, Report]:
        """The reports of all members that answer within 300 ms, this member's own among them."""
        return {member_id: reading.report for member_id, reading in (await self.overview.readings()).items()}

    async def status(self) -> StatusView:
        """The whole cluster, asking everybody; takes at most about 300 ms."""
        return await self.overview.status()

    def alarms(self) -> list[Alarm]:
        """The alarms known without asking: all on a leader, else those of this member."""
        return self.overview.alarms()

    def records(self) -> dict[str, Any]:
        """What the cluster has agreed about its members, by id; nothing where that cannot be read.

        From this member's own state, to be shown and for names; what is decided by it takes `all_records`.
        """
        try:
            return self.all_records()
        except RaftosError:
            return {}

    def all_records(self) -> dict[str, Any]:
        """The same, and all of it. Raises NotReady."""
        return {record.id: record for record in self._loop_reader.query(members.List()).items}

    def name_of(self, member_id: str) -> str:
        [known] = _answer_all(self._loop_reader, [members.Get(id=member_id)])
        voter = self.config.voter(member_id) if isinstance(known, RaftosError) else known
        return voter.name if voter else member_id

    def leader_name(self) -> str | None:
        """The leader's name as far as this member knows, without waiting."""
        leader_id = self.consensus.status().leader_id
        return self.name_of(leader_id) if leader_id else None

    def leader(self) -> LeaderView:
        """The leader this member follows. Raises NoQuorum when it knows none."""
        status = self.consensus.status()
        if status.leader_id is None:
            raise NoQuorum("no leader is known: a majority of the members cannot be reached")
        record = self.records().get(status.leader_id) or self.config.voter(status.leader_id)
        endpoint = record.endpoint if record else ""
        return LeaderView(self.name_of(status.leader_id), status.leader_id, endpoint, status.term)

    async def transfer(self, target: str | None, deadline: float) -> str:
        """Hand leadership to a member (name or id), or to the best follower; the new leader's name.

        Raises NotFound, Conflict, InvalidInput, Unavailable.
        """
        target_id = self._id_of(target) if target else None
        try:
            return self.name_of(await self.consensus.transfer(target_id, deadline))
        except Conflict as error:
            raise Conflict(self.with_names(error.message)) from error

    def with_names(self, message: str) -> str:
        """What consensus says, which knows members by their ids alone, as people know them."""
        for known in (*self.records().values(), *self.config.voters):
            message = message.replace(known.id, known.name)
        return message

    def _id_of(self, name_or_id: str) -> str:
        for known in (*self.all_records().values(), *self.config.voters):
            if name_or_id in {known.id, known.name}:
                return str(known.id)
        raise NotFound(f"no member is called {name_or_id!r}; `raftos node ls` lists them")

    async def register(self, *, patient: bool = False) -> bool:
        """Tell the cluster who and where this member is, unless it knows; whether it knows everything now.

        The feature level is left out for as long as a member may run a version that could not read it; if
        `patient`, nothing is told then.
        Raises Unavailable, or Conflict when the name belongs to another member or the version is too old.
        """
        deadline = time.monotonic() + self.config.request_timeout_ms / 1000
        [known] = await self.query([members.Get(id=self.config.member_id)], "linearizable", deadline)
        if isinstance(known, NotReady):
            raise known
        may_tell = not isinstance(known, RaftosError) and known.level >= TOLD_SINCE
        level = LEVEL if may_tell or await self._all_can_read_levels() else FIRST_LEVEL
        if patient and level < LEVEL:
            return False
        own = members.Register(
            id=self.config.member_id,
            name=self.config.name,
            endpoint=self.endpoint,
            peer_address=self.config.told_peer_address,
            version=self.version,
            level=level,
        )
        wanted = {**msgspec.structs.asdict(own), "state": "alive"}
        if isinstance(known, RaftosError) or not wanted.items() <= msgspec.structs.asdict(known).items():
            await self.submit_own(own, deadline)
        return level == LEVEL

    async def _all_can_read_levels(self) -> bool:
        if self.machine.level >= TOLD_SINCE:
            return True
        reports = await self.reports()
        return all(
            member_id in reports and reports[member_id].level >= TOLD_SINCE
            for member_id in self.overview.everyone()
        )

    def close(self) -> None:
        self.beacons.close()
        self._thread.shutdown(cancel_futures=True)
        self._thread_reader.close()
        self._loop_reader.close()


def _answer_all(reader: Reader, queries: Sequence[Query]) -> list[Any | RaftosError]:
    return [_answer_one(reader, query) for query in queries]


def _answer_one(reader: Reader, query: Query) -> Any | RaftosError:
    try:
        return reader.query(query)
    except RaftosError as error:
        return error


def refusal_of(result: bytes) -> RaftosError:
    """The error that an encoded result other than `Ok` stands for."""
    match decode_result(result):
        case Rejected(code=code, message=message):
            return error_for(code, message)
        case Failed(message=message):
            return Fault(message)
        case ok:
            return Fault(f"{ok!r} is not a refusal")
