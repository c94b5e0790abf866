"""Rooms full of messages, numbered from 1 in each room, without gaps.

Every post is one command with its own request id: however often it has to be sent, it is said once. Whoever
does not say who speaks or reads is `RAFTOS_USER`, or else the login name.

**Following** a room is reading its history, again and again, from the last sequence that was handed out.
Events only tell when it is worth it. So a follower needs nothing but that sequence to go on anywhere: what
is handed out is complete, in order and there once, because the history is.

| a follower             | when                                  | does                                     |
|------------------------|---------------------------------------|------------------------------------------|
| begins                 | the events have reached the present   | reads on from `since`, or from the end   |
| hears of a new message | it has not handed it out              | reads on                                 |
| hears of an edit       | `changes` are wanted                  | reads that message again                 |
| was away for too long  | events are no longer kept (Compacted) | follows events from now on, and reads on |
"""

from __future__ import annotations

import asyncio
import getpass
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Self, TypeAlias

import msgspec

from raftos.client.core import Core
from raftos.client.events import AsyncEvents, Bookmark, Event, Interruption, Wanted
from raftos.errors import Compacted, InvalidInput, RaftosError
from raftos.state.domain import MAX_ROWS
from raftos.state.domains import tag_of
from raftos.state.domains.chat import (
    MAX_FOUND,
    Archive,
    Create,
    Edit,
    FoundPage,
    History,
    Mark,
    Marked,
    Markers,
    Message,
    MessageEdited,
    MessagePosted,
    MessageRedacted,
    Messages,
    Post,
    Posted,
    Readers,
    Redact,
    RoomChanged,
    RoomInfo,
    RoomPage,
    Rooms,
    Search,
)
from raftos.state.limits import MAX_INTEGER

_decode_room = msgspec.msgpack.Decoder(RoomChanged).decode
_decode_rooms = msgspec.msgpack.Decoder(RoomPage).decode
_decode_posted = msgspec.msgpack.Decoder(Posted).decode
_decode_messages = msgspec.msgpack.Decoder(Messages).decode
_decode_found = msgspec.msgpack.Decoder(FoundPage).decode
_decode_marked = msgspec.msgpack.Decoder(Marked).decode
_decode_readers = msgspec.msgpack.Decoder(Readers).decode

_POSTED = tag_of(MessagePosted)
_CHANGED = (tag_of(MessageEdited), tag_of(MessageRedacted))

Heard: TypeAlias = Message | Bookmark | Interruption


