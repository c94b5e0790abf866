"""Files that are there after a power cut, or are as they were before."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(file: Path, content: bytes) -> None:
    """Give a file this content, durably; interrupted, it has it or has what it had. Raises OSError."""
    draft = file.with_suffix(".new")
    with draft.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    draft.replace(file)
    sync_folder(file.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those it is in, for this user alone, each with a durable name. Raises OSError.

    One that is there already is synced too: who made it may have been stopped before.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing or [folder]:
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Make created, renamed and removed names durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
