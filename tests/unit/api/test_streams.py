"""`/v1/events`: from a revision to the present and along with it, and how a stream ends."""

from __future__ import annotations

import asyncio
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from raftos.api import streams
from raftos.state import events
from tests.unit.api.harness import Api, run
from tests.unit.api.watcher import Message, Watcher


async def put(api: Api, *keys: str) -> None:
    for key in keys:
        assert (await api.post("/v1/kv/put", {"key": key, "value": "x"})).status == 200


def subjects(messages: list[Message]) -> list[str]:
    return [message.data["key"] for message in messages if message.kind != "bookmark"]


def test_a_watcher_without_a_place_hears_what_happens_from_now_on(tmp_path: Path) -> None:
    """It learns at once how far the cluster is, and then of every change."""

    async def scenario(api: Api) -> None:
        await put(api, "before")
        async with Watcher(api) as watcher:
            first = await watcher.next()
            assert (first.kind, first.id, first.data["member"]) == ("bookmark", 1, "n1")
            await put(api, "a", "b")
            assert [(one.id, one.data["key"]) for one in [await watcher.next(), await watcher.next()]] == [
                (2, "a"),
                (3, "b"),
            ]

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("since", "expected"), [("0", "abcd"), ("2", "cd"), ("-3", "bcd"), ("-99", "abcd"), ("4", "")]
)
def test_a_watcher_resumes_after_a_revision(tmp_path: Path, since: str, expected: str) -> None:
    """First what it missed, then a bookmark; a negative revision counts from the newest."""

    async def scenario(api: Api) -> None:
        await put(api, *"abcd")
        async with Watcher(api, f"since={since}") as watcher:
            missed = await watcher.until("bookmark")
            assert "".join(subjects(missed)) == expected
            assert missed[-1].id == 4
        async with Watcher(api, "", f"Last-Event-ID: {since}\r\n") as watcher:
            assert "".join(subjects(await watcher.until("bookmark"))) == expected

    run(tmp_path, scenario)


def test_pages_and_the_present_join_without_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While writes go on, and though each page holds almost nothing, each event comes once, in order."""
    monkeypatch.setattr(streams, "PAGE_BYTES", 64)

    async def scenario(api: Api) -> None:
        keys = [f"k{number:03}" for number in range(300)]
        await put(api, *keys[:100])
        writing = asyncio.ensure_future(put(api, *keys[100:]))
        watchers = []
        for _ in range(5):
            await asyncio.sleep(0.01)
            watchers.append(await Watcher(api, "since=0").__aenter__())
        await writing
        for watcher in watchers:
            heard: list[Message] = []
            while len(subjects(heard)) < len(keys):
                heard.append(await watcher.next())
            assert subjects(heard) == keys
            await watcher.__aexit__()

    run(tmp_path, scenario)


def test_watchers_with_other_wishes_hear_other_things(tmp_path: Path) -> None:
    """Each its own, in the order of the log; compressed for those who can read that."""

    async def scenario(api: Api) -> None:
        async with (
            Watcher(api, "prefix=a") as some,
            Watcher(api, "topic=kv.deleted") as deleted,
            Watcher(api, "topic=members") as none,
            Watcher(api, "", "Accept-Encoding: gzip\r\n") as packed,
        ):
            for watcher in (some, deleted, none):
                await watcher.next()
            await put(api, "a1", "b1", "a2")
            await api.post("/v1/kv/delete", {"key": "b1"})
            assert [(await some.next()).data["key"], (await some.next()).data["key"]] == ["a1", "a2"]
            assert (await deleted.next()).data["key"] == "b1"
            assert "Content-Encoding: gzip" in packed.head
            stream, text = zlib.decompressobj(zlib.MAX_WBITS | 16), b""
            while b"kv.deleted" not in text:
                text += stream.decompress(await packed.chunk())
            assert [b"a1" in text, b"b1" in text, b"a2" in text] == [True] * 3
            mark = await none.next()
            assert (mark.kind, mark.id) == ("bookmark", 4)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ("since=2", "in the future"),
        ("since=x", "not a revision"),
        ("since=1e3", "not a revision"),
        ("since=" + "9" * 30, "not a revision"),
        ("topic=zz", "there are no events"),
        ("topics=kv", "there are since, topic, prefix, subject, consistency"),
        ("consistency=often", "linearizable"),
        ("since=0&since=1", "twice"),
    ],
)
def test_a_wrong_wish_is_refused_before_the_stream_begins(
    tmp_path: Path, parameters: str, sentence: str
) -> None:
    """As every wrong request is, with status 400 and a sentence."""

    async def scenario(api: Api) -> None:
        await put(api, "a")
        answer = await api.get(f"/v1/events?{parameters}")
        assert (answer.status, answer.code) == (400, "invalid")
        assert sentence in answer.sentence

    run(tmp_path, scenario)


def test_a_place_that_is_no_longer_kept_is_named_with_the_oldest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody resumes across a gap unawares; the oldest place itself is good."""
    monkeypatch.setattr(events, "KEEP_REVISIONS", 10)

    async def scenario(api: Api) -> None:
        await put(api, *(f"k{number}" for number in range(events.SWEEP_INDEXES)))
        answer = await api.get("/v1/events?since=3")
        error = answer.json["error"]
        assert (answer.status, error["code"], error["oldest_revision"]) == (410, "compacted", 54)
        async with Watcher(api, "since=54") as watcher:
            missed = await watcher.until("bookmark")
            assert subjects(missed) == [f"k{number}" for number in range(54, 64)]
        async with Watcher(api, "since=-60") as watcher:
            assert subjects(await watcher.until("bookmark")) == subjects(missed)

    run(tmp_path, scenario)


