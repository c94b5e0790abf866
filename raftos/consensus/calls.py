"""Calls into the replica from this member's own tasks: how they wait, are cut up, and end.

A call is a future, and the token that the replica gives back with its value. Long lists of requests become
several proposals, whose outcomes are joined again. What only the leader does (transfers, changes of the
members) can be asked for by any member: `LeaderCall` is how it travels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from typing import Any, cast

import msgspec

from raftos.consensus.configuration import Change
from raftos.consensus.proposals import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, MAX_PROPOSAL_BYTES
from raftos.errors import NoQuorum, NotReady, OutcomeUnknown, RaftosError


class Handover(msgspec.Struct, frozen=True, array_like=True, tag="transfer"):
    """A leadership transfer, as it is asked of the leader."""

    target_id: str | None


LeaderCall = Handover | Change


def encode_call(call: LeaderCall, timeout_s: float) -> bytes:
    return msgspec.msgpack.encode((call, timeout_s))


def decode_call(body: bytes) -> tuple[LeaderCall, float]:
    """The call and its time in seconds. Raises `msgspec.MsgspecError`."""
    return msgspec.msgpack.decode(body, type=tuple[LeaderCall, float])


class Calls:
    """The calls of one member that have not ended."""

    def __init__(self) -> None:
        self._open: set[asyncio.Future[Any]] = set()
        self._closed = False

    def new(self) -> asyncio.Future[Any]:
        """Raises NotReady once they were abandoned: nothing would ever end this one."""
        if self._closed:
            raise NotReady("this member is about to stop for good; ask another member")
        call: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open.add(call)
        return call

    def end(self, ended: Sequence[tuple[Hashable, object]]) -> None:
        for token, value in ended:
            call: Any = token
            self._open.discard(call)
            if call.done():
                continue
            if isinstance(value, RaftosError):
                call.set_exception(value)
            else:
                call.set_result(value)

    def abandon(self) -> None:
        """This member stops: what is open ends as unknown, and nothing new begins."""
        self._closed = True
        for call in self._open:
            if not call.done():
                call.set_exception(OutcomeUnknown("this member stopped; send the request again to another"))


def joined(outcomes: Sequence[list[bytes] | BaseException]) -> list[bytes]:
    """The results of all parts of one call. Raises NoQuorum only if it is true of every part."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if not failures:
        return [result for results in outcomes for result in cast("list[bytes]", results)]
    if len(failures) == len(outcomes) and all(isinstance(failure, NoQuorum) for failure in failures):
        raise failures[0]
    raise OutcomeUnknown(
        "some of these writes may be applied and others not; send them again with the same request ids"
    ) from failures[0]


def chunks(requests: Sequence[bytes]) -> list[Sequence[bytes]]:
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
