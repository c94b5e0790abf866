"""Locks: at most one holder at a time, as far as a lease can promise that.

A lock NAME is the key `lock/NAME`: whoever creates it holds the lock, whoever deletes it gives it back, and
its time-to-live ends the tenure of a holder that died or cannot be heard. While a lock is held, its
time-to-live is renewed in the background, every third of it.

What a lease promises, and what it does not
    A holder that does not know that its time is over is the trouble of every lease: its process was
    stopped, its virtual machine was moved, its memory was collected; it wakes up in the middle of the work,
    and somebody else has the lock by now. No lock service can prevent that, as it cannot hold still the
    world while a message of its holder is on the way. Martin Kleppmann's remedy ("How to do distributed
    locking", 2016) is a *fencing token*: a number that grows with every acquisition, goes along with every
    write the lock is to protect, and lets whatever takes the writes refuse those of an earlier holder.

    The token here is the revision at which the lock was taken. Fence writes to the cluster itself with it:

        client.kv.txn(compare=[Compare("lock/NAME", revision=held.token)], writes=[...])

    happens while this tenure lasts, or not at all. Another system has to remember the greatest token it has
    seen and refuse smaller ones. What can do neither is protected only as well as everybody's clocks and
    schedulers behave, which is enough to save double work, and too little to keep data correct.

The life of a held lock, on this side:

| state | becomes  | when                                                                               |
|-------|----------|------------------------------------------------------------------------------------|
| held  | held     | a renewal was confirmed: the lease now counts from before that was *sent*          |
| held  | lost     | the key is gone or of another revision; or the lease ended, without a confirmation |
| held  | released | `release`, or its block was left                                                   |
| lost  | released | the same; what others have taken meanwhile is left alone                           |

Trouble on the way to the cluster alone loses nothing: renewing goes on until the lease is over. Nothing
is done to the work in the block when the lock is lost: ask `lost`, or wait for `until_lost`.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self

import msgspec

from raftos.client.claim import PREFIX, Claim, Holder, Lease, holder_of, key_of, lease_end_s, now_s
from raftos.client.core import Core
from raftos.client.kv import AsyncKv, Item
from raftos.errors import Conflict, InvalidInput, NotFound, RaftosError
from raftos.state.limits import check_name

TTL_S = 15.0
SHORTEST_TTL_S, LONGEST_TTL_S = 1.0, 24 * 3600.0
MAX_NAME_BYTES = 500
MAX_OWNER_BYTES = 200
RENEWALS = 3
"""How often a lease is renewed before it would be over."""
RETRY_S = 0.1
FAREWELL_S = 1.0
"""How long a client that is closed waits for claims in doubt to be withdrawn."""


Stop = Callable[[str], Coroutine[Any, Any, object]]


class Holding(msgspec.Struct, frozen=True):
    """A lock and who has it. `expires_in_s` is None for a key that never expires: no lock made it."""

    name: str
    token: int
    owner: str
    host: str
    pid: int | None
    expires_in_s: float | None


class Renewed(msgspec.Struct, frozen=True):
    """A lock that is held for another while, in seconds."""

    name: str
    token: int
    expires_in_s: float


class AsyncLock:
    """A lock to hold: `async with client.lock("name") as held:` takes it, renews it and gives it back.

    `token` is the fencing token, 0 before the first acquisition. An object holds the lock once at a time,
    and can take it again after it was released.
    """

    def __init__(
        self, tenures: Tenures, name: str, *, ttl_s: float, wait_s: float | None, owner: str | None
    ) -> None:
        check(name, ttl_s, wait_s)
        self.name = name
        self.token = 0
        self._tenures = tenures
        self._holder = _holder(owner, os.getpid())
        self._ttl_s = ttl_s
        self._wait_s = wait_s
        self._busy = False
        self._ends_s = 0.0
        self._lost_because: str | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._over.set()

    @property
    def owner(self) -> str:
        return self._holder.owner

    @property
    def lost(self) -> bool:
        """Whether the lock has to be taken for somebody else's.

        Decided by this machine's clock at the moment of the question, so that it is true also where the
        event loop had no time to notice.
        """
        return self._lost_because is not None or (self._keeper is not None and now_s() >= self._ends_s)

    async def until_lost(self) -> str | None:
        """Wait until the lock is lost and say why; None once it was given back instead, or is not held."""
        await self._over.wait()
        return self._lost_because

    async def acquire(self) -> Self:
        """Take the lock, and hold it until `release` or until it is lost.

        Raises Conflict, which names the holder, when it was not free within `wait_s`; Unavailable when the
        cluster could not be asked; InvalidInput when this object holds it already.
        """
        if self._busy:
            raise InvalidInput(f"this object has or awaits lock {self.name!r} already; make one for each use")
        self._busy = True
        try:
            lease = await self._tenures.win(self.name, self._holder, ttl_s=self._ttl_s, wait_s=self._wait_s)
        except BaseException:  # Also cancelling: who waits no more may try again.
            self._busy = False
            raise
        self.token, self._ends_s, self._lost_because = lease.token, lease.ends_s, None
        self._over = asyncio.Event()
        self._keeper = self._tenures.keep(self._keep(), self._stop)
        return self

    async def release(self) -> bool:
        """Give the lock back; whether it was still ours. One that is not any more is left alone.

        Raises Unavailable when the cluster could not be told; the lock is not renewed any more then, and
        runs out.
        """
        if not await self._stop():
            return False
        try:
            await self._tenures.kv.delete(key_of(self.name), expect_revision=self.token)
        except (NotFound, Conflict):
            return False
        return True

    async def _stop(self, reason: str | None = None) -> bool:
        """Renew no more; whether the lock is ours until the lease ends. With a reason, it is lost."""
        keeper, self._keeper, was_lost = self._keeper, None, self.lost
        if keeper is None:
            return False
        keeper.cancel()
        await asyncio.wait([keeper])
        self._busy = False
        self._end(reason or (self._too_late() if was_lost else None))
        return not was_lost

    async def _keep(self) -> None:
        """Renew the lease, until it is lost."""
        try:
            while True:
                async with asyncio.timeout(self._ends_s - now_s()):
                    self._ends_s = await self._renewed()
        except (NotFound, Conflict):
            self._end(f"lock {self.name!r} is not held with token {self.token} any more")
        except TimeoutError:
            self._end(self._too_late())

    async def _renewed(self) -> float:
        """Renew once, when it is time; the end of the new lease."""
        pause_s = self._ttl_s / RENEWALS
        while True:
            await asyncio.sleep(pause_s)
            sent_s = now_s()
            if sent_s >= self._ends_s:
                # Asleep for too long: what the cluster still keeps of this tenure is better left to run out.
                raise TimeoutError
            try:
                await self._tenures.kv.touch(key_of(self.name), ttl_s=self._ttl_s, expect_revision=self.token)
            except (NotFound, Conflict):
                raise
            except RaftosError:
                pause_s = RETRY_S  # Whatever it is, it may pass before the lease is over.
            else:
                return lease_end_s(sent_s, self._ttl_s)

    def _too_late(self) -> str:
        return f"lock {self.name!r} was not renewed before its lease was over"

    def _end(self, reason: str | None) -> None:
        self._lost_because = self._lost_because or reason
        self._over.set()

    async def __aenter__(self) -> Self:
        return await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        with suppress(RaftosError):  # It runs out by itself, and what the block raised matters more.
            await self.release()


class Tenures:
    """What goes on in the background of one client: locks renewed, and claims in doubt withdrawn."""

    def __init__(self, kv: AsyncKv) -> None:
        self.kv = kv
        self._held: dict[asyncio.Task[None], Stop] = {}
        self._withdrawals: set[asyncio.Task[None]] = set()

    async def win(self, name: str, holder: Holder, *, ttl_s: float, wait_s: float | None) -> Lease:
        """Get the lock. A claim that ends in doubt is withdrawn in the background."""
        claimant = msgspec.structs.replace(holder, claim=secrets.token_hex(8))
        claim = Claim(self.kv, name, claimant, ttl_s=ttl_s, wait_s=wait_s)
        try:
            return await claim.win()
        except BaseException:  # Also cancelling: it may be won, and nobody would know.
            if claim.in_doubt:
                self._withdrawals.add(task := asyncio.get_running_loop().create_task(claim.withdraw()))
                task.add_done_callback(self._withdrawals.discard)
            raise

    def keep(self, renewing: Coroutine[Any, Any, None], stop: Stop) -> asyncio.Task[None]:
        """Let a lock be renewed until it is stopped, which closing the client does."""
        keeper = asyncio.get_running_loop().create_task(renewing)
        self._held[keeper] = stop
        keeper.add_done_callback(lambda _: self._held.pop(keeper))
        return keeper

    async def aclose(self) -> None:
        """Renew no lock any more, and let claims in doubt be withdrawn."""
        await asyncio.gather(*(stop("the client was closed") for stop in self._held.values()))
        if self._withdrawals:
            _, late = await asyncio.wait(self._withdrawals, timeout=FAREWELL_S)
            for task in late:
                task.cancel()


class AsyncLocks:
    """`client.lock`: called, it gives a lock to hold; its verbs work on leases that nobody renews."""

    def __init__(self, core: Core, kv: AsyncKv) -> None:
        self._core = core
        self._kv = kv
        self._tenures = Tenures(kv)

    def __call__(
        self, name: str, *, ttl_s: float = TTL_S, wait_s: float | None = None, owner: str | None = None
    ) -> AsyncLock:
        """The lock of this name, to take with `async with` and to hold while the block runs.

        `name` is 1 to 500 bytes without control characters. The lease is renewed in the background, and lasts
        `ttl_s` seconds (1 to 86 400) without that: how long others wait for a holder that died, and how long
        a holder gets on without the cluster, so better longer than an election takes. Entering waits `wait_s`
        seconds for another holder, 0 tries once, None waits for ever. `owner` tells people who holds it,
        USER@HOST if not given. Raises InvalidInput; entering raises as `AsyncLock.acquire` does.
        """
        return AsyncLock(self._tenures, name, ttl_s=ttl_s, wait_s=wait_s, owner=owner)

    async def acquire(
        self, name: str, *, ttl_s: float = TTL_S, wait_s: float | None = None, owner: str | None = None
    ) -> Holding:
        """Take a lock for `ttl_s` seconds, without holding on to it: `renew` and `release` take its token.

        Raises Conflict, which names the holder, when it was not free within `wait_s`, and InvalidInput.
        """
        check(name, ttl_s, wait_s)
        holder = _holder(owner, None)
        lease = await self._tenures.win(name, holder, ttl_s=ttl_s, wait_s=wait_s)
        return Holding(name, lease.token, holder.owner, holder.host, holder.pid, _left_s(lease.ends_s))

    async def renew(self, name: str, token: int, *, ttl_s: float = TTL_S) -> Renewed:
        """Let a lock run out `ttl_s` seconds from now.

        Raises NotFound when nobody holds it, Conflict when it is held with another token.
        """
        check(name, ttl_s, None)
        sent_s = now_s()
        try:
            await self._kv.touch(key_of(name), ttl_s=ttl_s, expect_revision=token)
        except (NotFound, Conflict) as refusal:
            raise await self._refusal(name, token, refusal) from refusal
        return Renewed(name, token, _left_s(lease_end_s(sent_s, ttl_s)))

    async def release(self, name: str, token: int) -> None:
        """Give a lock back.

        Raises NotFound when nobody holds it, Conflict when it is held with another token; it stays so.
        """
        check(name, TTL_S, None)
        try:
            await self._kv.delete(key_of(name), expect_revision=token)
        except (NotFound, Conflict) as refusal:
            raise await self._refusal(name, token, refusal) from refusal

    async def show(self, name: str) -> Holding:
        """Who holds a lock. Raises NotFound when nobody does."""
        check(name, TTL_S, None)
        try:
            return self._holding(await self._kv.get(key_of(name)))
        except NotFound as nobody:
            raise NotFound(f"nobody holds lock {name!r}") from nobody

    async def list(self) -> list[Holding]:
        """Every lock that somebody holds, by name."""
        return [self._holding(item) async for item in self._kv.list(PREFIX)]

    async def aclose(self) -> None:
        """Renew no lock any more, and let claims in doubt be withdrawn."""
        await self._tenures.aclose()

    def _holding(self, item: Item) -> Holding:
        holder = holder_of(item)
        left_s = None
        if item.expires_ms is not None:
            left_s = max(0, item.expires_ms - self._core.open_pool().clock.now_ms()) / 1000
        name = item.key.removeprefix(PREFIX)
        return Holding(name, item.revision, holder.owner, holder.host, holder.pid, left_s)

    async def _refusal(self, name: str, token: int, refusal: RaftosError) -> RaftosError:
        """The same in the words of locks."""
        if isinstance(refusal, NotFound):
            return NotFound(f"nobody holds lock {name!r}; it ran out, or was released")
        with suppress(RaftosError):
            now = await self.show(name)
            return Conflict(f"lock {name!r} is held by {now.owner!r} with token {now.token}, not {token}")
        return Conflict(f"lock {name!r} is not held with token {token}")


def check(name: str, ttl_s: float, wait_s: float | None) -> None:
    """Raises InvalidInput, TooLarge."""
    check_name("lock name", name, MAX_NAME_BYTES)
    if not SHORTEST_TTL_S <= ttl_s <= LONGEST_TTL_S:
        raise InvalidInput(
            f"ttl_s is {ttl_s:g}; a lock lasts {SHORTEST_TTL_S:g} to {LONGEST_TTL_S:g} seconds"
        )
    if wait_s is not None and not wait_s >= 0:
        raise InvalidInput(f"wait_s is {wait_s:g}; it has to be 0 seconds or more")


def _holder(owner: str | None, pid: int | None) -> Holder:
    host = socket.gethostname()
    owner = f"{_user()}@{host}" if owner is None else owner
    check_name("owner", owner, MAX_OWNER_BYTES)
    return Holder(owner, host, pid)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container may run as a user that has no name.
        return str(os.getuid())


def _left_s(ends_s: float) -> float:
    return round(max(0.0, ends_s - now_s()), 3)
