"""Virtual time: one queue of events, one generator that makes every choice, one trace.

Events are ordered by time and then by when they were planned, so that one seed is one run. The trace has
a line for whatever happens; the digest of all its lines is the run's fingerprint.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from random import Random

from tests.simulation.history import Violation


class Timeline:
    """What time it is, and what happens next."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.random = Random(seed)
        self.began = self.now = 1000.0
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._digest = hashlib.blake2b(digest_size=16)
        self._trace = trace
        self.happened: Counter[str] = Counter()
        """What members did besides, how often."""

    def after(self, delay: float, event: Callable[[], object]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), event))

    def run(self, duration: float) -> None:
        end = self.now + duration
        while self._queue and self._queue[0][0] <= end:
            self._next()
        self.now = end

    def run_until(
        self, condition: Callable[[], bool], limit: float, what: str, *, since: float | None = None
    ) -> None:
        """Raises Violation if the condition does not hold within the limit, in seconds of now or `since`."""
        end = (self.now if since is None else since) + limit
        while not condition():
            if not self._queue or self._queue[0][0] > end:
                raise Violation(f"{what} did not happen within {limit} s")
            self._next()

    def _next(self) -> None:
        at, _, event = heapq.heappop(self._queue)
        self.now = max(self.now, at)
        event()

    def note(self, *facts: object) -> None:
        """One line of the trace."""
        line = f"{self.now:.6f} " + " ".join(map(str, facts))
        self._digest.update(line.encode())
        if self._trace:
            print(line)

    @property
    def fingerprint(self) -> str:
        return self._digest.hexdigest()
