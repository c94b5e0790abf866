"""Whether this member's own state can be trusted.

A state that differs from that of a majority, or that is damaged on the disk, does not heal: the member stops
serving until it is replaced. So the verdict is kept in its data directory, and a restart finds it:

    corrupt.json    {"reason"}

The file is written with a sync before its name appears. What counts at the next start is that it is there,
also when it cannot be read. Where the disk does not take it the verdict holds until the process ends, and
`keep` tries again.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from raftos.durable import write_file

FILE_NAME = "corrupt.json"
REMEDY = (
    "stop it and let it join anew under a new id, with `raftos dev rejoin N` or `raftos start --rejoin`; "
    "the others have everything"
)

_log = structlog.get_logger(__name__)


class Record(msgspec.Struct, frozen=True):
    """What `corrupt.json` holds."""

    reason: str


class Trust:
    """The verdict on one member's state, kept in `directory`; without one it is forgotten at the end."""

    def __init__(self, directory: Path | None = None) -> None:
        self._file = None if directory is None else directory / FILE_NAME
        self._unwritten: Record | None = None
        self.lost: str | None = self._found()
        """One sentence that says why the state is not to be trusted and what to do, or None."""

    def lose(self, reason: str) -> None:
        """The state is wrong, because of `reason`; the first one is kept."""
        if self.lost is None:
            self.lost = _sentence(reason)
            self._unwritten = Record(reason)
            _log.critical("the state of this member is not to be trusted", reason=reason)
        self.keep()

    def keep(self) -> None:
        """Write the verdict down, unless that is done."""
        if self._file is not None and self._unwritten is not None and _keep(self._file, self._unwritten):
            self._unwritten = None

    def _found(self) -> str | None:
        if self._file is None or not self._file.exists():
            return None
        reason = "an earlier run found it damaged"
        with suppress(OSError, msgspec.MsgspecError):  # That it is there says enough.
            reason = msgspec.json.decode(self._file.read_bytes(), type=Record).reason
        return _sentence(reason)


def _sentence(reason: str) -> str:
    return f"the state of this member is not to be trusted: {reason}; {REMEDY}"


def _keep(file: Path, record: Record) -> bool:
    """Write the file durably; whether it is there now."""
    try:
        write_file(file, msgspec.json.encode(record))
    except OSError as error:
        _log.error("the verdict cannot be kept for now", file=str(file), reason=str(error))
        return False
    return True
