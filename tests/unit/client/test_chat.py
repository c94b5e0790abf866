"""Claims about the verbs of chat and about following a room, against three members with the real API."""

from __future__ import annotations

import asyncio
import getpass
import random
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from raftos import Client
from raftos.client import AsyncClient
from raftos.client.chat import AsyncMessages
from raftos.client.events import Bookmark, Interruption
from raftos.consensus.memory import MemoryCluster
from raftos.errors import Conflict, Denied, InvalidInput, NotFound
from raftos.state import events
from raftos.state.command import Command
from raftos.state.domains.chat import Marker, Message, Post, Posted

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("cluster", "me")]

WAIT_S = 5.0


@pytest.fixture
def me(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTOS_USER", "ann")


@asynccontextmanager
async def client_of_room(**settings: int) -> AsyncIterator[AsyncClient]:
    """A client, and a room `r`."""
    async with AsyncClient() as client:
        await client.chat.create("r", **settings)
        yield client


async def posted(client: AsyncClient, texts: Iterable[object]) -> None:
    """Say one after another."""
    for text in texts:
        await client.chat.send("r", str(text), sender="ann")


async def flooded(client: AsyncClient, texts: Iterable[object]) -> None:
    """Say all at once, in whatever order it arrives."""
    posts: list[Command] = [Post("r", "ann", str(text)) for text in texts]
    assert all(isinstance(answer, Posted) for answer in await client.batch(posts))


async def take(messages: AsyncMessages, count: int) -> list[tuple[int, str]]:
    """(sequence, text) of the next messages."""
    async with asyncio.timeout(WAIT_S):
        taken = [await anext(messages) for _ in range(count)]
    return [(message.sequence, message.text) for message in taken]


async def test_what_is_said_is_what_others_read() -> None:
    """By default as RAFTOS_USER; answers, edits and redactions included."""
    async with client_of_room() as client:
        assert (await client.chat.send("r", "hello")).sequence == 1
        assert (await client.chat.send("r", "hi", sender="bob", reply_to=1)).sequence == 2
        await client.chat.edit("r", 1, "hello all")
        with pytest.raises(Denied):
            await client.chat.redact("r", 2)
        await client.chat.redact("r", 2, sender="bob")
        first, second = [message async for message in client.chat.history("r")]
        assert (first.sender, first.text, first.edited_at is None) == ("ann", "hello all", False)
        assert (second.sender, second.text, second.reply_to, second.redacted) == ("bob", "", 1, True)


async def test_without_a_name_the_login_name_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where there is none, the caller is told what to set."""
    monkeypatch.delenv("RAFTOS_USER")
    async with client_of_room() as client:
        await client.chat.send("r", "hello")
        [message] = [message async for message in client.chat.history("r")]
        assert message.sender == getpass.getuser()
        for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
        with pytest.raises(InvalidInput, match="RAFTOS_USER"):
            await client.chat.send("r", "hello")


async def test_rooms_are_listed_with_what_they_keep() -> None:
    """All of them, however many pages that takes; archived ones say so."""
    async with client_of_room(keep_messages=10, keep_s=60) as client:
        await asyncio.gather(*(client.chat.create(f"room {number:04}") for number in range(1_005)))
        await client.chat.archive("r")
        with pytest.raises(Conflict):
            await client.chat.send("r", "too late")
        rooms = await client.chat.rooms()
        assert [room.room for room in rooms] == ["r", *(f"room {number:04}" for number in range(1_005))]
        assert (rooms[0].archived, rooms[0].keep_messages, rooms[0].keep_ms) == (True, 10, 60_000)


async def test_an_empty_name_is_nobody_rather_than_the_login() -> None:
    """A script whose variable is unset does not speak, edit or read as somebody else."""
    async with client_of_room() as client:
        await client.chat.send("r", "hello")
        for verb in (
            client.chat.send("r", "hi", sender=""),
            client.chat.edit("r", 1, "changed", sender=""),
            client.chat.redact("r", 1, sender=""),
            client.chat.mark_read("r", 1, reader=""),
        ):
            with pytest.raises(InvalidInput, match="is empty"):
                await verb
        [message] = [message async for message in client.chat.history("r")]
        assert (message.text, message.redacted, message.edited_at) == ("hello", False, None)


@pytest.mark.parametrize("keep_s", [0, -1, 1e12, float("nan"), float("inf")])
async def test_a_time_to_keep_is_a_number_of_seconds(keep_s: float) -> None:
    """Milliseconds in the state, seconds here, as everywhere in the SDK."""
    async with AsyncClient() as client:
        with pytest.raises(InvalidInput, match=r"keep_s is .* below 1e12"):
            await client.chat.create("r", keep_s=keep_s)


async def test_history_goes_through_all_pages_and_stops_where_it_should() -> None:
    """By sequence, by limit and from the end, beyond what one page holds."""
    async with client_of_room() as client:
        await flooded(client, range(1, 2_501))

        async def sequences(**conditions: Any) -> list[int]:
            return [message.sequence async for message in client.chat.history("r", **conditions)]

        assert await sequences() == list(range(1, 2_501))
        assert await sequences(since=2_400, before=2_451) == list(range(2_401, 2_451))
        assert await sequences(limit=1_200) == list(range(1, 1_201))
        assert await sequences(last=1_200) == list(range(1_301, 2_501))
        assert await sequences(last=2, before=5) == [3, 4]
        assert await sequences(last=5_000, since=2_499) == [2_500]
        assert await sequences(last=3, limit=2) == [2_498, 2_499]
        assert await sequences(since_ms=2**50) == []
        assert await sequences(limit=0) == []
        with pytest.raises(InvalidInput):
            await sequences(last=0)
        with pytest.raises(NotFound):
            [message async for message in client.chat.history("nowhere", last=1)]


async def test_without_a_quorum_a_stale_read_shows_what_a_member_has(agreement: MemoryCluster) -> None:
    """Rooms, history from either end, and search."""
    async with client_of_room() as client:
        await posted(client, ["one apple", "two pears"])
        for member_id in list(agreement.members)[1:]:
            agreement.cut(member_id)
        stale = client.chat
        assert [room.room for room in await stale.rooms(stale=True)] == ["r"]
        history = [message.text async for message in stale.history("r", stale=True)]
        newest = [message.text async for message in stale.history("r", last=1, stale=True)]
        assert (history, newest) == (["one apple", "two pears"], ["two pears"])
        found = await stale.search("pears", stale=True)
        assert [message.sequence for message in found.items] == [2]


async def test_a_search_and_the_readers_are_answered() -> None:
    """The newest first; markers count what is unread."""
    async with client_of_room() as client:
        await posted(client, ["one apple", "two pears", "three Äpples, one pear"])
        page = await client.chat.search('APPLE* -"two pears"', room="r")
        assert ([message.sequence for message in page.items], page.more) == ([3, 1], False)
        assert [message.sequence for message in (await client.chat.search("one", limit=1)).items] == [3]
        with pytest.raises(InvalidInput):
            await client.chat.search('"open')
        assert (await client.chat.mark_read("r", 2)).sequence == 2
        assert (await client.chat.mark_read("r", 1, reader="bob")).sequence == 1
        assert (await client.chat.readers("r")).items == [Marker("ann", 2, 1), Marker("bob", 1, 2)]


async def test_a_follower_hears_what_was_and_what_is_said() -> None:
    """From a sequence on: first the history, page by page, then each message as it is posted."""
    async with client_of_room() as client:
        await flooded(client, range(1, 1_501))
        async with client.chat.follow("r", since=3) as messages:
            history = [(said.sequence, said.text) async for said in client.chat.history("r", since=3)]
            assert [sequence for sequence, _ in history] == list(range(4, 1_501))
            assert await take(messages, 1_497) == history
            for number in range(1_501, 1_511):
                await client.chat.send("r", str(number))
                assert await take(messages, 1) == [(number, str(number))]
            assert (messages.connected, messages.member in {"n1", "n2", "n3"}) == (True, True)
            assert messages.age_ms is not None


async def test_a_follower_without_since_hears_what_is_said_from_now_on() -> None:
    """From the moment the block begins; other rooms do not matter."""
    async with client_of_room() as client:
        await client.chat.create("other")
        await posted(client, ["before"])
        async with client.chat.follow("r") as messages:
            await client.chat.send("other", "elsewhere")
            await posted(client, range(50))
            assert await take(messages, 50) == [(number + 2, str(number)) for number in range(50)]


async def test_a_follower_of_changes_hears_edits_and_redactions() -> None:
    """As the message is then; without `changes` it is heard once."""
    async with client_of_room() as client:
        await posted(client, ["one", "two"])
        async with (
            client.chat.follow("r", since=1, changes=True) as all_of_it,
            client.chat.follow("r", since=1) as new,
        ):
            assert await take(all_of_it, 1) == await take(new, 1) == [(2, "two")]
            await client.chat.edit("r", 1, "uno")
            assert await take(all_of_it, 1) == [(1, "uno")]
            await client.chat.redact("r", 2)
            assert await take(all_of_it, 1) == [(2, "")]
            await posted(client, ["three"])
            assert await take(all_of_it, 1) == await take(new, 1) == [(3, "three")]


async def test_who_stops_waiting_loses_nothing() -> None:
    """Waits that end at any moment leave the next one with everything that came."""
    async with client_of_room() as client, client.chat.follow("r", since=0) as messages:
        heard: list[int] = []
        choice = random.Random(1)
        poster = asyncio.create_task(posting(client, 200))
        while len(heard) < 200:
            try:
                async with asyncio.timeout(choice.choice([0, 0.0005, 0.002, 0.02])):
                    heard.append((await anext(messages)).sequence)
            except TimeoutError:
                await asyncio.sleep(0)
        await poster
        assert heard == list(range(1, 201))


async def posting(client: AsyncClient, count: int) -> None:
    for number in range(count):
        await client.chat.send("r", str(number))


async def test_a_follower_that_lost_its_member_goes_on_without_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when what happened meanwhile is no longer kept as events: the history still has it."""
    monkeypatch.setattr(events, "KEEP_REVISIONS", 5)
    async with client_of_room() as client, client.chat.follow("r", since=0) as messages:
        await posted(client, ["first"])
        assert await take(messages, 1) == [(1, "first")]
        messages._events._leave()
        for number in range(2, 140):
            await client.chat.send("r", str(number))
        assert await take(messages, 138) == [(number, str(number)) for number in range(2, 140)]
        await client.chat.send("r", "live again")
        assert await take(messages, 1) == [(140, "live again")]


async def test_a_follower_says_what_happens_besides() -> None:
    """Bookmarks come after everything before them, interruptions say who was lost."""
    async with client_of_room() as client, client.chat.follow("r", since=0) as messages:
        await posted(client, ["first"])
        assert messages._events._stream is not None
        messages._events._stream.abort()
        heard: list[object] = []
        async with asyncio.timeout(WAIT_S):
            while not (heard and isinstance(heard[-1], Bookmark) and messages._last == 1):
                heard += await messages.news()
        kinds = [type(item) for item in heard]
        assert kinds.count(Message) == 1
        assert Interruption in kinds


async def test_following_what_cannot_be_followed_is_refused() -> None:
    """A room that does not exist, and a sequence of the future."""
    async with client_of_room() as client:
        with pytest.raises(NotFound):
            async with client.chat.follow("nowhere"):
                pass
        with pytest.raises(InvalidInput, match="since is 7"):
            async with client.chat.follow("r", since=7):
                pass


async def test_a_closed_follower_ends() -> None:
    """Whoever waits is told that there is no more."""
    async with client_of_room() as client, client.chat.follow("r") as messages:
        waiting = asyncio.create_task(anext(messages, None))
        await asyncio.sleep(0.05)
        await messages.aclose()
        assert await waiting is None
        assert await messages.news() == []


def test_ordinary_code_follows_too() -> None:
    """From another thread, while this one speaks; closing ends the wait."""
    with Client() as client, ThreadPoolExecutor(1) as pool:
        client.chat.create("r")
        client.chat.send("r", "before")
        with client.chat.follow("r", since=0) as messages:
            listening = pool.submit(lambda: [message.text for message in messages])
            for number in range(20):
                client.chat.send("r", str(number))
            while client.chat.page("r").last != messages._messages._last:
                pass
            messages.close()
            assert listening.result(WAIT_S) == ["before", *map(str, range(20))]
        assert [message.sequence for message in client.chat.history("r", last=2)] == [20, 21]
        assert [room.room for room in client.chat.rooms()] == ["r"]
