"""Alarms as a table: what is seen, and what is raised."""

from __future__ import annotations

from typing import Any

import pytest

from raftos import alarms
from raftos.alarms import NAMES, RULES, Heard, Picture, raised
from raftos.config import Config
from raftos.reports import Judgement, Reading, Verdict
from raftos.state.tally import STATE_BYTES
from tests.unit.test_reports import A, report

CONFIG = Config(
    cluster="test",
    cluster_id="c",
    member_id="m1",
    name="n1",
    data_dir="",
    secret_file="",
    voters=(),
    peer_address="127.0.0.1:1",
    api_address="127.0.0.1:1",
    lagging_entries=100,
    lagging_after_ms=5_000,
    clock_skew_ms=1_000,
)
VOTERS = ("m1", "m2", "m3")
READINGS = {voter: Reading(report({9: A})) for voter in VOTERS}


def picture(**seen: Any) -> Picture:
    """Three members, all well, but for what is said."""
    usual: dict[str, Any] = {
        "config": CONFIG,
        "tallies": {STATE_BYTES: 0},
        "limits": {STATE_BYTES: 1000},
        "names": {"m1": "n1", "m2": "n2", "m3": "n3"},
        "voters": VOTERS,
        "readings": READINGS,
        "clock": "m1",
    }
    return Picture(**usual | seen)


def says(**said: Any) -> dict[str, Reading]:
    """Member m3 says this of itself, and the others that all is well."""
    return {**READINGS, "m3": Reading(report({9: A}, **said))}


def ticks(ahead_ms: int, doubt_ms: int = 10, leader_ms: int = 0) -> dict[str, Reading]:
    """The clocks of m3 and of the leader m1, as somebody reads them."""
    usual = report({9: A})
    return {
        **READINGS,
        "m1": Reading(usual, leader_ms, doubt_ms),
        "m3": Reading(usual, ahead_ms + leader_ms, doubt_ms),
    }


def without(*silent: str) -> dict[str, Reading]:
    return {voter: reading for voter, reading in READINGS.items() if voter not in silent}


TABLE: list[tuple[dict[str, Any], list[tuple[str, str | None]]]] = [
    ({}, []),
    ({"tallies": {STATE_BYTES: 899}}, []),
    ({"tallies": {STATE_BYTES: 900}}, [("SPACE_LOW", None)]),
    ({"tallies": {STATE_BYTES: 999}}, [("SPACE_LOW", None)]),
    ({"tallies": {STATE_BYTES: 1000}}, [("NOSPACE", None)]),
    ({"readings": says(lost="it differs")}, [("CORRUPT", "n3")]),
    ({"readings": says(lost="it differs", trouble="it differs")}, [("CORRUPT", "n3")]),
    ({"judgement": Judgement({"m2": Verdict(64, A)}, {})}, [("CORRUPT", "n2")]),
    ({"judgement": Judgement({}, {"m2": 64, "m1": 64})}, [("CORRUPT", None)]),
    ({"readings": says(trouble="journal: No space left on device")}, [("DISK_FULL", "n3")]),
    ({"readings": says(trouble="cannot apply: database or disk is full")}, [("DISK_FULL", "n3")]),
    ({"readings": says(trouble="cannot apply: disk I/O error")}, [("TROUBLE", "n3")]),
    ({"lagging": {"m3": 101}}, [("LAGGING", "n3")]),
    ({"readings": ticks(1_020)}, []),
    ({"readings": ticks(1_021)}, [("CLOCK_SKEW", "n3")]),
    ({"readings": ticks(-1_021)}, [("CLOCK_SKEW", "n3")]),
    ({"readings": ticks(1_500, doubt_ms=260)}, []),
    ({"readings": ticks(0, leader_ms=9_000)}, [("CLOCK_SKEW", "n2")]),
    ({"readings": ticks(9_000), "clock": "gone"}, []),
    ({"readings": without("m3")}, [("NO_SPARE", None)]),
    ({"readings": without("m3"), "down": ["m3"]}, [("NO_SPARE", None), ("DOWN", "n3")]),
    ({"down": ["m3"]}, []),
    ({"readings": without("m2", "m3")}, [("NO_QUORUM", None)]),
    ({"voters": ("m1", "m2")}, []),
    ({"voters": ("m1",), "readings": without("m2", "m3")}, []),
    ({"voters": ("m1", "m2"), "readings": without("m2", "m3")}, [("NO_QUORUM", None)]),
    ({"voters": (*VOTERS, "m4", "m5")}, [("NO_SPARE", None)]),
    ({"voters": (*VOTERS, "m4"), "readings": READINGS}, [("NO_SPARE", None)]),
]


@pytest.mark.parametrize(("seen", "expected"), TABLE)
def test_what_is_seen_and_what_is_raised(
    seen: dict[str, Any], expected: list[tuple[str, str | None]]
) -> None:
    """Each with the member it is about, and a sentence that says what to do."""
    found = raised(picture(**seen))
    assert [(each.alarm, each.node or None) for each in found] == expected
    assert all(len(each.message) > 20 or each.alarm == "CORRUPT" for each in found)


def test_every_known_alarm_is_in_the_table() -> None:
    """And what the rules can raise is known, so that metrics show it also while it is not raised."""
    tried = {alarm for _, expected in TABLE for alarm, _ in expected}
    assert tried == set(NAMES)
    assert len(RULES) == 7


def test_suspects_are_both_named() -> None:
    """Nobody may act on a guess."""
    [alarm] = raised(picture(judgement=Judgement({}, {"m2": 64, "m1": 64})))
    assert "n1 and n2" in alarm.message
    assert "no majority" in alarm.message


def test_lagging_takes_its_time_and_ends_at_once() -> None:
    """Far behind for five seconds; one that is silent meanwhile is not forgiven, one that is gone is."""
    heard, belong = Heard(CONFIG), set(VOTERS)

    def at(now_s: float, applied: int | None) -> dict[str, int]:
        readings = {"m1": Reading(report({1_000: A}))}
        if applied is not None:
            readings["m3"] = Reading(report({9: A}, commit_index=9, applied_index=applied))
        heard.note(readings, now_s, belong)
        return dict(heard.lagging)

    assert at(0.0, 899) == {}
    assert at(4.9, 899) == {}
    assert at(5.0, 898) == {"m3": 102}
    assert at(5.5, None) == {"m3": 102}
    assert at(6.0, 900) == {}
    assert at(7.0, 899) == {}
    assert at(12.0, 899) == {"m3": 101}
    heard.forget()
    assert heard.lagging == {}
    assert at(13.0, 899) == {}
    assert at(18.0, 899) == {"m3": 101}
    belong.remove("m3")
    assert at(18.5, None) == {}


def test_alarm_names_are_stable() -> None:
    """Scripts and dashboards rely on them."""
    assert alarms.NAMES[:2] == ("NOSPACE", "SPACE_LOW")
