"""What `raftos status` says under its table: alarms and versions that differ, each in a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from raftos_cli.status import remarks, skew

NODE = {"name": "n1", "version": "0.2", "level": 2}


def status(*nodes: dict[str, Any], level: int = 2, alarms: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """As `/v1/status` gives it, as far as it matters here."""
    found = [{**NODE, "name": f"n{number}", **node} for number, node in enumerate(nodes, 1)]
    return {"term": 1, "leader": "n1", "nodes": found, "alarms": list(alarms), "level": level}


OLD = {"version": "0.1", "level": 1}
DIFFERENT = "The members run different versions: 0.1 on n2; 0.2 on n1."


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (status({}, {}), []),
        (status({}, {}, level=1), []),
        (status(OLD, OLD, level=1), []),
        (status({}, {"version": None, "level": None}), []),
        (
            status({}, OLD, level=1),
            [DIFFERENT, "The cluster stays at level 1 of 2 until n2 is upgraded."],
        ),
        (status({}, {"version": "0.1"}), [DIFFERENT]),
        (
            status(
                {"version": None}, {"version": None, "level": None}, {"version": None, "level": 1}, level=1
            ),
            ["The cluster stays at level 1 of 2 until n2, n3 are upgraded."],
        ),
    ],
)
def test_members_that_differ_are_named(value: dict[str, Any], expected: list[str]) -> None:
    """With their versions, and whether they hold up what the others could do."""
    assert skew(value) == expected


def test_a_member_of_a_version_before_levels_gives_no_level() -> None:
    """An older member was asked: it knows no level at all, and nothing is made up."""
    value = status({}, {})
    del value["level"]
    assert skew(value) == []


def test_alarms_are_sentences_that_begin_with_their_name() -> None:
    """And with the member, where there is one."""
    value = status(
        {},
        alarms=(
            {"alarm": "NOSPACE", "message": "delete something"},
            {"alarm": "DOWN", "message": "start it", "node": "n3"},
            {"alarm": "NO_SPARE", "message": "start others", "node": None},
        ),
    )
    assert remarks(value) == ["NOSPACE: delete something", "DOWN: n3: start it", "NO_SPARE: start others"]
