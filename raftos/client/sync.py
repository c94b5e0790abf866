"""The client for ordinary code: the asynchronous one on an event loop of its own thread.

There is one implementation. Each namespace here is a table of the asynchronous verbs it makes
blocking; a test compares the tables. A Client may be used from many threads at once, whose calls then
share batches. It is closed by `close`, by leaving its `with` block, when nobody refers to it any
more, or at the exit of the interpreter, whichever comes first.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import uvloop

from raftos.client.aio import AsyncClient
from raftos.client.beacons import AsyncBeacons
from raftos.client.chat import AsyncChat, AsyncMessages, Heard
from raftos.client.events import Arrivals, AsyncEvents, Event, News, Revised
from raftos.client.kv import AsyncKv
from raftos.client.leader import AsyncLeader
from raftos.client.lock import TTL_S, AsyncLock, AsyncLocks
from raftos.client.members import AsyncMembers
from raftos.client.quota import AsyncQuota
from raftos.client.snapshot import AsyncSnapshot
from raftos.client.status import Status
from raftos.errors import InvalidInput, RaftosError
from raftos.state.command import Command, Query
from raftos.state.domains.chat import Message

Params = ParamSpec("Params")
Value = TypeVar("Value")
Told = TypeVar("Told", bound=Revised)
Work = Coroutine[Any, Any, Value]


class _Background:
    """An event loop on its own thread, from now until `stop`."""

    def __init__(self, farewell: Callable[[], Work[None]]) -> None:
        self._gate = threading.Lock()
        self._open = True
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(
            target=_serve, args=(self._loop, farewell), name="raftos-client", daemon=True
        )
        self._thread.start()

    def run(self, work: Work[Value]) -> Value:
        """The result of the coroutine, awaited on the loop. Raises InvalidInput where that cannot be."""
        future = self.start(work)
        try:
            return future.result()
        finally:
            future.cancel()  # Matters only if the wait was interrupted, as by Ctrl-C.

    def start(self, work: Work[Value]) -> Future[Value]:
        """Let the coroutine run on the loop. Raises InvalidInput where that cannot be."""
        try:
            return self._start(work)
        except InvalidInput:
            work.close()
            raise

    def _start(self, work: Work[Value]) -> Future[Value]:
        if threading.current_thread() is self._thread:
            raise InvalidInput("this client would wait for itself; use AsyncClient on an event loop")
        with self._gate:
            if not self._open:
                raise InvalidInput("this client is closed; open a new one")
            if not self._thread.is_alive():
                raise InvalidInput("this client stayed behind in the parent process; open one after the fork")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        with self._gate:
            was_open, self._open = self._open, False
        if was_open and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            if threading.current_thread() is not self._thread:
                self._thread.join()


def _serve(loop: asyncio.AbstractEventLoop, farewell: Callable[[], Work[None]]) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(_wind_up(farewell))
    finally:
        loop.close()


async def _wind_up(farewell: Callable[[], Work[None]]) -> None:
    await farewell()
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*rest, return_exceptions=True)


class _Blocking:
    """A namespace of `owner`, which it keeps from being closed as forgotten."""

    def __init__(self, owner: object, background: _Background, verbs: object) -> None:
        self._owner = owner
        self._background = background
        self._verbs = verbs


def _blocking(
    verb: Callable[Concatenate[Any, Params], Work[Value]],
) -> Callable[Concatenate[_Blocking, Params], Value]:
    @functools.wraps(verb)
    def call(self: _Blocking, /, *args: Params.args, **kwargs: Params.kwargs) -> Value:
        return self._background.run(verb(self._verbs, *args, **kwargs))

    return call


def _blocking_pages(
    pages: Callable[Concatenate[Any, Params], AsyncIterator[Sequence[Value]]],
) -> Callable[Concatenate[_Blocking, Params], Iterator[Value]]:
    @functools.wraps(pages)
    def call(self: _Blocking, /, *args: Params.args, **kwargs: Params.kwargs) -> Iterator[Value]:
        iterator = pages(self._verbs, *args, **kwargs)
        while (page := self._background.run(_next(iterator))) is not None:
            yield from page

    return call


async def _next(pages: AsyncIterator[Sequence[Value]]) -> Sequence[Value] | None:
    return await anext(pages, None)


class Events(Generic[Told]):
    """`AsyncEvents` for ordinary code: an iterator, and a context manager that connects.

    Any thread may take the next event, each event goes to one of them, and any may `close`. Ctrl-C
    interrupts a wait without losing anything.
    """

    def __init__(self, owner: object, background: _Background, events: AsyncEvents[Told]) -> None:
        self._owner = owner
        self._background = background
        self._events = events
        self._arrivals: Arrivals[Told] = Arrivals()
        self._turn = threading.Lock()
        self._coming: Future[list[News[Told]]] | None = None

    @property
    def revision(self) -> int | None:
        """The last revision handed out whole, to resume from; None before the first is known."""
        return self._arrivals.revision

    @property
    def connected(self) -> bool:
        return self._events.connected

    @property
    def member(self) -> str | None:
        """The name of the member that tells; None while there is none, or it has not said its name."""
        return self._events.member

    @property
    def age_ms(self) -> int | None:
        """How long ago the stream was certainly up to date, in milliseconds; None where that is unknown."""
        return self._events.age_ms

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Told:
        with self._turn:
            while (event := self._arrivals.take()) is None:
                if not self._wait():
                    raise StopIteration
        return event

    def news(self) -> list[News[Told]]:
        """All that is here, waiting for something to be: events, bookmarks, interruptions, in order.

        Empty only when the follower was closed. Raises as the iteration does.
        """
        with self._turn:
            return self._arrivals.take_all() or (self._arrivals.take_all() if self._wait() else [])

    def close(self) -> None:
        """Leave the member. A thread that waits for an event is told that there are no more."""
        with suppress(InvalidInput):  # The client was closed, and this with it.
            self._background.run(self._events.aclose())

    def __enter__(self) -> Self:
        self._background.run(self._events.__aenter__())
        self._arrivals.add(self._background.run(self._events.news()))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self) -> bool:
        """Let something arrive; whether something did. Interrupted, it is taken up again by the next call."""
        if self._coming is None:
            self._coming = self._background.start(self._events.news())
        wait([self._coming])
        coming, self._coming = self._coming, None
        news = coming.result()
        self._arrivals.add(news)
        return bool(news)


def _following(
    verb: Callable[Concatenate[Any, Params], AsyncEvents[Told]],
) -> Callable[Concatenate[_Blocking, Params], Events[Told]]:
    @functools.wraps(verb)
    def call(self: _Blocking, /, *args: Params.args, **kwargs: Params.kwargs) -> Events[Told]:
        return Events(self._owner, self._background, verb(self._verbs, *args, **kwargs))

    return call


class Kv(_Blocking):
    """`client.kv`."""

    put = _blocking(AsyncKv.put)
    get = _blocking(AsyncKv.get)
    delete = _blocking(AsyncKv.delete)
    touch = _blocking(AsyncKv.touch)
    delete_prefix = _blocking(AsyncKv.delete_prefix)
    txn = _blocking(AsyncKv.txn)
    watch = _following(AsyncKv.watch)
    list = _blocking_pages(AsyncKv.pages)


class Messages:
    """`AsyncMessages` for ordinary code: an iterator, and a context manager that connects.

    It serves one thread at a time, and any may `close` it. Ctrl-C interrupts a wait without losing anything.
    """

    def __init__(self, owner: object, background: _Background, messages: AsyncMessages) -> None:
        self._owner = owner
        self._background = background
        self._messages = messages
        self._waiting: deque[Heard] = deque()
        self._coming: Future[list[Heard]] | None = None

    @property
    def connected(self) -> bool:
        return self._messages.connected

    @property
    def member(self) -> str | None:
        """The name of the member that tells; None while there is none, or it has not said its name."""
        return self._messages.member

    @property
    def age_ms(self) -> int | None:
        """How long ago this was certainly up to date, in milliseconds; None where that is unknown."""
        return self._messages.age_ms

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        while True:
            while self._waiting:
                item = self._waiting.popleft()
                if isinstance(item, Message):
                    return item
            self._waiting += (news := self._wait())
            if not news:
                raise StopIteration

    def news(self) -> list[Heard]:
        """All that is here, waiting for something to be: messages, bookmarks, interruptions, in order.

        Empty only when the follower was closed. Raises as the iteration does.
        """
        if not self._waiting:
            return self._wait()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def close(self) -> None:
        """Leave the member. A thread that waits for a message is told that there are no more."""
        with suppress(InvalidInput):  # The client was closed, and this with it.
            self._background.run(self._messages.aclose())

    def __enter__(self) -> Self:
        self._background.run(self._messages.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self) -> list[Heard]:
        """Let something arrive. Interrupted, it is taken up again by the next call."""
        if self._coming is None:
            self._coming = self._background.start(self._messages.news())
        wait([self._coming])
        coming, self._coming = self._coming, None
        return coming.result()


class Chat(_Blocking):
    """`client.chat`."""

    _verbs: AsyncChat

    create = _blocking(AsyncChat.create)
    archive = _blocking(AsyncChat.archive)
    rooms = _blocking(AsyncChat.rooms)
    send = _blocking(AsyncChat.send)
    edit = _blocking(AsyncChat.edit)
    redact = _blocking(AsyncChat.redact)
    history = _blocking_pages(AsyncChat.pages)
    page = _blocking(AsyncChat.page)
    search = _blocking(AsyncChat.search)
    mark_read = _blocking(AsyncChat.mark_read)
    readers = _blocking(AsyncChat.readers)

    def follow(
        self, room: str, *, since: int | None = None, changes: bool = False, give_up_s: float | None = None
    ) -> Messages:
        """Follow a room; `AsyncChat.follow` says how and what it raises."""
        messages = self._verbs.follow(room, since=since, changes=changes, give_up_s=give_up_s)
        return Messages(self._owner, self._background, messages)


class Lock(_Blocking):
    """`AsyncLock` for ordinary code: `with client.lock("name") as held:`.

    It is renewed on the client's own thread, whatever the block does. `until_lost` is for another thread.
    """

    _verbs: AsyncLock

    @property
    def name(self) -> str:
        return self._verbs.name

    @property
    def owner(self) -> str:
        return self._verbs.owner

    @property
    def token(self) -> int:
        """The fencing token, 0 before the first acquisition."""
        return self._verbs.token

    @property
    def lost(self) -> bool:
        """Whether the lock has to be taken for somebody else's, by this machine's clock."""
        return self._verbs.lost

    release = _blocking(AsyncLock.release)
    until_lost = _blocking(AsyncLock.until_lost)

    def acquire(self) -> Self:
        """Take the lock, and hold it until `release` or until it is lost. Raises as `AsyncLock.acquire`."""
        try:
            self._background.run(self._verbs.acquire())
        except RaftosError:
            raise
        except BaseException:
            # Ctrl-C may come when the lock has just been taken and nobody here knows of it yet.
            with suppress(RaftosError):
                self._background.run(self._verbs.release())
            raise
        return self

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        with suppress(RaftosError):  # It runs out by itself, and what the block raised matters more.
            self.release()


class Locks(_Blocking):
    """`client.lock`."""

    _verbs: AsyncLocks

    acquire = _blocking(AsyncLocks.acquire)
    renew = _blocking(AsyncLocks.renew)
    release = _blocking(AsyncLocks.release)
    show = _blocking(AsyncLocks.show)
    list = _blocking(AsyncLocks.list)

    def __call__(
        self, name: str, *, ttl_s: float = TTL_S, wait_s: float | None = None, owner: str | None = None
    ) -> Lock:
        """The lock of this name, to take with `with` and to hold while the block runs.

        `AsyncLocks.__call__` says what it takes and raises.
        """
        lock = self._verbs(name, ttl_s=ttl_s, wait_s=wait_s, owner=owner)
        return Lock(self._owner, self._background, lock)


class Members(_Blocking):
    """`client.members`."""

    list = _blocking(AsyncMembers.list)
    show = _blocking(AsyncMembers.show)
    add = _blocking(AsyncMembers.add)
    promote = _blocking(AsyncMembers.promote)
    remove = _blocking(AsyncMembers.remove)


class Leader(_Blocking):
    """`client.leader`."""

    show = _blocking(AsyncLeader.show)
    transfer = _blocking(AsyncLeader.transfer)


class Quota(_Blocking):
    """`client.quota`."""

    set = _blocking(AsyncQuota.set)
    list = _blocking(AsyncQuota.list)


class Beacons(_Blocking):
    """`client.beacons`."""

    announce = _blocking(AsyncBeacons.announce)
    list = _blocking(AsyncBeacons.list)


class Snapshot(_Blocking):
    """`client.snapshot`."""

    save = _blocking(AsyncSnapshot.save)


class Client:
    """A client of one cluster, for code without an event loop. Arguments and errors as AsyncClient."""

    def __init__(
        self,
        endpoints: Sequence[str] | None = None,
        context: str | None = None,
        *,
        timeout_s: float = 10.0,
        attempt_timeout_s: float = 1.0,
    ) -> None:
        self._client = AsyncClient(
            endpoints, context, timeout_s=timeout_s, attempt_timeout_s=attempt_timeout_s
        )
        self._background = _Background(self._client.close)
        self._stop = weakref.finalize(self, self._background.stop)

    @property
    def kv(self) -> Kv:
        return Kv(self, self._background, self._client.kv)

    @property
    def chat(self) -> Chat:
        return Chat(self, self._background, self._client.chat)

    @property
    def lock(self) -> Locks:
        return Locks(self, self._background, self._client.lock)

    @property
    def members(self) -> Members:
        return Members(self, self._background, self._client.members)

    @property
    def leader(self) -> Leader:
        return Leader(self, self._background, self._client.leader)

    @property
    def quota(self) -> Quota:
        return Quota(self, self._background, self._client.quota)

    @property
    def beacons(self) -> Beacons:
        return Beacons(self, self._background, self._client.beacons)

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self, self._background, self._client.snapshot)

    def status(self) -> Status:
        """The cluster as one live member sees it, every member listed."""
        return self._background.run(self._client.status())

    def events(
        self,
        topics: Sequence[str] = (),
        *,
        prefix: str = "",
        subject: str | None = None,
        since: int | None = None,
        stale: bool = False,
        give_up_s: float | None = None,
    ) -> Events[Event]:
        """Follow what happens in the cluster; `AsyncClient.events` says how and what it raises."""
        events = self._client.events(
            topics, prefix=prefix, subject=subject, since=since, stale=stale, give_up_s=give_up_s
        )
        return Events(self, self._background, events)

    def batch(self, requests: Sequence[Command | Query], *, stale: bool = False) -> list[Any]:
        """Send many commands and queries at once: independent, not atomic, in whatever order they arrive.

        Returns one outcome for each, in their order: the domain's answer to it, or the RaftosError it met.
        Where one has to come after another, wait for the first.
        """
        return self._background.run(self._client.batch(requests, stale=stale))

    def close(self) -> None:
        """Close the connections and end the thread. Calls still open end with an error."""
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
