"""The members: what the cluster has agreed about them, and changing who belongs to it.

Whether each answers now is `client.status()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from raftos.client.core import Core
from raftos.client.pool import Request
from raftos.state.domains.members import List, Member, Members

CHANGE_TIMEOUT_S = 10.0
"""A change waits for others that are under way, and a leader hands over first: longer than an attempt."""


class Known(msgspec.Struct, frozen=True):
    """One member. `role` is voter, learner, or none for one that has a name but no place in the cluster.

    A learner may be on its way to become a voter. `state` is joining, alive or down.
    """

    id: str
    name: str
    role: str
    state: str | None
    peer_address: str
    endpoint: str


class Membership(msgspec.Struct, frozen=True):
    """Who belongs to the cluster, by name, with the cluster's name and its minted id."""

    cluster: str
    cluster_id: str
    items: list[Known]


class Changed(msgspec.Struct, frozen=True):
    """The member and the role it has now; `changed` is False where it had that role already."""

    id: str
    name: str
    role: str
    changed: bool


_decode_members = msgspec.msgpack.Decoder(Members).decode
_decode_membership = msgspec.json.Decoder(Membership).decode
_decode_changed = msgspec.json.Decoder(Changed).decode


class AsyncMembers:
    """`client.members`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def list(self, *, stale: bool = False) -> Sequence[Member]:
        """Every member that has a name, by name."""
        return (await self._core.query(List(), _decode_members, stale=stale)).items

    async def show(self) -> Membership:
        """Who belongs to the cluster, who votes, and where to find them."""
        return await self._core.request(Request("GET", "/v1/cluster/members"), _decode_membership)

    async def add(
        self,
        id: str,  # noqa: A002 - as it is called everywhere
        name: str,
        *,
        peer_address: str,
        endpoint: str,
        role: Literal["voter", "learner"] = "voter",
    ) -> Membership:
        """Let a member in, under an id that was never used; it votes once it runs and has caught up.

        The answer tells it where the others are. `raftos start --join` does all of this. Raises InvalidInput,
        Conflict (the name is taken, or the id was removed), LimitReached, NoQuorum.
        """
        wanted = {"id": id, "name": name, "peer_address": peer_address, "endpoint": endpoint, "role": role}
        return await self._core.request(
            _post("join", wanted), _decode_membership, attempt_timeout_s=CHANGE_TIMEOUT_S
        )

    async def promote(self, target: str) -> Changed:
        """Let the learner of this name or id vote. Raises NotFound, Conflict, NoQuorum."""
        return await self._change("promote", {"target": target})

    async def remove(self, target: str, *, force: bool = False) -> Changed:
        """Send the member of this name or id away for good; a leader hands over first.

        `force`: also where one member is out of reach and no other could fail then. Raises NotFound, Conflict
        (it would leave no majority that can be reached), NoQuorum.
        """
        return await self._change("remove", {"target": target, "force": force})

    async def _change(self, verb: str, wanted: dict[str, str | bool]) -> Changed:
        return await self._core.request(
            _post(verb, wanted), _decode_changed, attempt_timeout_s=CHANGE_TIMEOUT_S
        )


def _post(verb: str, wanted: dict[str, str] | dict[str, str | bool]) -> Request:
    return Request("POST", f"/v1/cluster/{verb}", msgspec.json.encode(wanted))
