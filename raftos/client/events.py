"""Watching: events as they happen, complete and in order, whatever becomes of the member that tells them.

A follower reads the stream of one member (`GET /v1/events`). When that breaks off, falls silent or is ended,
it goes on at another one, from the last revision it has whole:

| from         | when                                              | to                                   |
|--------------|---------------------------------------------------|--------------------------------------|
| looking      | a member says the first complete thing            | connected                            |
| looking      | a member cannot be reached, or cannot serve now   | looking, at the next one             |
| connected    | the stream broke, ended, or was silent for 5 s    | looking                              |
| any          | an error that no other member would answer better | that error is raised                 |
| any          | `aclose`, or the client was closed                | closed: the iteration ends           |

**Never half a revision.** The events of one revision share an id that stands on the last of them. They are
handed out when it came, and are forgotten when the stream broke before: the next member says them again.

**Nothing twice, nothing left out.** The position only moves forward over whole revisions, and a member is
always asked for what follows it. Up to which revision the stream is complete is said by bookmarks too,
while nothing happens.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar
from urllib.parse import urlencode

import msgspec

from raftos.client.connection import Broken
from raftos.client.core import Core
from raftos.client.endpoints import Endpoint
from raftos.client.pool import Attempts, error_from
from raftos.client.sse import Message, MessageParser
from raftos.client.streaming import Stream
from raftos.errors import ErrorBody, InvalidInput, LimitReached, RaftosError

SILENCE_S = 5.0
"""A member says something every 2 s; one that does not for so long is given up."""
LONGEST_PAUSE_S = 0.5


class Event(msgspec.Struct, frozen=True):
    """What happened, such as `kv.written`; the rest of what is said about it is in `fields`.

    `revision` is of the command that did it (several events may share it), `time_ms` is cluster time.
    """

    type: str
    revision: int
    time_ms: int
    fields: dict[str, Any]


class Bookmark(msgspec.Struct, frozen=True):
    """Everything up to `revision` was handed out. `member` knew itself up to date `age_ms` before."""

    revision: int
    member: str
    age_ms: int


class Interruption(msgspec.Struct, frozen=True):
    """The stream broke off, and goes on elsewhere: nothing is lost. `member` is None if none was reached."""

    member: str | None
    error: RaftosError


class Revised(Protocol):
    """What is handed out belongs to a revision."""

    @property
    def revision(self) -> int: ...


Value = TypeVar("Value", bound=Revised)
News: TypeAlias = Value | Bookmark | Interruption


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which events, from where, and how long to look for a member that tells them."""

    topics: Sequence[str] = ()
    prefix: str = ""
    subject: str | None = None
    since: int | None = None
    stale: bool = False
    give_up_s: float | None = None

    def path(self, position: int | None) -> str:
        """What to ask a member for, from a position, if there is one already. Raises InvalidInput."""
        parameters: dict[str, str] = {}
        if self.topics:
            parameters["topic"] = ",".join(self.topics)
        if self.prefix:
            parameters["prefix"] = self.prefix
        if self.subject is not None:
            parameters["subject"] = self.subject
        since = self.since if position is None else position
        if since is not None:
            parameters["since"] = str(since)
        if self.stale:
            parameters["consistency"] = "stale"
        try:
            return f"/v1/events?{urlencode(parameters)}"
        except UnicodeEncodeError as error:
            raise InvalidInput("a topic, prefix or subject is not valid Unicode") from error


class _End(msgspec.Struct, frozen=True):
    error: ErrorBody


_decode_fields = msgspec.json.Decoder(dict[str, Any]).decode
_decode_bookmark = msgspec.json.Decoder(Bookmark).decode
_decode_end = msgspec.json.Decoder(_End).decode


