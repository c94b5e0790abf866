"""A disk that forgets: after a crash only what was synced is there, and a piece of what was not.

Writes reach the platter in order, so what survives of the unsynced ones is a prefix, cut at any
byte; that is what an append-only file on an ordered journalling file system keeps.

A sync may fail. Then the system forgets, as Linux does, that there was something to be written: the pages
read as they were written for as long as the machine runs, and no later sync brings them to the platter.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random


class SimulatedStorage:
    """Implements `raftos.consensus.journal.Storage` in memory."""

    def __init__(self) -> None:
        self._files: dict[str, bytearray] = {}
        self._durable: dict[str, bytearray] = {}
        self._unsynced: list[tuple[str, int, bytes]] = []
        self._powered = True
        self._failing: Random | None = None
        self.notices_failure = True
        """Whether who syncs is told that it failed."""

    # What happens to a disk.

    @property
    def is_empty(self) -> bool:
        return not any(self._durable.values())

    def copy(self) -> SimulatedStorage:
        return copy.deepcopy(self)

    def crash(self, random: Random) -> None:
        """Lose what was not synced, but for a random prefix of it."""
        self.mend()
        unsynced, self._unsynced = self._unsynced, []
        self._write_down(unsynced, random.randrange(_size(unsynced) + 1))
        self._files = {name: bytearray(data) for name, data in self._durable.items()}

    @contextmanager
    def without_power(self) -> Iterator[None]:
        """What is written here reaches no platter: the machine stops before the sync ends."""
        self._powered = False
        yield
        self._powered = True

    def fail_next_sync(self, random: Random) -> None:
        self._failing = random

    def mend(self) -> None:
        self._failing = None

    def flip_bit(self, random: Random) -> tuple[str, int]:
        """Change one bit of what is durable; say where."""
        names = sorted(self._durable)
        (name,) = random.choices(names, [len(self._durable[name]) for name in names])
        used = len(self._durable[name].rstrip(b"\0"))
        offset = random.randrange(max(1, used) if random.random() < 0.95 else len(self._durable[name]))
        self._durable[name][offset] ^= 1 << random.randrange(8)
        self._files[name] = bytearray(self._durable[name])
        return name, offset

    def _write_down(self, writes: list[tuple[str, int, bytes]], keep: int) -> None:
        """So many bytes of the writes reach the platter."""
        for name, offset, data in writes:
            if name in self._durable:
                _put(self._durable[name], offset, data[:keep])
            keep -= len(data[:keep])

    # The port.

    def names(self) -> list[str]:
        return sorted(self._files)

    def size(self, name: str) -> int:
        return len(self._files[name])

    def read(self, name: str, offset: int, size: int) -> bytes:
        return bytes(self._files[name][offset : offset + size])

    def create(self, name: str) -> None:
        self._files[name] = bytearray()

    def write(self, name: str, offset: int, data: bytes) -> None:
        _put(self._files[name], offset, data)
        self._unsynced.append((name, offset, bytes(data)))

    def truncate(self, name: str, size: int) -> None:
        _resize(self._files[name], size)
        if self._sync(name):
            _resize(self._durable[name], size)

    def sync(self, name: str) -> None:
        self._sync(name)

    def _sync(self, name: str) -> bool:
        """Whether the file is on the platter now."""
        if not self._powered:
            return False
        own = [write for write in self._unsynced if write[0] == name]
        self._unsynced = [write for write in self._unsynced if write[0] != name]
        self._durable.setdefault(name, bytearray())
        failing, self._failing = self._failing, None
        self._write_down(own, failing.randrange(_size(own) + 1) if failing else _size(own))
        if failing and self.notices_failure:
            raise OSError(errno.EIO, "Input/output error")
        return True

    def remove(self, name: str) -> None:
        self._files.pop(name, None)
        self._durable.pop(name, None)

    def sync_directory(self) -> None:
        for name in self._files:
            self._durable.setdefault(name, bytearray())

    def close(self) -> None:
        pass


def _size(writes: list[tuple[str, int, bytes]]) -> int:
    return sum(len(data) for _, _, data in writes)


def _resize(file: bytearray, size: int) -> None:
    """Cut a file, or grow it with zeros."""
    del file[size:]
    file.extend(bytes(size - len(file)))


def _put(file: bytearray, offset: int, data: bytes) -> None:
    if len(file) < offset:
        _resize(file, offset)
    file[offset : offset + len(data)] = data
