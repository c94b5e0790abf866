"""When writes were acknowledged: how many in each slice of time, so that a window can be chosen afterwards.

A load client does not know what happens to the cluster meanwhile; the daemons' logs say that later, by the
clock of the same machine. So the client keeps counts, and whoever reads both asks for a window's throughput.
"""

from __future__ import annotations

import msgspec

from bench.figures import Load

SLICE_S = 0.02


class Timeline(msgspec.Struct, frozen=True):
    """Acknowledgements in slices of `slice_s`; the first begins at `began_s`, in seconds since 1970."""

    began_s: float
    counts: list[int]
    slice_s: float = SLICE_S

    def per_s(self, since_s: float, until_s: float) -> float:
        """The throughput of a window; a slice at its edge counts by the part of it that is inside."""
        if until_s <= since_s:
            raise ValueError(f"a window from {since_s} to {until_s} has no length")
        first, last = ((edge_s - self.began_s) / self.slice_s for edge_s in (since_s, until_s))
        if first < 0 or last > len(self.counts):
            raise ValueError("the window reaches beyond what was counted")
        whole = range(int(first), min(int(last) + 1, len(self.counts)))
        inside = sum(self.counts[at] * (min(at + 1, last) - max(at, first)) for at in whole)
        return inside / (until_s - since_s)

    def slowest_per_s(self, window_s: float = 1.0) -> float:
        """The throughput of the slowest of the whole windows one after another; of all where it is short."""
        size = max(round(window_s / self.slice_s), 1)
        starts = range(0, len(self.counts) - size + 1, size)
        sums = [sum(self.counts[at : at + size]) / (size * self.slice_s) for at in starts]
        return min(sums, default=sum(self.counts) / (len(self.counts) * self.slice_s))


class Strain(msgspec.Struct, frozen=True):
    """What a load client saw: its latencies in all, and when."""

    load: Load
    timeline: Timeline
