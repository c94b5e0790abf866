"""What clients say of themselves for a moment: who is present, who is typing.

A beacon is shown under its name for its time to live, at most a minute, and is never in the log: announce
again before that to stay visible. Every member knows what was announced at any other a moment later.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from raftos.client.core import Core
from raftos.client.pool import Request

PATH = "/v1/beacons"


class Beacon(msgspec.Struct, frozen=True):
    """What `name` said about `topic`, how long ago, and the name of the member it said it to.

    It is shown until its age has reached `ttl_ms`.
    """

    topic: str
    name: str
    state: str
    member: str
    age_ms: int
    ttl_ms: int


class _Announced(msgspec.Struct, frozen=True):
    topic: str
    name: str


class _BeaconList(msgspec.Struct, frozen=True):
    items: list[Beacon]


_decode_announced = msgspec.json.Decoder(_Announced).decode
_decode_list = msgspec.json.Decoder(_BeaconList).decode


class AsyncBeacons:
    """`client.beacons`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def announce(self, topic: str, name: str, state: str = "", *, ttl_s: float = 10.0) -> None:
        """Show a state under a name for `ttl_s` seconds (0.001 to 60), instead of what the name had.

        Raises InvalidInput, TooLarge (a text is longer than 256 bytes), LimitReached.
        """
        wanted = {"topic": topic, "name": name, "state": state, "ttl_ms": round(ttl_s * 1000)}
        await self._core.request(Request("POST", PATH, msgspec.json.encode(wanted)), _decode_announced)

    async def list(self, topic: str) -> Sequence[Beacon]:
        """What is shown of a topic now, by name, as the member asked knows it. Raises InvalidInput."""
        path = f"{PATH}?topic={quote(topic, safe='', errors='surrogatepass')}"
        return (await self._core.request(Request("GET", path), _decode_list)).items
