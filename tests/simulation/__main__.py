"""`python -m tests.simulation`: search for consensus bugs by seed.

python -m tests.simulation --seeds 200                 exit 1 and the seed on a violation
python -m tests.simulation --seeds 60 --fresh          seeds that nobody has run yet; printed first
python -m tests.simulation --seeds 60 --members 5      as many members, whatever the seed says
python -m tests.simulation --seed 17 --trace           one seed, every event
python -m tests.simulation --seeds 60 --without trim_held   show what a repair, or a care, is good for
python -m tests.simulation --without list              the repairs and cares by name
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time

from raftos.consensus.guard import Rules
from tests.simulation.care import Care
from tests.simulation.plan import drawn
from tests.simulation.schedules import SCHEDULES, found, left_out
from tests.simulation.search import Settings, Summary, command, search, silence

_NUMBERS = {
    "1": "keep_next_index",
    "2": "trim_held",
    "3": "match_term",
    "4": "durable_first",
    "6": "pre_vote",
    "pre-vote": "pre_vote",
}


def main() -> int:
    arguments = _parser().parse_args()
    _fix_hash_seed()
    silence()
    if arguments.without == "list":
        _list_rules()
        return 0
    if (name := arguments.without) is not None:
        name = _NUMBERS.get(name, name)
        if name not in {field.name for field in (*dataclasses.fields(Rules), *dataclasses.fields(Care))}:
            sys.exit(f"there is no repair or care {name!r}; see --without list")
        if finding := found(name):
            print(f"without {name}: the directed schedule found: {finding}")
            return 1
    rules, care = left_out(name) if name else (Rules(), Care())
    settings = Settings(rules, care, arguments.members, arguments.trace)
    return _search(_seeds(arguments), settings, arguments.jobs, name)


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
    parser.add_argument("--without", metavar="NAME|list", help="leave one repair or care out")
    return parser


def _fix_hash_seed() -> None:
    """Sets of nodes iterate in string-hash order (finding 28), so one seed needs one hash seed."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], environment)  # noqa: S606


def _list_rules() -> None:
    numbers = {name: number for number, name in _NUMBERS.items() if number.isdigit()}
    for rule in dataclasses.fields(Rules):
        print(f"{rule.name:19} {numbers.get(rule.name, '-'):>2}  {_schedules(rule.name)}")
    for care in dataclasses.fields(Care):
        print(f"{care.name:19}  -  {_schedules(care.name)}")


def _schedules(about: str) -> str:
    return ", ".join(name for name, schedule in SCHEDULES.items() if schedule.about == about)


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
