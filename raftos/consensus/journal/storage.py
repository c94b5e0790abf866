"""The narrow port to a flat folder of files, for journal and snapshots, and the one on a real disk.

The port is small so that a simulation can stand in for the disk and lose whatever was not synced.
Nothing here is mapped into memory: on a full disk a mapping dies of SIGBUS, a write says ENOSPC.

`FileStorage` is used by two threads, the event loop (reading old entries) and the disk thread. They
share the table of descriptors, which is why it has a lock; descriptors themselves are used with
explicit offsets and so need none. Nobody may remove or replace a file that another thread reads.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Protocol

from raftos.durable import sync_folder


class Storage(Protocol):
    """A flat folder of files. Every method may raise `OSError`; sizes and offsets are bytes."""

    def names(self) -> list[str]:
        """The names of all files, in no particular order."""

    def size(self, name: str) -> int:
        """The present size of a file."""

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes: fewer only where the file ends."""

    def create(self, name: str) -> None:
        """Make an empty file; one of that name is emptied."""

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write all of `data`, growing the file where needed. After an error any prefix may be written."""

    def sync(self, name: str) -> None:
        """Make the content and size of a file durable."""

    def truncate(self, name: str, size: int) -> None:
        """Cut a file, or grow it with zeros that take no space yet."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, at once; a file that had it is gone. Durable by `sync_directory`."""

    def sync_directory(self) -> None:
        """Make created, renamed and removed names durable."""

    def close(self) -> None:
        """Let go of everything held open."""


class FileStorage:
    """A folder on a local disk. The folder is made if it is missing; its parent has to exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._descriptors: dict[str, int] = {}
        folder.mkdir(mode=0o700, exist_ok=True)
        # Without this a power cut could take the whole folder away, and every vote with it.
        sync_folder(folder.parent)

    def names(self) -> list[str]:
        return [path.name for path in self._folder.iterdir()]

    def size(self, name: str) -> int:
        return os.fstat(self._descriptor(name)).st_size

    def read(self, name: str, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor(name), size, offset)

    def create(self, name: str) -> None:
        os.ftruncate(self._descriptor(name, os.O_CREAT), 0)

    def write(self, name: str, offset: int, data: bytes) -> None:
        descriptor = self._descriptor(name)
        written = os.pwrite(descriptor, data, offset)
        while written < len(data):
            # A disk that fills up takes a part first and says ENOSPC to the rest.
            written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)

    def sync(self, name: str) -> None:
        os.fdatasync(self._descriptor(name))

    def truncate(self, name: str, size: int) -> None:
        os.ftruncate(self._descriptor(name), size)

    def remove(self, name: str) -> None:
        with self._lock:
            descriptor = self._descriptors.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)
        (self._folder / name).unlink()

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            (self._folder / old).rename(self._folder / new)
            replaced = self._descriptors.pop(new, None)
            if old in self._descriptors:
                self._descriptors[new] = self._descriptors.pop(old)
        if replaced is not None:
            os.close(replaced)

    def sync_directory(self) -> None:
        sync_folder(self._folder)

    def close(self) -> None:
        with self._lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def _descriptor(self, name: str, flags: int = 0) -> int:
        with self._lock:
            if name not in self._descriptors:
                self._descriptors[name] = _open(self._folder / name, flags)
            return self._descriptors[name]


def _open(path: Path, flags: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    # A failed sync leaves pages in the cache that look clean and are not on the disk. Forgetting
    # them makes a restarted member read what the disk really has.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return descriptor
