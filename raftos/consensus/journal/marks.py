"""The marked entries of the log, so that the newest at any index is known without reading the log.

Consensus keeps its configuration in marked entries, and needs the one in force at an index: at the end of
the log, to know who its peers are; at a snapshot's index, to say it there. Of the marks that the log has
forgotten, only the newest stays, because it is in force where the log begins.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter

from raftos.consensus.journal.records import Mark

_index_of = attrgetter("index")


class Marks:
    """Marks in the order of their indexes; all but the first belong to entries that the log holds."""

    def __init__(self) -> None:
        self._marks: list[Mark] = []

    @property
    def newest(self) -> Mark | None:
        return self._marks[-1] if self._marks else None

    def at(self, index: int) -> Mark | None:
        """The newest mark at or below `index`."""
        count = bisect_right(self._marks, index, key=_index_of)
        return self._marks[count - 1] if count else None

    def append(self, mark: Mark) -> None:
        self._marks.append(mark)

    def truncate_from(self, index: int) -> None:
        """Drop the marks of the entry `index` and everything after it."""
        while self._marks and self._marks[-1].index >= index:
            self._marks.pop()

    def trim(self, first_index: int) -> None:
        """Drop those before the newest one below `first_index`."""
        below = bisect_right(self._marks, first_index - 1, key=_index_of)
        del self._marks[: max(below - 1, 0)]

    def reset(self, mark: Mark | None) -> None:
        """Know one mark, or none, and forget all others."""
        self._marks = [mark] if mark else []
