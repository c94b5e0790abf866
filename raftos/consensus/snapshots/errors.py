"""Why a snapshot cannot be made or used.

A person reads them (`raftos snapshot inspect`), and so does consensus: a follower that received a corrupt
snapshot asks for it again, and one that could not be made is tried again later. None of them changed
anything: a file counts only once it is whole, verified and durable.
"""

from __future__ import annotations

from raftos.errors import RaftosError


class SnapshotFailed(RaftosError):
    """The disk did not allow it, or what was to be written is not what was announced. Try again later."""


class CorruptSnapshot(RaftosError):
    """These bytes are not what was written: damaged, cut short, or no snapshot at all."""


class ForeignSnapshot(CorruptSnapshot):
    """A whole snapshot, but of another cluster, or of another index than its name says."""


class NewerSnapshot(CorruptSnapshot):
    """Written by a newer version of raftos."""
