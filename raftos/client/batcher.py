"""Concurrent calls become few requests.

A call that finds the line free leaves at once. While `FLIGHTS` requests are under way, later calls
gather, and the next request takes all of them, up to `BATCH_ITEMS` calls and `BATCH_BYTES`: the busier
the client, the larger its batches, with no timer that an idle client would have to wait for.

One **flight** carries one batch through as many attempts as it needs. Each call in it is answered by
itself; those that may be retried fly again, with the same request ids, to the next member. A call
whose caller has gone, or whose deadline has passed, is left behind.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from raftos.client.connection import Answer, Broken
from raftos.client.pool import MSGPACK, Attempts, Pool, Request, error_from
from raftos.errors import ErrorBody, Expired, Fault, OutcomeUnknown, RaftosError, TooLarge
from raftos.state.command import REQUEST_ID_BYTES, Command, Query

FLIGHTS = 2
BATCH_ITEMS = 512
BATCH_BYTES = 1024 * 1024
CALL_BYTES = 4 * 1024 * 1024 - 1024
"""One call alone may fill a request up to the members' limit of 4 MiB."""
LAST_WORD_S = 0.02
"""An attempt ends with its deadline and then says how; only then does the deadline speak."""

_encode = msgspec.msgpack.Encoder().encode
_COMMAND_HEAD = b"\x82\xaarequest_id\xc4\x10"
_COMMAND_BODY = b"\xa7command"
_QUERY_HEAD = b"\x82\xa5query"
_LINEARIZABLE = b"\xabconsistency" + _encode("linearizable")
_STALE = b"\xabconsistency" + _encode("stale")


Outcome = msgspec.Raw | RaftosError


class _Result(msgspec.Struct, frozen=True):
    ok: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: ErrorBody | None = None


class _Batch(msgspec.Struct, frozen=True):
    results: list[_Result]


_decode_batch = msgspec.msgpack.Decoder(_Batch).decode