class AsyncChat:
    """`client.chat`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(
        self, room: str, *, keep_messages: int | None = None, keep_s: float | None = None
    ) -> RoomChanged:
        """Open a room. It keeps all its messages, or the newest `keep_messages`, or none older than `keep_s`.

        Raises Conflict (there is one of this name), LimitReached and, as every call here, InvalidInput,
        TooLarge, Unauthorized and the kinds of Unavailable.
        """
        keep_ms = None if keep_s is None else _milliseconds(keep_s)
        return await self._core.command(Create(room, keep_messages, keep_ms), _decode_room)

    async def archive(self, room: str) -> RoomChanged:
        """Close a room for good; its history stays readable. Raises NotFound, Conflict (it is archived)."""
        return await self._core.command(Archive(room), _decode_room)

    async def rooms(self, *, stale: bool = False) -> list[RoomInfo]:
        """All rooms by name, archived ones too."""
        rooms: list[RoomInfo] = []
        cursor = None
        while True:
            page = await self._core.query(Rooms(MAX_ROWS, cursor), _decode_rooms, stale=stale)
            rooms += page.items
            cursor = page.cursor
            if cursor is None:
                return rooms

    async def send(
        self, room: str, text: str, *, sender: str | None = None, reply_to: int | None = None
    ) -> Posted:
        """Say something, once, and return its sequence. `reply_to` is the sequence of what it answers.

        Raises NotFound (no such room, or no such message to answer), Conflict (the room is archived),
        NoSpace.
        """
        return await self._core.command(Post(room, user(sender), text, reply_to), _decode_posted)

    async def edit(self, room: str, sequence: int, text: str, *, sender: str | None = None) -> Posted:
        """Give one's own message a new text.

        Raises NotFound, Denied (somebody else sent it), Conflict (redacted, or the room archived), NoSpace.
        """
        return await self._core.command(Edit(room, sequence, text, user(sender)), _decode_posted)

    async def redact(self, room: str, sequence: int, *, sender: str | None = None) -> Posted:
        """Take the text of one's own message away for good. Raises NotFound, Denied."""
        return await self._core.command(Redact(room, sequence, user(sender)), _decode_posted)

    async def history(
        self,
        room: str,
        *,
        since: int | None = None,
        before: int | None = None,
        since_ms: int | None = None,
        last: int | None = None,
        limit: int | None = None,
        stale: bool = False,
    ) -> AsyncIterator[Message]:
        """The messages of a room in their order, at most `limit`, fetched a page at a time.

        Those with a sequence greater than `since` and smaller than `before`, sent at `since_ms`
        (milliseconds since 1970) or later; with `last` the newest of them, so many. `stale` takes what the
        member asked has, perhaps old. Raises NotFound.
        """
        pages = self.pages(
            room, since=since, before=before, since_ms=since_ms, last=last, limit=limit, stale=stale
        )
        async for page in pages:
            for message in page:
                yield message

    async def pages(
        self,
        room: str,
        *,
        since: int | None = None,
        before: int | None = None,
        since_ms: int | None = None,
        last: int | None = None,
        limit: int | None = None,
        stale: bool = False,
    ) -> AsyncIterator[Sequence[Message]]:
        """The same, a page at a time."""
        after = since or 0
        if last is not None:
            after = await self._before_the_last(room, last, after, before, stale=stale)
        left = limit
        while left is None or left > 0:
            size = MAX_ROWS if left is None else min(left, MAX_ROWS)
            page = await self.page(
                room, since=after, before=before, since_ms=since_ms, limit=size, stale=stale
            )
            yield page.items
            if not page.more:
                return
            after = page.items[-1].sequence
            left = None if left is None else left - len(page.items)

    async def _before_the_last(
        self, room: str, last: int, since: int, before: int | None, *, stale: bool
    ) -> int:
        """The sequence after which the newest so many begin: there are no gaps, so it can be counted."""
        if last < 1:
            raise InvalidInput(f"last is {last}; it has to be at least 1")
        newest = await self.page(room, last=1, stale=stale)
        end = newest.last if before is None else min(newest.last, before - 1)
        return max(since, end - last)

    async def page(
        self,
        room: str,
        *,
        since: int = 0,
        before: int | None = None,
        since_ms: int | None = None,
        last: int | None = None,
        limit: int = MAX_ROWS,
        stale: bool = False,
    ) -> Messages:
        """One page of the history, with what the room holds and whether there is more. Raises NotFound."""
        query = History(room, since, before, since_ms, last, limit)
        return await self._core.query(query, _decode_messages, stale=stale)

    async def search(
        self, text: str, *, room: str | None = None, limit: int = MAX_FOUND, stale: bool = False
    ) -> FoundPage:
        """The newest messages with these words, at most 100: `words "a phrase" pre* -not`.

        Raises InvalidInput (the search cannot be understood), NotFound (no such room).
        """
        return await self._core.query(Search(text, room, limit), _decode_found, stale=stale)

    async def mark_read(self, room: str, sequence: int, *, reader: str | None = None) -> Marked:
        """Note how far one has read; only forward, 0 forgets the reader. Raises NotFound, LimitReached."""
        return await self._core.command(Mark(room, user(reader), sequence), _decode_marked)

    async def readers(self, room: str) -> Readers:
        """Who has read how far, and how much each has not. Raises NotFound."""
        return await self._core.query(Markers(room), _decode_readers)

    def follow(
        self,
        room: str,
        *,
        since: int | None = None,
        changes: bool = False,
        give_up_s: float | None = None,
    ) -> AsyncMessages:
        """Follow a room: an async iterator of its messages, and a context manager.

        First those with a sequence greater than `since`, then those that are posted; without it, only
        what is posted from now on. With `changes`, messages that are edited or redacted come again, as they
        are then. It goes on by itself on another member, for ever, or until none could be reached for
        `give_up_s` seconds: complete, in order, each once. Raises NotFound and, with `give_up_s`, NoQuorum
        and Unreachable.
        """
        return AsyncMessages(self._core, self, room, since, changes=changes, give_up_s=give_up_s)


