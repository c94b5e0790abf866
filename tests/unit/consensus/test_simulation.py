"""The simulation itself: quiet where nothing is wrong, loud where a rule is missing, and always the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from raftos.consensus.guard import Rules
from tests.simulation.care import Care
from tests.simulation.history import Violation
from tests.simulation.schedules import SCHEDULES

ROOT = Path(__file__).parents[3]

FOUND_AS_IT_GOES = {
    "whole_revisions": "has missed",
    "one_step_handover": "has missed",
    "notices_dropped": "has missed",
    "checks_position": "who knows all to",
    "confirms_first": "confirmed that it is up to date, but is behind",
    "bookmarks_last": "a bookmark says",
    "agreed_first": "is told of what nobody has applied",
    "tells_alike": "as others did not",
    "numbers_densely": "a read of .* has gaps|the sequences of .* have a gap",
    "numbers_in_order": "was there before it was sent",
    "syncs_ask": "was not woken, but has left undone",
    "answers_ask": "was not woken, but has left undone",
}
"""For each care of the simulation what is said when it is missing."""

FOUND_IN_THE_END = {
    "proposes_due": "doing all that was due did not happen",
    "same_request_id": "posted twice|doubled",
    "expects_absence": "was taken by .* although .* holds it",
    "fences_writes": "was done under lock/., which was held by",
    "expires_late": "before its time",
    "keeps_the_newest": "should have ended as",
    "tables_alike": "keeps other rows in",
}
"""The same, for what is noticed when a seed is looked back on."""


def simulation(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Sets of nodes iterate in string-hash order (finding 28), so a run needs a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_handful_of_seeds_shows_no_violation() -> None:
    """Three members, and five."""
    run = simulation("--start", "8", "--seeds", "2")
    assert run.returncode == 0, run.stdout


def test_one_seed_is_one_trace() -> None:
    first, second = simulation("--seed", "3"), simulation("--seed", "3")
    traces = [re.search(r"trace (\w{32})", run.stdout) for run in (first, second)]
    assert traces[0]
    assert traces[1]
    assert traces[0][1] == traces[1][1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_directed_schedule_is_quiet_with_all_rules_and_finds_that_its_own_is_missing(name: str) -> None:
    SCHEDULES[name](Rules())
    with pytest.raises(Violation):
        SCHEDULES[name](replace(Rules(), **{name: False}))


def test_every_rule_is_shown_to_be_needed() -> None:
    assert {rule.name for rule in fields(Rules)} == set(SCHEDULES)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *FOUND_AS_IT_GOES.items(),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in FOUND_IN_THE_END.items()),
    ],
)
def test_a_care_that_is_missing_is_found_by_its_own_check(name: str, said: str) -> None:
    """Events, chat and locks: each check is shown to be able to fail."""
    run = simulation("--seeds", "12", "--without", name)
    assert run.returncode == 1, run.stdout + run.stderr
    assert re.search(said, run.stdout), run.stdout


def test_every_care_is_shown_to_be_needed() -> None:
    assert {care.name for care in fields(Care)} == FOUND_AS_IT_GOES.keys() | FOUND_IN_THE_END.keys()