class Call(Attempts, eq=False, kw_only=True):
    """One command or query on its way. `answer` becomes the encoded value, or an error."""

    item: bytes
    answer: asyncio.Future[msgspec.Raw]
    minted_again: bool = False

    def fail(self, error: RaftosError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def mint_again(self, request_id: bytes) -> None:
        """Take a new request id, for a command whose old one certainly was never applied."""
        start = len(_COMMAND_HEAD)
        self.item = self.item[:start] + request_id + self.item[start + REQUEST_ID_BYTES :]
        self.minted_again = True


class _Flight:
    """The calls of one batch; `in_flight` while an attempt is under way that may apply them."""

    __slots__ = ("calls", "in_flight", "task")

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self.in_flight = False
        self.task: asyncio.Task[None] | None = None


class Batcher:
    """One line of calls to the cluster. Every method belongs to one event loop."""

    def __init__(self, pool: Pool, *, timeout_s: float, attempt_timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._attempt_timeout_s = attempt_timeout_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Call] = deque()
        self._flights: set[_Flight] = set()
        self._launching = False
        self._deadline_timer: asyncio.TimerHandle | None = None

    def command(self, command: Command) -> Call:
        """Send a command with a fresh request id. Raises TooLarge."""
        head = _COMMAND_HEAD + self._pool.clock.mint() + _COMMAND_BODY
        return self._send(head + _encode(command), may_write=True)

    def query(self, query: Query, *, stale: bool) -> Call:
        """Send a query. Raises TooLarge."""
        item = b"".join((_QUERY_HEAD, _encode(query), _STALE if stale else _LINEARIZABLE))
        return self._send(item, may_write=False)

    async def close(self) -> None:
        """End every flight; calls still open end as at their deadline."""
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        for call, in_flight in self._open_calls():
            call.fail(call.verdict("before the client was closed", in_flight=in_flight))
        tasks = [flight.task for flight in self._flights if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _send(self, item: bytes, *, may_write: bool) -> Call:
        if len(item) > CALL_BYTES:
            raise TooLarge(f"a request of {len(item)} bytes exceeds the limit of {CALL_BYTES}; split it")
        call = Call(
            deadline=time.monotonic() + self._timeout_s,
            may_write=may_write,
            item=item,
            answer=self._loop.create_future(),
        )
        self._waiting.append(call)
        if self._deadline_timer is None:
            self._watch(call.deadline)
        if not self._launching and len(self._flights) < FLIGHTS:
            # Not at once: the calls made in the same turn of the event loop leave together.
            self._launching = True
            self._loop.call_soon(self._launch)
        return call

    def _launch(self) -> None:
        self._launching = False
        while len(self._flights) < FLIGHTS and (batch := self._gather()):
            flight = _Flight(batch)
            self._flights.add(flight)
            flight.task = self._loop.create_task(self._fly(flight))

    def _gather(self) -> list[Call]:
        batch: list[Call] = []
        size_bytes = 0
        while self._waiting and len(batch) < BATCH_ITEMS:
            size_bytes += len(self._waiting[0].item)
            if batch and size_bytes > BATCH_BYTES:
                break
            call = self._waiting.popleft()
            if not call.worth_an_attempt():
                call.fail(self._late(call))
            elif not call.answer.done():
                batch.append(call)
        return batch

    async def _fly(self, flight: _Flight) -> None:
        failures = 0
        try:
            while batch := [call for call in flight.calls if not call.answer.done()]:
                flight.in_flight = True
                served = await self._attempt(batch)
                flight.in_flight = False
                if not served:
                    failures += 1
                    await self._pool.pause(failures)
                    self._give_up(flight)
        except Exception as error:
            # A bug in this client: its callers hear of it now and not at their deadline.
            for call in flight.calls:
                call.fail(Fault(f"the client failed on its own: {error!r}"))
            raise
        finally:
            self._flights.discard(flight)
            self._launch()

    async def _attempt(self, batch: Sequence[Call]) -> bool:
        """One attempt for all of a batch. Returns whether the member could serve all of it."""
        remaining_s = max(call.deadline for call in batch) - time.monotonic()
        timeout_s = max(0.001, min(self._attempt_timeout_s, remaining_s))
        endpoint = self._pool.pick()
        try:
            answer = await self._pool.send(endpoint, _request(batch), timeout_s)
            outcomes = _outcomes(answer, len(batch))
        except RaftosError as error:
            outcomes = [error] * len(batch)
        trouble = self._settle(batch, outcomes)
        self._pool.learn(endpoint, trouble)
        return trouble is None

    def _settle(self, batch: Sequence[Call], outcomes: Sequence[Outcome]) -> RaftosError | None:
        """Give every call its outcome; returns a retryable error among them, if there is one."""
        trouble = None
        for call, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, RaftosError):
                self._failed(call, outcome)
                trouble = outcome if outcome.retryable else trouble
            elif not call.answer.done():
                call.answer.set_result(outcome)
        return trouble

    def _failed(self, call: Call, error: RaftosError) -> None:
        """An attempt did not serve the call: the call ends with the error, unless it may fly again."""
        if isinstance(error, Expired) and call.maybe_applied:
            call.fail(OutcomeUnknown(f"{error.message}; an earlier attempt may have been applied"))
        elif isinstance(error, Expired) and not call.minted_again:
            # Minted before this client knew the cluster's time; the refusal just told it.
            call.mint_again(self._pool.clock.mint())
        elif error.retryable:
            call.failed(error)
        else:
            call.fail(error)

    def _give_up(self, flight: _Flight) -> None:
        for call in flight.calls:
            if not call.worth_an_attempt():
                call.fail(self._late(call))

    def _late(self, call: Call, *, in_flight: bool = False) -> RaftosError:
        return call.verdict(f"within {self._timeout_s:g} s", in_flight=in_flight)

    def _watch(self, deadline: float) -> None:
        # Never sooner than that, so that thousands of deadlines in a row cost a few looks and not thousands.
        delay_s = max(LAST_WORD_S, deadline + LAST_WORD_S - time.monotonic())
        self._deadline_timer = self._loop.call_later(delay_s, self._expire)

    def _expire(self) -> None:
        """End the calls whose deadline has passed, and wait for the next deadline."""
        self._deadline_timer = None
        now = time.monotonic() - LAST_WORD_S
        later = []
        for call, in_flight in self._open_calls():
            if call.deadline > now:
                later.append(call.deadline)
            else:
                call.fail(self._late(call, in_flight=in_flight))
        if later:
            self._watch(min(later))

    def _open_calls(self) -> Iterator[tuple[Call, bool]]:
        """Every call without an answer, and whether an attempt of it is under way."""
        for flight in self._flights:
            yield from ((call, flight.in_flight) for call in flight.calls if not call.answer.done())
        yield from ((call, False) for call in self._waiting if not call.answer.done())


def _request(batch: Sequence[Call]) -> Request:
    head = b"\x81\xa5items\xdd" + len(batch).to_bytes(4, "big")
    return Request("POST", "/v1/batch", b"".join((head, *[call.item for call in batch])), MSGPACK)


def _outcomes(answer: Answer, expected: int) -> list[Outcome]:
    """One outcome for each call. Raises Broken for an answer that makes no sense."""
    try:
        results = _decode_batch(answer.body).results
    except msgspec.MsgspecError as error:
        raise Broken(f"the answer to a batch makes no sense: {error}") from error
    if len(results) != expected:
        raise Broken(f"a batch of {expected} requests was answered with {len(results)} results")
    return [error_from(result.error) if result.error else result.ok for result in results]
