"""The table of findings about PySyncObj is whole: each has a repair that exists and tests that exist."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.care import Care
from tests.simulation.repairs import CARES, REPAIRS, RULES, Repair, listing, numbered

TESTS = Path(__file__).parents[2]
FINDINGS = 28

each_repair = pytest.mark.parametrize("repair", REPAIRS, ids=lambda repair: str(repair.number))


def simulation(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def functions(file: Path) -> set[str]:
    """The names of all tests in a file, those in a class as `Class::name`."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


def test_every_finding_is_there_once_and_in_order() -> None:
    assert [repair.number for repair in REPAIRS] == list(range(1, FINDINGS + 1))


@each_repair
def test_what_can_be_left_out_exists(repair: Repair) -> None:
    assert repair.name is None or repair.name in {*RULES, *CARES}


@each_repair
def test_every_finding_is_held_by_tests_that_exist(repair: Repair) -> None:
    assert repair.tests
    for test in repair.tests:
        file, name = test.split("::", 1)
        assert name in functions(TESTS / file), test


def test_a_care_that_names_a_finding_in_its_own_table_is_the_one_named_here() -> None:
    """`care.py` gives some cares the number of a finding in brackets; both tables say the same."""
    document = sys.modules[Care.__module__].__doc__ or ""
    for repair in REPAIRS:
        if repair.name in CARES:
            row = next(line for line in document.splitlines() if f"`{repair.name}`" in line)
            assert f"({repair.number})" in row


def test_the_list_names_all_findings_rules_and_cares() -> None:
    listed = "\n".join(listing())
    assert all(f"{repair.number:>2}  {repair.wrong}" in listed for repair in REPAIRS)
    assert all(f" {name}" in listed for name in (*RULES, *CARES))


def test_a_number_leaves_out_the_repair_of_that_finding() -> None:
    """Finding 4 is found by a directed schedule at once."""
    run = simulation("--without", "4")
    assert run.returncode == 1, run.stderr
    assert "without durable_first: the directed schedule found" in run.stdout


def test_where_nothing_can_be_left_out_the_tests_are_named() -> None:
    run = simulation("--without", "11")
    assert run.returncode == 0, run.stderr
    assert "There is no rule or care to leave out" in run.stdout
    repair = numbered("11")
    assert repair
    assert all(f"tests/{test}" in run.stdout for test in repair.tests)


def test_a_number_that_no_finding_has_is_refused_in_a_sentence() -> None:
    run = simulation("--without", str(FINDINGS + 1))
    assert run.returncode == 1
    assert "there is no repair or care '29'" in run.stderr
