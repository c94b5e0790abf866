"""Opening what a member keeps on its disk, and making its parts agree after whatever stopped it.

A member keeps three things, each durable by itself: the journal, the applied state, and snapshots. Every
step that concerns two of them can be cut short, and is finished here:

| found                                     | what happened               | what is done             |
|-------------------------------------------|-----------------------------|--------------------------|
| a snapshot beyond or beside the journal   | it arrived, or was restored | the journal begins there |
| a state before the journal's first entry  | it was not exchanged yet    | the snapshot replaces it |
| a damaged state that came from a snapshot | a bad disk                  | the snapshot replaces it |
| a state beyond the journal                | log entries are missing     | the start is refused     |
| no journal, but one was begun             | log and votes are missing   | the start is refused     |
| a damaged snapshot beyond the journal     | a bad disk                  | the start is refused     |
| a snapshot that is of another version     | an upgrade is under way     | the start is refused     |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from raftos.config import Config
from raftos.consensus.configuration import Configuration, Peer, decode
from raftos.consensus.journal import DiskFull, FileStorage, Identity, Journal, JournalFailed
from raftos.consensus.keeper import extract, refuse_unreadable
from raftos.consensus.snapshots import CorruptSnapshot, SnapshotFailed, SnapshotStore, Stored
from raftos.errors import UNDECODABLE, StartupError
from raftos.state import place
from raftos.state.machine import Machine
from raftos.state.storage import StateIncomplete

log = structlog.get_logger("raftos.consensus")


@dataclass(frozen=True)
class Opened:
    """The durable parts of one member, in agreement."""

    journal: Journal
    snapshots: SnapshotStore
    machine: Machine


def open_data(folder: Path, cluster_id: str, member_id: str, *, begun: bool = False) -> Opened:
    """Open a member's data directory, or begin in an empty one: then it has a journal. Raises StartupError.

    One that has `begun` has had a journal, and is refused without.
    """
    journal = Journal.open(_storage(folder / "journal"), Identity(cluster_id, member_id))
    if begun and journal.is_new:
        journal.close()
        raise StartupError(
            f"the journal of this member is gone from {folder}, and with it entries and votes that others "
            "count on; mount or restore it, or let this member rejoin under a new id (`raftos dev rejoin`, "
            "`raftos start --rejoin`)"
        )
    snapshots = SnapshotStore(_storage(folder / "snapshots"), cluster_id)
    opened = open_member(
        journal, snapshots, folder / "state", lambda state: Machine(state, cluster_id=cluster_id)
    )
    journal.begin()
    try:
        write_now(journal)
    except StartupError:
        opened.machine.close()
        raise
    return opened


def _storage(folder: Path) -> FileStorage:
    try:
        return FileStorage(folder)
    except OSError as error:
        raise StartupError(f"cannot use the folder {folder}: {error.strerror}") from error


def first_configuration(config: Config) -> Configuration:
    """Those that made the cluster; a member that joined later knows none until its log tells it."""
    voters = () if config.joined else config.voters
    peers = (Peer(voter.id, voter.peer_address) for voter in voters)
    return Configuration(tuple(sorted(peers, key=lambda peer: peer.id)))


def open_member(
    journal: Journal, snapshots: SnapshotStore, state: Path, open_machine: Callable[[Path], Machine]
) -> Opened:
    """Bring the three into agreement. Raises StartupError with a sentence for what cannot be."""
    for name, why in snapshots.damaged.items():
        log.error("a snapshot is damaged", name=name, reason=why)
    newest = snapshots.newest
    if newest is not None and _is_ahead(journal, newest):
        refuse_unreadable(newest)
        _require_sound(snapshots, newest)
        with _restoring():
            snapshots.sync_names()
        _begin_after(journal, newest)
    _require_readable(journal)
    machine = _open_machine(state, open_machine, snapshots)
    try:
        if machine.applied_index < journal.first_index - 1:
            _restore(machine, snapshots, newest, journal.first_index - 1)
        _require_whole(journal, machine)
    except BaseException:  # Whatever it is, nobody has the machine yet who could close it.
        machine.close()
        raise
    return Opened(journal, snapshots, machine)


def _open_machine(state: Path, open_machine: Callable[[Path], Machine], snapshots: SnapshotStore) -> Machine:
    """The state as it is; a damaged one that came from a snapshot gives way to the newest snapshot."""
    try:
        return open_machine(state)
    except StateIncomplete:
        newest = snapshots.newest
        if newest is None:
            raise
        log.warning("the state is damaged and becomes that of the newest snapshot", index=newest.header.index)
        with _restoring():
            place.put_in_place(state, extract(snapshots, newest, state))
        return open_machine(state)


def _is_ahead(journal: Journal, newest: Stored) -> bool:
    """Whether the journal does not contain, or have behind it, the entry the snapshot ends with."""
    index, term = newest.header.index, newest.header.term
    return index >= journal.first_index and journal.term_at(index) != term


def _require_sound(snapshots: SnapshotStore, newest: Stored) -> None:
    """Read all of it before the journal gives way to it: what that has may be all that is left."""
    try:
        snapshots.check(newest.name)
    except (CorruptSnapshot, SnapshotFailed) as error:
        raise StartupError(
            f"the snapshot {newest.name} has to be installed and is damaged: {error.message}; put a good "
            "copy in its place, or remove it, and this member starts with what it has besides"
        ) from error


def _begin_after(journal: Journal, newest: Stored) -> None:
    """The end of an installation: what a snapshot contains is agreed on, whatever the journal has there."""
    header = newest.header
    log.info("the journal begins after the newest snapshot", index=header.index, was_at=journal.last_index)
    journal.install(header.index, header.term, header.configuration or None)
    if journal.term < header.term:
        journal.set_hard_state(header.term, None)
    write_now(journal)


def write_now(journal: Journal) -> None:
    """Make durable what was appended, as long as nobody else uses the journal. Raises StartupError."""
    write = journal.take()
    if write is None:
        return
    try:
        journal.writer.write(write)
    except (DiskFull, JournalFailed) as error:
        raise StartupError(
            f"the journal cannot be written: {error.__cause__ or error}; nothing is changed for certain, so "
            "free some space or mend the disk, and try again"
        ) from error
    journal.finish(write)


def _restore(machine: Machine, snapshots: SnapshotStore, newest: Stored | None, least_index: int) -> None:
    if newest is None or newest.header.index < least_index:
        raise StartupError(
            f"the log begins after entry {least_index}, but the state ends at {machine.applied_index} and no "
            "snapshot reaches so far; remove this member and let it rejoin under a new id with an empty data "
            "directory"
        )
    log.info("the state becomes that of the newest snapshot", index=newest.header.index)
    with _restoring():
        machine.replace(extract(snapshots, newest, machine.folder))


@contextmanager
def _restoring() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartupError(
            f"the state cannot be restored from a snapshot: {error}; free some space"
        ) from error
    except (CorruptSnapshot, SnapshotFailed) as error:
        raise StartupError(f"the state cannot be restored: {error.message}") from error


def _require_readable(journal: Journal) -> None:
    try:
        if journal.mark is not None:
            decode(journal.mark.payload)
    except UNDECODABLE as error:
        raise StartupError(
            f"the log names the members of the cluster in a way that this version cannot read ({error}); "
            "start the version that ran here before, or a newer one"
        ) from error


def _require_whole(journal: Journal, machine: Machine) -> None:
    if journal.last_index < machine.applied_index:
        raise StartupError(
            f"the journal ends at entry {journal.last_index}, but the state has applied "
            f"{machine.applied_index}: log entries are missing; remove this member and let it "
            "rejoin under a new id with an empty data directory"
        )
