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
from tests.simulation.history import Violation
from tests.simulation.schedules import SCHEDULES

ROOT = Path(__file__).parents[3]


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