class Telling:
    """What one member tells in one stream: bytes in, whole revisions and bookmarks out."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._parser = MessageParser()
        self._unfinished: list[Event] = []
        self.end: RaftosError | None = None
        """Why the member ended the stream, once it has."""

    def feed(self, piece: bytes) -> list[Event | Bookmark]:
        """What this piece completes. Raises Broken where it makes no sense."""
        told: list[Event | Bookmark] = []
        try:
            for message in self._parser.feed(piece):
                self._read(message, told)
        except (ValueError, KeyError, TypeError) as error:  # msgspec's errors are ValueErrors.
            raise Broken(f"{self._url} tells events that make no sense to this client: {error}") from error
        return told

    def _read(self, message: Message, told: list[Event | Bookmark]) -> None:
        match message.event:
            case "bookmark":
                told.append(_decode_bookmark(message.data))
            case "end":
                self.end = error_from(_decode_end(message.data).error)
            case _:
                self._unfinished.append(_event(message.data))
                if message.id is not None:
                    told += self._finished(int(message.id))

    def _finished(self, revision: int) -> list[Event]:
        events, self._unfinished = self._unfinished, []
        if any(event.revision != revision for event in events):
            raise ValueError(f"other revisions under the id {revision}")
        return events


def _event(data: bytes) -> Event:
    fields = _decode_fields(data)
    return Event(fields.pop("type"), fields.pop("revision"), fields.pop("time_ms"), fields)


class Arrivals(Generic[Value]):
    """What has arrived and was not handed out yet."""

    def __init__(self) -> None:
        self._waiting: deque[News[Value]] = deque()
        self._revision: int | None = None

    @property
    def revision(self) -> int | None:
        """Complete up to here: the last revision of which every event was handed out."""
        revision = self._revision
        for item in self._waiting:
            if not isinstance(item, Bookmark):
                break
            revision = item.revision
        return revision

    def add(self, news: Sequence[News[Value]]) -> None:
        self._waiting += news

    def take(self) -> Value | None:
        """The next event, with what else is on the way to it; None where there is none."""
        while self._waiting:
            item = self._waiting.popleft()
            if not isinstance(item, Interruption):
                self._move(item.revision)
            if not isinstance(item, Bookmark | Interruption):
                return item
        return None

    def take_all(self) -> list[News[Value]]:
        taken = list(self._waiting)
        self._waiting.clear()
        for item in taken:
            if not isinstance(item, Interruption):
                self._revision = item.revision
        return taken

    def _move(self, revision: int) -> None:
        following = self._waiting[0] if self._waiting else None
        if following is None or isinstance(following, Interruption) or following.revision != revision:
            self._revision = revision


class AsyncEvents(Generic[Value]):
    """A follower: an async iterator over events, without an end unless it is closed.

    As a context manager it is connected when the block begins (within the client's timeout, else it raises
    NoQuorum or Unreachable): what happens from then on is seen. It serves one task at a time; cancelling a
    wait loses nothing.
    """

    def __init__(self, core: Core, wanted: Wanted, make: Callable[[Event], Value]) -> None:
        self._core = core
        self._wanted = wanted
        self._make = make
        self._arrivals: Arrivals[Value] = Arrivals()
        self._position: int | None = None
        """Complete up to here, handed out or not: where another member goes on."""
        self._endpoint: Endpoint | None = None
        self._stream: Stream | None = None
        self._telling: Telling
        self._bookmark: Bookmark | None = None
        self._heard_at = 0.0
        self._search: Attempts | None = None
        """The attempts to find a member that tells, until one does."""
        self._failures = 0
        self._wait: asyncio.Timeout | None = None
        self._closed = False

    # Where the stream is.

    @property
    def revision(self) -> int | None:
        """The last revision handed out whole, to resume from; None before the first is known."""
        return self._arrivals.revision

    @property
    def connected(self) -> bool:
        return self._stream is not None and self._search is None

    @property
    def member(self) -> str | None:
        """The name of the member that tells; None while there is none, or it has not said its name."""
        return None if self._bookmark is None else self._bookmark.member

    @property
    def age_ms(self) -> int | None:
        """How long ago the stream was certainly up to date, in milliseconds; None where that is unknown."""
        if self._bookmark is None:
            return None
        return self._bookmark.age_ms + int((time.monotonic() - self._heard_at) * 1000)

    # Reading it.

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Value:
        while (value := self._arrivals.take()) is None:
            self._arrivals.add(news := await self._next())
            if not news:
                raise StopAsyncIteration
        return value

    async def news(self) -> list[News[Value]]:
        """All that is here, waiting for something to be: events, bookmarks, interruptions, in order.

        Empty only when the follower was closed. Raises as the iteration does.
        """
        return self._arrivals.take_all() or self._taken(await self._next())

    async def __aenter__(self) -> Self:
        try:
            self._begin_search(self._core.timeout_s)
            while self._search is not None and (news := await self._next()):
                self._arrivals.add(news)
        except BaseException:  # Also cancelling: a block that is not entered closes nothing.
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave the member. Whoever waits for an event is told that there are no more."""
        was_closed, self._closed = self._closed, True
        if self._wait is not None and not was_closed:
            self._wait.reschedule(0)
        if self._stream is not None:
            await self._stream.close()
            self._leave()

    def __del__(self) -> None:
        # Forgotten in the middle, as by a `break`: possibly on another thread than the stream's.
        if self._stream is not None:
            self._stream.forget()

    def _taken(self, news: list[News[Value]]) -> list[News[Value]]:
        self._arrivals.add(news)
        return self._arrivals.take_all()

    # Following.

    async def _next(self) -> list[News[Value]]:
        """What arrives next, at least one item; empty only when closed. Raises what will not pass."""
        if self._wait is not None:
            raise InvalidInput("somebody else waits for these events; open a follower for each task")
        try:
            async with asyncio.timeout(None) as self._wait:
                while not self._closed:
                    if news := await self._step():
                        return news
        except TimeoutError:
            pass  # Only `aclose` sets this timeout.
        finally:
            self._wait = None
        return []

    async def _step(self) -> list[News[Value]]:
        """Connect, or read once; what came of it."""
        try:
            if self._stream is None:
                await self._connect()
                return []
            return self._accept(await self._read(self._stream))
        except RaftosError as error:
            return await self._go_on(error)

    async def _connect(self) -> None:
        pool = self._core.open_pool()
        self._core.closes(self)
        self._begin_search(self._wanted.give_up_s)
        path = self._wanted.path(self._position)
        self._endpoint = pool.rotate()
        timeout_s = min(self._core.attempt_timeout_s, self._remaining_s())
        self._stream = await pool.stream(self._endpoint, path, timeout_s)
        self._telling = Telling(self._endpoint.address.url)

    async def _read(self, stream: Stream) -> list[Event | Bookmark]:
        if self._telling.end is not None:
            raise self._telling.end
        piece = await stream.read(min(SILENCE_S, self._remaining_s()))
        if not piece:
            raise Broken("the member ended the stream without a reason")
        self._heard_at = time.monotonic()
        return self._telling.feed(piece)

    def _accept(self, told: Sequence[Event | Bookmark]) -> list[News[Value]]:
        """Move the position over what is new, and make of it what the reader wants."""
        before = position = -1 if self._position is None else self._position
        news: list[News[Value]] = []
        for item in told:
            position = max(position, item.revision)
            if isinstance(item, Bookmark):
                self._bookmark = item
                # A stale member may be behind the one before it.
                news.append(msgspec.structs.replace(item, revision=position))
            elif item.revision > before:
                news.append(self._make(item))
        if told:
            self._position, self._search, self._failures = position, None, 0
        return news

    async def _go_on(self, error: RaftosError) -> list[News[Value]]:
        """After a failure: raise it if it is final, else be ready to try the next member."""
        interruption = Interruption(self.member, error)
        self._leave()
        if self._endpoint is None or not self._may_pass(error):
            raise error
        pool, search = self._core.open_pool(), self._begin_search(self._wanted.give_up_s)
        pool.learn(self._endpoint, error)
        search.failed(error)
        self._failures += 1
        if self._failures == 1:
            return [interruption]
        await pool.pause(self._failures, LONGEST_PAUSE_S)
        # After the pause: an attempt of no length would be the trouble that is told.
        if not search.worth_an_attempt():
            raise search.verdict("in time")
        return []

    def _may_pass(self, error: RaftosError) -> bool:
        """Whether another attempt, at another member, may go better."""
        if isinstance(error, LimitReached):
            return self._failures + 1 < len(self._core.open_pool())
        # To a stale member that is behind, our position is in the future.
        is_ahead = isinstance(error, InvalidInput) and self._wanted.stale and self._position is not None
        return error.retryable or is_ahead

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.abort()
        self._stream = self._bookmark = None

    def _begin_search(self, limit_s: float | None) -> Attempts:
        if self._search is None:
            deadline = float("inf") if limit_s is None else time.monotonic() + limit_s
            self._search = Attempts(deadline=deadline, may_write=False)
        return self._search

    def _remaining_s(self) -> float:
        return SILENCE_S if self._search is None else max(0.0, self._search.deadline - time.monotonic())
