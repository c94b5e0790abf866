"""What kind of run a seed is: how many members and users, which faults, how often (swarm testing).

A run with every fault at once finds little: a crash hides what a pause would have shown. So each seed draws
the faults that it uses at all, from one to all of them, with weights of its own, rare or dense; and the sizes
that decide where things are cut. All of it follows from the seed alone (and from `--members`, where given).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from raftos.consensus.core import Timings
from raftos.consensus.keeper import Policy

USUAL_WEIGHTS: Mapping[str, float] = {
    "crash": 22,
    "kill": 8,
    "crash all": 4,
    "pause": 14,
    "wall clock": 4,
    "transfer": 10,
    "cut": 12,
    "isolate": 6,
    "halves": 4,
    "bridge": 6,
    "flap": 5,
    "stall": 12,
    "long stall": 4,
    "deaf": 3,
    "mute": 3,
    "bounce": 12,
    "duplicate": 4,
    "slow disk": 5,
    "full journal": 3,
    "full state": 3,
    "failed sync": 4,
    "bit flip": 2,
    "spoilt snapshot": 4,
    "add": 5,
    "promote": 3,
    "remove": 5,
}
"""Every fault by name, and how often it happens where all of them do."""


@dataclass(frozen=True)
class Plan:
    """The circumstances of one run."""

    members: int = 3
    append_bytes: int = 2_000
    segment_bytes: int = 40_000
    cache_bytes: int = 8_000
    snapshot_log_bytes: int = 10_000
    """After so much log, members make a snapshot."""
    spacing_s: float = 0.5
    """Between two faults, on average."""
    weights: Mapping[str, float] = field(default_factory=lambda: dict(USUAL_WEIGHTS))
    """The faults that happen, and how often in comparison."""
    pace: float = 1.0
    """How long users wait, compared with what is usual: longer with more members, to keep runs short."""
    clients: int = 4
    lockers: int = 2
    chatters: int = 3
    watchers: int = 5
    few_events_kept: bool = False
    """So few that watchers who rest come too late."""

    @property
    def timings(self) -> Timings:
        return Timings(heartbeat_s=0.1, election_s=0.5, append_bytes=self.append_bytes)

    @property
    def policy(self) -> Policy:
        return Policy(self.snapshot_log_bytes, keep=2, least_growth=0.0)

    @property
    def batch_bytes(self) -> int:
        """An entry has half the bytes of an append at most, as in the driver; its envelope needs some."""
        return self.append_bytes // 2 - 200

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {weight:.0f}" for name, weight in self.weights.items())
        sizes = f"appends of {self.append_bytes} bytes, segments of {self.segment_bytes}"
        return f"{self.members} members, {sizes}; every {self.spacing_s} s one of {faults}"


def drawn(seed: int, members: int | None = None) -> Plan:
    """The plan of a seed."""
    random = Random(f"plan {seed}")
    size = random.choices((3, 5, 1), (6, 3, 1))[0]
    return Plan(
        members=members or size,
        append_bytes=random.choice((2_000, 2_000, 6_000, 40_000)),
        segment_bytes=random.choice((4_000, 40_000, 400_000)),
        cache_bytes=random.choice((1_000, 8_000, 8_000, 200_000)),
        snapshot_log_bytes=random.choice((3_000, 10_000, 10_000, 50_000, 10**9)),
        spacing_s=random.choice((0.15, 0.4, 0.6, 1.2, 3.0)),
        weights=_weights(random),
        pace=random.choice((0.7, 1.0, 1.0, 2.0)) * (1.7 if (members or size) == 5 else 1.0),
        clients=random.randint(2, 5),
        lockers=random.randint(1, 3),
        chatters=random.randint(2, 4),
        watchers=random.randint(3, 6),
        few_events_kept=random.random() < 0.33,
    )


def _weights(random: Random) -> dict[str, float]:
    share = random.choice((0.0, 0.15, 0.4, 0.7, 1.0))
    used = [name for name in USUAL_WEIGHTS if random.random() < share] or [random.choice(list(USUAL_WEIGHTS))]
    return {name: USUAL_WEIGHTS[name] * random.choice((0.3, 1.0, 3.0)) for name in used}
