"""Cluster time: never back, never faster than a leader's clock, and not slower under load either."""

from __future__ import annotations

from raftos.consensus.messages import Append
from tests.unit.consensus.wire import EPOCH_MS, Frame, Wire, requests_of

HOUR_MS = 3_600_000


def only_appends(frame: Frame) -> bool:
    return isinstance(frame.message, Append)


def stamps(wire: Wire, name: str) -> list[int]:
    return [time_ms for _, payload in wire.members[name].applied if (time_ms := requests_of(payload)[0])]


def test_cluster_time_keeps_pace_with_the_leaders_clock_under_load() -> None:
    """With two entries always under way each is stamped before the one before it is applied."""
    wire = Wire()
    wire.elect("a")
    began, began_ms = wire.now, wire["a"].cluster_time_ms(wire.now)
    while wire.now < began + 2:
        wire.propose("a", "x")
        wire.propose("a", "y")
        wire.now += 0.005
        wire.deliver(only_appends)
        wire.now += 0.005
        wire.deliver()
    passed_ms = 1000 * (wire.now - began)
    assert abs(stamps(wire, "a")[-1] - began_ms - passed_ms) < 30
    assert stamps(wire, "a") == sorted(stamps(wire, "a"))


def test_a_member_with_a_wrong_wall_clock_takes_the_time_from_the_first_entry_it_applies() -> None:
    wire = Wire(walls_ms={"c": EPOCH_MS + HOUR_MS})
    wire.elect("a")
    wire.propose("a", "x")
    wire.pass_time(0.3)
    assert abs(wire["c"].cluster_time_ms(wire.now) - wire["a"].cluster_time_ms(wire.now)) < 200


def test_a_new_leader_that_has_applied_nothing_does_not_stamp_by_its_wall_clock() -> None:
    """It holds stamped entries, but does not know yet that they are committed."""
    wire = Wire(walls_ms={"c": EPOCH_MS + HOUR_MS})
    wire.members["c"].apply_stuck = True
    wire.elect("a")
    wire.propose("a", "x")
    wire.pass_time(0.3)
    wire.crash("a")
    wire.restart("c")
    wire.members["c"].apply_stuck = False
    wire["c"].elections.lost_leader()
    wire.propose("c", "y")
    wire.until(lambda: len(stamps(wire, "c")) == 2)
    assert stamps(wire, "c")[1] - stamps(wire, "c")[0] < 5_000


def test_the_wall_clock_of_the_first_leader_starts_cluster_time() -> None:
    wire = Wire(walls_ms={"b": EPOCH_MS + HOUR_MS})
    wire.elect("b")
    wire.propose("b", "x")
    wire.deliver()
    assert 0 <= stamps(wire, "b")[0] - EPOCH_MS - HOUR_MS < 1_000


def test_cluster_time_goes_on_from_the_last_stamp_after_all_members_were_down() -> None:
    wire = Wire()
    wire.elect("a")
    wire.propose("a", "x")
    wire.pass_time(0.3)
    last = stamps(wire, "a")[-1]
    wire.walls_ms = dict.fromkeys(wire.names, EPOCH_MS - HOUR_MS)
    for name in wire.names:
        wire.crash(name)
    wire.now += 60
    for name in wire.names:
        wire.start(name)
    wire.elect("b")
    wire.propose("b", "y")
    wire.deliver()
    assert 0 <= stamps(wire, "b")[-1] - last < 2_000


def test_a_leader_goes_on_from_a_stamp_that_is_later_than_its_own_time() -> None:
    """Its predecessor's entries may tell it that more time has passed than it knew."""
    wire = Wire()
    wire.elect("a")
    wire.propose("a", "x")
    wire.deliver()
    a = wire["a"]
    later_ms = a.cluster_time_ms(wire.now) + HOUR_MS
    a.applied(wire.now, [], later_ms)
    assert a.cluster_time_ms(wire.now) == later_ms


def test_a_snapshot_brings_its_cluster_time_along() -> None:
    wire = Wire()
    wire.elect("a")
    wire.propose("a", "x")
    wire.pass_time(0.3)
    c, later_ms = wire["c"], wire["a"].cluster_time_ms(wire.now) + HOUR_MS
    c.install(wire.now, c.core.commit_index + 9, c.core.term, None, later_ms)
    assert c.cluster_time_ms(wire.now) == later_ms
