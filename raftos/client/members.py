"""The members the cluster knows, as agreed; whether each answers now is `client.status()`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from raftos.client.core import Core
from raftos.state.domains.members import List, Member, Members

_decode_members = msgspec.msgpack.Decoder(Members).decode


class AsyncMembers:
    """`client.members`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def list(self, *, stale: bool = False) -> Sequence[Member]:
        """Every member, by name."""
        return (await self._core.query(List(), _decode_members, stale=stale)).items
