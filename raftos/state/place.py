"""Which file of a folder is the state, and how another one takes its place.

    state.sqlite3          the first
    state-1.sqlite3        what took its place, and so on: the one with the highest number counts
    *-wal, *-shm           belong to the file whose name they begin with
    incoming.sqlite3       being extracted from a snapshot
    copy.sqlite3           being copied for a snapshot

A replacement comes under a number of its own, and the one rename that gives it its name is the whole
change: before it the folder holds the old state, after it the new one, and never half of each. What else
has to be done, removing the old files, may be interrupted anywhere; opening the state finishes it. Under
the *same* name it would take several steps: a write-ahead log must never be found beside a file that it
does not belong to, and SQLite itself removes logs by name when the last user of the old file leaves it,
which may be long after the new one is in use. No number is used twice, so old names lead to nobody.

Readers still in the old file finish there: it is gone from the folder, but not from them.
"""

from __future__ import annotations

import re
from pathlib import Path

from raftos.durable import sync_folder

FIRST_NAME = "state.sqlite3"
INCOMING_NAME = "incoming.sqlite3"
COPY_NAME = "copy.sqlite3"

_STATE = re.compile(r"state(?:-([1-9]\d*))?\.sqlite3")
_BESIDES = ("-wal", "-shm", "-journal")


class Place:
    """Where the state is now. Shared by a machine, which moves it, and its readers on any thread."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder = folder
        self.path = path


def generation(path: Path) -> int | None:
    """How many replacements there were before a state file; None for another file."""
    match = _STATE.fullmatch(path.name)
    return int(match[1] or 0) if match else None


def current_file(folder: Path) -> Path:
    """The file that holds the state, or that is to be made if there is none."""
    found = {number: path for path in folder.iterdir() if (number := generation(path)) is not None}
    return found[max(found)] if found else folder / FIRST_NAME


def put_in_place(folder: Path, incoming: Path) -> Path:
    """Make `incoming`, a closed and synced file of this folder, the state; durably. Its new path.

    Raises OSError. After an error either file may be the state when the folder is opened again.
    """
    number = generation(current_file(folder))
    assert number is not None
    path = folder / f"state-{number + 1}.sqlite3"
    _remove_besides(path)
    incoming.rename(path)
    sync_folder(folder)
    return path


def clean(folder: Path, current: Path) -> None:
    """Remove what interrupted work has left: older states, copies and extracts. Raises OSError."""
    newest = generation(current)
    assert newest is not None
    for path in folder.iterdir():
        owner = path.with_name(_owner(path.name))
        number = generation(owner)
        is_older = number is not None and number < newest
        if is_older or owner.name in {INCOMING_NAME, COPY_NAME}:
            path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a database and what belongs to it, if they are there. Raises OSError."""
    path.unlink(missing_ok=True)
    _remove_besides(path)


def beside(path: Path, ending: str) -> Path:
    """The file that SQLite keeps beside a database, `-wal` for instance."""
    return path.with_name(path.name + ending)


def _owner(name: str) -> str:
    for ending in _BESIDES:
        name = name.removesuffix(ending)
    return name


def _remove_besides(path: Path) -> None:
    for ending in _BESIDES:
        beside(path, ending).unlink(missing_ok=True)
