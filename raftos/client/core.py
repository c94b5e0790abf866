"""What all namespaces stand on: a command or a query goes in, its typed answer comes out.

Commands and linearizable queries share one line of batches; stale queries have their own, so that
they are answered while the cluster cannot agree. Both lines share the connections, and what was
learnt about the members. The few requests that are neither (status, leadership) go one by one, under
the same rules: another member after a failure, until the deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, TypeVar
from weakref import WeakSet

import msgspec

from raftos.client.batcher import Batcher
from raftos.client.connection import Broken
from raftos.client.contexts import Target
from raftos.client.pool import SHORTEST_TIMEOUT_S, Attempts, Pool, Request
from raftos.errors import InvalidInput, RaftosError
from raftos.state.command import Command, Query
from raftos.state.domains import validate

Value = TypeVar("Value")


class Closable(Protocol):
    async def aclose(self) -> None: ...


class Core:
    """The cluster as seen by one client. It belongs to the event loop of its first use."""

    def __init__(self, target: Target, *, timeout_s: float, attempt_timeout_s: float) -> None:
        if timeout_s < SHORTEST_TIMEOUT_S or attempt_timeout_s <= 0:
            raise InvalidInput(
                f"a call needs a timeout of at least {SHORTEST_TIMEOUT_S} s, an attempt more than 0 s"
            )
        self._target = target
        self.timeout_s = timeout_s
        self.attempt_timeout_s = attempt_timeout_s
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: Pool
        self._line: Batcher
        self._stale_line: Batcher
        self._followers: WeakSet[Closable] = WeakSet()

    async def command(self, command: Command, decode: Callable[[msgspec.Raw], Value]) -> Value:
        """Apply a command and return its value. Raises RaftosError."""
        self._enter()
        validate(command)
        call = self._line.command(command)
        return _decoded(await call.answer, decode, call)

    async def query(
        self, query: Query, decode: Callable[[msgspec.Raw], Value], *, stale: bool = False
    ) -> Value:
        """Answer a query. Raises RaftosError."""
        self._enter()
        validate(query)
        call = (self._stale_line if stale else self._line).query(query, stale=stale)
        return _decoded(await call.answer, decode, call)

    async def request(
        self, request: Request, decode: Callable[[bytes], Value], *, attempt_timeout_s: float | None = None
    ) -> Value:
        """One request of its own, with the same failover. Raises RaftosError."""
        self._enter()
        attempts = Attempts(deadline=time.monotonic() + self.timeout_s, may_write=request.method != "GET")
        failures = 0
        while attempts.worth_an_attempt():
            endpoint = self._pool.pick()
            try:
                remaining_s = attempts.deadline - time.monotonic()
                timeout_s = min(remaining_s, attempt_timeout_s or self.attempt_timeout_s)
                answer = await self._pool.send(endpoint, request, timeout_s)
            except RaftosError as error:
                self._pool.learn(endpoint, error)
                if not error.retryable:
                    raise
                attempts.failed(error)
            else:
                self._pool.learn(endpoint, None)
                return _decoded(answer.body, decode, attempts)
            failures += 1
            await self._pool.pause(failures)
        raise attempts.verdict(f"within {self.timeout_s:g} s")

    def open_pool(self) -> Pool:
        """The members, for what is neither command, query nor request. Raises InvalidInput."""
        self._enter()
        return self._pool

    def closes(self, follower: Closable) -> None:
        """From now on, closing this closes the follower first."""
        self._followers.add(follower)

    async def close(self) -> None:
        """Close every connection. Open calls end with OutcomeUnknown or NoQuorum, followers just end."""
        opened, self._closed = self._loop is not None and not self._closed, True
        if opened:
            await asyncio.gather(*(follower.aclose() for follower in self._followers))
            await self._line.close()
            await self._stale_line.close()
            await self._pool.close()

    def _enter(self) -> None:
        if asyncio.get_running_loop() is not self._loop or self._closed:
            self._open()

    def _open(self) -> None:
        if self._closed:
            raise InvalidInput("this client is closed; open a new one")
        if self._loop is not None:
            raise InvalidInput("this client belongs to another event loop; open one for each loop")
        self._loop = asyncio.get_running_loop()
        self._pool = Pool(self._target.endpoints, self._target.token)
        self._line = self._batcher()
        self._stale_line = self._batcher()

    def _batcher(self) -> Batcher:
        return Batcher(self._pool, timeout_s=self.timeout_s, attempt_timeout_s=self.attempt_timeout_s)


Encoded = TypeVar("Encoded", bytes, msgspec.Raw)


def _decoded(encoded: Encoded, decode: Callable[[Encoded], Value], attempts: Attempts) -> Value:
    try:
        return decode(encoded)
    except msgspec.MsgspecError as error:
        done = "the write was applied, but " if attempts.may_write else ""
        raise Broken(f"{done}the answer makes no sense to this version of the client: {error}") from error
