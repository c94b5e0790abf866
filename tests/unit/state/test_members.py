"""What the members domain answers, table by table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest

from raftos.errors import InvalidInput, NotFound, TooLarge
from raftos.levels import LEVEL
from raftos.state.command import Command, Ok, Rejected
from raftos.state.domains import members, validate
from tests.unit.enabling import enabled
from tests.unit.state.feeder import START_MS, Feeder

Marking = Literal["alive", "down"]


@pytest.fixture(autouse=True)
def _enabled(feeder: Feeder) -> None:
    """Coming and going needs a level of its own."""
    enabled(feeder.machine)


def register(member_id: str = "m-1", name: str = "n1", version: str = "1.0") -> members.Register:
    return members.Register(
        id=member_id,
        name=name,
        endpoint="http://127.0.0.1:1",
        peer_address="127.0.0.1:2",
        version=version,
        level=LEVEL,
    )


def test_a_registered_member_is_found_by_its_id_and_by_its_name(feeder: Feeder) -> None:
    """And it is alive."""
    feeder.ok(register())
    expected = members.Member(
        "m-1", "n1", "http://127.0.0.1:1", "127.0.0.1:2", "1.0", "alive", START_MS, LEVEL
    )
    assert feeder.ask(members.Get(id="m-1")) == expected
    assert feeder.ask(members.Get(name="n1")) == expected
    assert feeder.ask(members.List()) == members.Members([expected])


def test_registering_again_changes_attributes_and_keeps_the_id(feeder: Feeder) -> None:
    """A restarted member has a new version; its name may change as well."""
    feeder.ok(register())
    feeder.now_ms += 5
    feeder.ok(register(name="renamed", version="2.0"))
    [member] = feeder.ask(members.List()).items
    assert (member.id, member.name, member.version, member.since_ms) == ("m-1", "renamed", "2.0", START_MS)


def test_a_name_belongs_to_one_member(feeder: Feeder) -> None:
    """The second one is refused; once it is given up, it may be taken."""
    feeder.ok(register())
    [result] = feeder.do(register("m-2", "n1"))
    assert isinstance(result, Rejected)
    assert result.code == "conflict"
    feeder.do(register("m-1", "n9"), register("m-2", "n1"))
    assert [member.id for member in feeder.ask(members.List()).items] == ["m-2", "m-1"]


def announce(member_id: str = "m-1", name: str = "n1") -> members.Announce:
    return members.Announce(member_id, name, "http://127.0.0.1:1", "127.0.0.1:2")


def bring(feeder: Feeder, state: str | None) -> None:
    """Bring member m-1 into a state of the table."""
    steps: dict[str | None, list[Command]] = {
        None: [],
        "joining": [announce()],
        "alive": [register()],
        "down": [register(), members.Mark("m-1", state="down", expect_state="alive")],
        "removed": [register(), members.Forget("m-1")],
    }
    for step in steps[state]:
        feeder.ok(step)


@pytest.mark.parametrize(
    ("recorded", "command", "outcome"),
    [
        (None, announce(), "joining"),
        ("joining", announce(), "joining"),
        ("alive", announce(), "alive"),
        ("down", announce(), "down"),
        ("removed", announce(), "conflict"),
        (None, register(), "alive"),
        ("joining", register(), "alive"),
        ("alive", register(), "alive"),
        ("down", register(), "alive"),
        ("removed", register(), "conflict"),
        (None, members.Forget("m-1"), "removed"),
        ("joining", members.Forget("m-1"), "removed"),
        ("alive", members.Forget("m-1"), "removed"),
        ("down", members.Forget("m-1"), "removed"),
        ("removed", members.Forget("m-1"), "removed"),
    ],
)
def test_every_other_command_follows_the_life_cycle_too(
    feeder: Feeder, recorded: str | None, command: Command, outcome: str
) -> None:
    """The table of the domain's essay, line by line."""
    bring(feeder, recorded)
    [result] = feeder.do(command)
    if isinstance(result, Rejected):
        assert result.code == outcome
    elif outcome == "removed":
        assert [gone.id for gone in feeder.ask(members.ListRemoved()).items] == ["m-1"]
        assert feeder.ask(members.List()).items == []
    else:
        assert feeder.ask(members.Get(id="m-1")).state == outcome


