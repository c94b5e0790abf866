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
