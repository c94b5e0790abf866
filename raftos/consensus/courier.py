"""Carrying a snapshot from a leader to a follower, piece by piece.

The follower pulls. It knows best what it has on its disk, so an interrupted transfer goes on where it
stopped, and its disk sets the pace: a few pieces are under way at a time. It asks for FETCH_BYTES_PER_S at
most, so that who catches up leaves disks, processors and the network to those who write meanwhile.

    nothing  --(offer)--> fetching --(last piece)--> verifying --(whole)--> arrived, to be installed
    fetching --(link closed, or no piece for STALLED_S, and offered again)--> fetching, from what is there
    fetching --(another leader offers another, or this one and no piece came)--> fetching, from the beginning
    fetching | verifying --(damaged, disk full, gone at the leader)--> nothing, until it is offered again
    fetching --(not offered any more)--> nothing

A leader remembers who fetches what only to keep that file, and the log after it: for as long as a slow disk
may need since something was asked for last, and for SERVING_S once it is known to be installed. Whoever
begins anew after all of it was sent, or a part could not be read, may do so because it is damaged here: so it
is verified first, and discarded if that is true. What cannot be read once costs no snapshot: the disk may
have failed for a moment, or it is gone already.

Files are touched by `work` alone, which runs jobs in order, elsewhere: so pieces wait while this member
copies its own state and writes that down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from raftos.consensus.core import Offer
from raftos.consensus.messages import Message, SnapshotPiece, SnapshotWanted
from raftos.consensus.snapshots import CorruptSnapshot, Incoming, Pin, SnapshotStore, Stored, snapshot_name
from raftos.errors import RaftosError

PIECE_BYTES = 2**20
PIECES_UNDER_WAY = 4
FETCH_BYTES_PER_S = 80 * 10**6
BURST_S = 0.1
"""What was not asked for in time is made up for within this much: ticks are no closer than half of it."""
STALLED_S = 1.0
SERVING_S = 60.0
"""Long enough to ask for the next piece; or, once it is installed, to be sent the log after it."""
INSTALLED_BYTES_PER_S = 10 * 2**20
"""No slower does a follower verify and extract one, during which it asks for nothing."""

Work = Callable[[Callable[[], Any], Callable[[Any], None]], None]
"""`work(job, done)`: run `job` elsewhere, then `done` here with its value, or the RaftosError it raised."""

log = structlog.get_logger("raftos.consensus")


@dataclass
class _Fetch:
    offer: Offer
    heard_at: float
    """When a piece came or was asked for last."""
    incoming: Incoming | None = None
    asked: int = 0
    """Up to where pieces were asked for, in bytes."""
    due_at: float = -math.inf
    """When the next piece may be asked for."""
    writing: int = 0
    """How many pieces wait to be written: as long as any does, it is this member that is slow."""
    is_whole: bool = False

    def is_getting_on(self, now: float, newer: Offer) -> bool:
        """Whether to go on with what the leader had before: it may make them faster than they are fetched."""
        offer = self.offer
        is_of_it = (offer.peer, offer.generation) == (newer.peer, newer.generation)
        return (
            is_of_it and offer.index < newer.index and (self.writing > 0 or now - self.heard_at < STALLED_S)
        )

    def is_forsaken(self, now: float) -> bool:
        """Whether nothing was heard for long, although nothing waits for this member itself."""
        is_waiting = self.incoming is not None and not self.writing and not self.is_whole
        return is_waiting and now - self.heard_at > SERVING_S

    def is_of(self, peer: str, generation: int, index: int, term: int) -> bool:
        offer = self.offer
        return (peer, generation, index, term) == (offer.peer, offer.generation, offer.index, offer.term)


@dataclass
class _Serving:
    pin: Pin
    asked_at: float
    reading: set[tuple[int, int]] = field(default_factory=set)
    """(link generation, offset) of the pieces that wait to be read: asked for again, they are sent once."""
    is_sent: bool = False
    """All of it was sent once."""
    has_failed: bool = False
    """A part could not be read, and it was not found sound since."""
    is_installed: bool = False

    @property
    def ends_at(self) -> float:
        installing_s = 0.0 if self.is_installed else self.pin.stored.header.raw_bytes / INSTALLED_BYTES_PER_S
        return self.asked_at + SERVING_S + installing_s


class Courier:
    """Both ends of the transfers of one member. All calls come on the event loop."""

    def __init__(
        self,
        store: SnapshotStore,
        send: Callable[[str, int, Message], None],
        work: Work,
        arrived: Callable[[Stored], None],
        lost: Callable[[], None],
        *,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        """`arrived` is called with a snapshot that is whole and durable.

        Answer with `installed` or `not_installed`.
        `lost` is called when one was found damaged, and is not kept any more.
        """
        self._store = store
        self._send = send
        self._work = work
        self._arrived = arrived
        self._lost = lost
        self._piece_bytes = piece_bytes
        self._fetch: _Fetch | None = None
        self._arrived_last: Offer | None = None
        self._not_before = -math.inf
        """Until then nothing is fetched: what arrived last could not be installed."""
        self._serving: dict[str, _Serving] = {}
        self._now = 0.0

    # The follower's end.

    def offered(self, now: float, offer: Offer) -> None:
        """The leader has what this member lacks: fetch it, or go on with it."""
        self._now = now
        fetch = self._fetch
        if now < self._not_before or (fetch is not None and fetch.is_whole):
            return
        stored = self._here(offer) if fetch is None else None
        if stored is not None:
            self._fetch = _Fetch(offer, now, is_whole=True)
            self._arrived(stored)
        elif fetch is None:
            self._begin(offer)
        elif not _is_same(fetch.offer, offer):
            if not fetch.is_getting_on(now, offer):
                self._begin(offer)
        elif fetch.offer != offer or (now - fetch.heard_at >= STALLED_S and not fetch.writing):
            fetch.offer = offer
            self._resume(fetch)

    def _here(self, offer: Offer) -> Stored | None:
        """What is offered, if it arrived before and is kept; of another member it may be another file."""
        last = self._arrived_last
        if last is None or not _is_same(last, offer):
            return None
        name = snapshot_name(offer.index, offer.term)
        return next((stored for stored in self._store.all() if stored.name == name), None)

    def _begin(self, offer: Offer) -> None:
        fetch = self._fetch = _Fetch(offer, self._now)
        log.info("fetching a snapshot", peer=offer.peer, index=offer.index, size_bytes=offer.size_bytes)
        self._work(lambda: self._fresh(offer), lambda made: self._begun(fetch, made))

    def _fresh(self, offer: Offer) -> Incoming:
        """Nothing of what came before: another leader's file may differ in its bytes under the same name."""
        name = snapshot_name(offer.index, offer.term)
        self._store.incoming(name, offer.size_bytes).abandon()
        return self._store.incoming(name, offer.size_bytes)

    def _abandon(self, incoming: Incoming) -> None:
        self._work(incoming.abandon, lambda _: None)

    def _resume(self, fetch: _Fetch) -> None:
        """Over another link, or after silence: ask again for what is not there."""
        if fetch.incoming is not None:
            fetch.asked = fetch.incoming.received
            self._ask(fetch)

    def _begun(self, fetch: _Fetch, made: Incoming | RaftosError) -> None:
        if isinstance(made, RaftosError):
            self._give_up(fetch, made)
        elif self._fetch is fetch:
            fetch.incoming = made
            self._ask(fetch)
        else:
            self._abandon(made)

    def _ask(self, fetch: _Fetch) -> None:
        assert fetch.incoming is not None
        offer = fetch.offer
        most = min(offer.size_bytes, fetch.incoming.received + PIECES_UNDER_WAY * self._piece_bytes)
        fetch.due_at = max(fetch.due_at, self._now - BURST_S)
        while fetch.asked < most and fetch.due_at <= self._now:
            self._send(offer.peer, offer.generation, SnapshotWanted(offer.index, offer.term, fetch.asked))
            fetch.heard_at = self._now
            fetch.asked += self._piece_bytes
            fetch.due_at += self._piece_bytes / FETCH_BYTES_PER_S

    def piece(self, now: float, peer: str, generation: int, message: SnapshotPiece) -> None:
        """A piece that was asked for; any other is dropped."""
        self._now = now
        fetch = self._fetch
        if fetch is None or not fetch.is_of(peer, generation, message.index, message.index_term):
            return
        incoming = fetch.incoming
        if incoming is None or fetch.is_whole:
            return
        fetch.heard_at = now
        if message.data:
            fetch.writing += 1
            write = lambda: incoming.write(message.offset, message.data)  # noqa: E731 - one thought, two lines
            self._work(write, lambda received: self._written(fetch, received))
        else:
            self._give_up(fetch, "the leader does not have it any more")

    def _written(self, fetch: _Fetch, received: int | RaftosError) -> None:
        fetch.writing -= 1
        if self._fetch is not fetch or fetch.is_whole:
            return
        if isinstance(received, RaftosError):
            self._give_up(fetch, received)
        elif received < fetch.offer.size_bytes:
            self._ask(fetch)
        else:
            assert fetch.incoming is not None
            fetch.is_whole = True
            self._work(fetch.incoming.complete, lambda stored: self._completed(fetch, stored))

    def _completed(self, fetch: _Fetch, stored: Stored | RaftosError) -> None:
        if isinstance(stored, RaftosError):
            self._give_up(fetch, stored)
        else:
            self._arrived_last = fetch.offer
            log.info("fetched a snapshot", index=stored.header.index, size_bytes=stored.size_bytes)
            self._arrived(stored)

    def installed(self) -> None:
        """What arrived is in force, or was not wanted any more: another may be fetched."""
        self._fetch = None

    def not_installed(self, again_at: float) -> None:
        """What arrived could not be installed: with the first offer from then on it is tried again."""
        self._fetch, self._not_before = None, again_at

    def _give_up(self, fetch: _Fetch, why: object) -> None:
        log.warning(
            "a snapshot did not arrive", peer=fetch.offer.peer, index=fetch.offer.index, reason=str(why)
        )
        if fetch.incoming is not None:
            self._abandon(fetch.incoming)
        if self._fetch is fetch:
            self._fetch = None

    # The leader's end.

    def wanted(self, now: float, peer: str, generation: int, message: SnapshotWanted) -> None:
        """Send one piece, or say that there is none."""
        self._now = now
        name = snapshot_name(message.index, message.index_term)
        try:
            serving = self._serve(peer, name)
        except RaftosError:
            data = b""
            self._send(
                peer, generation, SnapshotPiece(message.index, message.index_term, message.offset, data)
            )
            return
        piece = (generation, message.offset)
        if piece in serving.reading:
            return
        serving.reading.add(piece)
        is_doubtful = (serving.is_sent or serving.has_failed) and message.offset == 0

        def read() -> bytes:
            if is_doubtful:
                self._store.check(name)
            return self._store.read(name, message.offset, self._piece_bytes)

        def send(data: bytes | RaftosError) -> None:
            serving.reading.discard(piece)
            if isinstance(data, RaftosError):
                self._unreadable(peer, serving, data, again=is_doubtful and serving.has_failed)
                data = b""
            elif is_doubtful:
                serving.has_failed = False
            serving.is_sent = message.offset + len(data) >= serving.pin.stored.size_bytes
            self._send(
                peer, generation, SnapshotPiece(message.index, message.index_term, message.offset, data)
            )

        self._work(read, send)

    def _serve(self, peer: str, name: str) -> _Serving:
        serving = self._serving.get(peer)
        if serving is None or serving.pin.stored.name != name:
            pin = self._store.pin(name)
            self._stop_serving(peer)
            serving = self._serving[peer] = _Serving(pin, self._now)
        serving.asked_at = self._now
        return serving

    def _unreadable(self, peer: str, serving: _Serving, why: RaftosError, *, again: bool) -> None:
        """It goes if it is damaged, or the disk fails `again`, and it is not gone already."""
        if isinstance(why, CorruptSnapshot) or (again and self._serving.get(peer) is serving):
            self._discard(serving.pin.stored.name, why)
        else:
            serving.has_failed = True
            log.warning("a snapshot cannot be read for now", peer=peer, reason=why.message)

    def _discard(self, name: str, why: RaftosError) -> None:
        """Nobody can be sent it: it would be fetched in vain for ever."""
        log.error("a snapshot is damaged, and another one made", snapshot=name, reason=why.message)
        for peer in [peer for peer, each in self._serving.items() if each.pin.stored.name == name]:
            self._stop_serving(peer)
        self._work(lambda: self._store.discard(name), self._discarded)

    def _discarded(self, failure: RaftosError | None) -> None:
        if failure is None:
            self._lost()
        else:
            log.warning("the damaged snapshot stays for now", reason=failure.message)

    def _stop_serving(self, peer: str) -> None:
        serving = self._serving.pop(peer, None)
        if serving is not None:
            serving.pin.release()

    def needed_index(self) -> int | None:
        """The log after this index is kept for those who fetch a snapshot now; None if nobody does."""
        return min((each.pin.stored.header.index for each in self._serving.values()), default=None)

    def tick(self, now: float, matched: Callable[[str], int]) -> None:
        """Let go of what nobody has asked for in a while; `matched` says what a follower is known to have."""
        self._now = now
        fetch = self._fetch
        if fetch is not None and fetch.is_forsaken(now):
            self._give_up(fetch, "nobody offers it any more")
        elif fetch is not None and fetch.incoming is not None and not fetch.is_whole:
            self._ask(fetch)
        for peer, serving in list(self._serving.items()):
            if serving.reading:
                serving.asked_at = now  # It is this member that is slow.
            elif not serving.is_installed and matched(peer) >= serving.pin.stored.header.index:
                serving.asked_at, serving.is_installed = now, True
            elif now > serving.ends_at:
                self._stop_serving(peer)


def _is_same(one: Offer, other: Offer) -> bool:
    """The same file of the same member, over whichever link."""
    return replace(one, generation=0) == replace(other, generation=0)
