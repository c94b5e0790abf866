"""`/v1/status`, `/v1/leader` and `/v1/leader/transfer`: the cluster itself."""

from __future__ import annotations

import msgspec

from raftos.api import codec
from raftos.api.answers import JSON, Answer, json_answer
from raftos.api.connection import Request
from raftos.api.requests import content_type, deadline
from raftos.member import Member


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`target` is a name or an id; without one the best follower takes over."""

    target: str | None = None


class ClusterRoutes:
    def __init__(self, member: Member) -> None:
        self._member = member

    async def status(self, _request: Request) -> Answer:
        return json_answer(await self._member.status())

    async def leader(self, _request: Request) -> Answer:
        return json_answer(self._member.leader())

    async def transfer(self, request: Request) -> Answer:
        content_type(request, JSON)
        wanted = codec.typed(codec.decode_object(request.body), Transfer)
        until = deadline(request, self._member.config.request_timeout_ms)
        return json_answer({"leader": await self._member.transfer(wanted.target, until)})
