"""One authenticated, ordered link for each pair of members, carrying opaque frames.

The transport knows nothing of Raft. Its rules:

- Of each pair the member with the lower id dials, so there is one link, not two. A newer
  authenticated link replaces an older one; `unlinked` is told of the old before `linked` of the new.
- A link has a generation, the same on both ends and rising (see `handshake.py`). Frames are sent
  to, and reported from, a generation: what belongs to a link that is gone is dropped, never
  delivered over the next one. Within a generation frames arrive in order, each at most once.
- Nothing is queued for a peer that is not linked, and a link whose peer does not read is closed:
  whoever sends has to be able to send again. A peer that falls silent is found by pings.
- The listener is called on the event loop, never from within `send` or `set_peer`, and never once
  `stop` was called. An exception it raises is logged, and closes the link it concerns.

Ids are minted and stay; addresses are attributes and may change (`set_peer`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from raftos.config import split_address
from raftos.consensus.handshake import Accepting, Dialling, Identity, first_offer
from raftos.consensus.link import DEFAULT_SETTINGS, Link, Settings
from raftos.errors import StartupError

MAX_HANDSHAKES = 256
"""Connections not yet authenticated; more are closed at once, so that strangers cannot use up descriptors."""
REPEAT_COMPLAINT_S = 60.0

log = structlog.get_logger()


class Listener(Protocol):
    """Who hears of links and frames. Each call comes on the event loop and must not block."""

    def linked(self, peer: str, generation: int) -> None:
        """Frames may now be sent to this generation."""

    def unlinked(self, peer: str, generation: int) -> None:
        """The link is gone; some of the frames sent last may never have arrived."""

    def received(self, peer: str, generation: int, frames: list[bytes]) -> None:
        """All whole frames of one read, in order."""


class Transport:
    """The links of one member. `peers` maps ids to `host:port`; this member's own id is ignored."""

    def __init__(
        self,
        *,
        member_id: str,
        cluster_id: str,
        secret: bytes,
        listen_address: str,
        peers: Mapping[str, str],
        listener: Listener,
        settings: Settings = DEFAULT_SETTINGS,
    ) -> None:
        """Nothing is opened yet. Raises StartupError for an address that is not host:port."""
        self._identity = Identity(member_id, cluster_id, secret)
        self._settings = settings
        self._listen_address = listen_address
        self._peers = {peer: split_address(address) for peer, address in peers.items() if peer != member_id}
        self._links = _Links(listener)
        self._diallers: dict[str, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def address(self) -> str:
        """The host:port listened on; the real port once started, where port 0 was asked for."""
        if self._server is None or not self._server.sockets:
            return self._listen_address
        host, port, *_ = self._server.sockets[0].getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def connected(self) -> frozenset[str]:
        """The ids of the peers with a link right now."""
        return self._links.connected()

    async def start(self) -> None:
        """Listen, and begin to dial. Raises StartupError when the address cannot be listened on."""
        host, port = split_address(self._listen_address)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accepted, host, port)
        except OSError as error:
            raise StartupError(_why_not_listening(self._listen_address, error)) from error
        for peer in self._peers:
            self._dial(peer)
        self._sweep()

    async def stop(self) -> None:
        """Close every link and stop listening. No callback runs from the moment this is called."""
        self._links.mute()
        if self._sweeper:
            self._sweeper.cancel()
        tasks = list(self._diallers.values())
        self._diallers.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server, self._server = self._server, None
        if server:
            server.close()
            await self._links.close_all()
            await server.wait_closed()

    def send(self, peer: str, generation: int, frames: Sequence[bytes]) -> bool:
        """Send frames over exactly this link, in one write; True says nothing about their arrival.

        False when `generation` is not the current link with `peer`: the frames are dropped. Raises
        ValueError for an empty frame or one above `link.MAX_FRAME_BYTES` (16 MiB); nothing is sent then.
        """
        link = self._links.current.get(peer)
        return link is not None and link.generation == generation and link.send(frames)

    def set_peer(self, peer: str, address: str) -> None:
        """Add a peer or change its address. A link that stands is used until the next one replaces it.

        Raises StartupError when `address` is not host:port.
        """
        parsed = split_address(address)
        if peer == self._identity.member_id or self._peers.get(peer) == parsed:
            return
        self._peers[peer] = parsed
        if self._server:
            self._dial(peer)

    def drop_peer(self, peer: str) -> None:
        """Forget a peer: its link is closed, and it is refused from now on."""
        self._peers.pop(peer, None)
        if task := self._diallers.pop(peer, None):
            task.cancel()
        if link := self._links.current.get(peer):
            link.close("the peer was dropped")

    def _last_generation(self, peer: str) -> int | None:
        return self._links.generations.get(peer, 0) if peer in self._peers else None

    def _accepted(self) -> Link:
        return Link(self._links, Accepting(self._identity, self._last_generation), self._settings)

    def _dialled(self, peer: str) -> Link:
        offer = first_offer(self._last_generation(peer) or 0, time.time_ns() // 1_000_000)
        handshake = Dialling(self._identity, peer, offer, self._last_generation)
        return Link(self._links, handshake, self._settings)

    def _dial(self, peer: str) -> None:
        """Keep `peer` dialled at its present address, if dialling is ours."""
        if not self._identity.dials(peer):
            return
        if task := self._diallers.pop(peer, None):
            task.cancel()
        self._diallers[peer] = asyncio.create_task(self._keep_dialled(peer, *self._peers[peer]))

    async def _keep_dialled(self, peer: str, host: str, port: int) -> None:
        pause_s = self._settings.redial_first_s
        while True:
            if await self._dial_once(peer, host, port):
                pause_s = self._settings.redial_first_s
            # Jitter: members that lost the same peer shall not come back in step.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - nothing secret
            pause_s = min(2 * pause_s, self._settings.redial_longest_s)

    async def _dial_once(self, peer: str, host: str, port: int) -> bool:
        """Make one link and wait for its end; False if there was none or it fell at once."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        try:
            async with asyncio.timeout(self._settings.handshake_s):
                _, link = await loop.create_connection(lambda: self._dialled(peer), host, port)
        except (OSError, UnicodeError) as error:
            self._links.complain(peer, f"{host}:{port}", f"it cannot be reached: {_cause(error)}")
            return False
        await link.ended.wait()
        return link.generation > 0 and loop.time() - started_s >= self._settings.ping_after_s

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._links.keep_alive(loop.time())
        period_s = min(self._settings.ping_after_s, self._settings.silent_after_s) / 4
        self._sweeper = loop.call_later(period_s, self._sweep)


class _Links:
    """Every connection of one member, the current link with each peer, and what the listener is told."""

    def __init__(self, listener: Listener) -> None:
        self.current: dict[str, Link] = {}
        self.generations: dict[str, int] = {}
        self._listener = listener
        self._open: set[Link] = set()
        self._muted = False
        self._complaints: dict[tuple[str, str], float] = {}

    def connected(self) -> frozenset[str]:
        return frozenset(peer for peer, link in self.current.items() if not link.closed)

    def opened(self, link: Link) -> None:
        self._open.add(link)
        if self._muted:
            link.close("this member stops")
        elif len(self._open) - len(self.current) > MAX_HANDSHAKES:
            link.close("too many connections are waiting for their handshake")

    def agreed(self, link: Link) -> None:
        if older := self.current.get(link.peer):
            older.close("a newer link replaces it")
            self._unlink(older)
        self.current[link.peer] = link
        self.generations[link.peer] = link.generation
        log.info("peer linked", peer=link.peer, generation=link.generation, remote=link.remote)
        self._tell(link, self._listener.linked)

    def received(self, link: Link, frames: list[bytes]) -> None:
        if not link.closed:
            self._tell(link, lambda peer, generation: self._listener.received(peer, generation, frames))

    def lost(self, link: Link) -> None:
        self._open.discard(link)
        if self.current.get(link.peer) is link:
            self._unlink(link)
        elif not link.generation and not self._muted:
            self.complain(link.peer, link.remote, link.reason)

    def keep_alive(self, now_s: float) -> None:
        for link in list(self.current.values()):
            if not link.closed:
                link.keep_alive(now_s)

    def complain(self, peer: str, remote: str, reason: str) -> None:
        """Log why there is no link, at most once a minute for each peer and reason: redials are many."""
        now_s = time.monotonic()
        if now_s - self._complaints.get((peer, reason), -REPEAT_COMPLAINT_S) >= REPEAT_COMPLAINT_S:
            self._complaints[peer, reason] = now_s
            log.warning("no link with peer", peer=peer or "unknown", remote=remote, reason=reason)

    def mute(self) -> None:
        """From now on the listener hears nothing."""
        self._muted = True

    async def close_all(self) -> None:
        links = list(self._open)
        for link in links:
            link.close("this member stops")
        await asyncio.gather(*(link.ended.wait() for link in links))

    def _unlink(self, link: Link) -> None:
        del self.current[link.peer]
        log.info("peer unlinked", peer=link.peer, generation=link.generation, reason=link.reason)
        self._tell(link, self._listener.unlinked)

    def _tell(self, link: Link, callback: Callable[[str, int], None]) -> None:
        if self._muted:
            return
        try:
            callback(link.peer, link.generation)
        # The listener's bug is neither hidden nor allowed to end the loop that serves other links.
        except Exception:
            log.exception("the listener of peer links failed", peer=link.peer, generation=link.generation)
            link.close("the listener failed")


def _cause(error: OSError | UnicodeError) -> str:
    """Why, in a few words that are the same every time."""
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)


def _why_not_listening(address: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"peer_address {address} is in use; stop the other process or choose another port"
    # From Python 3.13 on asyncio tries the next address then, and says without a number that there is none.
    if error.errno in {errno.EADDRNOTAVAIL, None}:
        return f"peer_address {address} is not an address of this machine; use one that is"
    return f"cannot listen on peer_address {address}: {_cause(error)}"
