"""That a member has had a journal, kept beside its configuration: its data can go as a whole.

Whoever lost its journal has lost entries and votes that others count on. Were it to begin anew under its old
id, it could elect a leader without what it once helped to acknowledge. From the data alone nobody sees this:
an emptied directory, or a volume that is not mounted, looks like that of a new member.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from raftos.config import Config
from raftos.durable import write_file

_log = structlog.get_logger(__name__)


class Begun:
    """`CONFIG.begun`, whose journal it was; without it, as where it cannot be written, nothing is noticed."""

    def __init__(self, configuration: Path, config: Config) -> None:
        self.file = configuration.with_suffix(".begun")
        self._whose = msgspec.json.encode({"cluster_id": config.cluster_id, "member_id": config.member_id})

    def is_remembered(self) -> bool:
        """Whether this member, and not one that had the same configuration file before, has had a journal."""
        try:
            return self.file.read_bytes() == self._whose
        except OSError:
            return False

    def remember(self) -> None:
        """Do so durably, once there is a journal; on a full disk the next start does."""
        if self.is_remembered():
            return
        try:
            write_file(self.file, self._whose)
        except OSError as error:
            _log.warning("a lost journal would not be noticed", file=str(self.file), reason=error.strerror)