class AsyncMessages:
    """A follower of a room: an async iterator without an end, unless it is closed.

    As a context manager it is connected when the block begins: without `since`, what is posted from then
    on is seen. It serves one task at a time; cancelling a wait loses nothing.
    """

    def __init__(
        self,
        core: Core,
        chat: AsyncChat,
        room: str,
        since: int | None,
        *,
        changes: bool,
        give_up_s: float | None,
    ) -> None:
        self._core = core
        self._chat = chat
        self._room = room
        self._changes = changes
        self._give_up_s = give_up_s
        self._last = since
        """The sequence of the last message handed out; None while it is not known where to begin."""
        self._began = False
        self._behind = False
        """Whether there is more to read, or may be."""
        self._changed: set[int] = set()
        """Messages handed out that have changed since."""
        self._said: list[Bookmark | Interruption] = []
        """What is handed out after everything that came before it."""
        self._waiting: deque[Heard] = deque()
        self._failing_since_s: float | None = None
        self._events = self._follow()

    @property
    def connected(self) -> bool:
        return self._events.connected

    @property
    def member(self) -> str | None:
        """The name of the member that tells; None while there is none, or it has not said its name."""
        return self._events.member

    @property
    def age_ms(self) -> int | None:
        """How long ago this was certainly up to date, in milliseconds; None where that is unknown."""
        return self._events.age_ms

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while True:
            while self._waiting:
                item = self._waiting.popleft()
                if isinstance(item, Message):
                    return item
            self._waiting += (news := await self._next())
            if not news:
                raise StopAsyncIteration

    async def news(self) -> list[Heard]:
        """All that is here, waiting for something to be: messages, bookmarks, interruptions, in order.

        Empty only when the follower was closed. Raises as the iteration does.
        """
        if not self._waiting:
            return await self._next()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    async def __aenter__(self) -> Self:
        try:
            await self._events.__aenter__()
            self._waiting += await self._next()
        except BaseException:  # Also cancelling: a block that is not entered closes nothing.
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave the member. Whoever waits for a message is told that there are no more."""
        await self._events.aclose()

    def _follow(self) -> AsyncEvents[Event]:
        topics = (_POSTED, *(_CHANGED if self._changes else ()))
        wanted = Wanted(topics=topics, subject=self._room, give_up_s=self._give_up_s)
        return AsyncEvents(self._core, wanted, lambda event: event)

    async def _next(self) -> list[Heard]:
        """What comes next, at least one item; empty only when closed."""
        while True:
            if heard := await self._read():
                return heard
            try:
                news = await self._events.news()
            except Compacted:
                self._events, self._began = self._follow(), False
                continue
            if not news:
                return []
            for item in news:
                self._hear(item)

    def _hear(self, item: Event | Bookmark | Interruption) -> None:
        """Remember what there is to read, and what else was said."""
        if not self._began and not isinstance(item, Interruption):
            # From here on nothing is posted without an event: so what was posted before is read once.
            self._began = self._behind = True
        if isinstance(item, Bookmark | Interruption):
            self._said.append(item)
        elif item.type != _POSTED:
            self._changed.add(item.fields["sequence"])
        elif self._last is None or item.fields["sequence"] > self._last:
            self._behind = True

    async def _read(self) -> list[Heard]:
        """What there is to hand out, read from the history where necessary; nothing is an answer too."""
        try:
            changed = await self._read_changed() if self._changed else []
            page = await self._read_on() if self._behind else None
        except RaftosError as error:
            return self._failed(error)
        # Only now, so that who cancels this wait finds everything as it was.
        self._changed.clear()
        self._failing_since_s = None
        heard: list[Heard] = [*changed]
        if page is not None:
            heard += page.items
            self._last = page.items[-1].sequence if page.more else page.last
            self._behind = page.more
        if not self._behind:
            heard += self._said
            self._said.clear()
        return heard

    async def _read_on(self) -> Messages:
        if self._last is None:
            return await self._chat.page(self._room, since=MAX_INTEGER)
        page = await self._chat.page(self._room, since=self._last)
        if page.last < self._last:
            raise InvalidInput(f"since is {self._last}, but the last message of the room is {page.last}")
        return page

    async def _read_changed(self) -> list[Message]:
        """The messages that have changed, as they are now; of those, what was handed out before."""
        sequences = sorted(each for each in self._changed if self._last is not None and each <= self._last)
        pages = await asyncio.gather(
            *(self._chat.page(self._room, since=each - 1, before=each + 1) for each in sequences)
        )
        return [message for page in pages for message in page.items]

    def _failed(self, error: RaftosError) -> list[Heard]:
        """After a read that failed: raise what will not pass, else say so; the next read tries again."""
        now_s = time.monotonic()
        self._failing_since_s = self._failing_since_s or now_s
        if not error.retryable or (
            self._give_up_s is not None and now_s >= self._failing_since_s + self._give_up_s
        ):
            raise error
        return [Interruption(self.member, error)]


def user(name: str | None = None) -> str:
    """Who this is: `name`, or else `RAFTOS_USER`, or the login name. Raises InvalidInput where there is none.

    An empty name is none to fall back from: a script whose variable is unset must not speak as its login.
    """
    if name is not None:
        return name
    try:
        return os.environ.get("RAFTOS_USER") or getpass.getuser()
    except (KeyError, OSError) as error:
        raise InvalidInput("nobody knows who you are; set RAFTOS_USER to the name to use") from error


def _milliseconds(duration_s: float) -> int:
    if not 0 < duration_s < 1e12:
        raise InvalidInput(f"keep_s is {duration_s:g}; it has to be above 0 and below 1e12 seconds")
    return max(1, round(duration_s * 1000))
