"""Which member to ask next.

The member that answered most recently is asked again; among members that never answered, the first
listed. A member that failed is **set aside** for a while: it is asked only when all others are set
aside too, and then the one whose time ends first. That alone makes a client go round all members
while the cluster has no leader, and stay with one as long as it answers. Streams, which stay long where
they are, go to each member in turn instead, and each client begins its turns anywhere.

    failed how                        set aside for
    answered "not now" (503, 504)     50 ms: another member may know the new leader
    connection broke                  100 ms: the next attempt finds out whether it is gone
    cannot be reached, or silent      3 s, asked for /livez in the background and back as soon as it answers
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from raftos.client.connection import Address

NOT_NOW_S = 0.05
BROKEN_S = 0.1
GONE_S = 3.0
PROBE_EVERY_S = 0.5


class Endpoint:
    """One member as this client knows it. Times are monotonic seconds."""

    __slots__ = ("address", "answered_at", "aside_until", "probe")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.address = Address(url, parts.netloc, parts.hostname or "", parts.port or 0)
        self.answered_at = 0.0
        self.aside_until = 0.0
        self.probe: asyncio.Task[None] | None = None


class Endpoints:
    """The members a client knows. `is_live(endpoint)` asks one for `/livez` and never raises."""

    def __init__(
        self,
        urls: Sequence[str],
        is_live: Callable[[Endpoint], Awaitable[bool]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = [Endpoint(url) for url in urls]
        self._is_live = is_live
        self._clock = clock
        self._turn = random.randrange(len(self._known))  # noqa: S311 - spreading load, not secrets

    def __len__(self) -> int:
        return len(self._known)

    def pick(self) -> Endpoint:
        now = self._clock()
        ready = [endpoint for endpoint in self._known if endpoint.aside_until <= now]
        if ready:
            return max(ready, key=lambda endpoint: endpoint.answered_at)
        return min(self._known, key=lambda endpoint: endpoint.aside_until)

    def rotate(self) -> Endpoint:
        """The next member in turn, of those not set aside: whoever stays long is spread over all of them."""
        self._turn += 1
        at = self._turn % len(self._known)
        now = self._clock()
        for endpoint in self._known[at:] + self._known[:at]:
            if endpoint.aside_until <= now:
                return endpoint
        return min(self._known, key=lambda endpoint: endpoint.aside_until)

    def any_ready(self) -> bool:
        """Whether some member is not set aside, so that there is no reason to wait."""
        now = self._clock()
        return any(endpoint.aside_until <= now for endpoint in self._known)

    def answered(self, endpoint: Endpoint) -> None:
        endpoint.answered_at = self._clock()
        endpoint.aside_until = 0.0

    def set_aside(self, endpoint: Endpoint, duration_s: float) -> None:
        endpoint.aside_until = self._clock() + duration_s
        if duration_s >= GONE_S and (endpoint.probe is None or endpoint.probe.done()):
            endpoint.probe = asyncio.create_task(self._probe(endpoint))

    async def close(self) -> None:
        probes = [endpoint.probe for endpoint in self._known if endpoint.probe is not None]
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    async def _probe(self, endpoint: Endpoint) -> None:
        while endpoint.aside_until:
            await asyncio.sleep(PROBE_EVERY_S)
            if await self._is_live(endpoint):
                endpoint.aside_until = 0.0
            elif endpoint.aside_until:
                endpoint.aside_until = self._clock() + GONE_S
