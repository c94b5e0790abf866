"""Readers: what is saved, nothing else, and never too much of it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable

import msgspec
import pytest

from raftos.errors import InvalidInput, NotFound, NotReady
from raftos.state import reader as reader_module
from raftos.state.command import Query
from raftos.state.domain import Domain
from raftos.state.domains import DOMAINS, kv
from tests.unit.state.feeder import Feeder


class Endless(Query, frozen=True, tag="odd.endless"):
    """Search without end."""


class Writing(Query, frozen=True, tag="odd.writing"):
    """Write, which no query may."""


class Count(msgspec.Struct, frozen=True):
    count: int


def endless(db: sqlite3.Connection, _: Endless) -> Count:
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    return Count(*db.execute(sql).fetchone())


def writing(db: sqlite3.Connection, _: Writing) -> Count:
    return Count(db.execute("DELETE FROM kv").rowcount)


ODD = Domain(
    name="odd",
    schema="",
    commands={},
    queries={Endless: endless, Writing: writing},
    answers={Endless: Count, Writing: Count},
    check=lambda _: (),
)


def test_a_reader_sees_what_is_saved_and_follows(feeder: Feeder) -> None:
    """One reader, before and after."""
    reader = feeder.machine.reader()
    with pytest.raises(NotFound):
        reader.query(kv.Get("a"))
    feeder.do(kv.Put("a", b"1"))
    assert reader.query(kv.Get("a")).value == b"1"
    reader.close()


def test_readers_live_on_other_threads(feeder: Feeder) -> None:
    """They read while the machine writes, and never meet half a call."""
    stop = threading.Event()
    torn: list[tuple[int, ...]] = []

    def read() -> None:
        reader = feeder.machine.reader()
        while not stop.is_set():
            versions = {item.version for item in reader.query(kv.List(keys_only=True)).items}
            if len(versions) > 1:
                torn.append(tuple(versions))
        reader.close()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        feeder.do(*(kv.Put(f"k{number}", b"") for number in range(5)))
    stop.set()
    for thread in threads:
        thread.join()
    assert not torn


def test_a_query_that_searches_too_much_is_ended(
    feeders: Callable[..., Feeder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, and the reader still works."""
    monkeypatch.setattr(reader_module, "MOST_TICKS", 20)
    feeder = feeders(domains=(*DOMAINS, ODD))
    feeder.do(kv.Put("a", b"1"))
    reader = feeder.machine.reader()
    for _ in range(2):
        with pytest.raises(InvalidInput, match="searches too many rows"):
            reader.query(Endless())
    assert reader.query(kv.Get("a")).version == 1
    reader.close()


def test_many_small_queries_are_never_taken_for_a_large_one(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is each query's own."""
    monkeypatch.setattr(reader_module, "STEPS_PER_TICK", 20)
    monkeypatch.setattr(reader_module, "MOST_TICKS", 20)
    feeder.do(kv.Put("a", b"1"))
    reader = feeder.machine.reader()
    assert {reader.query(kv.Get("a")).version for _ in range(500)} == {1}
    reader.close()


def test_a_reader_cannot_write(feeders: Callable[..., Feeder]) -> None:
    """Whatever a query tries, the state stays."""
    feeder = feeders(domains=(*DOMAINS, ODD))
    feeder.do(kv.Put("a", b"1"))
    with pytest.raises(NotReady, match="readonly"):
        feeder.ask(Writing())
    assert feeder.ask(kv.Get("a")).version == 1
