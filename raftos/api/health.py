"""`/livez` and `/readyz`: the two questions an orchestrator asks. They need no secret.

Alive means that this answers. Ready means that a request sent here now would be served: a leader is
known, this member has applied close to what is committed, and its disk takes writes.
"""

from __future__ import annotations

from raftos.api.answers import Answer, json_answer
from raftos.api.connection import Request
from raftos.errors import NotReady
from raftos.member import Member


async def livez(_request: Request) -> Answer:
    return json_answer({"alive": True})


class Readyz:
    def __init__(self, member: Member) -> None:
        self._member = member

    async def __call__(self, _request: Request) -> Answer:
        reason = self._member.not_ready()
        if reason:
            raise NotReady(reason)
        return json_answer({"ready": True})
