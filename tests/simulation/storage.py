"""A disk that forgets: after a crash only what was synced is there, and a piece of what was not.

Writes reach the platter in order, so what survives of the unsynced ones is a prefix, cut at any
byte; that is what an append-only file on an ordered journalling file system keeps. New names of renamed
files count once the folder is synced; before that a crash keeps some prefix of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random


class SimulatedStorage:
    """Implements `raftos.consensus.journal.Storage` in memory."""

    def __init__(self) -> None:
        self._files: dict[str, bytearray] = {}
        self._durable: dict[str, bytes] = {}
        self._unsynced: list[tuple[str, int, bytes]] = []
        self._renamed: list[tuple[str, str]] = []
        """Old and new names, in order, whose durable files still have the old one."""
        self._powered = True

    def crash(self, random: Random) -> None:
        """Lose what was not synced, but for a random prefix of it."""
        keep = random.randrange(sum(len(data) for _, _, data in self._unsynced) + 1)
        unsynced, self._unsynced = self._unsynced, []
        renamed, self._renamed = self._renamed, []
        # Only where there is something to choose: runs without snapshots stay what they were.
        survived = random.randrange(len(renamed) + 1) if renamed else 0
        for old, new in renamed[:survived]:
            self._durable[new] = self._durable.pop(old, b"")
        unsynced = [(_before(renamed[survived:], name), offset, data) for name, offset, data in unsynced]
        self._files = {name: bytearray(data) for name, data in self._durable.items()}
        for name, offset, data in unsynced:
            if name in self._files:
                self._put(name, offset, data[:keep])
            keep -= len(data[:keep])
        self._durable = {name: bytes(data) for name, data in self._files.items()}

    @contextmanager
    def without_power(self) -> Iterator[None]:
        """What is written here reaches no platter: the machine stops before the sync ends."""
        self._powered = False
        yield
        self._powered = True

    def _put(self, name: str, offset: int, data: bytes) -> None:
        file = self._files[name]
        if len(file) < offset:
            file.extend(bytes(offset - len(file)))
        file[offset : offset + len(data)] = data

    def names(self) -> list[str]:
        return sorted(self._files)

    def size(self, name: str) -> int:
        return len(self._files[name])

    def read(self, name: str, offset: int, size: int) -> bytes:
        return bytes(self._files[name][offset : offset + size])

    def create(self, name: str) -> None:
        self._files[name] = bytearray()

    def write(self, name: str, offset: int, data: bytes) -> None:
        self._put(name, offset, data)
        self._unsynced.append((name, offset, bytes(data)))

    def truncate(self, name: str, size: int) -> None:
        del self._files[name][size:]
        self.sync(name)

    def sync(self, name: str) -> None:
        if not self._powered:
            return
        self._durable[_before(self._renamed, name)] = bytes(self._files[name])
        self._unsynced = [write for write in self._unsynced if write[0] != name]

    def remove(self, name: str) -> None:
        self._files.pop(name, None)
        self._durable.pop(_before(self._renamed, name), None)

    def rename(self, old: str, new: str) -> None:
        self._files[new] = self._files.pop(old)
        self._unsynced = [
            (new if name == old else name, offset, data)
            for name, offset, data in self._unsynced
            if name != new
        ]
        self._renamed.append((old, new))

    def sync_directory(self) -> None:
        if self._powered:
            for old, new in self._renamed:
                self._durable[new] = self._durable.pop(old, b"")
            self._renamed.clear()
        for name in self._files:
            self._durable.setdefault(_before(self._renamed, name), b"")

    def close(self) -> None:
        pass


def _before(renamed: list[tuple[str, str]], name: str) -> str:
    """The name that a file had before these renamings."""
    for old, new in reversed(renamed):
        if new == name:
            name = old
    return name
