"""`/v1/status`, `/v1/leader` and `/v1/cluster`: the cluster itself, who leads it and who belongs to it."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from raftos.api import codec
from raftos.api.answers import JSON, Answer, json_answer
from raftos.api.connection import Request
from raftos.api.requests import content_type, deadline
from raftos.member import Member
from raftos.membership import Join, MembershipService, PromoteMember, RemoveMember


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`target` is a name or an id; without one the best follower takes over."""

    target: str | None = None


Wanted = TypeVar("Wanted")


class ClusterRoutes:
    def __init__(self, member: Member) -> None:
        self._member = member
        self._membership = MembershipService(member)

    async def status(self, _request: Request) -> Answer:
        return json_answer(await self._member.status())

    async def leader(self, _request: Request) -> Answer:
        return json_answer(self._member.leader())

    async def transfer(self, request: Request) -> Answer:
        wanted, until = self._read(request, Transfer)
        return json_answer({"leader": await self._member.transfer(wanted.target, until)})

    async def members(self, request: Request) -> Answer:
        return json_answer(await self._membership.show(self._deadline(request)))

    async def join(self, request: Request) -> Answer:
        wanted, until = self._read(request, Join)
        return json_answer(await self._membership.join(wanted, until))

    async def promote(self, request: Request) -> Answer:
        wanted, until = self._read(request, PromoteMember)
        return json_answer(await self._membership.promote(wanted.target, until))

    async def remove(self, request: Request) -> Answer:
        wanted, until = self._read(request, RemoveMember)
        return json_answer(await self._membership.remove(wanted.target, until, force=wanted.force))

    def _read(self, request: Request, kind: type[Wanted]) -> tuple[Wanted, float]:
        """What a request wants, and until when."""
        content_type(request, JSON)
        return codec.typed(codec.decode_object(request.body), kind), self._deadline(request)

    def _deadline(self, request: Request) -> float:
        return deadline(request, self._member.config.request_timeout_ms)
