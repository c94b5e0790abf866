"""How much there may be of what the cluster counts: bytes of state, keys, and so on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from raftos.client.core import Core
from raftos.state.domains.quota import List, Quota, Quotas, Set

_decode_quota = msgspec.msgpack.Decoder(Quota).decode
_decode_quotas = msgspec.msgpack.Decoder(Quotas).decode


class AsyncQuota:
    """`client.quota`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def set(self, name: str, most: int) -> Quota:
        """Allow so much. Below what there is, growing writes are refused until enough was deleted.

        Raises NotFound (nothing of this name is counted), InvalidInput (`state.bytes` below 1 MiB).
        """
        return await self._core.command(Set(name, most), _decode_quota)

    async def list(self, *, stale: bool = False) -> Sequence[Quota]:
        """Every quota, by name, with how much there is."""
        return (await self._core.query(List(), _decode_quotas, stale=stale)).items
