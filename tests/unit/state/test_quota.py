"""What is counted, how much there may be, and what goes on when there is no more space."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from raftos.errors import InvalidInput
from raftos.state import storage
from raftos.state.command import Command, Failed, Ok, Rejected
from raftos.state.domain import Context, Domain
from raftos.state.domains import DOMAINS, kv, quota
from raftos.state.domains.quota import Quota
from raftos.state.machine import CannotApply
from raftos.state.tally import EVENTS_DROPPED, ROW_BYTES, STATE_BYTES
from tests.unit.enabling import enabled
from tests.unit.state.feeder import Feeder

MIB = 1024 * 1024


def fill(feeder: Feeder, spare_bytes: int) -> None:
    """Allow 1 MiB, and use all of it but `spare_bytes`."""
    feeder.ok(quota.Set(STATE_BYTES, MIB))
    feeder.ok(kv.Put("fill", bytes(MIB - spare_bytes - ROW_BYTES - len("fill"))))
    assert feeder.machine.tallies[STATE_BYTES] == MIB - spare_bytes


def code_of(feeder: Feeder, command: Command) -> str | None:
    """The code a command is refused with, or None when it is taken."""
    [result] = feeder.do(command)
    return result.code if isinstance(result, Rejected) else None


# Setting and listing.


def test_all_quotas_are_listed_with_what_there_is(feeder: Feeder) -> None:
    """By name, and without the machine's own bookkeeping."""
    feeder.ok(kv.Put("key", b"value"))
    items = {item.name: item for item in feeder.ask(quota.List()).items}
    assert items["kv.keys"] == Quota("kv.keys", 1, kv.MAX_KEYS)
    assert items[STATE_BYTES] == Quota(STATE_BYTES, ROW_BYTES + 8, 8 * 2**30)
    assert EVENTS_DROPPED not in items
    assert list(items) == sorted(items)


def test_a_quota_that_was_set_is_kept(feeder: Feeder) -> None:
    """It counts from the next command on, is listed, told to watchers, and survives a restart."""
    assert feeder.ok(quota.Set("kv.keys", 1)) == {"name": "kv.keys", "value": 0, "most": 1}
    [told] = feeder.rows()["events"]
    assert b"quota.changed" in told[2]
    for _ in range(2):
        assert Quota("kv.keys", 0, 1) in feeder.ask(quota.List()).items
        assert feeder.machine.limits["kv.keys"] == 1
        feeder.reopen()


@pytest.mark.parametrize("name", ["kv.nothing", EVENTS_DROPPED])
def test_what_nobody_can_limit_is_not_found(feeder: Feeder, name: str) -> None:
    """The refusal names what there is."""
    [result] = feeder.do(quota.Set(name, 5))
    assert isinstance(result, Rejected)
    assert result.code == "not_found"
    known = result.message.partition(";")[2]
    assert "kv.keys" in known
    assert EVENTS_DROPPED not in known


def test_a_refusal_is_the_same_text_in_every_version_of_python(feeder: Feeder) -> None:
    """`repr` escapes what the Unicode of its Python does not know; below the level it is used as ever."""
    name = "not yet a letter: \u0378"
    told = f"there is no quota {name!r}; "
    for _ in range(2):
        [result] = feeder.do(quota.Set(name, 5))
        assert isinstance(result, Rejected)
        assert result.message.startswith(told)
        enabled(feeder.machine)
        told = f"there is no quota '{name}'; "


@pytest.mark.parametrize(
    ("name", "most"),
    [(STATE_BYTES, MIB - 1), (STATE_BYTES, 0), ("kv.keys", -1), ("kv.keys", 2**53), ("", 1), ("a\n", 1)],
)
def test_a_quota_has_limits_itself(feeder: Feeder, name: str, most: int) -> None:
    """Also for commands that came past the edge: they are refused, and change nothing."""
    before = dict(feeder.machine.limits)
    assert code_of(feeder, quota.Set(name, most)) == "invalid"
    assert feeder.machine.limits == before
    with pytest.raises(InvalidInput):
        quota.DOMAIN.validate[quota.Set](quota.Set(name, most))


# Space.


