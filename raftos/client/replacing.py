"""A file that is replaced in one step, by one writer at a time: until it is whole it is called FILE.part.

Whoever writes a part holds a lock on it until it has become FILE or is gone; the lock ends with the process,
however that ends. So a part that nobody holds was left behind, and is replaced. As it is by name that a part
is renamed and removed, that is done only while the name leads to the file that is held: between opening and
locking it another process may have put its own there.

What the disk refuses to a file that is open comes without a name; here it is given one.

Only a regular file is replaced: a device, say, would be gone, and what was saved would fill its disk.
"""

from __future__ import annotations

import fcntl
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from raftos import durable
from raftos.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PART = ".part"
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
}


def place_of(file: Path) -> Path:
    """What is replaced for `file`: what a symbolic link leads to. Raises InvalidInput, and OSError."""
    _require_regular(file, follow=True)
    return Path(os.path.realpath(file)) if file.is_symlink() else file


def part_of(target: Path) -> Path:
    return target.with_name(target.name + PART)


@contextmanager
def begun(target: Path) -> Iterator[BinaryIO]:
    """The part of `target`, new and empty; gone at the end unless `put_in_place` was called.

    Nobody else can read it, at any moment. Raises Conflict while another writes it, InvalidInput where its
    name is that of something else, and OSError.
    """
    part = part_of(target)
    with io.BufferedWriter(_Part(part, "wb", opener=lambda *_: _locked(part, target))) as opened:
        try:
            yield opened
        finally:  # Also cancelling: no half file stays.
            if _leads_to(part, opened.fileno()):
                part.unlink()


def sync(opened: BinaryIO, target: Path) -> None:
    """Let the part be on disk, all that was written to it. Raises OSError."""
    opened.flush()
    with _named(part_of(target)):
        os.fsync(opened.fileno())


def put_in_place(opened: BinaryIO, target: Path) -> None:
    """Let what `begun` gave become `target`. Raises Conflict where the part was taken away, and OSError."""
    part = part_of(target)
    if not _leads_to(part, opened.fileno()):
        raise Conflict(f"{part} was removed or replaced meanwhile; {target} is as it was, try again")
    part.replace(target)


def sync_folder(target: Path) -> None:
    """Let it be on disk that `target` was replaced. Raises OSError."""
    with _named(target.parent):
        durable.sync_folder(target.parent)


class _Part(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        with _named(self.name):
            return super().write(data)


@contextmanager
def _named(path: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _require_regular(path: Path, *, follow: bool) -> None:
    """What is there already has to be a file like the one that takes its place."""
    try:
        mode = path.stat(follow_symlinks=follow).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        raise InvalidInput(f"{path} is {kind} and no regular file; choose another place, nothing was changed")


def _locked(part: Path, target: Path) -> int:
    while True:
        _remove_left(part, target)
        with suppress(FileExistsError):  # Another was quicker, and holds it.
            made = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            if _lock(made) and _leads_to(part, made):
                return made
            os.close(made)  # Another took it, before it was locked, for one that was left behind.


def _remove_left(part: Path, target: Path) -> None:
    _require_regular(part, follow=False)
    try:
        left = os.open(part, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        if not _lock(left):
            raise Conflict(
                f"another save to {target} is under way; wait until it has ended, or save to another file"
            )
        if _leads_to(part, left):
            part.unlink()
    finally:
        os.close(left)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # A file system without locks: what is renamed by mistake is still found out.
        return True
    return True


def _leads_to(part: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(part.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
