"""One authenticated, ordered link for each pair of members, carrying opaque frames.

The transport knows nothing of Raft. Its rules:

- Of each pair the member with the lower id dials; the other does once it has had no link for a
  second: it may be the only one that knows where the other is. Both may then dial at once. A newer
  authenticated link replaces an older one, at both ends the same (see `handshake.py`); `unlinked`
  is told of the old before `linked` of the new. While a link stands, nobody dials.
- Each side tells, authenticated, where its peers shall dial it. What a peer tells replaces what was
  known (`moved`, before `linked`): a member that came back elsewhere is known again by everybody it reaches.
- A **guest** proves the secret, but its id is not among `peers`: it may belong to a configuration not
  heard of yet. It is linked as others are, and never dialled; 64 guests are the limit.
- A link has a generation, the same on both ends and rising (see `handshake.py`). Frames are sent
  to, and reported from, a generation: what belongs to a link that is gone is dropped, never
  delivered over the next one. Within a generation frames arrive in order, each at most once.
- Nothing is queued for a peer that is not linked, and a link whose peer does not read is closed:
  whoever sends has to be able to send again. A peer that falls silent is found by pings; a while in
  which this process itself did not run is no silence.
- A long frame on a slow link shows that its sender lives before it is whole (`hearing`, see `link.py`).
- The listener is called on the event loop, never from within `send` or `set_peer`, and never once
  `stop` was called. An exception it raises is logged, and closes the link it concerns.

Ids are minted and stay; addresses are attributes and may change (`set_peer`, or as the peer tells).
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import msgspec
import structlog

from raftos.config import split_address
from raftos.consensus.handshake import (
    MAX_ADDRESS_LENGTH,
    SUPERSEDED,
    About,
    Accepting,
    Dialling,
    check_member_id,
    checked_identity,
    first_offer,
)
from raftos.consensus.link import CLOSED_EARLY, DEFAULT_SETTINGS, Link, Settings, Traffic
from raftos.errors import StartupError
from raftos.levels import LEVEL

MAX_HANDSHAKES = 256
"""Connections not yet authenticated; more are closed at once, so that strangers cannot use up descriptors."""
MAX_GUESTS = 64
"""Links with ids outside `peers`; the handshake of more is refused."""
REPEAT_COMPLAINT_S = 60.0

log = structlog.get_logger()


class Listener(Protocol):
    """Who hears of links and frames. Each call comes on the event loop and must not block."""

    def linked(self, peer: str, generation: int, level: int) -> None:
        """Frames may now be sent to this generation. `level` is what the peer's software can do."""

    def unlinked(self, peer: str, generation: int) -> None:
        """The link is gone; some of the frames sent last may never have arrived."""

    def received(self, peer: str, generation: int, frames: list[bytes]) -> None:
        """All whole frames of one read, in order."""

    def hearing(self, peer: str, generation: int) -> None:
        """Bytes of a frame that is not whole yet arrive: the peer lives. Told at most every 50 ms."""

    def moved(self, peer: str, address: str) -> None:
        """The peer tells that it is to be dialled at another address than the one known.

        Of a peer the transport has noted it already. A guest's is always news, and not kept.
        """


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
        advertise_address: str | None = None,
        level: int = LEVEL,
        build: str = "",
    ) -> None:
        """Nothing is opened yet. Peers are told to dial `advertise_address`, by default `listen_address`.

        With an empty one they are told nothing, and keep the address that they were given.

        Raises StartupError for an address that is not host:port, and for what no peer would accept.
        """
        told = _dialable(listen_address) if advertise_address is None else advertise_address
        self._tells_nothing = advertise_address == ""
        self._identity = checked_identity(member_id, cluster_id, secret, About(level, build, told))
        self._settings = settings
        self._listen_address = listen_address
        self._peers: dict[str, str] = {}
        self._links = _Links(listener, self._peers)
        self._diallers: dict[str, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_due_s = 0.0
        for peer, address in peers.items():
            self.set_peer(peer, address)

    @property
    def address(self) -> str:
        """The host:port listened on; the real port once started, where port 0 was asked for."""
        if self._server is None or not self._server.sockets:
            return self._listen_address
        host, port, *_ = self._server.sockets[0].getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def told_address(self) -> str:
        """Where peers are told to dial this member; "" when it has nothing to tell."""
        return self._identity.about.address

    @property
    def connected(self) -> frozenset[str]:
        """The ids of the peers and guests with a link right now."""
        return self._links.connected()

    def level(self, peer: str) -> int | None:
        """The feature level of the peer's software; None without a link."""
        link = self._links.standing(peer)
        return None if link is None else link.about.level

    def build(self, peer: str) -> str | None:
        """The peer's version as text, "" when it does not tell; None without a link."""
        link = self._links.standing(peer)
        return None if link is None else link.about.build

    def traffic(self, peer: str) -> Traffic | None:
        """The bytes that passed over the present link with a peer; None without one."""
        link = self._links.standing(peer)
        return None if link is None else link.traffic

    def address_of(self, peer: str) -> str | None:
        """Where this peer is dialled; None for who is not among the peers."""
        return self._peers.get(peer)

    async def start(self) -> None:
        """Listen, and begin to dial. Raises StartupError when the address cannot be listened on."""
        host, port = split_address(self._listen_address)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accepted, host, port)
        except OSError as error:
            raise StartupError(_why_not_listening(self._listen_address, error)) from error
        if not self._identity.about.address and not self._tells_nothing:
            about = msgspec.structs.replace(self._identity.about, address=_dialable(self.address))
            self._identity = replace(self._identity, about=about)
        for peer in self._peers:
            self._dial(peer)
        self._sweep_due_s = loop.time()
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

        What the peer told before no longer counts; what it tells with its next link will.
        Raises StartupError for an address that is not host:port or too long, and for an id out of its limits.
        """
        check_peer(peer, address)
        known = self._peers.get(peer)
        if peer == self._identity.member_id or known == address:
            return
        self._peers[peer] = address
        if self._server:
            link = self._links.standing(peer)
            self._dial(
                peer, replacing=known is not None and link is not None and link.about.address != address
            )

    def drop_peer(self, peer: str) -> None:
        """Close the link with a peer and forget its address. If it dials again, it is a guest."""
        self._peers.pop(peer, None)
        if task := self._diallers.pop(peer, None):
            task.cancel()
        self._links.drop(peer)

    def _accepted(self) -> Link:
        return Link(self._links, Accepting(self._identity, self._links.last_of_anyone), self._settings)

    def _dialling(self, peer: str) -> Dialling:
        offer = first_offer(self._links.last_of_peer(peer) or 0, time.time_ns() // 1_000_000)
        return Dialling(self._identity, peer, offer, self._links.last_of_peer)

    def _dial(self, peer: str, *, replacing: bool = False) -> None:
        if task := self._diallers.pop(peer, None):
            task.cancel()
        if self._identity.dials(peer):
            keeping = self._keep_linked(peer, replacing=replacing)
        else:
            keeping = self._keep_linked_in_reverse(peer)
        self._diallers[peer] = asyncio.create_task(keeping)

    async def _keep_linked(self, peer: str, *, replacing: bool) -> None:
        """Dial whenever there is no link; at once, even over a standing one, when that is to be replaced."""
        pause_s = self._settings.redial_first_s
        while True:
            stood = not replacing and await self._links.until_none(peer)
            replacing = False
            if stood or await self._dial_once(peer):
                pause_s = self._settings.redial_first_s
            # Jitter: members that lost the same peer shall not come back in step.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - nothing secret
            pause_s = min(2 * pause_s, self._settings.redial_longest_s)

    async def _keep_linked_in_reverse(self, peer: str) -> None:
        """Dial, although the other shall, after each while in which there was no link."""
        while True:
            await self._links.until_none(peer)
            await asyncio.sleep(self._settings.reverse_after_s * random.uniform(1, 1.5))  # noqa: S311 - the same
            if not self._links.standing(peer):
                await self._dial_once(peer)

    async def _dial_once(self, peer: str) -> bool:
        """Make one link and wait for its end; False if there was none or it fell at once."""
        host, port = split_address(self._peers[peer])
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        # Begun before connecting, so that it gives way to a link made in the meantime.
        handshake = self._dialling(peer)
        try:
            async with asyncio.timeout(self._settings.handshake_s):
                _, link = await loop.create_connection(
                    lambda: Link(self._links, handshake, self._settings), host, port
                )
        except (OSError, UnicodeError) as error:
            self._links.complain(peer, f"{host}:{port}", f"it cannot be reached: {_cause(error)}")
            return False
        await link.ended.wait()
        return link.generation > 0 and loop.time() - started_s >= self._settings.ping_after_s

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        # Late only if this process could not run: what has arrived meanwhile may not have been read yet.
        self._links.keep_alive(now_s, paused_s=max(0.0, now_s - self._sweep_due_s))
        self._sweep_due_s = now_s + min(self._settings.ping_after_s, self._settings.silent_after_s) / 4
        self._sweeper = loop.call_at(self._sweep_due_s, self._sweep)


def check_peer(peer: str, address: str) -> None:
    """Raise StartupError for what `Transport.set_peer` refuses: who cannot be dialled."""
    check_member_id(peer)
    if len(address) > MAX_ADDRESS_LENGTH:
        raise StartupError(f"address {address[:80]!r}... is longer than {MAX_ADDRESS_LENGTH} characters")
    split_address(address)


class _Links:
    """Every connection of one member, the current link with each peer, and what the listener is told."""

    def __init__(self, listener: Listener, peers: dict[str, str]) -> None:
        self.current: dict[str, Link] = {}
        self.generations: dict[str, int] = {}
        """The last of each peer and of each guest that is here."""
        self._forgotten = 0
        """Above this whoever comes back begins: the highest generation that was forgotten."""
        self._peers = peers
        self._listener = listener
        self._open: set[Link] = set()
        self._muted = False
        self._complaints: dict[tuple[str, str], float] = {}

    def connected(self) -> frozenset[str]:
        return frozenset(peer for peer, link in self.current.items() if not link.closed)

    def standing(self, peer: str) -> Link | None:
        link = self.current.get(peer)
        return None if link is None or link.closed else link

    async def until_none(self, peer: str) -> bool:
        """Wait for the end of the link with a peer and of those that replaced it; False if there was none."""
        stood = False
        while link := self.current.get(peer):
            stood = True
            await link.ended.wait()
        return stood

    def last_of_peer(self, peer: str) -> int | None:
        return self.generations.get(peer, self._forgotten) if peer in self._peers else None

    def last_of_anyone(self, peer: str) -> int | None:
        """None only for a guest too many."""
        if peer not in self._peers and peer not in self.current:
            guests = sum(linked not in self._peers for linked in self.current)
            if guests >= MAX_GUESTS:
                return None
        return self.generations.get(peer, self._forgotten)

    def drop(self, peer: str) -> None:
        if link := self.current.get(peer):
            link.close("the peer was dropped")
        else:
            self._forget(peer)

    def _forget(self, peer: str) -> None:
        """Ids come and go for years: of those that are neither peers nor here only a maximum is kept."""
        self._forgotten = max(self._forgotten, self.generations.pop(peer, 0))

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
        peer, generation, about = link.peer, link.generation, link.about
        log.info(
            "peer linked",
            peer=peer,
            generation=generation,
            remote=link.remote,
            level=about.level,
            build=about.build,
            guest=peer not in self._peers,
        )
        self._note_address(link)
        self._tell(link, lambda: self._listener.linked(peer, generation, about.level))

    def _note_address(self, link: Link) -> None:
        peer, address = link.peer, link.about.address
        if address and address != self._peers.get(peer):
            if peer in self._peers:
                self._peers[peer] = address
            log.info("peer tells its address", peer=peer, address=address)
            self._tell(link, lambda: self._listener.moved(peer, address))

    def received(self, link: Link, frames: list[bytes]) -> None:
        if not link.closed:
            self._tell(link, lambda: self._listener.received(link.peer, link.generation, frames))

    def hearing(self, link: Link) -> None:
        if not link.closed:
            self._tell(link, lambda: self._listener.hearing(link.peer, link.generation))

    def lost(self, link: Link) -> None:
        self._open.discard(link)
        if self.current.get(link.peer) is link:
            self._unlink(link)
        elif not link.generation and not self._muted and not self._was_superseded(link):
            # Anybody may claim any id: repeating more than peers' would let strangers fill log and memory.
            claimed = link.peer if link.peer in self._peers else ""
            self.complain(claimed, link.remote, link.reason)

    def _was_superseded(self, link: Link) -> bool:
        """Whether a handshake failed only because another link was made, as when both sides dial."""
        return link.reason in {SUPERSEDED, CLOSED_EARLY} and link.peer in self.current

    def keep_alive(self, now_s: float, paused_s: float) -> None:
        for link in list(self.current.values()):
            if not link.closed:
                link.keep_alive(now_s, paused_s)

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
        if link.peer not in self._peers:
            self._forget(link.peer)
        log.info("peer unlinked", peer=link.peer, generation=link.generation, reason=link.reason)
        self._tell(link, lambda: self._listener.unlinked(link.peer, link.generation))

    def _tell(self, link: Link, callback: Callable[[], None]) -> None:
        if self._muted:
            return
        try:
            callback()
        # The listener's bug is neither hidden nor allowed to end the loop that serves other links.
        except Exception:
            log.exception("the listener of peer links failed", peer=link.peer, generation=link.generation)
            link.close("the listener failed")


def _dialable(address: str) -> str:
    """The address as others may be told it; "" where it names no port or no one interface."""
    host, port = split_address(address)
    return "" if not port or host in {"", "0.0.0.0", "::"} else address  # noqa: S104 - not bound, compared


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
