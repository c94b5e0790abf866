"""The members as one: a request goes to whichever is likeliest to answer.

`Pool.send` makes one attempt at one member and learns from it: which member to prefer next, and what
time it is in the cluster. Whether to try again is the caller's decision, made with `Attempts`, the
memory of what earlier attempts may have done.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import msgspec

from raftos.client.connection import Address, Answer, Broken, Connections, Silent
from raftos.client.endpoints import BROKEN_S, GONE_S, NOT_NOW_S, Endpoint, Endpoints
from raftos.client.streaming import Stream, open_stream
from raftos.errors import (
    Compacted,
    ErrorBody,
    NoQuorum,
    NotReady,
    OutcomeUnknown,
    RaftosError,
    Unreachable,
    error_for,
)
from raftos.state.command import REQUEST_ID_BYTES, new_request_id

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.1
PROBE_TIMEOUT_S = 1.0
SHORTEST_ATTEMPT_S = 0.05
SHORTEST_TIMEOUT_S = 0.1

JSON = "application/json"
MSGPACK = "application/msgpack"


_STREAM_HEADERS = "Accept: text/event-stream\r\nAccept-Encoding: gzip\r\n"


class _ErrorAnswer(msgspec.Struct, frozen=True):
    error: ErrorBody


_DECODE_ERROR = {
    JSON: msgspec.json.Decoder(_ErrorAnswer).decode,
    MSGPACK: msgspec.msgpack.Decoder(_ErrorAnswer).decode,
}


class Request(msgspec.Struct, frozen=True):
    """What is sent, without where and how long it may take. `path` includes the query string."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = JSON


class ClusterClock:
    """Cluster time in milliseconds: the last answer's stamp and the monotonic time since.

    Before the first answer it is this machine's wall clock, which may be wrong.
    """

    def __init__(self) -> None:
        self._ahead_ms = (time.time() - time.monotonic()) * 1000
        # One bit is cleared for the ids to count up into.
        self._tail = int.from_bytes(new_request_id(0), "big") & ~(1 << 61)

    def observe(self, time_ms: int) -> None:
        self._ahead_ms = time_ms - time.monotonic() * 1000

    def now_ms(self) -> int:
        return int(time.monotonic() * 1000 + self._ahead_ms)

    def mint(self) -> bytes:
        """A request id created now.

        The random bits are drawn once and then count up (RFC 9562, 6.2, method 2): asking the operating
        system for each id would be the most expensive part of a call.
        """
        self._tail += 1
        return ((self.now_ms() << 80) | self._tail).to_bytes(REQUEST_ID_BYTES, "big")


class Attempts(msgspec.Struct, eq=False, kw_only=True):
    """What the attempts of one request have done so far, and how it ends at its deadline.

    `deadline` is of `time.monotonic()`. `may_write` is False for a read, which never changes anything.
    """

    deadline: float
    may_write: bool
    reached: bool = False
    maybe_applied: bool = False
    last_trouble: str = ""
    last_doubt: str = ""
    """The last trouble that left open what happened: the only kind to quote where that is not known."""

    def failed(self, error: RaftosError) -> None:
        self.last_trouble = error.message
        self.reached |= not isinstance(error, Unreachable)
        if not isinstance(error, NoQuorum | NotReady | Unreachable):
            self.maybe_applied = True
            self.last_doubt = error.message

    def worth_an_attempt(self) -> bool:
        """Whether enough time is left: an attempt cut short only turns a certain failure into doubt."""
        return self.deadline - time.monotonic() > SHORTEST_ATTEMPT_S

    def verdict(self, when: str, *, in_flight: bool = False) -> RaftosError:
        """The error of a request that nobody answered `when` it had to be ("within 10 s")."""
        if self.may_write and (self.maybe_applied or in_flight):
            doubt = _quoted(self.last_doubt)
            return OutcomeUnknown(
                f"no member confirmed the request {when}{doubt}; an attempt may have been applied, so read "
                "before writing again"
            )
        last = _quoted(self.last_trouble)
        if self.reached or in_flight:
            kept = "; nothing was changed" if self.may_write else ""
            return NoQuorum(f"the cluster did not serve the request {when}{last}{kept}")
        return Unreachable(f"no member could be reached {when}{last}; is the cluster running?")


def _quoted(trouble: str) -> str:
    return f" (last: {trouble})" if trouble else ""


