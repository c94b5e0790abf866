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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from raftos.config import Config
from raftos.consensus import messages
from raftos.consensus.base import Expelled, Handler, Role, Status
from raftos.consensus.calls import Calls, Handover, LeaderCall, chunks, decode_call, encode_call, joined
from raftos.consensus.configuration import Change, Configuration, encode
from raftos.consensus.core import Output, Timings
from raftos.consensus.disk import Disk, Removals
from raftos.consensus.journal import DiskFull, Write
from raftos.consensus.keeper import HeldSnapshot, Keeper, Policy
from raftos.consensus.messages import Answered, Asked, Malformed, Message, SnapshotPiece, SnapshotWanted
from raftos.consensus.opening import Opened, first_configuration
from raftos.consensus.questions import Questions
from raftos.consensus.replica import Replica
from raftos.consensus.replication import NOTICE_S
from raftos.consensus.snapshots import Stored
from raftos.consensus.transport import Transport, check_peer
from raftos.consensus.worker import Worker
from raftos.errors import (
    NotReady,
    RaftosError,
    StartupError,
    Unreachable,
)
from raftos.state.machine import CannotApply

_LEADERLESS_TICK_S = 0.01
"""An election is decided in steps of this; a calm member looks twice in a heartbeat."""
_TURN_S = 0.02
"""After so long others have their turn: a member may have a gigabyte to apply, and still has to be heard."""
_RETRY_S = 0.25
"""How often a full disk is tried again."""
_FAREWELL_S = 1.0
"""How long a removed member stays linked, so that it hears of it."""
_MEMBER, _DRIVER = 0, 1
"""Channels of `ask`: the member's handler, and the driver's own (what only the leader does)."""

log = structlog.get_logger("raftos.consensus")


