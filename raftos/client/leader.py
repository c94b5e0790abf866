"""Who leads, and handing leadership over."""

from __future__ import annotations

import msgspec

from raftos.client.core import Core
from raftos.client.pool import Request

TRANSFER_TIMEOUT_S = 5.0
"""A member that hands over waits for its successor to catch up: longer than an ordinary attempt."""


class Leader(msgspec.Struct, frozen=True):
    """The member that leads: its name, id and endpoint, and the term it leads in."""

    leader: str
    id: str
    endpoint: str
    term: int


class Transferred(msgspec.Struct, frozen=True):
    """The name of the member that leads now."""

    leader: str


_decode_leader = msgspec.json.Decoder(Leader).decode
_decode_transferred = msgspec.json.Decoder(Transferred).decode


class AsyncLeader:
    """`client.leader`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def show(self) -> Leader:
        """The present leader. Raises NoQuorum where there is none."""
        return await self._core.request(Request("GET", "/v1/leader"), _decode_leader)

    async def transfer(self, target: str | None = None) -> Transferred:
        """Hand leadership to the member of this name or id, or to the one furthest along.

        Raises NotFound (no such member), InvalidInput (it does not vote), Conflict (it did not catch up in
        time), NoQuorum.
        """
        request = Request("POST", "/v1/leader/transfer", msgspec.json.encode({"target": target}))
        return await self._core.request(request, _decode_transferred, attempt_timeout_s=TRANSFER_TIMEOUT_S)
