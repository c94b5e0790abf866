"""A disk that forgets: after a crash only what was synced is there, and a piece of what was not.

Writes reach the platter in order, so what survives of the unsynced ones is a prefix, cut at any
byte; that is what an append-only file on an ordered journalling file system keeps.
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
        self._durable: dict[str, bytes] = {}
        self._unsynced: list[tuple[str, int, bytes]] = []
        self._powered = True
        self._failing: Random | None = None
        self.notices_failure = True
        """Whether who syncs is told that it failed."""

    @property
    def is_empty(self) -> bool:
        return not any(self._durable.values())

    def copy(self) -> SimulatedStorage:
        return copy.deepcopy(self)

    def flip_bit(self, random: Random) -> tuple[str, int]:
        """Change one bit of what is durable; say where."""
        names = sorted(self._durable)
        (name,) = random.choices(names, [len(self._durable[name]) for name in names])
        used = len(self._durable[name].rstrip(b"\0"))
        offset = random.randrange(used if random.random() < 0.95 else len(self._durable[name]))
        self._files[name][offset] ^= 1 << random.randrange(8)
        self._durable[name] = bytes(self._files[name])
        return name, offset

    def fail_next_sync(self, random: Random) -> None:
        """The next sync fails, and the system forgets that there is something to be written."""
        self._failing = random

    def mend(self) -> None:
        self._failing = None

    def crash(self, random: Random) -> None:
        """Lose what was not synced, but for a random prefix of it."""
        self.mend()
        keep = random.randrange(sum(len(data) for _, _, data in self._unsynced) + 1)
        unsynced, self._unsynced = self._unsynced, []
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
        if self._failing is not None:
            self._fail(name, self._failing)
            return
        self._durable[name] = bytes(self._files[name])
        self._unsynced = [write for write in self._unsynced if write[0] != name]

    def _fail(self, name: str, random: Random) -> None:
        """As Linux does: pages that could not be written look clean from now on, and are not."""
        self._failing = None
        platter = bytearray(self._durable.get(name, b""))
        present, self._files[name] = self._files[name], platter
        lost = [write for write in self._unsynced if write[0] == name]
        keep = random.randrange(sum(len(data) for _, _, data in lost) + 1)
        for _, offset, data in lost:
            self._put(name, offset, data[:keep])
            keep -= len(data[:keep])
        self._durable[name] = bytes(platter)
        self._files[name] = present
        self._unsynced = [write for write in self._unsynced if write[0] != name]
        if self.notices_failure:
            raise OSError(errno.EIO, "Input/output error")

    def remove(self, name: str) -> None:
        self._files.pop(name, None)
        self._durable.pop(name, None)

    def sync_directory(self) -> None:
        for name in self._files:
            self._durable.setdefault(name, b"")

    def close(self) -> None:
        pass
