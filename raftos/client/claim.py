"""Taking a lock: one claim, from the first attempt to the lease or to the end of patience.

A lock is a key that exists only while somebody holds the lock, so taking it is a put that expects no key.
Whoever comes too late waits for the key to be gone, told by the events of that key, or by looking at it
now and then where no member tells them. Then everybody who waits tries again, and one is first: there is
no queue. A holder that gives the lock back and takes it again at once may well be first many times.

| attempt answered with        | then                                                                  |
|------------------------------|-----------------------------------------------------------------------|
| the key was written          | the lease began, for this side when the attempt was *sent*            |
| it exists                    | wait, and at the end of patience Conflict, which names the holder     |
| it exists and is of this claim | an earlier attempt in doubt has won after all: renew it, it is ours |
| the outcome is unknown       | in doubt: as long as there is patience, look and try again            |
| the cluster is unavailable   | the error, for a first attempt; else patience decides                 |

Every claim has an id of its own in the value of the key. A claim that ends in doubt, because the answer
was lost or because its caller did not wait for it, is withdrawn: the key is deleted if it is of this claim
and at the revision seen. What cannot be withdrawn is gone when its time-to-live is over.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

import msgspec

from raftos.client.kv import AsyncKv, Item
from raftos.errors import (
    Compacted,
    Conflict,
    LimitReached,
    NotFound,
    OutcomeUnknown,
    RaftosError,
    Unavailable,
)
from raftos.state.domains.kv import Written

PREFIX = "lock/"
LEASE_SHARE = 0.99
"""How much of a time-to-live its holder relies on: clocks do not run equally fast."""
PAUSE_S = (0.2, 0.6)
"""Between two looks at a lock whose events nobody tells; at random, so that not all look at once."""


class Holder(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who holds a lock, as the value of its key says; `claim` tells apart two claims of the same holder."""

    owner: str
    host: str = ""
    pid: int | None = None
    claim: str = ""


class Lease(msgspec.Struct, frozen=True):
    """A lock as its holder has it: the fencing token, and when to stop relying on it, by `now_s`."""

    token: int
    ends_s: float


def now_s() -> float:
    """Monotonic, and going on while the machine sleeps, as the rest of the cluster does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def lease_end_s(sent_s: float, ttl_s: float) -> float:
    """When a lease ends for its holder, that was asked for at `sent_s`: never later than for the cluster."""
    return sent_s + LEASE_SHARE * ttl_s


def key_of(name: str) -> str:
    return PREFIX + name


_decode_holder = msgspec.json.Decoder(Holder).decode


def holder_of(item: Item) -> Holder:
    """Who holds the lock; a key that somebody wrote by other means has a holder without a name."""
    try:
        return _decode_holder(item.value)
    except msgspec.MsgspecError:
        return Holder("unknown")


class Claim:
    """One attempt of `holder` to get the lock `name`, with a patience of `wait_s` seconds; None: endless."""

    def __init__(self, kv: AsyncKv, name: str, holder: Holder, *, ttl_s: float, wait_s: float | None) -> None:
        self._kv = kv
        self._name = name
        self._key = key_of(name)
        self._holder = holder
        self._ttl_s = ttl_s
        self._patience_ends_s = float("inf") if wait_s is None else now_s() + wait_s
        self._in_line = False
        self._put: asyncio.Future[Written] | None = None
        self.in_doubt = False
        """Whether the key may be of this claim without anybody holding the lock."""

    async def win(self) -> Lease:
        """The lock, as soon as it is free.

        Raises Conflict when somebody else holds it at the end of patience, and Unavailable when the cluster
        cannot be asked in the first place, or then. Of both nothing is left, except as OutcomeUnknown says.
        """
        while True:
            try:
                lease = await self._attempt() or await self._stand_in_line()
            except Unavailable as trouble:
                if self._is_late() or not (self._in_line or self.in_doubt):
                    raise self._verdict(trouble) from trouble
                await _pause()
            else:
                if lease is not None:
                    return lease

    async def withdraw(self) -> None:
        """Give back what an attempt in doubt may have taken, as far as the cluster can be reached."""
        if self._put is not None:
            await asyncio.wait([self._put])
        with suppress(RaftosError):  # Nobody is left to tell; the time-to-live does the rest.
            item = await self._look()
            if item is not None and self._is_ours(item):
                await self._kv.delete(self._key, expect_revision=item.revision)

    async def _attempt(self) -> Lease | None:
        """One put; None where somebody else has the lock."""
        sent_s, was_in_doubt, self.in_doubt = now_s(), self.in_doubt, True
        value = msgspec.json.encode(self._holder)
        # Shielded: when the caller does not wait for the answer, the withdrawal does.
        self._put = asyncio.ensure_future(self._kv.put(self._key, value, expect_version=0, ttl_s=self._ttl_s))
        try:
            written = await asyncio.shield(self._put)
        except OutcomeUnknown:
            raise
        except RaftosError as refusal:
            self.in_doubt = was_in_doubt
            if refusal.code != Conflict.code:
                raise
            self._in_line = True
            return None
        self.in_doubt = False
        return Lease(written.revision, lease_end_s(sent_s, self._ttl_s))

    async def _stand_in_line(self) -> Lease | None:
        """Wait for the holder; the lock, if that turns out to be this claim."""
        item = await self._look()
        if item is None:
            return None
        if self.in_doubt and self._is_ours(item):
            return await self._adopt(item)
        if self._is_late():
            owner = holder_of(item).owner
            raise Conflict(
                f"lock {self._name!r} is held by {owner!r} with token {item.revision}; "
                "wait for it longer, or try again later"
            )
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s()):
                while not await self._is_told():
                    await _pause()
        return None

    async def _adopt(self, item: Item) -> Lease | None:
        """Take over what an attempt in doubt has won, with a lease that begins now."""
        sent_s = now_s()
        try:
            await self._kv.touch(self._key, ttl_s=self._ttl_s, expect_revision=item.revision)
        except (NotFound, Conflict):
            return None
        self.in_doubt = False
        return Lease(item.revision, lease_end_s(sent_s, self._ttl_s))

    async def _is_told(self) -> bool:
        """Whether another attempt is worth it, as soon as that is known; False where nobody tells."""
        with suppress(Unavailable, LimitReached, Compacted):
            async with self._kv.watch(self._key) as changes:
                # What happens from now on is told, so one look suffices.
                if self._is_promising(await self._look()):
                    return True
                async for change in changes:
                    if change.kind != "put" or self.in_doubt:
                        return True
        return self._is_promising(await self._look())

    def _is_promising(self, item: Item | None) -> bool:
        return item is None or (self.in_doubt and self._is_ours(item))

    async def _look(self) -> Item | None:
        try:
            return await self._kv.get(self._key)
        except NotFound:
            return None

    def _is_ours(self, item: Item) -> bool:
        return holder_of(item) == self._holder

    def _patience_s(self) -> float | None:
        left_s = self._patience_ends_s - now_s()
        return None if left_s == float("inf") else left_s

    def _is_late(self) -> bool:
        return now_s() >= self._patience_ends_s

    def _verdict(self, trouble: Unavailable) -> Unavailable:
        if not self.in_doubt:
            return trouble
        return OutcomeUnknown(
            f"nobody confirmed that lock {self._name!r} was taken; if it was, it is given back as soon as "
            f"possible, and runs out {self._ttl_s:g} s later at most"
        )


async def _pause() -> None:
    await asyncio.sleep(random.uniform(*PAUSE_S))  # noqa: S311 - spreading load, not secrets
