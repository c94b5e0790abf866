"""The routes that follow from the domains: `POST /v1/kv/put` from `kv.put`, `GET /v1/kv/get` from `kv.get`.

Nothing here knows a domain. A new command or query is a route as soon as its domain is registered.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from raftos.api import codec
from raftos.api.answers import JSON, Answer, encode_json
from raftos.api.connection import Request
from raftos.api.requests import content_type, deadline
from raftos.errors import InvalidInput, OutcomeUnknown, RaftosError
from raftos.member import Consistency, Member, refusal_of
from raftos.state.command import Command, Query, format_request_id, is_ok
from raftos.state.domains import OFFERED, QUERIES

Handler = Callable[[Request], Awaitable[Answer]]

_OK_KEY_BYTES = 4
_decode = msgspec.msgpack.Decoder().decode


def routes(member: Member) -> dict[str, dict[str, Handler]]:
    """Path -> method -> handler, for every registered query, and every command that is not internal."""
    found: dict[str, dict[str, Handler]] = {}
    for tag, command in OFFERED.items():
        found.setdefault(path_of(tag), {})["POST"] = _command_handler(member, command)
    for tag, query in QUERIES.items():
        found.setdefault(path_of(tag), {})["GET"] = _query_handler(member, query)
    return found


def path_of(tag: str) -> str:
    """`"kv.put"` -> `"/v1/kv/put"`."""
    return "/v1/" + tag.replace(".", "/")


def value_of(result: bytes) -> Any:
    """The plain value of an encoded `Ok`; raises the error that anything else stands for."""
    if is_ok(result):
        return _decode(memoryview(result)[_OK_KEY_BYTES:])
    raise refusal_of(result)


def consistency_of(value: Any) -> Consistency:
    if value == "linearizable":
        return "linearizable"
    if value == "stale":
        return "stale"
    raise InvalidInput("`consistency` is `linearizable` or `stale`")


def _command_handler(member: Member, kind: type[Command]) -> Handler:
    async def answer(request: Request) -> Answer:
        content_type(request, JSON)
        fields = codec.decode_object(request.body)
        given = fields.pop("request_id", None)
        asked_at = time.monotonic()
        request_id = member.new_request_id() if given is None else codec.request_id(given)
        command = codec.typed(fields, kind)
        member.admit(command)
        until = deadline(request, member.config.request_timeout_ms)
        result = await _agreed(member, request_id, command, until)
        if given is None and await member.was_behind(request_id, result, asked_at, until):
            result = await _agreed(member, member.new_request_id(), command, until)
        return Answer(200, encode_json(codec.readable(value_of(result))))

    return answer


async def _agreed(member: Member, request_id: bytes, command: Command, until: float) -> bytes:
    """The encoded result; where it stays unknown, the error names the request id to send again."""
    try:
        [result] = await member.submit([(request_id, command)], until)
    except OutcomeUnknown as error:
        name = format_request_id(request_id)
        raise OutcomeUnknown(f"{error.message} (request_id {name})", leader=error.leader) from None
    return result


def _query_handler(member: Member, kind: type[Query]) -> Handler:
    async def answer(request: Request) -> Answer:
        fields = codec.parameters(request.query)
        consistency = consistency_of(fields.pop("consistency", "linearizable"))
        query = codec.typed(fields, kind, from_text=True)
        until = deadline(request, member.config.request_timeout_ms)
        [value] = await member.query([query], consistency, until)
        if isinstance(value, RaftosError):
            raise value
        age = f"Raftos-Age-Ms: {member.age_ms()}\r\n" if consistency == "stale" else ""
        return Answer(200, encode_json(codec.readable(codec.plain(value))), headers=age)

    return answer
