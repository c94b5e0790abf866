"""Why a journal refuses to open, and why writing to it fails.

The first three end the start of the daemon and are read by a person. The last two are read by the
consensus driver only: `DiskFull` is waited out, `JournalFailed` stops the process.
"""

from __future__ import annotations

from raftos.errors import StartupError


class CorruptJournal(StartupError):
    """Bytes that were durable are not what was written. Nothing was modified."""

    def __init__(self, name: str, offset: int, what: str) -> None:
        super().__init__(
            f"the journal is damaged ({name}, byte {offset}: {what}); nothing was changed, but this member "
            "must not go on with forgotten votes, so remove it from the cluster and let it join again under "
            "a new id with an empty data directory"
        )
        self.name = name
        self.offset = offset


class WrongIdentity(StartupError):
    """The journal was written by another member, or for another cluster."""


class NewerFormat(StartupError):
    """The journal was written by a newer version of raftos."""


class DiskFull(Exception):
    """No space or quota left: nothing counts as written; write the same `Write` again later."""


class JournalFailed(Exception):
    """The disk failed: what is durable is unknown, so the process has to stop without another try."""
