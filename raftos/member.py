"""The service of one member: submit, query, status.

Everything a user asks of this member comes through here, whichever door it came in by.

**Writes.** All calls of one turn of the event loop become one proposal, so sixty-four clients with
one write each cost consensus one future, not sixty-four.

**Reads.** Linearizable queries of one turn share one read barrier; stale ones skip it and say how
old they may be. A point query (one row by its key) is answered on the loop, everything that scans
on the reader thread: docs/decisions/point-reads.md says why.

**Status.** Soft: every member is asked at once, and one that does not answer in time is listed as
`unreachable` (`down` once the cluster has agreed that it is), never left out.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, TypeVarTuple

import msgspec

from raftos import beacons
from raftos.config import Config
from raftos.consensus.base import Consensus, Handler, Role, Status
from raftos.errors import (
    Conflict,
    Fault,
    InvalidInput,
    NoQuorum,
    NotFound,
    RaftosError,
    Unavailable,
    error_for,
)
from raftos.state import events
from raftos.state.command import (
    Command,
    Failed,
    Query,
    Rejected,
    decode_result,
    encode_request,
    is_ok,
    new_request_id,
)
from raftos.state.domains import members, quota
from raftos.state.machine import Machine, Reader

Given = TypeVarTuple("Given")
Value = TypeVar("Value")
Consistency = Literal["linearizable", "stale"]

ASK_TIMEOUT_S = 0.3
APPLY_LAG_ENTRIES = 1_000
"""A member further than this behind what it knows to be committed does not call itself ready."""
DEADLINE_SLICE_S = 0.02
"""Calls whose deadlines are this close are answered together, before the earliest of them."""

_REPORT = b"report"


class StateHash(msgspec.Struct, frozen=True):
    """The rolling hash of the applied state; two members compare theirs at one `index` only."""

    index: int
    hash: str


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One node, as `status` shows it. What an unreachable node did not say is None."""

    id: str
    name: str
    role: Literal["leader", "follower", "learner", "agent", "none"]
    """`none` is a member that has a name but no place in the configuration: joining, or just removed."""
    state: Literal["joining", "alive", "unreachable", "down", "removed"]
    endpoint: str
    applied_index: int | None = None
    synced_index: int | None = None
    version: str | None = None
    load: Mapping[str, int | float] | None = None
    trouble: str | None = None
    state_hash: StateHash | None = None


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster, as the member that was asked sees it. `leader` is a name."""

    cluster: str
    leader: str | None
    term: int
    commit_index: int
    nodes: list[NodeView]
    alarms: list[quota.Alarm]


class LeaderView(msgspec.Struct, frozen=True):
    leader: str
    id: str
    endpoint: str
    term: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a member says of itself when a peer asks."""

    role: Role
    leader_id: str | None
    term: int
    commit_index: int
    applied_index: int
    synced_index: int
    version: str
    load: dict[str, int | float]
    trouble: str | None
    state_hash: StateHash


