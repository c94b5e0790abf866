"""A disk for tests that forgets, when the power is cut, what was not synced.

Of each file it keeps what was synced and a random prefix of what was done since, the last write cut at
any byte; of the folder, the names that were synced and any of the changes since, in no order. It can be
full, fail to sync or to remove, and lose its power in the middle of any operation.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field

Change = Callable[[bytearray], None]


class PowerCut(Exception):
    """The machine stopped in the middle of an operation."""


@dataclass
class Write:
    """Bytes put at an offset; a gap before it reads as zeros."""

    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data

    def cut(self, choice: random.Random) -> Write:
        return Write(self.offset, self.data[: choice.randint(0, len(self.data))])


@dataclass
class Resize:
    """The file cut, or grown with zeros."""

    size: int

    def apply(self, content: bytearray) -> None:
        del content[self.size :]
        content.extend(bytes(self.size - len(content)))

    def cut(self, choice: random.Random) -> Resize:
        return self


@dataclass
class File:
    """What reads see, what is durable, and the changes between the two."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    changes: list[Write | Resize] = field(default_factory=list)

    def change(self, change: Write | Resize) -> None:
        change.apply(self.content)
        self.changes.append(change)

    def after_power_cut(self, choice: random.Random) -> File:
        content = bytearray(self.durable)
        kept = choice.randint(0, len(self.changes))
        for change in self.changes[:kept]:
            change.apply(content)
        if kept < len(self.changes) and isinstance(self.changes[kept], Write):
            self.changes[kept].cut(choice).apply(content)
        return File(content, bytes(content))


class ForgetfulStorage:
    """Implements the journal's `Storage`."""

    def __init__(self, files: dict[str, File] | None = None) -> None:
        self.files = files or {}
        self.capacity_bytes = 1 << 40
        self.sync_errno = 0
        self.remove_errno = 0
        self.cut_after: int | None = None
        """The power is cut by the operation after so many more."""
        self.reads: list[tuple[str, int, int]] = []
        self._folders = [dict(self.files)]
        """The durable folder, then each change of names since."""

    def power_cut(self, choice: random.Random) -> ForgetfulStorage:
        """The disk as it is found afterwards."""
        names = sorted({name for folder in self._folders for name in folder})
        found = {name: choice.choice(self._folders).get(name) for name in names}
        return ForgetfulStorage({name: file.after_power_cut(choice) for name, file in found.items() if file})

    def image(self) -> dict[str, bytes]:
        """The content of all files."""
        return {name: bytes(file.content) for name, file in self.files.items()}

    def names(self) -> list[str]:
        return list(self.files)

    def size(self, name: str) -> int:
        return len(self._file(name).content)

    def read(self, name: str, offset: int, size: int) -> bytes:
        self.reads.append((name, offset, size))
        return bytes(self._file(name).content[offset : offset + size])

    def create(self, name: str) -> None:
        self._refuse_without_power()
        self.files[name] = File()
        self._folders.append(dict(self.files))
        self._step()

    def write(self, name: str, offset: int, data: bytes) -> None:
        others = sum(len(file.content.rstrip(b"\0")) for key, file in self.files.items() if key != name)
        room = max(0, self.capacity_bytes - others - offset)
        self._file(name).change(Write(offset, data[:room]))
        self._step()
        if room < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def sync(self, name: str) -> None:
        self._step()
        if self.sync_errno:
            raise OSError(self.sync_errno, "sync failed")
        file = self._file(name)
        file.durable, file.changes = bytes(file.content), []

    def truncate(self, name: str, size: int) -> None:
        self._file(name).change(Resize(size))
        self._step()

    def remove(self, name: str) -> None:
        if self.remove_errno:
            raise OSError(self.remove_errno, "remove failed")
        self._file(name)
        del self.files[name]
        self._folders.append(dict(self.files))
        self._step()

    def rename(self, old: str, new: str) -> None:
        self._file(old)
        self.files[new] = self.files.pop(old)
        self._folders.append(dict(self.files))
        self._step()

    def sync_directory(self) -> None:
        self._refuse_without_power()
        self._step()
        if self.sync_errno:
            raise OSError(self.sync_errno, "sync failed")
        self._folders = [dict(self.files)]

    def close(self) -> None:
        """Nothing is held open."""

    def _file(self, name: str) -> File:
        self._refuse_without_power()
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file", name)
        return self.files[name]

    def _refuse_without_power(self) -> None:
        # Whatever somebody tries to clean up after the cut, the disk stays as it was.
        if self.cut_after is not None and self.cut_after < 0:
            raise PowerCut

    def _step(self) -> None:
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after < 0:
                raise PowerCut


def from_image(image: dict[str, bytes]) -> ForgetfulStorage:
    """A disk on which exactly these files are durable."""
    return ForgetfulStorage({name: File(bytearray(content), content) for name, content in image.items()})
