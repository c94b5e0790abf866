"""The asynchronous client: `async with AsyncClient() as client: await client.kv.put("a", "1")`.

Its namespaces have the verbs of the command line. One client serves any number of concurrent calls,
and is faster the more it serves; it belongs to the event loop of its first call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

import msgspec

from raftos.client.beacons import AsyncBeacons
from raftos.client.chat import AsyncChat
from raftos.client.contexts import resolve
from raftos.client.core import Core
from raftos.client.events import AsyncEvents, Event, Wanted
from raftos.client.kv import AsyncKv
from raftos.client.leader import AsyncLeader
from raftos.client.lock import AsyncLocks
from raftos.client.members import AsyncMembers
from raftos.client.pool import Request
from raftos.client.quota import AsyncQuota
from raftos.client.snapshot import AsyncSnapshot
from raftos.client.status import Status, decode_status
from raftos.errors import RaftosError
from raftos.state.command import Command, Query
from raftos.state.domains import DOMAINS

_DECODERS = {
    kind: msgspec.msgpack.Decoder(answer).decode
    for domain in DOMAINS
    for kind, answer in domain.answers.items()
}


def _as_it_is(event: Event) -> Event:
    return event


class AsyncClient:
    """A client of one cluster.

    `endpoints` are base URLs of members, the preferred first; `context` names a stored cluster. Without
    them: `RAFTOS_ENDPOINTS`, then the current context (`raftos/client/contexts.py`). A call is tried
    for `timeout_s` seconds in all (at least 0.1), and for `attempt_timeout_s` at each member.
    Raises InvalidInput.
    """

    def __init__(
        self,
        endpoints: Sequence[str] | None = None,
        context: str | None = None,
        *,
        timeout_s: float = 10.0,
        attempt_timeout_s: float = 1.0,
    ) -> None:
        target = resolve(endpoints, context)
        self._core = Core(target, timeout_s=timeout_s, attempt_timeout_s=attempt_timeout_s)
        self.kv = AsyncKv(self._core)
        self.chat = AsyncChat(self._core)
        self.lock = AsyncLocks(self._core, self.kv)
        self.members = AsyncMembers(self._core)
        self.leader = AsyncLeader(self._core)
        self.quota = AsyncQuota(self._core)
        self.beacons = AsyncBeacons(self._core)
        self.snapshot = AsyncSnapshot(self._core)

    async def status(self) -> Status:
        """The cluster as one live member sees it, every member listed."""
        return await self._core.request(Request("GET", "/v1/status"), decode_status)

    def events(
        self,
        topics: Sequence[str] = (),
        *,
        prefix: str = "",
        subject: str | None = None,
        since: int | None = None,
        stale: bool = False,
        give_up_s: float | None = None,
    ) -> AsyncEvents[Event]:
        """Follow what happens in the cluster: an async iterator of events, and a context manager.

        `topics` are domains (`kv`) or types of events (`kv.written`), all if empty. An event's subject, such
        as a key, has to start with `prefix` and to be `subject`, where given. `since` is the revision after
        which to begin, -20 stands for the last 20. Without it: from now on, which the first bookmark
        settles, so that a disconnect before it begins anew. A member that lost touch with the others is
        left for another one, unless `stale`.

        It resumes by itself on another member, for ever, or until none could be reached for `give_up_s`
        seconds: complete, in order, nothing twice. Raises Compacted (what follows `since` is no longer
        kept), InvalidInput, LimitReached, Unauthorized, and with `give_up_s` NoQuorum and Unreachable.
        """
        wanted = Wanted(
            topics=topics, prefix=prefix, subject=subject, since=since, stale=stale, give_up_s=give_up_s
        )
        return AsyncEvents(self._core, wanted, _as_it_is)

    async def batch(self, requests: Sequence[Command | Query], *, stale: bool = False) -> list[Any]:
        """Send many commands and queries at once: independent, not atomic, in whatever order they arrive.

        Returns one outcome for each, in their order: the domain's answer to it, or the RaftosError it met.
        Where one has to come after another, wait for the first.
        """
        outcomes = await asyncio.gather(
            *(self._send(request, stale=stale) for request in requests), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, RaftosError):
                raise outcome
        return outcomes

    async def _send(self, request: Command | Query, *, stale: bool) -> Any:
        decode = _DECODERS[type(request)]
        if isinstance(request, Query):
            return await self._core.query(request, decode, stale=stale)
        return await self._core.command(request, decode)

    async def close(self) -> None:
        """Close the connections. Calls still open end with an error; later ones are refused.

        Locks still held are not renewed any more, and run out.
        """
        await self.lock.aclose()
        await self._core.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
