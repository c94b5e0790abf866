"""The replica in the world: one event loop, one disk thread, the peers' links.

The driver owns no protocol. It feeds the replica what happens (frames, links, syncs, calls, time)
and does what the replica's output says, always in this order: send the frames, give the disk its
next write, apply what is committed, end the calls. Inputs that arrive in one turn of the loop are
concluded by one step.

Failures are states: a full disk stops acknowledgements until there is space; a machine that cannot
apply keeps the entry and tries again; a failed fdatasync or a broken promise ends the process
(`Driver.failed`), because going on could lose data.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog

from raftos.config import Config
from raftos.consensus import messages
from raftos.consensus.base import Handler, Role, Status
from raftos.consensus.core import Output, Timings
from raftos.consensus.disk import Disk
from raftos.consensus.journal import DiskFull, FileStorage, Identity, Journal, JournalFailed, Write
from raftos.consensus.messages import Answered, Asked, Message
from raftos.consensus.proposals import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, MAX_PROPOSAL_BYTES
from raftos.consensus.replica import Replica
from raftos.consensus.replication import NOTICE_S
from raftos.consensus.transport import Transport
from raftos.errors import (
    NoQuorum,
    NotReady,
    OutcomeUnknown,
    RaftosError,
    StartupError,
    Unreachable,
    error_for,
)
from raftos.state.machine import CannotApply, Machine

_LEADERLESS_TICK_S = 0.01
"""An election is decided in steps of this; a calm member looks twice in a heartbeat."""
_TURN_S = 0.02
"""After so long others have their turn: a member may have a gigabyte to apply, and still has to be heard."""
_RETRY_S = 0.25
"""How often a full disk is tried again."""
_MEMBER, _DRIVER = 0, 1
"""Channels of `ask`: the member's handler, and the driver's own (leadership transfer)."""

log = structlog.get_logger("raftos.consensus")


class Driver:
    """The consensus of one member: implements `base.Consensus` on asyncio."""

    def __init__(self, config: Config, secret: bytes, machine: Machine) -> None:
        self._config = config
        self._secret = secret
        self._machine = machine
        self._timings = Timings(config.heartbeat_ms / 1000, config.election_timeout_ms / 1000)
        self._replica: Replica
        self._journal: Journal
        self._transport: Transport
        self._loop: asyncio.AbstractEventLoop
        self._disk: Disk
        self._writing = False
        self._disk_trouble: str | None = None
        self._apply_trouble: str | None = None
        self._distrust: str | None = None
        self._stuck: list[tuple[int, bytes]] = []
        self._kicked = self._running = self._waking = self._stopped = self._started = False
        self._timer: asyncio.TimerHandle | None = None
        self._handler: Handler | None = None
        self._calls: set[asyncio.Future[Any]] = set()
        self._questions: dict[int, asyncio.Future[bytes]] = {}
        self._question_id = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._role_listeners: list[Callable[[Role, int], None]] = []
        self._applied_listeners: list[Callable[[int], None]] = []
        self._last_role: tuple[Role, int] = (Role.FOLLOWER, 0)
        self.failed: asyncio.Future[None]
        """Ends with the exception that stopped this member for good; the process must end."""

    # The port.

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.failed = self._loop.create_future()
        config = self._config
        self._journal = self._open_journal()
        if self._journal.last_index < self._machine.applied_index:
            raise StartupError(
                f"the journal in {config.data_dir} ends at entry {self._journal.last_index}, but the state "
                f"has applied {self._machine.applied_index}: log entries are missing; remove this member "
                "and let it rejoin under a new id with an empty data directory"
            )
        self._replica = Replica(
            member_id=config.member_id,
            voters=[voter.id for voter in config.voters],
            journal=self._journal,
            applied_index=self._machine.applied_index,
            time_ms=self._machine.time_ms,
            wall_ms=int(time.time() * 1000),
            now=time.monotonic(),
            random=random.Random(),  # noqa: S311 - election jitter is no secret
            timings=self._timings,
        )
        self._replica.troubled(time.monotonic(), self._distrust)
        self._transport = Transport(
            member_id=config.member_id,
            cluster_id=config.cluster_id,
            secret=self._secret,
            listen_address=config.peer_address,
            peers={voter.id: voter.peer_address for voter in config.voters if voter.id != config.member_id},
            listener=self,
        )
        await self._transport.start()
        self._disk = Disk(self._loop.call_soon_threadsafe, (DiskFull, JournalFailed))
        self._started = True
        self._tick()

    def _open_journal(self) -> Journal:
        folder = Path(self._config.data_dir) / "journal"
        try:
            storage = FileStorage(folder)
        except OSError as error:
            raise StartupError(f"cannot use the journal folder {folder}: {error.strerror}") from error
        return Journal.open(storage, Identity(self._config.cluster_id, self._config.member_id))

    async def stop(self) -> None:
        self._stopped = True
        for call in self._calls:
            if not call.done():
                call.set_exception(OutcomeUnknown("this member stopped; send the request again to another"))
        if self._timer is not None:
            self._timer.cancel()
        for task in self._answering:
            task.cancel()
        await self._transport.stop()
        await self._loop.run_in_executor(None, self._disk.stop)
        self._journal.close()

    async def propose(self, requests: Sequence[bytes], deadline: float) -> list[bytes]:
        now = time.monotonic()
        calls: list[asyncio.Future[Any]] = []
        for chunk in _chunks(requests):
            call = self._new_call()
            self._replica.propose(now, call, chunk, deadline)
            calls.append(call)
        self._kick()
        if len(calls) == 1:
            only: list[bytes] = await calls[0]
            return only
        return _joined(await asyncio.gather(*calls, return_exceptions=True))

    async def read_barrier(self, deadline: float) -> int:
        trouble = self._replica.core.trouble
        if trouble is not None:
            raise NotReady(f"this member cannot catch up: {trouble}; ask another member")
        call = self._new_call()
        self._replica.read_barrier(time.monotonic(), call, deadline)
        self._kick()
        index: int = await call
        return index

    async def transfer(self, target_id: str | None, deadline: float) -> str:
        leader = self._replica.core.leader
        timeout_s = max(0.0, deadline - time.monotonic())
        if leader is not None and leader != self._config.member_id:
            body = msgspec.msgpack.encode((target_id, timeout_s))
            return (await self._ask(leader, _DRIVER, body, timeout_s + 0.2)).decode()
        call = self._new_call()
        self._replica.transfer(time.monotonic(), call, target_id, deadline)
        self._kick()
        new_leader: str = await call
        return new_leader

    def _new_call(self) -> asyncio.Future[Any]:
        call: asyncio.Future[Any] = self._loop.create_future()
        self._calls.add(call)
        return call

    async def ask(self, member_id: str, body: bytes, timeout_s: float) -> bytes:
        return await self._ask(member_id, _MEMBER, body, timeout_s)

    def on_ask(self, handler: Handler) -> None:
        self._handler = handler

    def on_role(self, listener: Callable[[Role, int], None]) -> None:
        self._role_listeners.append(listener)

    def on_applied(self, listener: Callable[[int], None]) -> None:
        self._applied_listeners.append(listener)

    def distrust(self, sentence: str) -> None:
        if self._started:
            self._trouble(distrust=sentence)
        else:
            self._distrust = sentence

    def watching(self, watching: bool) -> None:
        self._replica.watching = watching

    def cluster_time_ms(self) -> int:
        return self._replica.cluster_time_ms(time.monotonic())

    def status(self) -> Status:
        return self._replica.status()

    # What happens: links, frames, time, syncs.

    def linked(self, peer: str, generation: int) -> None:
        log.info("peer linked", peer=peer, generation=generation)
        self._replica.linked(time.monotonic(), peer, generation)
        self._kick()

    def unlinked(self, peer: str, generation: int) -> None:
        log.info("peer unlinked", peer=peer, generation=generation)
        self._replica.unlinked(time.monotonic(), peer, generation)
        self._kick()
        self._loop.call_soon(self._tick_later)

    def received(self, peer: str, generation: int, frames: list[bytes]) -> None:
        """Messages of one link. Raises `msgspec.MsgspecError` for a malformed frame: the link closes."""
        now = time.monotonic()
        try:
            for frame in frames:
                message = messages.decode(frame)
                if isinstance(message, Asked):
                    self._answer(peer, generation, message)
                elif isinstance(message, Answered):
                    self._answered(message)
                elif self._replica.received(now, peer, generation, message):
                    self._kick()
        except msgspec.MsgspecError:
            raise
        except Exception as failure:  # noqa: BLE001 - as in `_run`
            self._fail(failure)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._replica.tick(time.monotonic())
        except Exception as failure:  # noqa: BLE001 - as in `_run`
            self._fail(failure)
        self._kick()
        self._tick_later()

    def _tick_later(self) -> None:
        """Plan the next look. One that is nearer stays, or links that come and go would put it off."""
        calm_s = self._timings.heartbeat_s / 2
        calm = self._replica.core.leader is not None
        due = self._loop.time() + (calm_s if calm else min(calm_s, _LEADERLESS_TICK_S))
        if self._stopped or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._tick)

    def _kick(self) -> None:
        if not self._kicked and not self._stopped:
            self._kicked = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._kicked = False
        if self._stopped or self.failed.done():
            return
        began = time.monotonic()
        self._running = True
        try:
            self._replica.step(began)
            while output := self._replica.take():
                self._conclude(output)
                if time.monotonic() - began > _TURN_S:
                    self._kick()
                    break
            self._write_and_promise()
        except Exception as failure:  # noqa: BLE001 - whatever it is, a half-done step must not be followed by another
            self._fail(failure)
        self._running = False
        self._tell_role()
        self._wake_for_notices()

    def _wake_for_notices(self) -> None:
        if self._replica.replication.has_news and not self._waking:
            self._waking = True
            self._loop.call_later(NOTICE_S, self._wake)

    def _wake(self) -> None:
        self._waking = False
        self._kick()

    def _conclude(self, output: Output) -> None:
        self._send(output.frames)
        self._write_and_promise()
        self._end_calls(output)
        if output.committed:
            self._stuck.extend(output.committed)
        if self._stuck and self._apply_trouble is None:
            self._apply()

    def _end_calls(self, output: Output) -> None:
        for token, value in output.done:
            call: Any = token
            self._calls.discard(call)
            if call.done():
                continue
            if isinstance(value, RaftosError):
                call.set_exception(value)
            else:
                call.set_result(value)

    def _tell_role(self) -> None:
        present = (self._replica.role, self._replica.core.term)
        if present != self._last_role:
            log.info("role changed", role=str(present[0]), term=present[1], leader=self._replica.core.leader)
            self._last_role = present
            for listener in self._role_listeners:
                listener(*present)

    def _fail(self, failure: Exception) -> None:
        log.critical("this member stops: going on could lose data", reason=str(failure), exc_info=failure)
        if not self.failed.done():
            self.failed.set_exception(failure)

    # What is to be done: send, write, apply.

    def _send(self, frames: list[tuple[str, int, Message]]) -> None:
        if not frames:
            return
        links: dict[tuple[str, int], list[bytes]] = {}
        last: Message | None = None
        for peer, generation, message in frames:
            if message is not last:
                # Followers that lack the same are sent the same append: it is encoded once.
                frame, last = messages.encode(message), message
            links.setdefault((peer, generation), []).append(frame)
        for (peer, generation), encoded in links.items():
            self._transport.send(peer, generation, encoded)

    def _write_and_promise(self) -> None:
        """Before anything is applied: peers wait for what became durable in place."""
        self._write()
        self._send(self._replica.take_frames())

    def _write(self) -> None:
        write = None if self._writing else self._journal.take()
        if write is not None:
            self._writing = True
            self._write_down(write)

    def _write_down(self, write: Write) -> None:
        self._disk.run(
            lambda: self._journal.writer.write(write),
            len(write.data),
            lambda failure: self._written(write, failure),
        )

    def _written(self, write: Write, failure: Exception | None) -> None:
        if self._stopped:
            return
        if isinstance(failure, DiskFull):
            self._trouble(disk=str(failure))
            self._loop.call_later(_RETRY_S, self._write_down, write)
        elif failure is not None:
            self._fail(failure)
        else:
            self._writing = False
            self._journal.finish(write)
            self._trouble(disk=None)
            if self._replica.synced(time.monotonic()) or not self._running:
                self._kick()

    def _apply(self) -> None:
        entries = self._stuck
        try:
            results = self._machine.apply(entries)
        except CannotApply as error:
            self._trouble(apply=str(error))
            self._loop.call_later(_RETRY_S, self._apply_again)
            return
        self._stuck = []
        self._trouble(apply=None)
        now = time.monotonic()
        indexes = (index for index, _ in entries)
        self._replica.applied(now, list(zip(indexes, results, strict=True)), self._machine.time_ms)
        self._replica.step(now)
        for listener in self._applied_listeners:
            listener(entries[-1][0])

    def _apply_again(self) -> None:
        if not self._stopped and self._stuck:
            try:
                self._apply()
            except Exception as failure:  # noqa: BLE001 - as in `_run`
                self._fail(failure)
            self._kick()

    _UNCHANGED = ""

    def _trouble(
        self,
        *,
        disk: str | None = _UNCHANGED,
        apply: str | None = _UNCHANGED,
        distrust: str | None = _UNCHANGED,
    ) -> None:
        before = self._distrust or self._disk_trouble or self._apply_trouble
        if distrust != self._UNCHANGED:
            self._distrust = distrust
        if disk != self._UNCHANGED:
            self._disk_trouble = disk
        if apply != self._UNCHANGED:
            self._apply_trouble = apply
        after = self._distrust or self._disk_trouble or self._apply_trouble
        if after != before:
            log.error("trouble", reason=after or "none any more")
            self._replica.troubled(time.monotonic(), after)
            self._kick()

    # Soft questions between members.

    async def _ask(self, member_id: str, channel: int, body: bytes, timeout_s: float) -> bytes:
        self._question_id += 1
        question, call = self._question_id, self._loop.create_future()
        self._questions[question] = call
        generation = self._replica.core.links.get(member_id)
        frame = messages.encode(Asked(question, channel, body))
        try:
            if generation is None or not self._transport.send(member_id, generation, [frame]):
                raise Unreachable(f"member {member_id} is not connected")
            return await asyncio.wait_for(call, timeout_s)
        except TimeoutError:
            raise Unreachable(f"member {member_id} did not answer within {timeout_s:.1f} s") from None
        finally:
            del self._questions[question]

    def _answered(self, message: Answered) -> None:
        call = self._questions.get(message.id)
        if call is not None and not call.done():
            if message.error:
                call.set_exception(error_for(*msgspec.msgpack.decode(message.body, type=tuple[str, str])))
            else:
                call.set_result(message.body)

    def _answer(self, peer: str, generation: int, message: Asked) -> None:
        task = self._loop.create_task(self._answer_in_task(peer, generation, message))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer_in_task(self, peer: str, generation: int, message: Asked) -> None:
        try:
            answer = Answered(message.id, False, await self._body_for(peer, message))
        except RaftosError as error:
            answer = Answered(message.id, True, msgspec.msgpack.encode((error.code, error.message)))
        self._transport.send(peer, generation, [messages.encode(answer)])

    async def _body_for(self, peer: str, message: Asked) -> bytes:
        if message.channel == _DRIVER:
            target, timeout_s = msgspec.msgpack.decode(message.body, type=tuple[str | None, float])
            if not self._replica.core.is_leader:
                raise Unreachable("this member does not lead (any more); try again")
            return (await self.transfer(target, time.monotonic() + timeout_s)).encode()
        if self._handler is None:
            raise Unreachable("this member is still starting")
        return await self._handler(peer, message.body)


def _joined(outcomes: Sequence[list[bytes] | BaseException]) -> list[bytes]:
    """The results of all parts of one call. Raises NoQuorum only if it is true of every part."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if not failures:
        return [result for results in outcomes for result in cast("list[bytes]", results)]
    if len(failures) == len(outcomes) and all(isinstance(failure, NoQuorum) for failure in failures):
        raise failures[0]
    raise OutcomeUnknown(
        "some of these writes may be applied and others not; send them again with the same request ids"
    ) from failures[0]


def _chunks(requests: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Cut a long list so that each part fits into one log entry."""
    if len(requests) <= MAX_BATCH_REQUESTS and sum(map(len, requests)) <= MAX_PROPOSAL_BYTES:
        return [requests]
    chunks: list[Sequence[bytes]] = []
    chunk: list[bytes] = []
    size = 0
    for request in requests:
        if chunk and (len(chunk) == MAX_BATCH_REQUESTS or size + len(request) > MAX_BATCH_BYTES):
            chunks.append(chunk)
            chunk, size = [], 0
        chunk.append(request)
        size += len(request)
    return [*chunks, chunk]
