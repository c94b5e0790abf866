"""What `bench.timeline` says of a window is what was counted in it."""

from __future__ import annotations

import pytest

from bench.figures import percentile
from bench.timeline import Timeline

COUNTED = Timeline(began_s=1_000.0, counts=[10, 20, 0, 40], slice_s=0.5)


@pytest.mark.parametrize(
    ("since_s", "until_s", "per_s"),
    [
        (1_000.0, 1_002.0, 35.0),
        (1_000.0, 1_000.5, 20.0),
        (1_001.0, 1_001.5, 0.0),
        (1_000.25, 1_000.75, 30.0),
        (1_001.6, 1_001.7, 80.0),
    ],
)
def test_a_window_has_what_was_counted_in_it(since_s: float, until_s: float, per_s: float) -> None:
    """Whole slices count whole, those at the edges by their part."""
    assert COUNTED.per_s(since_s, until_s) == pytest.approx(per_s)


@pytest.mark.parametrize(
    ("since_s", "until_s"), [(999.9, 1_001.0), (1_001.0, 1_002.1), (1_001.0, 1_001.0), (1_001.5, 1_001.0)]
)
def test_a_window_that_was_not_counted_is_refused(since_s: float, until_s: float) -> None:
    """Nothing is known before the first slice and after the last, or of no time at all."""
    with pytest.raises(ValueError, match="window"):
        COUNTED.per_s(since_s, until_s)


def test_the_slowest_window_is_found() -> None:
    """Windows follow one another; what is left at the end is not one."""
    assert COUNTED.slowest_per_s(1.0) == pytest.approx(30.0)
    assert COUNTED.slowest_per_s(0.5) == pytest.approx(0.0)
    assert COUNTED.slowest_per_s(10.0) == pytest.approx(35.0)


def test_a_percentile_is_one_of_the_values() -> None:
    """Of twenty values, the 95th percentile is the one but the largest."""
    assert percentile(range(1, 21), 95) == 19
    assert percentile([7.0], 95) == 7.0
