"""Seeds that once found something: run by the unit tests for ever.

A seed is a path through the code as it was; changes to the simulation lead it elsewhere. So what it found is
written down as well, and where a directed schedule (`schedules.py`) can say the same, it says it better.
"""

from __future__ import annotations

from typing import NamedTuple


class NamedSeed(NamedTuple):
    """A seed, and why it is kept."""

    name: str
    seed: int
    members: int
    found: str


NAMED_SEEDS = (
    NamedSeed(
        "a lone member without its state",
        14,
        1,
        "users took the time from a member that had lost its state, and had no stamp yet: their requests "
        "were refused as expired",
    ),
    NamedSeed(
        "a sync that fails at the start",
        22,
        3,
        "what a killed member had not synced is synced when it starts; if that fails, it starts again",
    ),
    NamedSeed(
        "a round while the members get fewer",
        252,
        3,
        "whoever had confirmed was a majority once a member was removed, and nobody looked",
    ),
    NamedSeed(
        "a failed disk that forgets a segment",
        31,
        5,
        "a journal whose sync had failed was asked to remove what a snapshot has",
    ),
)