def test_the_last_byte_may_be_used(feeder: Feeder) -> None:
    """One byte below the quota a write is taken, at the quota none is."""
    fill(feeder, spare_bytes=1)
    assert code_of(feeder, kv.Put("fill", bytes(MIB - ROW_BYTES - 4))) is None
    assert feeder.machine.tallies[STATE_BYTES] == MIB
    assert code_of(feeder, kv.Put("fill", bytes(MIB - ROW_BYTES - 4))) == "no_space"


def test_a_full_state_refuses_only_what_would_grow_it(feeder: Feeder) -> None:
    """Reads, deletes, touches and transactions that only delete go on; puts do again after a delete."""
    fill(feeder, spare_bytes=ROW_BYTES + 2)
    feeder.ok(kv.Put("a", b"1", ttl_ms=60_000))
    growing: list[Command] = [
        kv.Put("b", b""),
        kv.Put("a", b"2"),
        kv.Txn((kv.TxnPut("b", b""),)),
        kv.Txn((kv.TxnDelete("fill"), kv.TxnPut("b", b""))),
    ]
    for command in growing:
        assert code_of(feeder, command) == "no_space"
    assert feeder.ask(kv.Get("a")).value == b"1"
    feeder.ok(kv.Touch("a", ttl_ms=120_000))
    feeder.ok(kv.Txn((kv.TxnDelete("missing"),)))
    assert code_of(feeder, kv.Put("b", b"")) == "no_space"
    feeder.ok(kv.Txn((kv.TxnDelete("fill"),)))
    for command in growing:
        assert code_of(feeder, command) is None


@pytest.mark.parametrize(
    "shrinking",
    [
        kv.Delete("fill"),
        kv.DeletePrefix("f"),
        kv.Expire((kv.Seen("fill", 2),)),
        quota.Set(STATE_BYTES, 2 * MIB),
    ],
)
def test_writes_resume_once_there_is_space(feeder: Feeder, shrinking: Command) -> None:
    """However it came about."""
    feeder.ok(quota.Set(STATE_BYTES, MIB))
    feeder.ok(kv.Put("fill", bytes(MIB - ROW_BYTES - 4), ttl_ms=1))
    feeder.now_ms += 10
    assert code_of(feeder, kv.Put("a", b"")) == "no_space"
    feeder.ok(shrinking)
    assert code_of(feeder, kv.Put("a", b"")) is None


def test_a_quota_below_what_there_is_deletes_nothing(feeder: Feeder) -> None:
    """Growing writes are refused until what is left fits, and no earlier."""
    for number in range(3):
        feeder.ok(kv.Put(f"k{number}", bytes(MIB)))
    feeder.ok(quota.Set(STATE_BYTES, MIB + 1))
    for number in range(2):
        assert code_of(feeder, kv.Put("a", b"")) == "no_space"
        assert len(feeder.ask(kv.List(keys_only=True)).items) == 3 - number
        feeder.ok(kv.Delete(f"k{number}"))
    assert code_of(feeder, kv.Put("a", b"")) == "no_space", "one key and its row are more than the quota"
    feeder.ok(kv.Delete("k2"))
    assert code_of(feeder, kv.Put("a", b"")) is None


def test_a_refused_request_is_remembered_like_any_other(feeder: Feeder) -> None:
    """Sent again when there is space, it still says what it said: the answer belongs to the id."""
    fill(feeder, spare_bytes=0)
    request = (feeder.new_id(), kv.Put("a", b""))
    refused = feeder.send(request)
    feeder.ok(kv.Delete("fill"))
    assert feeder.send(request) == refused
    assert code_of(feeder, kv.Put("a", b"")) is None


def test_the_space_within_one_entry_is_counted_command_by_command(feeder: Feeder) -> None:
    """The command that fills the state is taken, the next one of its batch is not."""
    feeder.ok(quota.Set(STATE_BYTES, MIB))
    results = feeder.do(kv.Put("a", bytes(MIB)), kv.Put("b", b""), kv.Delete("a"), kv.Put("c", b""))
    assert [type(result) for result in results] == [Ok, Rejected, Ok, Ok]


def test_the_number_of_keys_has_its_own_error(feeder: Feeder) -> None:
    """`limit_reached` for a new key; an existing one can be written, and a deleted one makes room."""
    feeder.ok(kv.Put("a", b""))
    feeder.ok(quota.Set("kv.keys", 1))
    assert code_of(feeder, kv.Put("b", b"")) == "limit_reached"
    assert code_of(feeder, kv.Txn((kv.TxnPut("a", b"1"), kv.TxnPut("b", b"")))) == "limit_reached"
    assert code_of(feeder, kv.Put("a", b"1")) is None
    feeder.ok(kv.Delete("a"))
    assert code_of(feeder, kv.Put("b", b"")) is None