def test_a_forgotten_name_is_free_and_the_latest_are_remembered(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id is not free for as long as it is remembered, and so many are."""
    monkeypatch.setattr(members, "MAX_REMOVED", 3)
    for number in range(5):
        feeder.now_ms += 1
        feeder.do(announce(f"m-{number}"), members.Forget(f"m-{number}"))
    gone = feeder.ask(members.ListRemoved()).items
    assert [(each.id, each.name) for each in gone] == [("m-4", "n1"), ("m-3", "n1"), ("m-2", "n1")]
    feeder.ok(announce("m-9"))


@pytest.mark.parametrize("newcomer", [announce("m-9", "n9"), register("m-9", "n9")])
def test_so_many_members_are_known_and_no_more(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch, newcomer: Command
) -> None:
    """Those that are known may change and come back; one that is forgotten makes room."""
    monkeypatch.setattr(members, "MAX_MEMBERS", 2)
    feeder.ok(announce("m-1", "n1"))
    feeder.ok(register("m-2", "n2"))
    [result] = feeder.do(newcomer)
    assert isinstance(result, Rejected)
    assert (result.code, "2 members are known" in result.message) == ("limit_reached", True)
    feeder.ok(register("m-1", "n1"))
    feeder.ok(announce("m-2", "renamed"))
    feeder.ok(members.Forget("m-1"))
    feeder.ok(newcomer)


def test_below_the_level_of_the_limit_everybody_registers(
    feeders: Callable[..., Feeder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older version knows no limit, and applies the same entry."""
    monkeypatch.setattr(members, "MAX_MEMBERS", 1)
    young = feeders()
    for number in range(2):
        young.ok(register(f"m-{number}", f"n{number}"))


@pytest.mark.parametrize(
    ("recorded", "state", "expect_state", "outcome"),
    [
        (None, "down", "alive", "not_found"),
        ("removed", "down", "alive", "not_found"),
        ("joining", "down", "alive", "conflict"),
        ("joining", "alive", "down", "conflict"),
        ("alive", "down", "alive", "down"),
        ("alive", "alive", "down", "conflict"),
        ("down", "alive", "down", "alive"),
        ("down", "down", "alive", "conflict"),
        ("alive", "alive", "alive", "invalid"),
        ("down", "down", "down", "invalid"),
    ],
)
def test_a_mark_follows_the_life_cycle(
    feeder: Feeder, recorded: str | None, state: Marking, expect_state: Marking, outcome: str
) -> None:
    """The table of the domain's essay, line by line."""
    bring(feeder, recorded)
    feeder.now_ms += 7
    [result] = feeder.do(members.Mark("m-1", state=state, expect_state=expect_state))
    if isinstance(result, Ok):
        member = feeder.ask(members.Get(id="m-1"))
        assert (member.state, member.since_ms) == (outcome, START_MS + 7)
    else:
        assert isinstance(result, Rejected)
        assert result.code == outcome


def test_registering_brings_a_member_back(feeder: Feeder) -> None:
    """A member that starts is up, whatever was recorded."""
    feeder.do(register(), members.Mark("m-1", state="down", expect_state="alive"))
    feeder.now_ms += 9
    feeder.ok(register())
    member = feeder.ask(members.Get(id="m-1"))
    assert (member.state, member.since_ms) == ("alive", START_MS + 9)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (register(""), InvalidInput),
        (register("m-1", ""), InvalidInput),
        (register("m-1", "two words"), InvalidInput),
        (register("m-1", "n\n"), InvalidInput),
        (register("m-1", "ñ"), InvalidInput),
        (register("m" * 257), TooLarge),
        (members.Mark("", state="down", expect_state="alive"), InvalidInput),
        (announce(""), InvalidInput),
        (announce("m-1", "two words"), InvalidInput),
        (announce("m-1", "n" * 257), TooLarge),
        (members.Forget(""), InvalidInput),
    ],
)
def test_a_command_outside_its_limits_is_refused(
    feeder: Feeder, command: Command, error: type[InvalidInput]
) -> None:
    """At the edge and by the machine alike."""
    with pytest.raises(error) as caught:
        validate(command)
    assert feeder.do(command) == [Rejected(caught.value.code, caught.value.message)]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (members.Get(), InvalidInput),
        (members.Get(id="m-1", name="n1"), InvalidInput),
        (members.Get(id=""), InvalidInput),
        (members.Get(id="m-9"), NotFound),
        (members.Get(name="n9"), NotFound),
    ],
)
def test_a_query_says_what_is_wrong_with_it(
    feeder: Feeder, query: members.Get, error: type[InvalidInput | NotFound]
) -> None:
    """Exactly one of id and name, and a member that exists."""
    feeder.ok(register())
    with pytest.raises(error):
        feeder.ask(query)
