"""Many seeds over many processes, in order: what came of each does not depend on who ran it.

A seed needs a process to itself while it runs (PySyncObj's clock and some limits are a module's), and nothing
of it stays behind for the next.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b

import structlog

from raftos.consensus.guard import Rules
from tests.simulation.care import Care
from tests.simulation.history import Violation
from tests.simulation.run import Report, simulate


@dataclass(frozen=True)
class Settings:
    """What all seeds of one search share."""

    rules: Rules = field(default_factory=Rules)
    care: Care = field(default_factory=Care)
    members: int | None = None
    trace: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of one seed: a report, or what went wrong."""

    seed: int
    report: Report | None
    wrong: str
    processor_s: float


def silence() -> None:
    """Members say much in a run, and nobody reads it."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def run(settings: Settings, seed: int) -> Outcome:
    """One seed, here. An exception that is no Violation is no less a finding."""
    began = time.process_time()
    report, wrong = None, ""
    try:
        report = simulate(
            seed,
            rules=settings.rules,
            care=settings.care,
            members=settings.members,
            trace=settings.trace,
        )
    except Violation as violation:
        wrong = str(violation)
    except Exception:  # noqa: BLE001 - whatever the shipped code raises, the seed has to be named
        wrong = traceback.format_exc()
    return Outcome(seed, report, wrong, time.process_time() - began)


def _begin(parent: int) -> None:
    """A process of the pool stays quiet, and does not outlive who started it, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    silence()
    threading.Thread(target=watch, daemon=True).start()


def search(seeds: Iterable[int], settings: Settings, jobs: int) -> Iterator[Outcome]:
    """The outcomes in the order of the seeds, up to the first that went wrong."""
    if jobs == 1:
        for seed in seeds:
            yield (outcome := run(settings, seed))
            if outcome.wrong:
                return
        return
    with ProcessPoolExecutor(jobs, initializer=_begin, initargs=(os.getpid(),)) as pool:
        try:
            for outcome in pool.map(partial(run, settings), seeds):
                yield outcome
                if outcome.wrong:
                    return
        finally:
            pool.shutdown(cancel_futures=True)


class Summary:
    """All seeds that went well, added up."""

    def __init__(self) -> None:
        self.seeds = 0
        self.virtual_s = self.processor_s = 0.0
        self._counts: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._digest = blake2b(digest_size=16)

    def add(self, outcome: Outcome) -> None:
        report = outcome.report
        assert report is not None
        self.seeds += 1
        self.virtual_s += report.virtual_s
        self.processor_s += outcome.processor_s
        self._counts.update(report.counts)
        self._faults.update(report.faults)
        self._digest.update(report.fingerprint.encode())

    def sentences(self) -> Iterator[str]:
        """The faults as a table, and what was done and seen in spite of them."""
        for name, count in self._faults.most_common():
            yield f"{count:8} {name}"
        yield ", ".join(f"{count} {what}" for what, count in self._counts.items())
        factor = self.virtual_s / max(self.processor_s, 0.001)
        yield (
            f"{self.virtual_s:.0f} virtual seconds in {self.processor_s:.1f} s of processor time: "
            f"{factor:.0f} times as fast as real time"
        )
        yield f"trace {self._digest.hexdigest()}"


def command(outcome: Outcome, settings: Settings, without: str | None) -> str:
    """What to type to see the same again."""
    members = f" --members {settings.members}" if settings.members else ""
    left_out = f" --without {without}" if without else ""
    return f"{sys.executable} -m tests.simulation --seed {outcome.seed}{members}{left_out} --trace"
