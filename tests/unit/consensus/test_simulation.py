"""The simulation itself: quiet where nothing is wrong, loud where a rule is missing, and always the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from raftos.consensus.guard import Rules
from raftos.consensus.messages import SnapshotPiece
from tests.simulation.care import Care
from tests.simulation.faults import DiskFaults, MemberFaults, WireFaults
from tests.simulation.named_seeds import NAMED_SEEDS, NamedSeed
from tests.simulation.plan import USUAL_WEIGHTS, drawn
from tests.simulation.schedules import SCHEDULES
from tests.simulation.world import World

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(200)

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
    "keeps_time": "ahead of cluster time|ahead of time",
    "lets_lead": "though nothing happened",
    "loads_snapshots": r"entry \d+ was handed over where \d+ was due",
    "syncs_snapshots": "cannot start: (the log begins after entry .* no snapshot reaches so far"
    "|the state cannot be restored: the snapshot is damaged)",
}
"""For each care of the simulation what is said when it is missing."""

FIRST_SEED = {"keeps_time": 20, "loads_snapshots": 10}
"""Where not to begin with the first one, which does not meet what it takes."""

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


def simulation(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """Sets of nodes iterate in string-hash order (finding 28), so a run needs a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_handful_of_seeds_shows_no_violation() -> None:
    """Three members, and five; and the faults are counted."""
    for members in ("3", "5"):
        run = simulation("--start", "8", "--seeds", "2", "--members", members)
        assert run.returncode == 0, run.stdout
        assert "no violation" in run.stdout
        assert re.search(r"^ +\d+ [a-z ]+$", run.stdout, re.MULTILINE), run.stdout


def test_a_seed_has_one_trace_whoever_runs_it_and_how() -> None:
    """However many processes run it, and whatever order strings are hashed to where it is asked for."""
    runs = [
        simulation("--seeds", "3", "--jobs", jobs, hash_seed=hash_seed).stdout
        for jobs, hash_seed in (("1", "0"), ("2", "0"), ("1", "7"))
    ]
    traces = [re.findall(r"trace (\w{32})", run) for run in runs]
    assert [len(each) for each in traces] == [1, 1, 1], runs
    assert traces[0] == traces[1] == traces[2]


def test_fresh_seeds_are_printed_and_can_be_run_again() -> None:
    """The trace of a seed that nobody chose is the trace of that seed."""
    fresh = simulation("--fresh", "--seeds", "1")
    assert fresh.returncode == 0, fresh.stdout
    seed = re.search(r"fresh seeds: (\d+)", fresh.stdout)
    assert seed
    assert fresh.stdout.splitlines()[-2] == simulation("--seed", seed[1]).stdout.splitlines()[-2]


def test_a_violation_comes_with_the_command_that_shows_it_again() -> None:
    run = simulation("--seeds", "4", "--members", "3", "--without", "tells_alike")
    again = re.search(r"the same again: (.+)", run.stdout)
    assert again, run.stdout
    assert run.returncode == 1
    second = simulation(*again[1].split("tests.simulation ")[1].split())
    assert second.returncode == 1
    assert run.stdout.splitlines()[0] in second.stdout.splitlines()


@pytest.mark.parametrize("known", NAMED_SEEDS, ids=lambda known: known.name)
def test_a_seed_that_found_something_finds_nothing_more(known: NamedSeed) -> None:
    run = simulation("--seed", str(known.seed), "--members", str(known.members))
    assert run.returncode == 0, run.stdout


def test_seeds_differ_in_the_faults_that_they_use() -> None:
    """Some have one kind, some all; each kind occurs; and a seed always has the same."""
    plans = [drawn(seed) for seed in range(300)]
    assert {len(plan.weights) for plan in plans} >= {1, len(USUAL_WEIGHTS)}
    assert {name for plan in plans for name in plan.weights} == USUAL_WEIGHTS.keys()
    assert {plan.members for plan in plans} == {1, 3, 5}
    assert plans == [drawn(seed) for seed in range(300)]


def test_a_fault_that_finds_nothing_to_strike_does_not_count(tmp_path: Path) -> None:
    """Where all members are down, only wall clocks can still do harm."""
    world = World(1, tmp_path)
    try:
        for name in world.names:
            world.lives.crash(name)
        struck = {
            name
            for faults in (WireFaults, MemberFaults, DiskFaults)
            for name, strike in faults(world).all().items()
            if strike()
        }
    finally:
        world.stop()
    assert struck == {"wall clock"}


def test_a_snapshot_counts_as_spoilt_if_a_piece_of_it_was(tmp_path: Path) -> None:
    """Not for as long as nothing travels."""
    world = World(1, tmp_path)
    try:
        strike = DiskFaults(world).all()["spoilt snapshot"]
        for piece in (b"", b"some bytes"):
            assert not strike()
            world.wires._maybe_spoilt(SnapshotPiece(2, 1, 0, piece))
            world.run(2.0)
    finally:
        world.stop()
    assert world.faults == {"spoilt snapshot": 1}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_directed_schedule_is_quiet_with_all_rules_and_finds_that_its_own_is_missing(name: str) -> None:
    """And says what the rule or care that is missing prevents."""
    schedule = SCHEDULES[name]
    whole = simulation("--schedule", name)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    careless = simulation("--schedule", name, "--without", schedule.about)
    assert careless.returncode == 1
    assert re.search(schedule.said, careless.stdout), careless.stdout + careless.stderr


def test_every_rule_is_shown_to_be_needed() -> None:
    assert {rule.name for rule in fields(Rules)} <= {schedule.about for schedule in SCHEDULES.values()}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *FOUND_AS_IT_GOES.items(),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in FOUND_IN_THE_END.items()),
    ],
)
def test_a_care_that_is_missing_is_found_by_its_own_check(name: str, said: str) -> None:
    """Events, chat and locks: each check is shown to be able to fail."""
    run = simulation("--start", str(FIRST_SEED.get(name, 0)), "--seeds", "24", "--without", name)
    assert run.returncode == 1, run.stdout + run.stderr
    assert re.search(said, run.stdout), run.stdout


def test_every_care_is_shown_to_be_needed() -> None:
    directed = {schedule.about for schedule in SCHEDULES.values()} - {rule.name for rule in fields(Rules)}
    found = directed | FOUND_AS_IT_GOES.keys() | FOUND_IN_THE_END.keys()
    assert {care.name for care in fields(Care)} == found
