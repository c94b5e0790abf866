"""`POST /v1/batch`: many commands and queries in one request, in JSON or msgpack.

Independent, in order, not atomic, one result each. All commands become one proposal; the queries run
when the writes of the same batch are answered. An item that is wrong gets its error in its place and
the others go on: a batch is often the work of many callers who do not know of each other.

In msgpack this is the fast path of the SDK: a whole batch is decoded at once, straight into commands,
and successful results are passed through as they came out of the log.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial, reduce
from operator import or_
from typing import Any, cast

import msgspec

from raftos.api import codec
from raftos.api.answers import JSON, MSGPACK, Answer, encode_json, encode_msgpack, error_body
from raftos.api.connection import Request
from raftos.api.domains import value_of
from raftos.api.requests import content_type, deadline, deadline_in
from raftos.errors import InvalidInput, RaftosError, TooLarge
from raftos.member import Consistency, Member, refusal_of
from raftos.state.command import REQUEST_ID_BYTES, Command, Query, is_ok
from raftos.state.domains import OFFERED, QUERIES

MAX_ITEMS = 2_000

AnyCommand: Any = reduce(or_, OFFERED.values())
AnyQuery: Any = reduce(or_, QUERIES.values())


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One command or one query."""

    request_id: bytes | None = None
    command: AnyCommand | None = None
    query: AnyQuery | None = None
    consistency: Consistency = "linearizable"


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    items: list[Item]
    timeout_ms: int | None = None


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    items: list[dict[str, Any]]
    timeout_ms: int | None = None


_decode_batch = msgspec.msgpack.Decoder(Batch).decode
_decode_plain = msgspec.msgpack.Decoder().decode

Outcome = bytes | RaftosError | Any
"""An encoded result, an error, or the typed value of a query."""
Leader = Callable[[], str | None]
"""Says who leads, for those who may try again there."""


class BatchRoute:
    """The handler of `POST /v1/batch`."""

    def __init__(self, member: Member) -> None:
        self._member = member

    async def __call__(self, request: Request) -> Answer:
        kind = content_type(request, JSON, MSGPACK)
        items, timeout_ms = _read(request.body, kind)
        if len(items) > MAX_ITEMS:
            raise TooLarge(f"a batch may have {MAX_ITEMS} items; send the rest in another one")
        default_ms = self._member.config.request_timeout_ms
        until = deadline(request, default_ms) if timeout_ms is None else deadline_in(timeout_ms)
        outcomes = await self._run(items, until)
        if kind == MSGPACK:
            return Answer(200, _render_msgpack(items, outcomes, self._member.leader_name), MSGPACK)
        return Answer(200, _render_json(items, outcomes, self._member.leader_name))

    async def _run(self, items: Sequence[Item | RaftosError], until: float) -> list[Outcome]:
        outcomes: list[Outcome] = list(items)
        requests: dict[int, tuple[bytes, Command]] = {}
        queries: dict[Consistency, dict[int, Query]] = {"linearizable": {}, "stale": {}}
        for place, item in enumerate(items):
            try:
                if isinstance(item, RaftosError):
                    continue
                if item.command is not None:
                    requests[place] = self._request_of(item)
                else:
                    queries[item.consistency][place] = _query_of(item)
            except RaftosError as error:
                outcomes[place] = error
        if requests:
            await self._submit(items, outcomes, requests, until)
        for consistency, asked in queries.items():
            if asked:
                await _fill(outcomes, asked, partial(self._ask, consistency), until)
        return outcomes

    async def _submit(
        self,
        items: Sequence[Item | RaftosError],
        outcomes: list[Outcome],
        requests: dict[int, tuple[bytes, Command]],
        until: float,
    ) -> None:
        """Fill in the outcomes of the commands; those whose ids were made here too early get another one."""
        asked_at = time.monotonic()
        await _fill(outcomes, requests, self._member.submit, until)
        again = {
            place: (self._member.new_request_id(), command)
            for place, (request_id, command) in requests.items()
            if not cast("Item", items[place]).request_id
            and isinstance(outcome := outcomes[place], bytes)
            and await self._member.was_behind(request_id, outcome, asked_at, until)
        }
        if again:
            await _fill(outcomes, again, self._member.submit, until)

    async def _ask(self, consistency: Consistency, queries: list[Query], until: float) -> list[Outcome]:
        return await self._member.query(queries, consistency, until)

    def _request_of(self, item: Item) -> tuple[bytes, Command]:
        if item.query is not None:
            raise InvalidInput("an item has a `command` or a `query`, not both")
        request_id = item.request_id or self._member.new_request_id()
        if len(request_id) != REQUEST_ID_BYTES:
            raise InvalidInput(f"`request_id` has to be a version 7 UUID of {REQUEST_ID_BYTES} bytes")
        command = cast("Command", item.command)
        self._member.admit(command)
        return request_id, command


