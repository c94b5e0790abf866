"""Feature levels: what holds one down, what enables it, and what is refused until then."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from raftos.levels import LEVEL
from raftos.state.command import (
    Command,
    Ok,
    Query,
    Rejected,
    Result,
    decode_result,
    encode_request,
    encode_result,
)
from raftos.state.domain import Context, Domain
from raftos.state.domains import DOMAINS, cluster, members
from raftos.state.machine import CannotApply
from tests.unit.state.feeder import Feeder

# What versions before levels wrote and answered: seven fields, and not one more.


class OldRegister(Command, frozen=True, tag="members.register"):
    id: str
    name: str
    endpoint: str
    peer_address: str
    version: str


class OldMember(msgspec.Struct, frozen=True):
    id: str
    name: str
    endpoint: str
    peer_address: str
    version: str
    state: str
    since_ms: int


# A command of a version to come.


class Fresh(Command, frozen=True, tag="fresh.do"):
    """Do something that level 2 brought."""

    since: ClassVar[int] = 2


class Nothing(Query, frozen=True, tag="fresh.nothing"):
    """Nothing."""


class Done(msgspec.Struct, frozen=True):
    done: bool


def apply_fresh(_db: sqlite3.Connection, _command: Fresh, _context: Context) -> Result:
    return Ok(Done(True))


FRESH = Domain(
    name="fresh",
    schema="",
    commands={Fresh: apply_fresh},
    queries={Nothing: lambda _db, _query: Done(False)},
    answers={Fresh: Done, Nothing: Done},
    check=lambda _: (),
)


def register(feeder: Feeder, *levels: int) -> None:
    """Members m-1, m-2, ... of these levels."""
    for number, level in enumerate(levels, 1):
        feeder.ok(members.Register(f"m-{number}", f"n{number}", "", "", "1", level))


def refusal(feeder: Feeder, command: Command) -> Rejected:
    [result] = feeder.do(command)
    assert isinstance(result, Rejected), result
    return result


def test_a_cluster_begins_at_the_first_level_and_rises_once(feeder: Feeder) -> None:
    """Enabled is what the log says, and it is still so after a restart."""
    register(feeder, 2, 2)
    assert feeder.machine.level == feeder.ask(cluster.Show()).level == 1
    assert feeder.ok(cluster.Enable(2, ("m-1", "m-2"))) == {"level": 2}
    feeder.reopen()
    assert feeder.machine.level == feeder.ask(cluster.Show()).level == 2
    assert refusal(feeder, cluster.Enable(2, ("m-1", "m-2"))).code == "conflict"
    assert refusal(feeder, cluster.Enable(1, ("m-1", "m-2"))).code == "conflict"


@pytest.mark.parametrize(
    ("levels", "named", "blamed"),
    [
        ((2, 1), ("m-1", "m-2"), "n2"),
        ((2, 2), ("m-1", "m-2", "m-3"), "m-3"),
        ((2, 1), ("m-1",), "n2"),
    ],
)
def test_one_old_member_holds_the_level_down(
    feeder: Feeder, levels: tuple[int, ...], named: tuple[str, ...], blamed: str
) -> None:
    """Named or alive, or never registered: who cannot read what comes with a level is named."""
    register(feeder, *levels)
    refused = refusal(feeder, cluster.Enable(2, named))
    assert refused.code == "not_enabled"
    assert blamed in refused.message
    assert feeder.machine.level == 1


def test_a_member_that_is_down_and_no_longer_named_holds_nothing_down(feeder: Feeder) -> None:
    """It was removed: its row tells of the past."""
    register(feeder, 2, 1)
    feeder.ok(members.Mark("m-2", state="down", expect_state="alive"))
    assert refusal(feeder, cluster.Enable(2, ("m-1", "m-2"))).code == "not_enabled"
    feeder.ok(cluster.Enable(2, ("m-1",)))


def test_nobody_registers_below_the_enabled_level(feeder: Feeder) -> None:
    """A member of an old version could not read the log; it is told which version to install."""
    register(feeder, 2)
    feeder.ok(cluster.Enable(2, ("m-1",)))
    refused = refusal(feeder, members.Register("m-2", "n2", "", "", "0.9"))
    assert refused.code == "conflict"
    assert "install the version" in refused.message
    assert [member.id for member in feeder.ask(members.List()).items] == ["m-1"]


def test_what_came_with_a_level_is_refused_until_it_is_enabled(feeders: Callable[..., Feeder]) -> None:
    """In the machine as well: an entry proposed just before is no way around."""
    feeder = feeders(domains=(*DOMAINS, FRESH))
    register(feeder, 2)
    refused = refusal(feeder, Fresh())
    assert refused.code == "not_enabled"
    assert "fresh.do" in refused.message
    feeder.do(cluster.Enable(2, ("m-1",)))
    assert feeder.ok(Fresh()) == {"done": True}


def test_a_member_stops_at_a_level_its_version_does_not_know(feeder: Feeder) -> None:
    """It was replaced by an older version; skipping the entry would make its state another one."""
    feeder.ok(members.Register("m-1", "n1", "", "", "9", LEVEL + 1))
    before = (feeder.machine.applied_index, feeder.machine.state_hash)
    entry = feeder.entry((feeder.new_id(), cluster.Enable(LEVEL + 1, ("m-1",))))
    with pytest.raises(CannotApply, match=f"knows up to {LEVEL}"):
        feeder.apply(entry)
    assert (feeder.machine.applied_index, feeder.machine.state_hash) == before


def test_an_old_members_entry_is_read_and_answered_to_the_byte(feeder: Feeder) -> None:
    """Two versions that apply it have one hash, and it holds the level down."""
    old = OldRegister("m-1", "n1", "e", "p", "0.1")
    [[answer]] = feeder.apply(feeder.entry((feeder.new_id(), old)))
    expected = OldMember("m-1", "n1", "e", "p", "0.1", "alive", feeder.now_ms)
    assert answer == encode_result(Ok(expected))
    assert isinstance(decode_result(answer), Ok)
    assert refusal(feeder, cluster.Enable(2, ("m-1",))).code == "not_enabled"


def test_what_a_member_says_before_its_level_may_be_told_an_old_one_can_read() -> None:
    """Level 1 is not written down."""
    new = members.Register("m-1", "n1", "e", "p", "0.2")
    assert encode_request(bytes(16), new) == encode_request(
        bytes(16), OldRegister("m-1", "n1", "e", "p", "0.2")
    )


def test_stamps_are_noted_at_the_same_indexes_and_only_once_saved(tmp_path: Path) -> None:
    """However the log is cut into turns; a start notes where it stands."""
    one, other = Feeder(tmp_path / "one"), Feeder(tmp_path / "other")
    entries = [one.entry((one.new_id(), members.Register("m", "n", "", "", str(at)))) for at in range(200)]
    for entry in entries:
        one.apply(entry)
    other.apply(*entries[:130])
    other.apply(*entries[130:])
    assert [index for index, _ in one.machine.stamps] == [0, 64, 128, 192]
    assert one.machine.stamps == other.machine.stamps
    other.reopen()
    assert other.machine.stamps == ((200, other.machine.state_hash),)
    with pytest.raises(CannotApply):
        other.apply(*[other.entry()] * 60, b"unreadable")
    assert len(other.machine.stamps) == 1
    one.close()
    other.close()