class Pool:
    """All endpoints of one cluster and the connections to them."""

    def __init__(self, endpoints: Sequence[str], token: str) -> None:
        self.clock = ClusterClock()
        self._authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._endpoints = Endpoints(endpoints, self._is_live)
        self._connections = Connections()

    def __len__(self) -> int:
        """How many members this client knows."""
        return len(self._endpoints)

    def pick(self) -> Endpoint:
        """The member likeliest to answer now."""
        return self._endpoints.pick()

    async def send(self, endpoint: Endpoint, request: Request, timeout_s: float) -> Answer:
        """One attempt at one member: its answer with status 200.

        Raises the error the member sent, Unreachable where nothing was sent, or OutcomeUnknown where no
        usable answer came back. Tell `learn` how it went.
        """
        head = self._head(endpoint.address, request, timeout_s)
        answer = await self._connections.exchange(endpoint.address, head + request.body, timeout_s)
        if answer.time_ms is not None:
            self.clock.observe(answer.time_ms)
        if answer.status != 200:
            raise _error_in(answer, endpoint)
        return answer

    def rotate(self) -> Endpoint:
        """The member for a stream: each in turn, as streams stay."""
        return self._endpoints.rotate()

    async def stream(self, endpoint: Endpoint, path: str, timeout_s: float) -> Stream:
        """One attempt to begin a stream of events at one member. Raises as `send` does."""
        head = self._head(endpoint.address, Request("GET", path), timeout_s, _STREAM_HEADERS)
        status, stream = await open_stream(endpoint.address, head, timeout_s)
        if status == 200:
            return stream
        try:
            raise _error_in(await stream.whole(timeout_s), endpoint)
        finally:
            await stream.close()

    def learn(self, endpoint: Endpoint, trouble: RaftosError | None) -> None:
        """Prefer a member that served a request; one with retryable trouble comes after the others."""
        if trouble is None:
            self._endpoints.answered(endpoint)
        elif trouble.retryable:
            self._endpoints.set_aside(endpoint, _aside_s(trouble))

    async def pause(self, failures: int, longest_s: float = LONGEST_PAUSE_S) -> None:
        """Wait a little after the `failures`-th failed attempt, unless another member is worth asking now."""
        if not self._endpoints.any_ready():
            longest = min(longest_s, FIRST_PAUSE_S * 2 ** min(failures, 10))
            await asyncio.sleep(longest * random.uniform(0.5, 1))  # noqa: S311 - spreading load, not secrets

    async def close(self) -> None:
        await self._endpoints.close()
        await self._connections.close()

    def _head(self, address: Address, request: Request, timeout_s: float, more: str = "") -> bytes:
        # The member is to give up before this client does: "no quorum" is worth more than silence.
        return (
            f"{request.method} {request.path} HTTP/1.1\r\nHost: {address.netloc}\r\n{self._authorization}"
            f"Content-Type: {request.content_type}\r\nContent-Length: {len(request.body)}\r\n"
            f"Raftos-Timeout-Ms: {max(1, int(timeout_s * 800))}\r\n{more}\r\n"
        ).encode("ascii")

    async def _is_live(self, endpoint: Endpoint) -> bool:
        try:
            await self.send(endpoint, Request("GET", "/livez"), PROBE_TIMEOUT_S)
        except RaftosError:
            return False
        return True


def _aside_s(error: RaftosError) -> float:
    if isinstance(error, Unreachable | Silent):
        return GONE_S
    return BROKEN_S if isinstance(error, Broken) else NOT_NOW_S


def _error_in(answer: Answer, endpoint: Endpoint) -> RaftosError:
    media_type = answer.content_type.partition(";")[0]
    try:
        return error_from(_DECODE_ERROR[media_type](answer.body).error)
    except (KeyError, msgspec.MsgspecError):
        url = endpoint.address.url
        return Broken(f"{url} answered {answer.status} without an error of raftos; is it a member?")


def error_from(body: ErrorBody) -> RaftosError:
    """The typed error of an answer. One that may be retried is always an Unavailable."""
    error = error_for(body.code, body.message, body.leader)
    if body.retryable and not error.retryable:
        return OutcomeUnknown(body.message, leader=body.leader)
    if isinstance(error, Compacted) and body.oldest_revision is not msgspec.UNSET:
        error.oldest_revision = body.oldest_revision
    return error