def test_a_number_of_keys_below_the_present_one_refuses_new_keys_alone(feeder: Feeder) -> None:
    """What exists can still be written and deleted, one by one and in transactions."""
    for key in "abc":
        feeder.ok(kv.Put(key, b""))
    feeder.ok(quota.Set("kv.keys", 1))
    feeder.ok(kv.Put("a", b"1"))
    feeder.ok(kv.Txn((kv.TxnPut("a", b"2"), kv.TxnDelete("b"))))
    assert code_of(feeder, kv.Put("b", b"")) == "limit_reached"
    feeder.ok(kv.Txn((kv.TxnDelete("c"), kv.TxnDelete("a"))))
    assert code_of(feeder, kv.Put("b", b"")) is None


# Members agree.


def test_members_refuse_the_same_commands(feeders: Callable[..., Feeder]) -> None:
    """Whether entries come singly or together, and with a restart in between."""
    one, other = feeders(), feeders()
    entries = [
        one.entry((one.new_id(), command))
        for command in (
            quota.Set(STATE_BYTES, MIB),
            kv.Put("a", bytes(MIB)),
            kv.Put("b", b""),
            kv.Delete("a"),
            kv.Put("b", b""),
        )
    ]
    together = one.apply(*entries)
    singly = []
    for entry in entries:
        singly += other.apply(entry)
        other.reopen()
    assert together == singly
    assert one.machine.state_hash == other.machine.state_hash
    assert one.rows() == other.rows()
    assert one.machine.tallies == other.machine.tallies


# What is rolled back is rolled back whole.


class Count(Command, frozen=True, tag="counting.count"):
    """Count, set a limit, and then perhaps fail."""

    how: str


def apply_count(_db: sqlite3.Connection, command: Count, context: Context) -> Any:
    context.counts["kv.keys"] += 5
    context.counts[STATE_BYTES] += 5
    context.most["kv.keys"] = 3
    if command.how == "bug":
        raise ValueError
    if command.how == "disk":
        raise OSError("the disk is gone")
    return Ok(None)


COUNTING = Domain(
    name="counting",
    schema="",
    commands={Count: apply_count},
    queries={},
    answers={},
    check=lambda _: (),
)


@pytest.mark.parametrize("how", ["bug", "disk"])
def test_tallies_are_rolled_back_with_what_they_count(feeders: Callable[..., Feeder], how: str) -> None:
    """With one command that met a bug, or with the whole turn when this machine is in trouble."""
    feeder = feeders(domains=(*DOMAINS, COUNTING))
    feeder.ok(kv.Put("a", b"1"))
    entry = feeder.entry(
        (feeder.new_id(), kv.Put("b", b"2")), (feeder.new_id(), Count(how)), (feeder.new_id(), kv.Delete("a"))
    )
    before = dict(feeder.machine.tallies)
    if how == "disk":
        with pytest.raises(CannotApply):
            feeder.apply(entry)
    else:
        feeder.apply(entry)
        assert isinstance(feeder.do(Count(how))[0], Failed)
    assert feeder.machine.tallies == before, "one key more and one less, of the same size"
    assert feeder.machine.limits["kv.keys"] == kv.MAX_KEYS
    feeder.reopen()
    assert feeder.machine.tallies == before


def test_a_tally_that_drifted_is_found(feeder: Feeder) -> None:
    """The check adds up what the tables hold; in the same words for keys and for bytes."""
    feeder.ok(kv.Put("a", b"1"))
    feeder.machine.check()
    for name in ("kv.keys", STATE_BYTES):
        with closing(sqlite3.connect(feeder.folder / storage.FILE_NAME)) as db, db:
            db.execute("UPDATE tallies SET value = value + 1 WHERE name = ?", (name,))
        feeder.reopen()
        with pytest.raises(AssertionError, match=r"are counted, \d+ are kept"):
            feeder.machine.check()
        with closing(sqlite3.connect(feeder.folder / storage.FILE_NAME)) as db, db:
            db.execute("UPDATE tallies SET value = value - 1 WHERE name = ?", (name,))
        feeder.reopen()
