"""Which segments the journal holds, which of them it has let go of, and how many bytes they have.

A segment is *closed* when the next write goes to a later one. Only closed segments are let go of, always
the oldest ones, and only as far as the newest segment that is durable: what is left begins with a segment
that is on the disk, whatever happens to the ones after it.
"""

from __future__ import annotations

from raftos.consensus.journal.records import segment_name


class Held:
    """`ends` says where the last record of each closed segment ends, by number, oldest first."""

    def __init__(self, ends: dict[int, int], first_startable: int, synced: int) -> None:
        self.synced = synced
        """The newest segment that is durable, 0 where there is none."""
        self.closed_bytes = sum(ends.values())
        self._ends = dict(ends)
        self._first_startable = first_startable
        """The oldest segment with which a journal may begin: segments of format 1 state too little."""
        self._removals: list[str] = []

    def close(self, number: int, end: int) -> None:
        self._ends[number] = end
        self.closed_bytes += end

    def release(self, wanted: int) -> int | None:
        """Let go of the segments before `wanted`, or fewer. The first that stays; None where none goes."""
        start = min(wanted, self.synced)
        if start < self._first_startable:
            return None
        released = [number for number in self._ends if number < start]
        for number in released:
            self.closed_bytes -= self._ends.pop(number)
        self._removals += map(segment_name, released)
        return start if released else None

    def take_removals(self) -> list[str]:
        """The names of the segments let go of since the last call, oldest first."""
        removals, self._removals = self._removals, []
        return removals