def test_a_slow_watcher_is_cut_off_with_a_reason_and_resumes_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds nobody up; from its last id on everything is still there."""
    monkeypatch.setattr(streams, "MAX_BACKLOG_BYTES", 20_000)

    async def scenario(api: Api) -> None:
        keys = [f"{number:05}" + "x" * 1000 for number in range(6_000)]
        async with Watcher(api) as slow, Watcher(api, "prefix=05999") as other:
            for at in range(0, len(keys), 500):
                items = [
                    {"command": {"type": "kv.put", "key": key, "value": b""}} for key in keys[at : at + 500]
                ]
                await api.batch(items)
            assert subjects([(await other.until("kv.written"))[-1]]) == [keys[5999]]
            assert api.app.streams.cut == 1
            heard = await slow.until("end")
            assert heard[-1].data["error"]["code"] == "slow_watcher"
            assert heard[-1].data["error"]["retryable"] is True
            with pytest.raises(EOFError):
                await slow.next()
            last = [message.id for message in heard if message.id is not None][-1]
            async with Watcher(api, f"since={last}") as again:
                heard = heard[:-1] + await again.until("bookmark")
        assert subjects(heard) == keys

    run(tmp_path, scenario)


def test_watchers_of_one_credential_are_limited(tmp_path: Path) -> None:
    """The one too many is told so, and has a place again when another one leaves."""

    async def scenario(api: Api) -> None:
        api.app.streams._most_per_identity = 2
        async with Watcher(api) as one:
            async with Watcher(api):
                answer = await api.get("/v1/events")
                assert (answer.status, answer.code) == (429, "limit_reached")
            while len(api.app.streams) == 2:  # noqa: ASYNC110 - the member sees the other one leave in its own time
                await asyncio.sleep(0.005)
            async with Watcher(api) as another:
                assert (await another.next()).kind == "bookmark"
            assert (await one.next()).kind == "bookmark"

    run(tmp_path, scenario)


def test_a_member_that_lost_its_leader_sends_its_watchers_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless they asked for what it has, however old; a new watcher is refused at once."""
    monkeypatch.setattr(streams, "LOST_S", 0.1)
    monkeypatch.setattr(streams, "TICK_S", 0.02)
    monkeypatch.setattr(streams, "IDLE_S", 0.2)

    async def scenario(api: Api) -> None:
        async with Watcher(api) as watcher, Watcher(api, "consistency=stale") as content:
            api.cluster.cut("id-n1")
            heard = await watcher.until("end")
            assert heard[-1].data["error"]["code"] == "not_ready"
            marks = [await content.next() for _ in range(3)]
            assert {mark.kind for mark in marks} == {"bookmark"}
            assert marks[-1].data["age_ms"] > marks[0].data["age_ms"]
            assert (await api.get("/v1/events")).code == "no_quorum"

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_a_watcher_that_hears_nothing_else_hears_bookmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place moves on although nothing happens that it wants, and though others are kept busy."""
    monkeypatch.setattr(streams, "TICK_S", 0.02)
    monkeypatch.setattr(streams, "IDLE_S", 0.1)

    async def scenario(api: Api) -> None:
        async with Watcher(api, "topic=members") as idle, Watcher(api) as busy:
            await idle.next()
            for number in range(50):
                await put(api, f"k{number}")
                await asyncio.sleep(0.005)
            marks = [await idle.next() for _ in range(3)]
            assert {mark.kind for mark in marks} == {"bookmark"}
            assert (marks[-1].id or 0) > (marks[0].id or 0) > 0
            assert len(subjects(await busy.until("kv.written"))) == 1

    run(tmp_path, scenario)


def test_a_stopping_member_says_so(tmp_path: Path) -> None:
    """The stream ends properly, so that its reader goes elsewhere at once."""

    async def scenario(api: Api) -> None:
        async with Watcher(api) as watcher:
            await watcher.next()
            api.app.streams.close()
            assert (await watcher.next()).data["error"]["code"] == "not_ready"
            with pytest.raises(EOFError):
                await watcher.next()
        assert len(api.app.streams) == 0

    run(tmp_path, scenario)


def test_a_member_that_went_on_from_a_snapshot_sends_its_watchers_to_resume(tmp_path: Path) -> None:
    """What lies between the two states was applied elsewhere, so nobody here can be told of it live."""

    async def scenario(api: Api) -> None:
        machine = api.member.machine
        await put(api, "a")
        async with Watcher(api) as watcher:
            await watcher.next()
            copy = machine.folder / "incoming.sqlite3"
            machine.copy_to(copy)
            with closing(sqlite3.connect(copy)) as db, db:
                db.execute("UPDATE machine SET applied_index = applied_index + 1")
            machine.replace(copy)
            end = (await watcher.until("end"))[-1]
            assert end.data["error"]["code"] == "not_ready"
            assert "snapshot" in end.data["error"]["message"]
        async with Watcher(api, "since=0") as watcher:
            assert subjects(await watcher.until("bookmark")) == ["a"]

    run(tmp_path, scenario)