class Driver:
    """The consensus of one member: implements `base.Consensus` on asyncio."""

    def __init__(
        self,
        config: Config,
        secret: bytes,
        opened: Opened,
        *,
        addresses: Mapping[str, str] | None = None,
        version: str = "",
    ) -> None:
        """`addresses` is where members, by id, were last known to listen for their peers."""
        self._config = config
        known = (addresses or {}).items()
        self._addresses = {peer: address for peer, address in known if _can_be_dialled(peer, address)}
        self._secret = secret
        self._version = version
        self._journal, self._snapshots, self._machine = opened.journal, opened.snapshots, opened.machine
        self._timings = Timings(config.heartbeat_ms / 1000, config.election_timeout_ms / 1000)
        self._replica: Replica
        self._keeper: Keeper
        self._transport: Transport
        self._loop: asyncio.AbstractEventLoop
        self._disk: Disk
        self._removals: Removals
        self._writing = False
        self._disk_trouble: str | None = None
        self._apply_trouble: str | None = None
        self._distrust: str | None = None
        self._stuck: list[tuple[int, bytes]] = []
        self._kicked = self._running = self._waking = self._stopped = self._started = False
        self._timer: asyncio.TimerHandle | None = None
        self._handler: Handler | None = None
        self._calls = Calls()
        self._questions: Questions
        self._worker: Worker
        self._followed: Configuration | None = None
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
        self._replica = Replica(
            member_id=config.member_id,
            configuration=first_configuration(config),
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
            peers=self._peers(),
            listener=self,
            advertise_address=config.advertised_peer_address,
            build=self._version,
        )
        self._questions = Questions(self._transport.send, self._answer)
        self._disk = Disk(self._loop.call_soon_threadsafe)
        self._removals = Removals(self._disk, self._journal.writer.remove, self._not_removed)
        self._worker = Worker(self._fail)
        self._keeper = Keeper(
            self,
            self._snapshots,
            self._journal,
            self._machine,
            self._replica,
            Policy(
                config.snapshot_log_bytes,
                keep=config.snapshot_keep,
                interval_s=config.snapshot_interval_ms / 1000,
            ),
            first=None if config.joined else encode(first_configuration(config)),
            version=self._version,
        )
        await self._transport.start()
        self._started = True
        self._tick()

    def _peers(self) -> dict[str, str]:
        """Where each other member is thought to be: as configured, as it joined, as it registered itself."""
        peers = {voter.id: voter.peer_address for voter in self._config.voters}
        peers.update(_dialled(self._replica.core.configuration))
        peers.update(self._addresses)
        wanted = self._replica.core.followers or peers.keys()
        return {
            peer: peers[peer] for peer in sorted(peers) if peer in wanted and peer != self._config.member_id
        }

    async def stop(self) -> None:
        self._stopped = True
        self._calls.abandon()
        if self._timer is not None:
            self._timer.cancel()
        self._questions.stop()
        await self._transport.stop()
        await self._worker.stop()
        await self._loop.run_in_executor(None, self._disk.stop)
        self._journal.close()
        self._snapshots.close()

    async def propose(self, requests: Sequence[bytes], deadline: float) -> list[bytes]:
        now = time.monotonic()
        calls: list[asyncio.Future[Any]] = []
        for chunk in chunks(requests):
            call = self._calls.new()
            self._replica.propose(now, call, chunk, deadline)
            calls.append(call)
        self._kick()
        if len(calls) == 1:
            only: list[bytes] = await calls[0]
            return only
        return joined(await asyncio.gather(*calls, return_exceptions=True))

    async def read_barrier(self, deadline: float) -> int:
        trouble = self._replica.core.trouble or self._keeper.trouble
        if trouble is not None:
            raise NotReady(f"this member cannot catch up: {trouble}; ask another member")
        call = self._calls.new()
        self._replica.read_barrier(time.monotonic(), call, deadline)
        self._kick()
        index: int = await call
        return index

    async def transfer(self, target_id: str | None, deadline: float) -> str:
        new_leader: str = await self._for_leader(Handover(target_id), deadline)
        return new_leader

    async def change(self, change: Change, deadline: float) -> int:
        index: int = await self._for_leader(change, deadline)
        return index

    async def snapshot(self, deadline: float) -> HeldSnapshot:
        made: asyncio.Future[Stored] = self._loop.create_future()

        def done(stored: Stored | RaftosError) -> None:
            if made.done():
                return  # Whoever asked has gone.
            if isinstance(stored, RaftosError):
                made.set_exception(NotReady(stored.message))
            else:
                made.set_result(stored)

        self._keeper.want(self._machine.applied_index, done)
        try:
            async with asyncio.timeout_at(self._loop.time() + deadline - time.monotonic()):
                stored = await made
        except TimeoutError:
            raise NotReady("a snapshot could not be made in time; try again with more time") from None
        return HeldSnapshot(self._snapshots, stored)

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
            self._keeper.distrust(sentence)
            self._trouble(distrust=sentence)
        else:
            self._distrust = sentence

    def watching(self, watching: bool) -> None:
        self._replica.watching = watching

    def cluster_time_ms(self) -> int:
        return self._replica.cluster_time_ms(time.monotonic())

    def status(self) -> Status:
        status = self._replica.status()
        trouble = status.trouble or self._keeper.trouble
        return status if trouble is None else msgspec.structs.replace(status, trouble=trouble)

    # What happens: links, frames, time, syncs.

    def linked(self, peer: str, generation: int, level: int = 1) -> None:
        self._replica.linked(time.monotonic(), peer, generation, level)
        self._kick()

    def unlinked(self, peer: str, generation: int) -> None:
        self._replica.unlinked(time.monotonic(), peer, generation)
        self._kick()
        self._loop.call_soon(self._tick_later)

    def hearing(self, peer: str, generation: int) -> None:
        """Part of a long frame arrived: its sender lives."""
        self._replica.hearing(time.monotonic(), peer, generation)
        self._kick()

    def moved(self, peer: str, address: str) -> None:
        """A peer tells its address, which the transport dials by itself from now on."""
        self._addresses[peer] = address

    def received(self, peer: str, generation: int, frames: list[bytes]) -> None:
        """Messages of one link. Raises Malformed for what is none: the link closes."""
        now = time.monotonic()
        try:
            for frame in frames:
                message = messages.decode(frame)
                if isinstance(message, Asked):
                    self._questions.asked(peer, generation, message)
                elif isinstance(message, Answered):
                    self._questions.answered(message)
                elif isinstance(message, SnapshotWanted | SnapshotPiece):
                    self._keeper.received(peer, generation, message)
                elif self._replica.received(now, peer, generation, message):
                    self._kick()
        except Malformed:
            raise
        except Exception as failure:  # noqa: BLE001 - as in `_run`
            self._fail(failure)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._replica.tick(time.monotonic())
            self._keeper.tick()
            if self._machine.sync_trouble and not self.failed.done():
                self._fail(CannotApply(self._machine.sync_trouble))
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
            if self._replica.core.configuration is not self._followed:
                self._follow_configuration()
        except Exception as failure:  # noqa: BLE001 - whatever it is, a half-done step must not be followed by another
            self._fail(failure)
        self._running = False
        if self._replica.core.expelled is not None:
            self._leave(self._replica.core.expelled)
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
        self._calls.end(output.done)
        if output.offers:
            self._keeper.offered(output.offers)
        if output.committed:
            self._stuck.extend(output.committed)
        if self._stuck and self._apply_trouble is None:
            self._apply()

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
            self._calls.abandon()

    def _follow_configuration(self) -> None:
        """Dial whom the configuration names, and let go of those that it does not name any more."""
        before, self._followed = self._followed, self._replica.core.configuration
        log.info("configuration", voters=self._followed.voters, learners=self._followed.learners)
        for peer, address in _dialled(self._followed).items():
            if before is None or before.peer(peer) is None:
                self._transport.set_peer(peer, self._addresses.get(peer, address))
        for peer_id in self._followed.removed:
            # Not at once: it is to be told first.
            self._loop.call_later(_FAREWELL_S, self._part_with, peer_id)

    def _part_with(self, peer_id: str) -> None:
        """Let go of a removed member, unless its removal, not agreed on as yet, was undone meanwhile."""
        if peer_id in self._replica.core.configuration.removed and not self._stopped:
            self._transport.drop_peer(peer_id)

    def _leave(self, why: str) -> None:
        if not self.failed.done():
            log.critical("this member stops: it was removed", reason=why)
            self.failed.set_exception(Expelled(why))
            self._calls.abandon()

    # What the keeper of snapshots needs done.

    def now(self) -> float:
        return time.monotonic()

    def send(self, peer: str, generation: int, message: Message) -> None:
        self._transport.send(peer, generation, [messages.encode(message)])

    def work(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def concluded(value: Any) -> None:
            done(value)
            self._kick()

        self._worker.work(job, concluded)

    def remove_segments(self, names: list[str]) -> None:
        self._removals.add(names)

    def _not_removed(self, failure: Exception) -> None:
        if isinstance(failure, DiskFull) and not self._stopped:
            self._loop.call_later(_RETRY_S, self._removals.go_on)
        elif not self._stopped:
            self._fail(failure)

    def exchange(self, path: Path, stored: Stored) -> None:
        """The state becomes that of a snapshot; what was handed over to be applied before is part of it."""
        self._machine.replace(path)
        self._stuck = []
        self._trouble(apply=None)
        header = stored.header
        self._replica.install(
            time.monotonic(), header.index, header.term, header.configuration or None, self._machine.time_ms
        )
        for listener in self._applied_listeners:
            listener(header.index)

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

    # Calls of other members.

    async def _answer(self, peer: str, channel: int, body: bytes) -> bytes:
        if channel == _DRIVER:
            if not self._replica.core.is_leader:
                raise Unreachable("this member does not lead (any more); try again")
            call, timeout_s = decode_call(body)
            return msgspec.msgpack.encode(await self._lead(call, time.monotonic() + timeout_s))
        if self._handler is None:
            raise Unreachable("this member is still starting")
        return await self._handler(peer, body)

    async def _for_leader(self, call: LeaderCall, deadline: float) -> Any:
        """Have the leader do it, whoever that is. Raises what it refuses with, Unreachable, NoQuorum."""
        leader = self._replica.core.leader
        if leader is None or leader == self._config.member_id:
            return await self._lead(call, deadline)
        timeout_s = max(0.0, deadline - time.monotonic())
        answer = await self._ask(leader, _DRIVER, encode_call(call, timeout_s), timeout_s + 0.2)
        return msgspec.msgpack.decode(answer)

    async def _lead(self, call: LeaderCall, deadline: float) -> Any:
        waiting, now = self._calls.new(), time.monotonic()
        if isinstance(call, Handover):
            self._replica.transfer(now, waiting, call.target_id, deadline)
        else:
            self._replica.change(now, waiting, call, deadline)
        self._kick()
        return await waiting

    async def _ask(self, peer: str, channel: int, body: bytes, timeout_s: float) -> bytes:
        generation = self._replica.core.links.get(peer)
        return await self._questions.ask(peer, generation, channel, body, timeout_s)


def _dialled(configuration: Configuration) -> dict[str, str]:
    """The addresses of those in a configuration that can be dialled."""
    return {
        peer.id: peer.address
        for peer in configuration.peers
        if peer.address and _can_be_dialled(peer.id, peer.address)
    }


def _can_be_dialled(peer: str, address: str) -> bool:
    """Whatever was agreed on once must not keep this member from starting, nor from linking with others."""
    try:
        check_peer(peer, address)
    except StartupError as error:
        log.warning("a member cannot be dialled; remove it, or have it register again", reason=error.message)
        return False
    return True
