"""Beacons: what clients say of themselves for a moment, such as who is present and who is typing.

Soft state, never in the log: each member keeps what its own clients announced and tells its peers, so any
member knows all of it a moment later, with a leader or without. A beacon has a topic, a name in it, a
state, and a time to live of at most a minute. Whoever wants to stay visible announces again.

**Who wins.** A name has one beacon, the last one announced: the one with the higher counter, then with the
greater id of the member it came in by. A member counts on from the highest counter it has heard of, so that
a client which moves to another member is believed. It starts from the wall clock, above its earlier life;
if that clock was set back, its peers' answers lift it before the client announces again.

**Time.** Ages travel as durations, because the clocks of two machines differ. A beacon is shown until its
time to live is over, but kept for a whole minute: until then an older one of the name could still be alive
somewhere, and would come back.

| age                  | `listed` | kept, and told to peers |
|----------------------|----------|-------------------------|
| below `ttl_ms`       | yes      | yes                     |
| below `MAX_TTL_MS`   | no       | yes                     |
| above                | no       | no                      |

**Spreading.** A member tells each peer what it has not confirmed yet: changes of `GATHER_S` go together in
one message, and one message is on its way at a time. What could not be told is told at a later beat,
everything to a peer that started anew. A peer passes nothing on, so what it says is only ever its own
clients'. A peer that does not answer is waited for by nobody.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from itertools import takewhile

import msgspec

from raftos.consensus.base import Consensus
from raftos.errors import UNDECODABLE, InvalidInput, LimitReached, RaftosError
from raftos.state.limits import check_name, check_number, check_text

MAX_TTL_MS = 60_000
MAX_TEXT_BYTES = 256
MAX_BEACONS = 10_000
MAX_NAMES = 1_000
"""Beacons of one topic: so many fit into one answer."""
MAX_TOLD = 200
"""Beacons in one message, so that it does not hold up what consensus sends on the same link."""
GATHER_S = 0.05
BEAT_S = 2.0
TELL_TIMEOUT_S = 1.0

ASK = b"beacons"
"""What a peer's message begins with; a space and its body follow."""


class Beacon(msgspec.Struct, frozen=True, kw_only=True):
    """What was announced, by which member's client, and when by this member's monotonic clock."""

    topic: str
    name: str
    state: str
    ttl_ms: int
    origin: str
    counter: int
    announced_s: float

    def age_ms(self, now_s: float) -> int:
        return max(0, int((now_s - self.announced_s) * 1000))

    def beats(self, other: Beacon) -> bool:
        return (self.counter, self.origin) > (other.counter, other.origin)


class Listed(msgspec.Struct, frozen=True):
    """A beacon as it is shown: `member` is the id of the member it was announced at."""

    topic: str
    name: str
    state: str
    member: str
    age_ms: int
    ttl_ms: int


class _Told(msgspec.Struct, frozen=True, array_like=True):
    """A beacon on its way to a peer."""

    topic: str
    name: str
    state: str
    ttl_ms: int
    age_ms: int
    counter: int


class _Confirmed(msgspec.Struct, frozen=True, array_like=True):
    """A peer's answer: which of its lives it is in, and the highest counter it has heard of."""

    life: bytes
    counter: int


class _Peer(msgspec.Struct):
    """How far a peer has been told."""

    life: bytes = b""
    counter: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode_told = msgspec.msgpack.Decoder(list[_Told]).decode
_decode_confirmed = msgspec.msgpack.Decoder(_Confirmed).decode


