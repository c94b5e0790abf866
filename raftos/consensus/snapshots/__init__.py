"""Snapshots: the state as of one log index, in one file that followers receive and people keep.

    thread                                        event loop
    machine.copy_to(path)                         newest, all, pin, damaged
    store.write(header, pieces_of(path))
    store.keep(2), discard, check, pieces
    store.read                    for followers
    store.incoming, Incoming.write and complete

    errors.py     why one cannot be made or used
    format.py     the bytes of a file: header, chunks, checksums
    files.py      files outside a store: inspect, verify, save
    store.py      those that a member keeps

Where the disk is touched it is through the journal's `Storage`, so that a simulation can stand in for it.
"""

from raftos.consensus.snapshots.errors import (
    CorruptSnapshot,
    ForeignSnapshot,
    NewerSnapshot,
    SnapshotFailed,
)
from raftos.consensus.snapshots.files import pieces_of, read_header, verify, write_to
from raftos.consensus.snapshots.format import Decoder, Header, Summary
from raftos.consensus.snapshots.store import Incoming, Pin, SnapshotStore, Stored, snapshot_name

__all__ = [
    "CorruptSnapshot",
    "Decoder",
    "ForeignSnapshot",
    "Header",
    "Incoming",
    "NewerSnapshot",
    "Pin",
    "SnapshotFailed",
    "SnapshotStore",
    "Stored",
    "Summary",
    "pieces_of",
    "read_header",
    "snapshot_name",
    "verify",
    "write_to",
]
