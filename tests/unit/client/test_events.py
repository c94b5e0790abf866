"""Claims about following events: complete, in order and once, whatever the members do in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from raftos.client import AsyncClient, events
from raftos.client.events import AsyncEvents, Bookmark, Event, Interruption
from raftos.client.kv import KeyChange
from raftos.errors import (
    Compacted,
    InvalidInput,
    LimitReached,
    NoQuorum,
    NotReady,
    SlowWatcher,
    Unauthorized,
    Unreachable,
)
from tests.unit.client.teller import Cut, Ending, Fault, Garbage, Refusal, Teller, tellers

pytestmark = pytest.mark.timeout(30)

WAIT_S = 5.0
HEAD_BYTES = 80
LOST = NotReady("this member lost touch with the others")


@asynccontextmanager
async def client_of(listed: Sequence[Teller], *, timeout_s: float = 5.0) -> AsyncIterator[AsyncClient]:
    async with AsyncClient([teller.endpoint for teller in listed], timeout_s=timeout_s) as client:
        yield client


async def take(stream: AsyncEvents[Event], count: int) -> list[tuple[int, str]]:
    """(revision, key) of the next events."""
    async with asyncio.timeout(WAIT_S):
        taken = [await anext(stream) for _ in range(count)]
    return [(event.revision, event.fields["key"]) for event in taken]


def asked(listed: Sequence[Teller]) -> int:
    return sum(len(teller.asked) for teller in listed)


async def test_events_come_whole_and_in_order() -> None:
    """All that was kept, and then all that happens; with what the client was told about each."""
    async with tellers(3) as listed, client_of(listed) as client:
        log = listed[0].log
        await log.say(1, 3, 0, 1)
        async with client.events(since=0) as stream:
            first = await anext(stream)
            assert (first.type, first.revision) == ("kv.written", 1)
            assert first.fields == {"key": "key/1/0", "version": 1}
            assert await take(stream, 4) == log.keys(after=1)
            await log.say(2, 0, 1)
            assert await take(stream, 3) == log.keys(after=4)
            assert (stream.revision, stream.connected) == (7, True)
            assert stream.member in {"n1", "n2", "n3"}
            assert stream.age_ms is not None
            assert 7 <= stream.age_ms < 10_000


@pytest.mark.parametrize("silent", [False, True])
async def test_a_cut_at_any_byte_loses_nothing_and_repeats_nothing(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    """In the head, in a chunk, in a compressed block, between the events of one revision: anywhere."""
    if silent:
        monkeypatch.setattr(events, "SILENCE_S", 0.05)
    choice = random.Random(1)
    async with tellers(3) as listed, client_of(listed) as client:
        log = listed[0].log
        await log.say(*(choice.randrange(4) for _ in range(100 if silent else 1_500)))
        for teller in listed:
            teller.chunk_bytes = choice.choice([7, 50, 100_000])
            cuts = [Cut(HEAD_BYTES + choice.randrange(400), silent) for _ in range(3 if silent else 60)]
            teller.faults = [Cut(20), *cuts, Cut(0)]
        expected = log.keys()
        stream = client.events(since=0)
        assert await take(stream, len(expected)) == expected
        assert asked(listed) > (10 if silent else 150)
        await stream.aclose()


@pytest.mark.parametrize(
    "fault",
    [
        Ending(SlowWatcher("read faster")),
        Ending(LOST),
        Refusal(LOST),
        Refusal(NoQuorum("there is no leader")),
        Garbage(b"data: {no json\n\n"),
        Garbage(b'data: {"type": "x"}\nid: 1\n\n'),
        Garbage(b"event: bookmark\ndata: {}\n\n"),
        Garbage(b'event: kv.written\nid: 9\ndata: {"type": "a.b", "revision": 8, "time_ms": 1}\n\n'),
    ],
)
async def test_trouble_with_one_member_leads_to_the_next(fault: Fault) -> None:
    """From the position reached, at once, and the reader is told only if it asks."""
    async with tellers(3) as listed, client_of(listed) as client:
        log = listed[0].log
        await log.say(1, 2)
        for teller in listed[:2]:
            teller.always = fault
        async with client.events(since=0) as stream:
            assert await take(stream, 3) == log.keys()
            await log.say(1)
            assert await take(stream, 1) == log.keys(after=2)
            async with asyncio.timeout(WAIT_S):
                while stream.member != "n3":
                    await stream.news()
            await log.say(1)
            assert await take(stream, 1) == log.keys(after=3)


async def test_what_will_not_pass_is_raised() -> None:
    """The typed error, at once; what was told before it comes first."""
    gone = Compacted("no longer kept", oldest_revision=57)
    async with tellers(2) as listed, client_of(listed) as client:
        for teller in listed:
            teller.always = Refusal(gone)
        with pytest.raises(Compacted) as raised:
            await anext(client.events(since=3))
        assert raised.value.oldest_revision == 57
        await listed[0].log.say(1)
        for teller in listed:
            teller.always = Ending(gone)
        stream = client.events(since=0)
        assert await take(stream, 1) == [(1, "key/1/0")]
        with pytest.raises(Compacted):
            await anext(stream)
        for error in (InvalidInput("there are no events 'x'"), Unauthorized("the secret is wrong")):
            for teller in listed:
                teller.always = Refusal(error)
            before = asked(listed)
            with pytest.raises(type(error)):
                await anext(client.events(["x"], since=3))
            assert asked(listed) == before + 1


async def test_a_crowded_member_sends_watchers_to_the_others() -> None:
    """Only when every member is full is that an error."""
    crowded = Refusal(LimitReached("too many watchers"))
    async with tellers(3) as listed, client_of(listed) as client:
        listed[0].always = listed[1].always = crowded
        async with client.events() as stream:
            assert stream.member == "n3"
        listed[2].always = crowded
        with pytest.raises(LimitReached):
            await anext(client.events())


async def test_it_watches_what_it_was_asked_to() -> None:
    """Topics, prefix, subject, position and staleness reach the member, whatever characters they have."""
    async with tellers() as listed, client_of(listed) as client:
        async with client.events(["kv", "members.marked"], prefix="a/ü &", since=-5, stale=True):
            pass
        async with client.events(subject="a+b=c"):
            pass
        assert listed[0].asked == [
            {"topic": "kv,members.marked", "prefix": "a/ü &", "since": "-5", "consistency": "stale"},
            {"subject": "a+b=c"},
        ]
        with pytest.raises(InvalidInput):
            await anext(client.events(prefix="\ud800"))


async def test_from_now_on_means_from_the_first_bookmark() -> None:
    """Entering settles the position; what happens while no member is watched is told afterwards."""
    async with tellers(2) as listed, client_of(listed) as client:
        log = listed[0].log
        await log.say(1, 1)
        async with client.events() as stream:
            assert stream.revision == 2
            for teller in listed:
                teller.faults = [Refusal(LOST)]
                await teller.hang_up()
            await log.say(1)
            assert await take(stream, 1) == [(3, "key/3/0")]


async def test_followers_spread_over_the_members() -> None:
    """Streams stay: thirty of them are not all at the first member of the list."""
    async with tellers(3) as listed:
        async with client_of(listed) as client:
            for _ in range(9):
                async with client.events():
                    pass
        assert [len(teller.asked) for teller in listed] == [3, 3, 3]
        for _ in range(30):
            async with client_of(listed) as client, client.events():
                pass
        assert min(len(teller.asked) for teller in listed) > 5


async def test_a_stale_member_that_is_behind_is_waited_for() -> None:
    """It refuses a position it does not know yet; the follower neither gives up nor goes back."""
    async with tellers(2) as listed, client_of(listed) as client:
        log = listed[0].log
        await log.say(1, 1, 1)
        stream = client.events(since=0, stale=True)
        assert await take(stream, 3) == log.keys()
        for teller in listed:
            teller.lag = 3
            teller.faults = [Refusal(InvalidInput("revision 3 is in the future"))]
            await teller.hang_up()
        async with asyncio.timeout(WAIT_S):
            while asked(listed) < 3 or not stream.connected:
                await stream.news()
        assert stream.revision == 3
        listed[0].lag = listed[1].lag = 0
        await log.say(1)
        assert await take(stream, 1) == log.keys(after=3)


async def test_news_are_events_bookmarks_and_interruptions() -> None:
    """For those who show how the stream is doing: once for each outage, with who was lost and why."""
    async with tellers() as listed, client_of(listed) as client:
        await listed[0].log.say(2)
        stream = client.events(since=0)
        news: list[Event | Bookmark | Interruption] = []
        while not any(isinstance(item, Bookmark) for item in news):
            news += await stream.news()
        assert [(type(item), getattr(item, "revision", 0)) for item in news] == [
            (Event, 1),
            (Event, 1),
            (Bookmark, 1),
        ]
        listed[0].faults = [Refusal(LOST)] * 3
        await listed[0].hang_up()
        async with asyncio.timeout(WAIT_S):
            while not isinstance(interruption := (await stream.news())[0], Interruption):
                pass
            assert (interruption.member, interruption.error.code) == ("n1", "outcome_unknown")
            assert (stream.member, stream.connected, stream.age_ms) == (None, False, None)
            assert isinstance((await stream.news())[0], Bookmark)
        assert asked(listed) == 5
        await stream.aclose()


async def test_the_revision_to_resume_from_is_one_handed_out_whole() -> None:
    """A reader that stores it between two events of one revision must not lose the second."""
    async with tellers() as listed, client_of(listed) as client:
        await listed[0].log.say(1, 3)
        stream = client.events(since=0)
        seen = []
        for _ in range(4):
            await anext(stream)
            seen.append(stream.revision)
        assert seen == [1, 1, 1, 2]


async def test_a_cancelled_wait_loses_nothing() -> None:
    """As a timeout around a wait does, at any moment, connecting included."""
    choice = random.Random(2)
    async with tellers(2) as listed, client_of(listed) as client:
        log = listed[0].log
        expected = 300
        stream = client.events(since=0)
        found: list[int] = []

        async def talk() -> None:
            for _ in range(expected):
                await log.say(1)
                await asyncio.sleep(0.001)

        talking = asyncio.create_task(talk())
        while len(found) < expected:
            try:
                async with asyncio.timeout(choice.uniform(0, 0.004)):
                    found.append((await anext(stream)).revision)
            except TimeoutError:
                continue
        await talking
        assert found == list(range(1, expected + 1))
        await stream.aclose()


async def test_closing_ends_the_iteration_of_another_task() -> None:
    """Whether it waits for an event, for a member, or was not begun; and closing twice is fine."""
    async with tellers() as listed, client_of(listed) as client:
        for fault in (None, Cut(0, silent=True), Refusal(LOST)):
            listed[0].always = fault
            stream = client.events()
            waiting = asyncio.create_task(anext(stream, None))
            await asyncio.sleep(0.1)
            async with asyncio.timeout(1):
                await asyncio.gather(stream.aclose(), stream.aclose())
                assert await waiting is None
                assert await stream.news() == []


async def test_closing_the_client_ends_its_followers() -> None:
    """Those that wait, and those that come later are refused."""
    async with tellers() as listed:
        client = AsyncClient([listed[0].endpoint])
        stream, later = client.events(), client.events()
        waiting = asyncio.create_task(anext(stream, None))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(1):
            await client.close()
            assert await waiting is None
        with pytest.raises(InvalidInput, match="closed"):
            await anext(later)


async def test_two_tasks_cannot_share_a_follower() -> None:
    """Each would get half of it; a sentence says so."""
    async with tellers() as listed, client_of(listed) as client, client.events() as stream:
        waiting = asyncio.create_task(anext(stream, None))
        await asyncio.sleep(0.01)
        with pytest.raises(InvalidInput, match="follower for each"):
            await anext(stream)
        await stream.aclose()
        await waiting


async def test_a_forgotten_follower_leaves_its_member() -> None:
    """As after a `break`: nobody reads it any more, so nobody is told."""
    async with tellers() as listed, client_of(listed) as client:
        await listed[0].log.say(1)
        async for _ in client.events(since=0):
            break
        await asyncio.sleep(0.1)
        told = listed[0].told_bytes
        await listed[0].log.say(1)
        await asyncio.sleep(3 * 0.05)
        assert listed[0].told_bytes <= told + 200


async def test_a_block_begins_connected_or_not_at_all() -> None:
    """Entering raises within the client's timeout; plain iteration goes on, or gives up when asked to."""
    async with tellers(2) as listed, client_of(listed, timeout_s=0.3) as client:
        for teller in listed:
            teller.always = Refusal(NoQuorum("there is no leader"))
        with pytest.raises(NoQuorum):
            async with asyncio.timeout(1), client.events():
                pass
        with pytest.raises(NoQuorum):
            async with asyncio.timeout(1):
                await anext(client.events(give_up_s=0.2))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await anext(client.events())
        for teller in listed:
            await teller.stop()
        with pytest.raises(Unreachable):
            await anext(client.events(give_up_s=0.2))


