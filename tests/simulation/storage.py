"""A disk that forgets: after a crash only what was synced is there, and a piece of what was not.

Writes reach the platter in order, so what survives of the unsynced ones is a prefix, cut at any byte; that is
what an append-only file on an ordered journalling file system keeps. Names that come, change and go do so in
order too: of those that the folder was not synced after, some prefix survives. A new file has its name once
it is synced itself.

A sync may fail. Then the system forgets, as Linux does, that there was something to be written: the pages
read as they were written for as long as the machine runs, and no later sync brings them to the platter.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random


@dataclass(eq=False)
class _File:
    """One file, whatever its names: as it reads, and as it is on the platter."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)


Folder = dict[str, _File]
Change = Callable[[Folder], object]


class SimulatedStorage:
    """Implements `raftos.consensus.journal.Storage` in memory."""

    def __init__(self) -> None:
        self._files: Folder = {}
        self._durable: Folder = {}
        self._unsynced: list[tuple[_File, int, bytes]] = []
        self._changes: list[Change] = []
        """What happened to names since the folder was synced, in order."""
        self._powered = True
        self._failing: Random | None = None
        self.notices_failure = True
        """Whether who syncs is told that it failed."""
        self.is_synced = True
        """Whether anybody syncs at all."""

    # What happens to a disk.

    @property
    def is_empty(self) -> bool:
        return not any(file.durable for file in self._durable.values())

    def copy(self) -> SimulatedStorage:
        return copy.deepcopy(self)

    def crash(self, random: Random) -> None:
        """Lose what was not synced, but for a random prefix of it."""
        self.mend()
        unsynced, self._unsynced = self._unsynced, []
        _write_down(unsynced, random.randrange(_size(unsynced) + 1))
        changes, self._changes = self._changes, []
        survived = random.randrange(len(changes) + 1) if changes else 0
        for change in changes[:survived]:
            change(self._durable)
        self._files = dict(self._durable)
        for file in self._files.values():
            file.data = bytearray(file.durable)

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
        """Change one bit of what is durable; say where. Only while nobody runs on this disk."""
        names = sorted(self._durable)
        (name,) = random.choices(names, [len(self._durable[name].durable) for name in names])
        file = self._durable[name]
        used = len(file.durable.rstrip(b"\0"))
        offset = random.randrange(max(1, used) if random.random() < 0.95 else len(file.durable))
        file.durable[offset] ^= 1 << random.randrange(8)
        file.data = bytearray(file.durable)
        return name, offset

    # The port.

    def names(self) -> list[str]:
        return sorted(self._files)

    def size(self, name: str) -> int:
        return len(self._files[name].data)

    def read(self, name: str, offset: int, size: int) -> bytes:
        return bytes(self._files[name].data[offset : offset + size])

    def create(self, name: str) -> None:
        file = self._files[name] = _File()
        self._changes.append(lambda folder: folder.__setitem__(name, file))

    def write(self, name: str, offset: int, data: bytes) -> None:
        file = self._files[name]
        _put(file.data, offset, data)
        self._unsynced.append((file, offset, bytes(data)))

    def truncate(self, name: str, size: int) -> None:
        _resize(self._files[name].data, size)
        if self._sync(name):
            _resize(self._files[name].durable, size)

    def sync(self, name: str) -> None:
        self._sync(name)

    def _sync(self, name: str) -> bool:
        """Whether the file is on the platter now."""
        if not (self._powered and self.is_synced):
            return False
        file = self._files[name]
        if file not in self._durable.values():
            self._settle()
        own = [write for write in self._unsynced if write[0] is file]
        self._unsynced = [write for write in self._unsynced if write[0] is not file]
        failing, self._failing = self._failing, None
        _write_down(own, failing.randrange(_size(own) + 1) if failing else _size(own))
        if failing and self.notices_failure:
            raise OSError(errno.EIO, "Input/output error")
        return True

    def remove(self, name: str) -> None:
        if self._files.pop(name, None) is not None:
            self._changes.append(lambda folder: folder.pop(name, None))

    def rename(self, old: str, new: str) -> None:
        file = self._files[new] = self._files.pop(old)

        def change(folder: Folder) -> None:
            folder.pop(old, None)
            folder[new] = file

        self._changes.append(change)

    def sync_directory(self) -> None:
        if self._powered and self.is_synced:
            self._settle()

    def close(self) -> None:
        pass

    def _settle(self) -> None:
        """All names are on the platter as they are."""
        self._changes.clear()
        self._durable = dict(self._files)


def _write_down(writes: list[tuple[_File, int, bytes]], keep: int) -> None:
    """So many bytes of the writes reach the platter."""
    for file, offset, data in writes:
        _put(file.durable, offset, data[:keep])
        keep -= len(data[:keep])


def _size(writes: list[tuple[_File, int, bytes]]) -> int:
    return sum(len(data) for _, _, data in writes)


def _resize(file: bytearray, size: int) -> None:
    """Cut a file, or grow it with zeros."""
    del file[size:]
    file.extend(bytes(size - len(file)))


def _put(file: bytearray, offset: int, data: bytes) -> None:
    if len(file) < offset:
        _resize(file, offset)
    file[offset : offset + len(data)] = data