_encode = msgspec.msgpack.Encoder().encode
_decode_report = msgspec.msgpack.Decoder(Report).decode


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
            # Whatever it is, nobody may wait for ever; what is not ours is raised here as well.
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
        else:
            call.future.cancel()


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
    ) -> None:
        self.config = config
        self.consensus = consensus
        self.machine = machine
        self.version = version
        own = config.voter(config.member_id)
        self.endpoint = endpoint or (own.endpoint if own else f"http://{config.api_address}")
        self._load = load
        self._loop_reader = machine.reader()
        self._thread_reader = machine.reader()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")
        self._writes = Gathering(consensus.propose)
        self._writing_alone = False
        self._reads = Gathering(self._answer_behind_barrier)
        self._fresh_at = time.monotonic()
        self.beacons = beacons.Beacons(config.member_id, consensus)
        self._peer_answers: Mapping[bytes, Handler] = {
            _REPORT: self._answer_report,
            beacons.ASK: self.beacons.hear,
        }
        consensus.on_ask(self._answer_peer)
        consensus.on_applied(self._note_freshness)

    # Writes and reads

    async def submit(self, requests: Sequence[tuple[bytes, Command]], deadline: float) -> list[bytes]:
        """Agree on commands with their 16-byte request ids; one encoded result each, in order.

        Raises NoQuorum, OutcomeUnknown, NotReady: then for all of them.
        """
        encoded = [encode_request(*request) for request in requests]
        if self._writing_alone:
            return await self._writes.call(encoded, deadline)
        # A lone write does not wait for the next turn of the loop; while it is under way, others gather.
        self._writing_alone = True
        try:
            return await self.consensus.propose(encoded, deadline)
        finally:
            self._writing_alone = False

    async def query(
        self, queries: Sequence[Query], consistency: Consistency, deadline: float
    ) -> list[Any | RaftosError]:
        """Answer queries, in order; a query that fails gives its error in its place.

        Linearizable: contains every write acknowledged before this call, or raises NoQuorum.
        """
        if consistency == "stale":
            return await self._answer_queries(queries)
        return await self._reads.call(queries, deadline)

    async def due(self, now_ms: int) -> list[Command]:
        """What the domains want proposed because it is `now_ms` of cluster time; from this member's state."""
        return await self._on_thread(self._thread_reader.due, now_ms)

    async def past_events(self, after_revision: int, most_bytes: int) -> events.Page:
        """The events kept after a revision, about `most_bytes` of them. Raises NotReady."""
        return await self._on_thread(self._thread_reader.events, after_revision, most_bytes)

    def latest_events(self, after_revision: int, most_bytes: int) -> events.Page:
        """The same without waiting: up to the last one applied, unless it says that there are more."""
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
        )

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
        return _encode(self.report())

    # The cluster, as seen from here

    async def reports(self) -> dict[str, Report]:
        """The reports of all members that answer within 300 ms, this one's own among them."""
        status = self.consensus.status()
        others = [peer for peer in (*status.voters, *status.learners) if peer != self.config.member_id]
        answers = await asyncio.gather(*map(self._ask_report, others))
        found = {peer: report for peer, report in zip(others, answers, strict=True) if report}
        return {self.config.member_id: self.report(), **found}

    async def _ask_report(self, member_id: str) -> Report | None:
        try:
            return _decode_report(await self.consensus.ask(member_id, _REPORT, ASK_TIMEOUT_S))
        except (Unavailable, TimeoutError, msgspec.MsgspecError):
            return None  # Whatever the reason, it did not answer: the caller lists it so.

    async def status(self) -> StatusView:
        """The whole cluster, asking every member; takes at most about 300 ms."""
        reports = await self.reports()
        status = self.consensus.status()
        newest = max(reports.values(), key=lambda report: (report.term, report.leader_id is not None))
        records = self.records()
        nodes = [
            self._node_view(
                status, newest.leader_id, member_id, reports.get(member_id), records.get(member_id)
            )
            for member_id in dict.fromkeys((*status.voters, *status.learners, *records))
        ]
        return StatusView(
            cluster=self.config.cluster,
            leader=self.name_of(newest.leader_id) if newest.leader_id else None,
            term=newest.term,
            commit_index=max(report.commit_index for report in reports.values()),
            nodes=sorted(nodes, key=lambda node: node.name),
            alarms=quota.alarms(self.machine.tallies, self.machine.limits),
        )

    def records(self) -> dict[str, Any]:
        """What the cluster has agreed about its members, by id; from this member's own state."""
        [records] = _answer_all(self._loop_reader, [members.List()])
        return {} if isinstance(records, RaftosError) else {record.id: record for record in records.items}

    def _node_view(
        self, status: Status, leader_id: str | None, member_id: str, report: Report | None, record: Any
    ) -> NodeView:
        known = record or self.config.voter(member_id)
        view = NodeView(
            id=member_id,
            name=known.name if known else member_id,
            role=_role_of(member_id, leader_id, status),
            state=_state_of(member_id, status, record),
            endpoint=known.endpoint if known else "",
            version=(record.version or None) if record else None,
        )
        if report is None:
            return view
        return msgspec.structs.replace(
            view,
            state="alive",
            applied_index=report.applied_index,
            synced_index=report.synced_index,
            version=report.version,
            load=report.load,
            trouble=report.trouble,
            state_hash=report.state_hash,
        )

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
        """Hand leadership to a member (name or id), or to the best follower; the new leader's name."""
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
        for known in (*self.records().values(), *self.config.voters):
            if name_or_id in {known.id, known.name}:
                return str(known.id)
        raise NotFound(f"no member is called {name_or_id!r}; `raftos node ls` lists them")

    async def register(self) -> None:
        """Tell the cluster who and where this member is, unless it knows.

        Raises Unavailable, or Conflict when the name belongs to another member.
        """
        deadline = time.monotonic() + self.config.request_timeout_ms / 1000
        own = members.Register(
            id=self.config.member_id,
            name=self.config.name,
            endpoint=self.endpoint,
            peer_address=self.config.peer_address,
            version=self.version,
        )
        [known] = await self.query([members.Get(id=own.id)], "linearizable", deadline)
        wanted = {**msgspec.structs.asdict(own), "state": "alive"}
        if isinstance(known, RaftosError) or not wanted.items() <= msgspec.structs.asdict(known).items():
            [result] = await self.submit([(self.new_request_id(), own)], deadline)
            if not is_ok(result):
                raise refusal_of(result)

    def close(self) -> None:
        self.beacons.close()
        self._thread.shutdown(cancel_futures=True)
        self._thread_reader.close()
        self._loop_reader.close()


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


def _answer_all(reader: Reader, queries: Sequence[Query]) -> list[Any | RaftosError]:
    return [_answer_one(reader, query) for query in queries]


def _answer_one(reader: Reader, query: Query) -> Any | RaftosError:
    try:
        return reader.query(query)
    except RaftosError as error:
        return error


def diverged(reports: Mapping[str, Report]) -> int | None:
    """An index at which members report different states, which must never be; None when there is none."""
    hashes: dict[int, str] = {}
    for report in reports.values():
        stamp = report.state_hash
        if hashes.setdefault(stamp.index, stamp.hash) != stamp.hash:
            return stamp.index
    return None


def refusal_of(result: bytes) -> RaftosError:
    """The error that an encoded result other than `Ok` stands for."""
    match decode_result(result):
        case Rejected(code=code, message=message):
            return error_for(code, message)
        case Failed(message=message):
            return Fault(message)
        case ok:
            return Fault(f"{ok!r} is not a refusal")
