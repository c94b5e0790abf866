"""Disks of our own: a tmpfs is full, read-only or larger at a word. Needs root."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path


@cache
def may_mount() -> bool:
    """Whether this process may mount: being root is not enough in many containers."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(Path(folder), "size=64k"):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A fresh tmpfs at a folder, made if missing; gone afterwards, whoever still uses it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "raftos-test", str(folder))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(folder))


def resize(folder: Path, size: str) -> None:
    """Give a mounted disk another size, such as `16m`."""
    remount(folder, f"size={size}")


def remount(folder: Path, options: str) -> None:
    """Change what a mounted disk is; `ro` fails while something is open for writing."""
    _run("mount", "-o", f"remount,{options}", str(folder))


def fill(file: Path, *, spare_bytes: int = 0) -> None:
    """Make a file that leaves nothing of its disk, or that much."""
    file.touch(mode=0o600)
    free_bytes = shutil.disk_usage(file.parent).free
    with suppress(OSError):  # Enough is enough: the disk may need a page more than it said.
        file.write_bytes(bytes(max(0, free_bytes - spare_bytes)))


def tells_of_full_disk(sentence: str) -> bool:
    """The journal says it in the words of the system, the state in those of SQLite."""
    return "No space left" in sentence or "disk is full" in sentence


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
