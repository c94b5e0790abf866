"""What a run measures, and how it is shown: ratios first, then both figures, then what was asked for."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Sequence

import msgspec
import psutil


class Load(msgspec.Struct, frozen=True):
    """One closed-loop run. A run with errors is not a figure: `check()` refuses it."""

    ops_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int = 0

    def __str__(self) -> str:
        return f"{self.ops_per_s:,.0f}/s, p50 {self.p50_ms:.2f} ms, p99 {self.p99_ms:.2f} ms"

    def check(self) -> Load:
        if self.errors:
            raise RuntimeError(f"{self.errors} requests failed during the run; its figure would mean nothing")
        return self


class Footprint(msgspec.Struct, frozen=True):
    """What one member takes: resident memory, and processor time as a share of one core."""

    rss_mib: float
    cpu_percent: float


def median_load(loads: Sequence[Load]) -> Load:
    """The run with the median throughput, whole: percentiles of different runs do not mix."""
    return sorted(loads, key=lambda load: load.ops_per_s)[len(loads) // 2]


def footprint(pids: Sequence[int], seconds: float) -> Footprint:
    """The largest memory and the largest processor share among the processes, over `seconds`."""
    processes = [psutil.Process(pid) for pid in pids]
    for process in processes:
        process.cpu_percent()
    psutil.cpu_percent(interval=seconds)
    return Footprint(
        rss_mib=max(process.memory_info().rss for process in processes) / 2**20,
        cpu_percent=max(process.cpu_percent() for process in processes),
    )


class Row(msgspec.Struct, frozen=True):
    """One line of the table. `wanted` is a ratio where there is a peer, otherwise a bound on `ours`."""

    what: str
    ours: float
    unit: str
    peer: float | None = None
    wanted: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def reached(self) -> bool | None:
        value = self.ours if self.ratio is None else self.ratio
        if self.wanted is None:
            return None
        return value <= self.wanted if self.at_most else value >= self.wanted


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]


def machine(*more: str) -> str:
    """What the figures were measured on, and whether it had anything else to do."""
    facts = [
        f"{os.cpu_count()} cores",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        platform.platform(),
        f"Python {platform.python_version()}",
        *more,
        f"load average before: {os.getloadavg()[0]:.1f}",
    ]
    return ", ".join(facts)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


HEAD = "| | ratio | wanted | raftos | peer | unit | |\n|---|---|---|---|---|---|---|"


def line(row: Row) -> str:
    """One row of the Markdown table that begins with HEAD."""
    sign = "<=" if row.at_most else ">="
    of_what = "x" if row.ratio is not None else f" {row.unit}".rstrip()
    wanted = "" if row.wanted is None else f"{sign} {row.wanted:g}{of_what}"
    ratio = "" if row.ratio is None else f"**{row.ratio:.2f}**"
    verdict = {True: "", False: " (missed)", None: ""}[row.reached]
    cells = (row.what, ratio, wanted + verdict, _number(row.ours), _number(row.peer), row.unit, row.note)
    return "| " + " | ".join(cells) + " |"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    return "\n".join([HEAD, *map(line, rows)])