async def test_a_long_outage_is_not_hammered_at() -> None:
    """The pauses grow; and when a member serves again, it is found soon."""
    async with tellers(2) as listed, client_of(listed) as client:
        stream = client.events()
        for teller in listed:
            teller.always = Refusal(LOST)
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(2)
        assert asked(listed) < 30
        for teller in listed:
            teller.always = None
        await asyncio.sleep(1)
        await listed[0].log.say(1)
        async with asyncio.timeout(1):
            assert (await waiting).revision == 1


@pytest.mark.parametrize(
    ("key", "prefix"), [("", False), ("k" * 1025, False), ("a\nb", False), ("k" * 1025, True)]
)
async def test_what_can_be_no_key_is_not_watched(cluster: list[str], key: str, prefix: bool) -> None:
    """Nothing would ever come, and whoever waits would not know why."""
    async with AsyncClient() as client:
        with pytest.raises(InvalidInput, match=r"the (key|prefix)"):
            client.kv.watch(key, prefix=prefix)


async def test_changes_of_keys_are_typed(cluster: list[str]) -> None:
    """Puts and deletes of one key or of many, from a real member; nothing of other keys."""
    async with (
        AsyncClient() as client,
        client.kv.watch("a/1") as one,
        client.kv.watch("a/", prefix=True) as many,
    ):
        written = await client.kv.put("a/1", "x")
        await client.kv.put("b", "x")
        deleted = await client.kv.delete("a/1")
        await client.kv.put("a/2", "x")
        changes = [await anext(one), await anext(one)]
        assert changes == [
            KeyChange("put", "a/1", 1, written.revision, changes[0].time_ms),
            KeyChange("delete", "a/1", None, deleted.revision, changes[1].time_ms),
        ]
        assert [(await anext(many)).key for _ in range(3)] == ["a/1", "a/1", "a/2"]
