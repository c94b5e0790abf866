"""`python -m tests.simulation`: search for consensus bugs by seed.

python -m tests.simulation --seeds 200                 exit 1 and the seed on a violation
python -m tests.simulation --seeds 60 --fresh          seeds that nobody has run yet; printed first
python -m tests.simulation --seeds 60 --members 5      as many members, whatever the seed says
python -m tests.simulation --seed 17 --trace           one seed, every event
python -m tests.simulation --seeds 60 --without trim_held   show what a repair, or a care, is good for
python -m tests.simulation --seeds 60 --without 10     the same, by the number of a finding about PySyncObj
python -m tests.simulation --without list              all findings, repairs and cares, and what shows each
python -m tests.simulation --schedule bridge           a directed schedule, whole or with something left out
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from raftos.consensus.guard import Rules
from tests.simulation.care import Care
from tests.simulation.history import Violation
from tests.simulation.plan import drawn
from tests.simulation.repairs import CARES, RULES, listing, nothing_to_leave_out, numbered
from tests.simulation.schedules import SCHEDULES, found, left_out
from tests.simulation.search import Settings, Summary, command, search, silence


def main() -> int:
    arguments = _parser().parse_args()
    _fix_hash_seed()
    silence()
    if arguments.without == "list":
        print(*listing(), sep="\n")
        return 0
    if (name := arguments.without) is not None:
        if (repair := numbered(name)) is not None:
            if repair.name is None:
                print(nothing_to_leave_out(repair))
                return 0
            name = repair.name
        if name not in {*RULES, *CARES}:
            sys.exit(f"there is no repair or care {name!r}; see --without list")
        if arguments.schedule is None and (finding := found(name)):
            print(f"without {name}: the directed schedule found: {finding}")
            return 1
    rules, care = left_out(name) if name else (Rules(), Care())
    if arguments.schedule is not None:
        return _follow(arguments.schedule, rules, care)
    settings = Settings(rules, care, arguments.members, arguments.trace)
    return _search(_seeds(arguments), settings, arguments.jobs, name)


def _follow(schedule: str, rules: Rules, care: Care) -> int:
    """One directed schedule; what it finds."""
    try:
        SCHEDULES[schedule].run(rules, care)
    except Violation as violation:
        print(f"{schedule}: {violation}")
        return 1
    print(f"{schedule}: no violation")
    return 0


def _seeds(arguments: argparse.Namespace) -> list[int]:
    if arguments.seed is not None:
        return [arguments.seed]
    if not arguments.fresh:
        return list(range(arguments.start, arguments.start + arguments.seeds))
    seeds = [int.from_bytes(os.urandom(4), "big") for _ in range(arguments.seeds)]
    print("fresh seeds:", *seeds, flush=True)
    return seeds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run only this seed")
    parser.add_argument("--fresh", action="store_true", help="draw the seeds now, and print them")
    parser.add_argument("--members", type=int, choices=(1, 3, 5), help="else the seed decides")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--trace", action="store_true", help="print every event")
    parser.add_argument("--without", metavar="NAME|NUMBER|list", help="leave one repair or care out")
    parser.add_argument("--schedule", metavar="TITLE", choices=SCHEDULES, help="run a directed schedule")
    return parser


def _fix_hash_seed() -> None:
    """Sets of nodes iterate in string-hash order (finding 28), so one seed needs one hash seed."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], environment)  # noqa: S606


def _search(seeds: list[int], settings: Settings, jobs: int, without: str | None) -> int:
    began, summary, wrong = time.monotonic(), Summary(), False
    for outcome in search(seeds, settings, min(jobs, len(seeds))):
        if outcome.wrong:
            wrong = True
            print(f"seed {outcome.seed}: {outcome.wrong}", flush=True)
            print(f"  {drawn(outcome.seed, settings.members)}")
            print(f"  the same again: {command(outcome, settings, without)}")
        else:
            summary.add(outcome)
    for sentence in summary.sentences():
        print(sentence)
    print(
        f"{summary.seeds} seeds in {time.monotonic() - began:.0f} s: "
        f"{'a violation' if wrong else 'no violation'}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
