"""The terminal chat between its model and the cluster: everything that waits for an answer.

Four things go on at once, for as long as the chat is open:

* *following*: one stream of events tells what happens in all rooms, and whom we hear it from;
* *fetching*: events say that there is something, history by sequence says what. So the window has no gap
  and nothing twice, whatever becomes of the stream;
* *sending*: one message at a time, in the order they were written in;
* *minding*: who is there, that this user is, and how far they have read.

The client finds another member by itself. What it gives up on is tried again as long as it changes nothing;
what was to be sent is left to the user, with the reason. An error that no waiting would mend ends the chat.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from raftos.client import AsyncClient
from raftos.client.beacons import Beacon
from raftos.client.events import AsyncEvents, Bookmark, Event, Interruption, News
from raftos.errors import (
    Compacted,
    NotFound,
    NotReady,
    OutcomeUnknown,
    RaftosError,
    Unauthorized,
    Unavailable,
)
from raftos_cli.tui.model import HERE, TYPING, Link, Model, Outgoing, Room

PAGE = 100
PAUSE_S = 0.5
MIND_S = 0.5
LOOK_S = 2.0
HERE_AGAIN_S, HERE_TTL_S = 20.0, 45.0
TYPING_AGAIN_S, TYPING_TTL_S = 3.0, 6.0
TYPING_FOR_S = 4.0
"""How long after the last key somebody is said to be typing."""
GONE_TTL_S = 0.001
FAREWELL_S = 0.5
QUIET_S = 3.0
"""A member says something every 2 s; after that, what it said grows old."""


class Session:
    """One user's chat. `changed` is called after every change of the model."""

    def __init__(self, client: AsyncClient, user: str, changed: Callable[[], None]) -> None:
        self.model = Model(user)
        self._client = client
        self._changed = changed
        self._group = asyncio.TaskGroup()
        self._to_fetch = asyncio.Event()
        self._to_send = asyncio.Event()
        self._stream: AsyncEvents[Event] | None = None
        self._age_ms: int | None = None
        self._opening: object = None
        """What `open` was last called for: of several at once, the last one counts."""
        self._typed_at = float("-inf")
        self._announced: tuple[str, str] | None = None
        self._announced_at = 0.0
        self._looked_at = float("-inf")

    async def run(self, ready: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Until it is cancelled; `ready` is awaited once the rooms are known.

        Raises the error that ended it: NoQuorum and Unreachable only where there was nobody at the start.
        """
        try:
            async with self._group:
                for part in (self._follow(ready), self._fetch(), self._send_all(), self._mind()):
                    self._group.create_task(part)
        except* RaftosError as errors:
            raise _first(errors) from None
        finally:
            with suppress(RaftosError, TimeoutError):
                async with asyncio.timeout(FAREWELL_S):
                    await self._parting()

    # What the user wants. Each raises RaftosError where it cannot be had.

    async def open(self, room: str, *, around: int | None = None) -> bool:
        """Look at a room: at its newest messages, or at those around one of them.

        False if meanwhile another room was to be opened.
        """
        self._opening = opening = object()
        before = None if around is None else around + PAGE // 2
        page = await self._client.chat.page(room, before=before, last=PAGE)
        if self._opening is not opening:
            return False
        if self.model.window is not None and self.model.window.room != room:
            self._group.create_task(self._parting())
            self.model.people = []
        self.model.show(room, page.items, page.first, page.last)
        self._looked_at = float("-inf")
        self._to_fetch.set()
        self._changed()
        return True

    async def redact(self, sequence: int) -> None:
        assert self.model.window is not None
        await self._client.chat.redact(self.model.window.room, sequence, sender=self.model.user)

    async def older(self) -> None:
        """One more page before the window."""
        window = self.model.window
        if window is None or not self.model.has_older:
            return
        page = await self._client.chat.page(window.room, before=window.low, last=PAGE)
        if self.model.window is window:
            self.model.prepend(page.items)
            self._fetch_soon()

    async def newer(self) -> None:
        """One more page after the window."""
        window = self.model.window
        if window is None or not self.model.has_newer:
            return
        page = await self._client.chat.page(window.room, since=window.high, limit=PAGE)
        if self.model.window is window:
            self.model.append(page.items, page.last)
            self._fetch_soon()

    def send(self, text: str, *, reply_to: int | None = None, edits: int | None = None) -> Outgoing:
        """Post to the open room, or edit a message in it; the model says what became of it."""
        outgoing = self.model.write(text, reply_to=reply_to, edits=edits)
        self._typed_at = float("-inf")
        self._send_soon()
        return outgoing

    def send_again(self, outgoing: Outgoing) -> None:
        outgoing.state, outgoing.reason = "waiting", ""
        self._send_soon()

    def typed(self) -> None:
        """The user pressed a key that is part of a message."""
        self._typed_at = time.monotonic()

    # Where the stream is.

    @property
    def behind_s(self) -> float | None:
        """How long ago what is shown was certainly complete, by the last word of the member followed."""
        stream = self._stream
        if stream is None or stream.age_ms is None or self._age_ms is None:
            return None
        quiet = stream.age_ms - self._age_ms > QUIET_S * 1000
        return (stream.age_ms if quiet else self._age_ms) / 1000

    # Following.

    async def _follow(self, ready: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await self._follow_once(ready)
        while True:
            # The events since were forgotten by the cluster: begin anew, from what there is now.
            with suppress(Unavailable):
                await self._follow_once(self._look_again)
            await asyncio.sleep(PAUSE_S)

    async def _follow_once(self, ready: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Until the cluster has forgotten what comes next."""
        with suppress(Compacted):
            async with self._client.events(["chat"]) as self._stream:
                # From here on every event is seen, so what is read now cannot go out of date unnoticed.
                await self._list_rooms()
                await ready()
                while news := await self._stream.news():
                    self._hear(news)

    async def _look_again(self) -> None:
        if self.model.window is not None:
            await self.open(self.model.window.room)

    async def _list_rooms(self) -> None:
        self.model.list_rooms(await self._client.chat.rooms())
        unknown = [name for name, room in self.model.rooms.items() if room.read is None]
        await asyncio.gather(*map(self._learn_read, unknown))
        self._changed()

    async def _learn_read(self, name: str) -> None:
        readers = await self._client.chat.readers(name)
        mine = [marker.sequence for marker in readers.items if marker.reader == self.model.user]
        self.model.read_up_to(name, mine[0] if mine else 0)

    def _hear(self, news: list[News[Event]]) -> None:
        for item in news:
            if isinstance(item, Event):
                self.model.happened(item)
            elif isinstance(item, Interruption):
                self._lost(item)
            else:
                self._found(item)
        self._age_ms = self._stream.age_ms if self._stream else None
        self._fetch_soon()

    def _lost(self, interruption: Interruption) -> None:
        before = self.model.link
        reason = "lost touch" if isinstance(interruption.error, NotReady) else "is gone"
        lost = interruption.member or before.member or before.lost
        self.model.link = Link(lost=lost, reason=reason, since_s=time.monotonic())

    def _found(self, bookmark: Bookmark) -> None:
        before = self.model.link
        if before.member != bookmark.member:
            self.model.link = Link(bookmark.member, before.lost, before.reason, time.monotonic())

    # Fetching.

    def _fetch_soon(self) -> None:
        self._to_fetch.set()
        self._changed()

    async def _fetch(self) -> None:
        while True:
            await self._to_fetch.wait()
            self._to_fetch.clear()
            try:
                await self._fetch_missing()
            except NotFound:
                continue  # The room, of which there is nothing any more.
            except Unavailable:
                await asyncio.sleep(PAUSE_S)
                self._to_fetch.set()
            self._changed()

    async def _fetch_missing(self) -> None:
        while self.model.misses_newer:
            await self.newer()
        for sequence in [*self.model.stale, *self.model.unknown_quotes()]:
            await self._fetch_one(sequence)

    async def _fetch_one(self, sequence: int) -> None:
        window = self.model.window
        if window is None:
            return
        page = await self._client.chat.page(window.room, since=sequence - 1, before=sequence + 1)
        if self.model.window is not window:
            return
        if page.items:
            self.model.replace(page.items[0])
        else:
            self.model.gone(sequence)

    # Sending.

    def _send_soon(self) -> None:
        self._to_send.set()
        self._changed()

    async def _send_all(self) -> None:
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while (outgoing := self.model.next_to_send()) is not None:
                await self._send_one(outgoing)
                self._fetch_soon()

    async def _send_one(self, outgoing: Outgoing) -> None:
        outgoing.state = "sending"
        try:
            sequence = await self._said(outgoing)
        except OutcomeUnknown as error:
            self.model.doubted(outgoing, error.message)
        except RaftosError as error:
            self.model.refused(outgoing, error.message)
        else:
            self.model.acknowledged(outgoing, sequence)

    async def _said(self, outgoing: Outgoing) -> int:
        chat, user = self._client.chat, self.model.user
        if outgoing.edits is not None:
            done = await chat.edit(outgoing.room, outgoing.edits, outgoing.text, sender=user)
        else:
            done = await chat.send(outgoing.room, outgoing.text, sender=user, reply_to=outgoing.reply_to)
        return done.sequence

    # Minding.

    async def _mind(self) -> None:
        while True:
            try:
                await self._announce()
                await self._look_around()
            except Unauthorized:
                raise
            except RaftosError:
                # Such as a full state: a chat without presence is still one, and the footer says what it can.
                await asyncio.sleep(LOOK_S)
            await asyncio.sleep(MIND_S)

    async def _announce(self) -> None:
        if self.model.window is None:
            return
        now = time.monotonic()
        state = TYPING if now - self._typed_at < TYPING_FOR_S else HERE
        again_s, ttl_s = (TYPING_AGAIN_S, TYPING_TTL_S) if state == TYPING else (HERE_AGAIN_S, HERE_TTL_S)
        said = (self.model.window.room, state)
        if said == self._announced and now - self._announced_at < again_s:
            return
        await self._client.beacons.announce(_topic(said[0]), self.model.user, state, ttl_s=ttl_s)
        self._announced, self._announced_at = said, now

    def _parting(self) -> Coroutine[Any, Any, None]:
        """What there is to do about the room that is left: be seen there no more, keep what was read."""
        said, self._announced = self._announced, None
        room, sequence = self.model.room, self.model.to_mark()
        return self._part(said, room, sequence)

    async def _part(self, said: tuple[str, str] | None, room: Room | None, sequence: int | None) -> None:
        with suppress(RaftosError):  # The beacon goes out by itself, and what is not marked stays unread.
            if said is not None:
                await self._client.beacons.announce(_topic(said[0]), self.model.user, ttl_s=GONE_TTL_S)
            if room is not None and sequence is not None:
                await self._mark(room, sequence)

    async def _look_around(self) -> None:
        window, now = self.model.window, time.monotonic()
        if window is None or now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        room, sequence = self.model.room, self.model.to_mark()
        if room is not None and sequence is not None:
            await self._mark(room, sequence)
        people = list(await self._client.beacons.list(_topic(window.room)))
        if self.model.window is window and _seen(people) != _seen(self.model.people):
            self.model.people = people
            self._changed()

    async def _mark(self, room: Room, sequence: int) -> None:
        await self._client.chat.mark_read(room.name, sequence, reader=self.model.user)
        self.model.read_up_to(room.name, sequence)
        self._changed()


def _seen(people: Sequence[Beacon]) -> list[tuple[str, str]]:
    return [(person.name, person.state) for person in people]


def _topic(room: str) -> str:
    return f"chat/{room}"


def _first(errors: ExceptionGroup[RaftosError]) -> RaftosError:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
