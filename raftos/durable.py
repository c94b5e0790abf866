"""Files that are there after a power cut, or are as they were before."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

DRAFT = ".new"
"""What a file is called in addition while it is written."""


def write_file(file: Path, content: bytes) -> None:
    """Give a file this content, durably and for this user alone; it is replaced in one step.

    Raises OSError, on a full disk say: then it has what it had, and nothing is left of the try. Struck down,
    it has the one or the other.
    """
    draft = file.with_name(file.name + DRAFT)
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(file)
    except BaseException:  # Ctrl-C as well.
        draft.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def write_json(file: Path, value: object) -> None:
    """As `write_file`, with JSON that people can read."""
    write_file(file, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


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
