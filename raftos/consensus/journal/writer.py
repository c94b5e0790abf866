"""What the disk thread does: put the bytes of one `Write` in their place and make them durable.

A file is grown ahead of its records in steps of 1 MiB (its size only: it takes no space before it is
written). A sync then rarely has a new file size to commit, which makes the small writes of a quiet
cluster a third faster (`bench/journal.py`) and leaves the large ones as they are. The zeros between
the last record and the end of the file are part of the format, see `records.py`.

Trimmed segments are removed here as well, oldest first and each for good before the next: at any moment
what is left is one run of segments up to the newest. A gap would be damage.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from raftos.consensus.journal.errors import DiskFull, JournalFailed
from raftos.consensus.journal.records import segment_name
from raftos.consensus.journal.storage import Storage

GROWTH_BYTES: Final = 1 << 20

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Write(NamedTuple):
    """Everything that was buffered at one moment, with its place. An offset of 0 begins a new segment."""

    segment: int
    offset: int
    data: bytes
    position: int
    """The journal's position that is durable once this is."""
    last_index: int
    term: int
    vote: str | None


class Writer:
    """Used by one thread; keeps only what it has seen of the current file."""

    def __init__(self, storage: Storage, growth_bytes: int) -> None:
        self._storage = storage
        self._growth_bytes = growth_bytes
        self._name = ""
        self._size_bytes = 0
        self._failure: JournalFailed | None = None

    def write(self, write: Write) -> None:
        """Return once `write` is durable.

        Raises DiskFull (nothing counts as written, the same `write` may be tried again) and
        JournalFailed (what is durable is unknown; every later call raises it again).
        """
        if self._failure:
            raise self._failure
        try:
            self._put(write)
        except OSError as error:
            if error.errno in _FULL:
                raise DiskFull(
                    f"the journal cannot be written: {error.strerror}; free some space on its disk, "
                    "and this member goes on by itself"
                ) from error
            raise self._fail("written", error) from error
        try:
            self._sync(write)
        except OSError as error:
            raise self._fail("synced", error) from error

    def remove(self, names: Sequence[str]) -> None:
        """Return once the files, oldest first, are gone for good. Those that are gone already do no harm.

        Raises DiskFull (some file systems need space to remove a file: try the same names again later, and
        go on writing meanwhile) and JournalFailed, as `write` does.
        """
        if self._failure:
            raise self._failure
        for name in names:
            try:
                self._remove(name)
            except OSError as error:
                if error.errno in _FULL:
                    raise DiskFull(
                        f"the journal's file {name} cannot be removed: {error.strerror}"
                    ) from error
                raise self._fail("trimmed", error) from error
            try:
                self._storage.sync_directory()
            except OSError as error:
                raise self._fail("synced", error) from error

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._storage.remove(name)

    def _put(self, write: Write) -> None:
        name = segment_name(write.segment)
        if name != self._name:
            self._enter(name, is_new=write.offset == 0)
        end = write.offset + len(write.data)
        if end > self._size_bytes:
            grown_bytes = -(-end // self._growth_bytes) * self._growth_bytes
            self._storage.truncate(name, grown_bytes)
            self._size_bytes = grown_bytes
        self._storage.write(name, write.offset, write.data)

    def _enter(self, name: str, *, is_new: bool) -> None:
        if is_new:
            self._storage.create(name)
        self._size_bytes = self._storage.size(name)
        self._name = name

    def _sync(self, write: Write) -> None:
        self._storage.sync(segment_name(write.segment))
        if write.offset == 0:
            self._storage.sync_directory()

    def _fail(self, what: str, error: OSError) -> JournalFailed:
        self._failure = JournalFailed(f"the journal cannot be {what}: {error}")
        return self._failure
