"""What watchers are told, and for how long it is kept."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raftos.state import events
from raftos.state.domains import kv, members
from tests.unit.state.feeder import Feeder


def kept(feeder: Feeder) -> list[list[Any]]:
    """All events that are kept, as `[revision, event]`."""
    rows = feeder.rows()["events"]
    return [stamped for row in rows for stamped in msgspec.msgpack.decode(row[2])]


def test_every_change_is_told_under_its_revision(feeder: Feeder) -> None:
    """All events of one command share it; refusals tell nothing."""
    feeder.do(
        kv.Put("a", b"1", ttl_ms=1),
        kv.Put("a", b"2", expect_version=7),
        kv.Txn(writes=(kv.TxnPut("b", b"1"), kv.TxnDelete("missing"), kv.TxnPut("c", b"1"))),
        kv.Delete("b"),
        members.Register(id="m-1", name="n1", endpoint="", peer_address="", version=""),
        members.Mark("m-1", "down", "alive"),
    )
    feeder.now_ms += 1
    feeder.do(kv.Expire((kv.Seen("a", 1),)), kv.DeletePrefix(""))
    assert kept(feeder) == [
        [1, {"type": "kv.written", "key": "a", "version": 1}],
        [2, {"type": "kv.written", "key": "b", "version": 1}],
        [2, {"type": "kv.written", "key": "c", "version": 1}],
        [3, {"type": "kv.deleted", "key": "b", "expired": False}],
        [4, {"type": "members.registered", "id": "m-1", "name": "n1"}],
        [5, {"type": "members.marked", "id": "m-1", "state": "down"}],
        [6, {"type": "kv.deleted", "key": "a", "expired": True}],
        [7, {"type": "kv.deleted", "key": "c", "expired": False}],
    ]


def test_an_entry_without_events_takes_no_row(feeder: Feeder) -> None:
    """A refusal is no news."""
    feeder.do(kv.Delete("missing"))
    assert feeder.rows()["events"] == []


@pytest.mark.parametrize("passed_ms", [0, events.KEEP_MS + 1])
def test_events_older_than_a_day_are_dropped(feeder: Feeder, passed_ms: int) -> None:
    """At the next index that the sweep's rhythm names."""
    feeder.do(kv.Put("old", b"1"))
    feeder.now_ms += passed_ms
    for _ in range(events.SWEEP_INDEXES):
        feeder.do(kv.Put("new", b"1"))
    oldest = kept(feeder)[0]
    assert (oldest[1]["key"] == "old") == (passed_ms == 0)


def test_events_of_more_than_100_000_revisions_ago_are_dropped(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in revisions, whatever the number of entries."""
    monkeypatch.setattr(events, "KEEP_REVISIONS", 100)
    for _ in range(events.SWEEP_INDEXES):
        feeder.do(*(kv.Put("a", b"1") for _ in range(5)))
    revisions = [revision for revision, _ in kept(feeder)]
    assert revisions == list(range(221, 321))


def test_who_resumes_in_the_middle_of_an_entry_is_told_only_what_follows(feeder: Feeder) -> None:
    """The events of many commands share a row, but what came up to the revision is known already."""
    feeder.do(*(kv.Put(key, b"") for key in "abc"))
    feeder.do(kv.Put("d", b""))
    reader = feeder.machine.reader()
    told = {
        after: [
            (entry.last_revision, revision)
            for entry in reader.events(after, 1_000).entries
            for revision, _ in msgspec.msgpack.decode(entry.body)
        ]
        for after in range(5)
    }
    reader.close()
    assert told == {
        0: [(3, 1), (3, 2), (3, 3), (4, 4)],
        1: [(3, 2), (3, 3), (4, 4)],
        2: [(3, 3), (4, 4)],
        3: [(4, 4)],
        4: [],
    }


def test_events_dropped_while_a_page_is_read_are_not_passed_over_in_silence(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers live on threads of their own: the machine may sweep between their statements."""
    monkeypatch.setattr(events, "KEEP_REVISIONS", 10)
    feeder.do(kv.Put("a", b""))
    reader = feeder.machine.reader()

    def sweep(statement: str) -> None:
        if "FROM events" in statement:
            feeder.apply(*(feeder.entry((feeder.new_id(), kv.Put("a", b""))) for _ in range(100)))

    # SQLite calls this as a statement begins, before it has chosen what it sees.
    reader._db.set_trace_callback(sweep)
    page = reader.events(0, 10_000)
    reader.close()
    assert page.entries[0].last_revision > 1
    assert page.dropped > 0


def test_a_listener_that_fails_does_not_have_the_entry_applied_again(feeder: Feeder) -> None:
    """It hears of a turn that was saved: that cannot be taken back."""

    def fail(_: object) -> None:
        raise RuntimeError("no room for news")

    feeder.machine.on_events(fail)
    with pytest.raises(RuntimeError, match="no room"):
        feeder.do(kv.Put("a", b""))
    assert feeder.machine.applied_index == 1
    assert feeder.machine.revision == 1
    assert len(kept(feeder)) == 1