def _query_of(item: Item) -> Query:
    if item.query is None:
        raise InvalidInput("an item needs a `command` or a `query`")
    query: Query = item.query
    return query


async def _fill(
    outcomes: list[Outcome],
    asked: dict[int, Any],
    answer: Callable[[list[Any], float], Awaitable[list[Any]]],
    until: float,
) -> None:
    """Put the answers in their places; a failure to agree in each of them."""
    try:
        answers = await answer(list(asked.values()), until)
    except RaftosError as error:
        answers = [error] * len(asked)
    for place, outcome in zip(asked, answers, strict=True):
        outcomes[place] = outcome


# Reading.


def _read(body: bytes, kind: str) -> tuple[Sequence[Item | RaftosError], int | None]:
    """The items of a batch and its timeout. Raises InvalidInput when it is not a batch at all."""
    if kind == JSON:
        return _read_one_by_one(codec.decode_object(body))
    try:
        batch = _decode_batch(body)
    except msgspec.ValidationError:
        # Perhaps one item of many is wrong: find out which, and serve the others.
        return _read_one_by_one(_decode_plain(body))
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body is not msgpack: {error}") from None
    return batch.items, batch.timeout_ms


def _read_one_by_one(value: Any) -> tuple[Sequence[Item | RaftosError], int | None]:
    envelope = codec.typed(value, _Envelope)
    return [_read_item(item) for item in envelope.items], envelope.timeout_ms


def _read_item(item: dict[str, Any]) -> Item | RaftosError:
    try:
        given = item.get("request_id")
        if given is not None and not isinstance(given, bytes):
            item = item | {"request_id": codec.request_id(given)}
        return codec.typed(item, Item)
    except InvalidInput as error:
        return error


# Writing.


def _render_msgpack(
    items: Sequence[Item | RaftosError], outcomes: Sequence[Outcome], leader: Leader
) -> bytes:
    """`{"results": [...]}`: what came out of the log is already `{"ok": value}`."""
    parts = [_MSGPACK_HEAD, len(outcomes).to_bytes(4, "big")]
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, RaftosError):
            parts.append(encode_msgpack({"error": error_body(outcome, leader())}))
        elif isinstance(item, Item) and item.query is not None:
            parts.append(encode_msgpack({"ok": outcome}))
        elif is_ok(outcome):
            parts.append(outcome)
        else:
            parts.append(encode_msgpack({"error": error_body(refusal_of(outcome), leader())}))
    return b"".join(parts)


_MSGPACK_HEAD = b"\x81\xa7results\xdd"


def _render_json(items: Sequence[Item | RaftosError], outcomes: Sequence[Outcome], leader: Leader) -> bytes:
    results: list[dict[str, Any]] = []
    for item, outcome in zip(items, outcomes, strict=True):
        try:
            results.append({"ok": codec.readable(_plain_value(item, outcome))})
        except RaftosError as error:
            results.append({"error": error_body(error, leader())})
    return encode_json({"results": results})


def _plain_value(item: Item | RaftosError, outcome: Outcome) -> Any:
    if isinstance(outcome, RaftosError):
        raise outcome
    if isinstance(item, Item) and item.query is not None:
        return codec.plain(outcome)
    return value_of(outcome)