class Beacons:
    """All beacons one member knows. It belongs to the event loop; `now` is a monotonic clock in seconds."""

    def __init__(
        self, member_id: str, consensus: Consensus, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._member_id = member_id
        self._consensus = consensus
        self._now = now
        self._life = os.urandom(8)
        self._counter = time.time_ns() // 1_000
        self._topics: dict[str, dict[str, Beacon]] = {}
        self._kept = 0
        self._own: dict[tuple[str, str], Beacon] = {}
        """What this member's clients announced, the latest last."""
        self._peers: dict[str, _Peer] = {}
        self._telling: dict[str, asyncio.Task[None]] = {}
        self._soon: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return self._kept

    def announce(self, topic: str, name: str, state: str, ttl_ms: int) -> None:
        """Show a state under a name for `ttl_ms` milliseconds, instead of what the name had.

        Raises InvalidInput, TooLarge, and LimitReached when no further name fits.
        """
        check_name("topic", topic, MAX_TEXT_BYTES)
        check_name("name", name, MAX_TEXT_BYTES)
        check_text("state", state, MAX_TEXT_BYTES)
        check_number("ttl_ms", ttl_ms, 1, MAX_TTL_MS)
        if not self._has_room(topic, name):
            raise LimitReached(
                f"there may be {MAX_NAMES} beacons of one topic and {MAX_BEACONS} in all, and there are; "
                "they fade within a minute, so try again then"
            )
        self._counter += 1
        self._put(
            Beacon(
                topic=topic,
                name=name,
                state=state,
                ttl_ms=ttl_ms,
                origin=self._member_id,
                counter=self._counter,
                announced_s=self._now(),
            )
        )
        self._spread_soon()

    def listed(self, topic: str) -> list[Listed]:
        """The beacons of a topic that are alive, by name. Raises InvalidInput, TooLarge."""
        check_name("topic", topic, MAX_TEXT_BYTES)
        now_s = self._now()
        found = [
            Listed(topic, beacon.name, beacon.state, beacon.origin, age_ms, beacon.ttl_ms)
            for beacon in self._topics.get(topic, {}).values()
            if (age_ms := beacon.age_ms(now_s)) < beacon.ttl_ms
        ]
        return sorted(found, key=lambda listed: listed.name)

    # What is kept.

    def _has_room(self, topic: str, name: str) -> bool:
        names = self._topics.get(topic, {})
        return name in names or (self._kept < MAX_BEACONS and len(names) < MAX_NAMES)

    def _put(self, beacon: Beacon) -> None:
        self._drop(beacon.topic, beacon.name)
        self._topics.setdefault(beacon.topic, {})[beacon.name] = beacon
        self._kept += 1
        if beacon.origin == self._member_id:
            self._own[beacon.topic, beacon.name] = beacon

    def _drop(self, topic: str, name: str) -> None:
        names = self._topics.get(topic, {})
        if names.pop(name, None) is None:
            return
        self._kept -= 1
        self._own.pop((topic, name), None)
        if not names:
            del self._topics[topic]

    def _forget_old(self) -> None:
        now_s = self._now()
        old = [
            beacon
            for names in self._topics.values()
            for beacon in names.values()
            if beacon.age_ms(now_s) >= MAX_TTL_MS
        ]
        for beacon in old:
            self._drop(beacon.topic, beacon.name)

    # What peers say.

    async def hear(self, peer_id: str, body: bytes) -> bytes:
        """Take in what a peer's clients announced; the answer confirms it. Raises InvalidInput."""
        try:
            told = _decode_told(body)
        except UNDECODABLE as error:
            raise InvalidInput(f"this version cannot read the peer's beacons: {error}") from error
        now_s = self._now()
        for each in told:
            self._counter = max(self._counter, each.counter)
            if each.age_ms < MAX_TTL_MS:
                self._take(_beacon_of(peer_id, each, now_s))
        return _encode(_Confirmed(self._life, self._counter))

    def _take(self, beacon: Beacon) -> None:
        known = self._topics.get(beacon.topic, {}).get(beacon.name)
        if self._has_room(beacon.topic, beacon.name) and (known is None or beacon.beats(known)):
            self._put(beacon)

    # What peers are told.

    async def beat(self) -> None:
        """Forget what is old, and see that every peer knows what it should; every `BEAT_S` seconds.

        A peer that confirmed everything is told nothing, and asked all the same: it may have started anew.
        """
        self._forget_old()
        if self._own:
            for peer_id in self._peer_ids():
                self._start_telling(peer_id)
            await asyncio.gather(*self._telling.values())

    def _spread_soon(self) -> None:
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(GATHER_S, self._spread)

    def _spread(self) -> None:
        self._soon = None
        for peer_id in self._peer_ids():
            if self._news_for(peer_id):
                self._start_telling(peer_id)

    def _peer_ids(self) -> list[str]:
        return [voter for voter in self._consensus.status().voters if voter != self._member_id]

    def _start_telling(self, peer_id: str) -> None:
        """Unless a message is on its way to this peer already."""
        if peer_id not in self._telling:
            task = self._telling[peer_id] = asyncio.create_task(self._tell(peer_id))
            task.add_done_callback(lambda _: self._telling.pop(peer_id))

    async def _tell(self, peer_id: str) -> None:
        news = self._news_for(peer_id)
        now_s = self._now()
        body = _encode([_told_of(beacon, now_s) for beacon in news])
        try:
            answer = await self._consensus.ask(peer_id, b"%b %b" % (ASK, body), TELL_TIMEOUT_S)
            confirmed = _decode_confirmed(answer)
        except (RaftosError, TimeoutError, *UNDECODABLE):
            return  # It is gone, or of another version: a later beat tries again.
        peer = self._peers.setdefault(peer_id, _Peer(confirmed.life))
        if peer.life != confirmed.life:
            self._peers[peer_id] = _Peer(confirmed.life)
        elif news:
            peer.counter = news[-1].counter
        self._counter = max(self._counter, confirmed.counter)
        if self._news_for(peer_id):
            self._spread_soon()

    def _news_for(self, peer_id: str) -> list[Beacon]:
        """What the peer has not confirmed, the earliest first, as much as goes into one message."""
        told = self._peers.get(peer_id, _Peer()).counter
        news = list(takewhile(lambda beacon: beacon.counter > told, reversed(self._own.values())))
        return news[-MAX_TOLD:][::-1]

    def close(self) -> None:
        """Tell nobody anything any more."""
        if self._soon is not None:
            self._soon.cancel()
        for task in self._telling.values():
            task.cancel()


def _told_of(beacon: Beacon, now_s: float) -> _Told:
    age_ms = beacon.age_ms(now_s)
    return _Told(beacon.topic, beacon.name, beacon.state, beacon.ttl_ms, age_ms, beacon.counter)


def _beacon_of(origin: str, told: _Told, now_s: float) -> Beacon:
    return Beacon(
        topic=told.topic,
        name=told.name,
        state=told.state,
        ttl_ms=told.ttl_ms,
        origin=origin,
        counter=told.counter,
        announced_s=now_s - told.age_ms / 1000,
    )
