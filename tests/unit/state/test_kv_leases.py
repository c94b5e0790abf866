"""What locks stand on: a time-to-live that touch renews, and revisions that tell lives of a key apart."""

from __future__ import annotations

import pytest

from raftos.errors import InvalidInput, NotFound, RaftosError, TooLarge
from raftos.state.command import Command, Ok, Rejected
from raftos.state.domains import kv, validate
from tests.unit.state.feeder import START_MS, Feeder

TTL_MS = 1_000


def lease(key: str = "a") -> kv.Put:
    return kv.Put(key, b"mine", expect_version=0, ttl_ms=TTL_MS)


def test_a_touch_changes_the_time_to_live_and_nothing_else(feeder: Feeder) -> None:
    """Value, version and revision stay, and nobody who watches is told."""
    feeder.do(lease(), kv.Put("b", b""))
    events = feeder.rows()["events"]
    feeder.now_ms += 700
    touched = feeder.ok(kv.Touch("a", TTL_MS))
    assert touched == {"key": "a", "revision": 1, "expires_ms": START_MS + 700 + TTL_MS}
    assert feeder.ask(kv.Get("a")) == kv.Item("a", 1, 1, b"mine", START_MS + 700 + TTL_MS)
    assert feeder.rows()["events"] == events


def test_a_touch_can_shorten_and_can_give_an_end_to_what_had_none(feeder: Feeder) -> None:
    """It sets the time-to-live, whatever it was before."""
    feeder.do(lease(), kv.Put("endless", b""))
    for key in ("a", "endless"):
        feeder.ok(kv.Touch(key, 10))
        assert feeder.ask(kv.Get(key)).expires_ms == START_MS + 10


def test_an_expiry_that_was_proposed_before_a_touch_deletes_nothing(feeder: Feeder) -> None:
    """The revision is the one that was seen, but the time has not passed any more."""
    feeder.do(lease())
    feeder.now_ms += TTL_MS
    [expire] = feeder.due()
    feeder.ok(kv.Touch("a", TTL_MS, expect_revision=1))
    assert feeder.ok(expire) == {"expired": 0}
    assert feeder.ask(kv.Get("a")).revision == 1


def test_a_touch_that_comes_after_the_expiry_revives_nothing(feeder: Feeder) -> None:
    """Its holder learns that the lease is over."""
    feeder.do(lease())
    feeder.now_ms += TTL_MS
    feeder.do(*feeder.due())
    assert feeder.do(kv.Touch("a", TTL_MS, expect_revision=1)) == [
        Rejected("not_found", "key 'a' does not exist")
    ]
    with pytest.raises(NotFound, match="key 'a' does not exist"):
        feeder.ask(kv.Get("a"))


REFUSED: list[tuple[Command, str]] = [
    (kv.Touch("a", TTL_MS, expect_revision=1), "'a' is of revision 3, not of revision 1;"),
    (kv.Delete("a", expect_revision=1), "'a' is of revision 3, not of revision 1;"),
    (kv.Delete("a", expect_version=2, expect_revision=3), "'a' is at version 1, not at version 2;"),
    (kv.Delete("a", expect_version=1, expect_revision=1), "'a' is of revision 3, not of revision 1;"),
    (
        kv.Txn(writes=(kv.TxnDelete("b"),), compare=(kv.Compare("a", revision=1),)),
        "'a' is of revision 3, not of revision 1;",
    ),
    (
        kv.Txn(writes=(kv.TxnDelete("b"),), compare=(kv.Compare("gone", revision=1),)),
        "'gone' does not exist, not of revision 1;",
    ),
]


@pytest.mark.parametrize(("command", "sentence"), REFUSED)
def test_another_revision_is_refused_with_both_revisions_named(
    feeder: Feeder, command: Command, sentence: str
) -> None:
    """The second life of a key has the versions of the first, but not its revision; nothing is changed."""
    feeder.do(lease(), kv.Delete("a"), lease(), kv.Put("b", b""))
    before = feeder.rows()["kv"]
    [result] = feeder.do(command)
    assert isinstance(result, Rejected)
    assert result.code == "conflict"
    assert sentence in result.message
    assert feeder.rows()["kv"] == before


MATCHING: list[Command] = [
    kv.Touch("a", TTL_MS, expect_revision=3),
    kv.Delete("a", expect_revision=3),
    kv.Delete("a", expect_version=1, expect_revision=3),
    kv.Txn(writes=(kv.TxnDelete("b"),), compare=(kv.Compare("a", revision=3),)),
    kv.Txn(writes=(kv.TxnDelete("b"),), compare=(kv.Compare("a", 1, 3),)),
]


@pytest.mark.parametrize("command", MATCHING)
def test_the_revision_of_this_life_is_taken(feeder: Feeder, command: Command) -> None:
    """Alone, or together with the version."""
    feeder.do(lease(), kv.Delete("a"), lease(), kv.Put("b", b""))
    assert isinstance(feeder.do(command)[0], Ok)


def test_a_touch_keeps_what_a_fence_compares(feeder: Feeder) -> None:
    """However often a lock was renewed, the token of its acquisition lets its holder write."""
    token = feeder.ok(lease())["revision"]
    for _ in range(3):
        feeder.now_ms += 500
        feeder.ok(kv.Touch("a", TTL_MS, expect_revision=token))
    fenced = kv.Txn(writes=(kv.TxnPut("data", b"1"),), compare=(kv.Compare("a", revision=token),))
    assert feeder.ok(fenced)["revision"] > token


BAD_COMMANDS: list[tuple[Command, type[RaftosError]]] = [
    (kv.Touch("", 1), InvalidInput),
    (kv.Touch("k" * 1025, 1), TooLarge),
    (kv.Touch("a", 0), InvalidInput),
    (kv.Touch("a", kv.MAX_TTL_MS + 1), InvalidInput),
    (kv.Touch("a", 1, expect_revision=0), InvalidInput),
    (kv.Delete("a", expect_revision=0), InvalidInput),
    (kv.Delete("a", expect_revision=2**53), InvalidInput),
    (kv.Txn(writes=(kv.TxnDelete("a"),), compare=(kv.Compare("a"),)), InvalidInput),
    (kv.Txn(writes=(kv.TxnDelete("a"),), compare=(kv.Compare("a", revision=0),)), InvalidInput),
]


@pytest.mark.parametrize(("command", "error"), BAD_COMMANDS)
def test_what_no_key_can_be_is_refused_at_the_edge_and_by_the_machine(
    feeder: Feeder, command: Command, error: type[RaftosError]
) -> None:
    """No key is of revision 0, no lease lasts no time, and no comparison compares nothing."""
    with pytest.raises(error) as caught:
        validate(command)
    assert feeder.do(command) == [Rejected(caught.value.code, caught.value.message)]
