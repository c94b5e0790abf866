"""A member's parts are brought into agreement, wherever the machine stopped between two of them."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftos.config import Config, Voter
from raftos.consensus.configuration import Configuration, decode, encode
from raftos.consensus.guard import NO_OP, REGULAR
from raftos.consensus.journal import Identity, Journal, Writer
from raftos.consensus.opening import Opened, open_data, open_member, write_now
from raftos.consensus.recovery import TERMS_AHEAD, make_sole_voter
from raftos.consensus.snapshots import Header, SnapshotStore, Stored, pieces_of
from raftos.errors import StartupError
from raftos.levels import LEVEL
from raftos.state import copying, place
from raftos.state.command import encode_entry, encode_request, new_request_id
from raftos.state.domains.kv import Get, Put
from raftos.state.machine import Machine
from raftos.state.storage import FORMAT, OLDEST_FORMAT
from tests.unit.consensus.forgetful import ForgetfulStorage, PowerCut
from tests.unit.damaging import overwrite
from tests.unit.enabling import enabled

EPOCH_MS = 1_700_000_000_000
CONFIGURATION = encode(Configuration.of("abc"))


@contextmanager
def opened(folder: Path) -> Iterator[Opened]:
    folder.mkdir(exist_ok=True)
    parts = open_data(folder, "cluster", "a")
    try:
        yield parts
    finally:
        parts.machine.close()
        parts.snapshots.close()
        parts.journal.close()


def put(number: int) -> bytes:
    request = encode_request(new_request_id(EPOCH_MS), Put(key="key", value=b"%d" % number))
    return encode_entry(EPOCH_MS + number, [request])


def fill(parts: Opened, count: int, *, term: int = 1) -> None:
    """Append and apply some entries, durably."""
    journal = parts.journal
    if journal.last_index == 0:
        journal.append(bytes((NO_OP,)), 1, 0)
        parts.machine.apply([(1, b"")])
    journal.set_hard_state(term, "a")
    for _ in range(count):
        index = journal.last_index + 1
        journal.append(bytes((REGULAR,)) + put(index), index, term)
        parts.machine.apply([(index, put(index))])
    write = journal.take()
    assert write is not None
    journal.writer.write(write)
    journal.finish(write)
    parts.machine.sync()


def snapshot(parts: Opened, folder: Path, *, term: int = 1, **changes: Any) -> Stored:
    """A snapshot of all that is applied, whose header may say something else."""
    copied = parts.machine.copy_to(folder / "copy.sqlite3")
    header = Header(
        "cluster",
        copied.applied_index,
        term,
        CONFIGURATION,
        copied.time_ms,
        copied.revision,
        copied.state_hash,
        copied.format,
        copied.size_bytes,
        "1.0",
        0,
    )
    header = msgspec.structs.replace(header, **changes)
    return parts.snapshots.write(header, pieces_of(folder / "copy.sqlite3"))


def value(machine: Machine) -> bytes:
    reader = machine.reader()
    try:
        found: bytes = reader.query(Get(key="key")).value
    finally:
        reader.close()
    return found


def giver(folder: Path, count: int = 30, *, term: int = 1, **changes: Any) -> Path:
    """The snapshots of a member that has applied so much."""
    with opened(folder) as parts:
        fill(parts, count, term=term)
        snapshot(parts, folder, term=term, **changes)
    return folder / "snapshots"


def test_an_empty_directory_is_a_new_member(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as parts:
        assert parts.journal.last_index == parts.machine.applied_index == 0
        assert parts.snapshots.newest is None


@pytest.mark.parametrize("left", [["journal", "state"], ["state"], ["snapshots"], []], ids="+".join)
def test_a_journal_that_is_gone_is_no_new_one(tmp_path: Path, left: list[str]) -> None:
    """Even of a member that has promised nothing yet there is a file, so that none is one that was lost."""
    with opened(tmp_path / "b") as parts:
        fill(parts, 3)
        snapshot(parts, tmp_path / "b")
    with opened(tmp_path / "a"):
        pass
    open_data(tmp_path / "a", "cluster", "a", begun=True).machine.close()
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").mkdir()
    for name in left:
        shutil.copytree(tmp_path / "b" / name, tmp_path / "a" / name)
    if "journal" in left:
        for segment in (tmp_path / "a" / "journal").iterdir():
            segment.write_bytes(b"")
    with pytest.raises(StartupError, match="gone"):
        open_data(tmp_path / "a", "cluster", "a", begun=True)


class Interrupted(Machine):
    """The power fails just when its state would be exchanged."""

    def replace(self, incoming: Path) -> None:
        raise PowerCut


@pytest.mark.parametrize("seed", range(8))
def test_the_journal_gives_way_only_to_a_snapshot_with_a_durable_name(tmp_path: Path, seed: int) -> None:
    """One process was killed between renaming it and syncing the folder; the power failed in the next one."""
    with opened(tmp_path / "b") as parts:
        fill(parts, 30)
        stored = snapshot(parts, tmp_path / "b")
        content = parts.snapshots.read(stored.name, 0, stored.size_bytes)
    disk, shelf = ForgetfulStorage(), ForgetfulStorage()
    with from_storages(disk, shelf, tmp_path / "a") as parts:
        fill(parts, 5)
        incoming = parts.snapshots.incoming(stored.name, len(content))
        incoming.write(0, content)
        shelf.cut_after = 2
        with pytest.raises(PowerCut):
            incoming.complete()
    shelf.cut_after = None
    assert stored.name in shelf.files
    with pytest.raises(PowerCut), from_storages(disk, shelf, tmp_path / "a", Interrupted):
        pass
    choice = random.Random(seed)
    with from_storages(disk.power_cut(choice), shelf.power_cut(choice), tmp_path / "a") as parts:
        assert parts.machine.applied_index == 31


@contextmanager
def from_storages(
    disk: ForgetfulStorage, shelf: ForgetfulStorage, state: Path, kind: type[Machine] = Machine
) -> Iterator[Opened]:
    journal = Journal.open(disk, Identity("cluster", "a"))
    parts = open_member(
        journal, SnapshotStore(shelf, "cluster"), state, lambda folder: kind(folder, cluster_id="cluster")
    )
    try:
        yield parts
    finally:
        parts.machine.close()


def test_a_snapshot_that_arrived_but_was_not_installed_is_installed_now(tmp_path: Path) -> None:
    """The machine stopped between the two."""
    with opened(tmp_path / "a") as parts:
        fill(parts, 5)
    shutil.copytree(giver(tmp_path / "b"), tmp_path / "a" / "snapshots", dirs_exist_ok=True)
    for _ in range(2):
        with opened(tmp_path / "a") as parts:
            assert parts.machine.applied_index == 31
            assert (parts.journal.first_index, parts.journal.last_index) == (32, 31)
            assert parts.journal.term_at(31) == 1
            assert parts.journal.vote == "a"
            assert parts.journal.mark is not None
            assert decode(parts.journal.mark.payload) == Configuration.of("abc")
            assert value(parts.machine) == b"31"


def test_a_state_that_lacks_one_entry_of_what_a_log_begins_after_is_made_anew(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as parts:
        fill(parts, 29)
    shutil.copytree(giver(tmp_path / "b", 30), tmp_path / "a" / "snapshots", dirs_exist_ok=True)
    with opened(tmp_path / "a") as parts:
        assert parts.machine.applied_index == parts.journal.first_index - 1 == 31


def test_entries_beside_a_snapshot_give_way_to_it(tmp_path: Path) -> None:
    """They are of an earlier term and were never agreed on; they even reach further."""
    with opened(tmp_path / "a") as parts:
        fill(parts, 5)
        for index in range(7, 40):
            parts.journal.append(bytes((NO_OP,)), index, 1)
        write = parts.journal.take()
        assert write is not None
        parts.journal.writer.write(write)
    shutil.copytree(giver(tmp_path / "b", term=2), tmp_path / "a" / "snapshots", dirs_exist_ok=True)
    with opened(tmp_path / "a") as parts:
        assert (parts.journal.first_index, parts.journal.last_index) == (32, 31)
        assert parts.journal.term == 2


def test_a_restored_snapshot_begins_an_empty_member(tmp_path: Path) -> None:
    """`raftos snapshot restore` puts nothing but this file there."""
    (tmp_path / "a").mkdir()
    shutil.copytree(giver(tmp_path / "b", term=7), tmp_path / "a" / "snapshots")
    with opened(tmp_path / "a") as parts:
        assert parts.machine.applied_index == parts.journal.last_index == 31
        assert parts.journal.term == 7, "a term that was used is not used again"


def test_a_snapshot_of_what_the_journal_has_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as parts:
        fill(parts, 5)
        snapshot(parts, tmp_path / "a")
        fill(parts, 5)
    with opened(tmp_path / "a") as parts:
        assert (parts.journal.first_index, parts.journal.last_index) == (1, 11)
        assert parts.machine.applied_index == 11


def lose_state(folder: Path) -> None:
    shutil.rmtree(folder / "state")


def lose_state_and_snapshots(folder: Path) -> None:
    shutil.rmtree(folder / "state")
    shutil.rmtree(folder / "snapshots")


def trimmed(folder: Path, snapshots: Path | None = None) -> None:
    with opened(folder) as parts:
        fill(parts, 5)
    shutil.copytree(snapshots or giver(folder.with_name("giver")), folder / "snapshots", dirs_exist_ok=True)
    with opened(folder) as parts:
        fill(parts, 3)


def test_a_lost_state_is_made_anew_from_the_snapshot_and_the_log(tmp_path: Path) -> None:
    trimmed(tmp_path / "a")
    lose_state(tmp_path / "a")
    with opened(tmp_path / "a") as parts:
        assert parts.machine.applied_index == 31
        assert parts.journal.last_index == 34
        assert value(parts.machine) == b"31"


def test_a_damaged_state_that_came_from_a_snapshot_is_made_anew(tmp_path: Path) -> None:
    """Whatever of it the start meets first."""
    trimmed(tmp_path / "a")
    overwrite(tmp_path / "a" / "state" / "state-1.sqlite3", "requests")
    with opened(tmp_path / "a") as parts:
        assert parts.machine.applied_index == 31
        assert parts.journal.last_index == 34
        assert value(parts.machine) == b"31"


def test_a_snapshot_of_a_level_to_come_never_becomes_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The member runs an older version now: each start says so, and the right version goes on from it."""
    with opened(tmp_path / "b") as parts:
        enabled(parts.machine)
    trimmed(tmp_path / "a", giver(tmp_path / "b"))
    lose_state(tmp_path / "a")
    monkeypatch.setattr(copying, "LEVEL", LEVEL - 1)
    for _ in range(2):
        with pytest.raises(StartupError, match=f"knows up to {LEVEL - 1}"), opened(tmp_path / "a"):
            pass
    monkeypatch.undo()
    with opened(tmp_path / "a") as parts:
        assert (parts.machine.applied_index, parts.machine.level) == (31, LEVEL)


def lose_state_and_all_but_an_older_snapshot(folder: Path) -> None:
    lose_state_and_snapshots(folder)
    shutil.copytree(giver(folder.with_name("older"), 10), folder / "snapshots")


@pytest.mark.parametrize("lose", [lose_state_and_snapshots, lose_state_and_all_but_an_older_snapshot])
def test_what_cannot_be_made_whole_is_refused_with_what_to_do(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    trimmed(tmp_path / "a")
    lose(tmp_path / "a")
    with pytest.raises(StartupError, match="rejoin under a new id"), opened(tmp_path / "a"):
        pass


def test_a_state_beyond_the_journal_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as parts:
        fill(parts, 5)
    shutil.rmtree(tmp_path / "a" / "journal")
    with pytest.raises(StartupError, match="log entries are missing"), opened(tmp_path / "a"):
        pass


# Going on after a majority was lost.


def config(folder: Path) -> Config:
    return Config(
        cluster="shop",
        cluster_id="cluster",
        member_id="a",
        name="n1",
        data_dir=str(folder),
        secret_file="unused",
        voters=tuple(Voter(name, name, "127.0.0.1:1", "http://127.0.0.1:1") for name in "abc"),
        peer_address="127.0.0.1:1",
        api_address="127.0.0.1:1",
    )


def test_a_sole_voter_keeps_its_log_and_remembers_whom_it_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with opened(folder) as parts:
        fill(parts, 5)
    done = make_sole_voter(folder, config(folder))
    assert done.dropped == ("b", "c")
    assert done.applied_index == 6
    with opened(folder) as parts:
        assert parts.journal.last_index == done.index == 7
        assert parts.journal.last_term == parts.journal.term == done.term == 1 + TERMS_AHEAD
        assert parts.journal.mark is not None
        alone = decode(parts.journal.mark.payload)
        assert alone.voters == ("a",)
        assert alone.removed == ("b", "c")


def test_a_sole_voter_remembers_who_was_removed_before(tmp_path: Path) -> None:
    """They could come back under their ids, and would not be told."""
    folder = tmp_path / "a"
    with opened(folder) as parts:
        fill(parts, 5)
        parts.journal.append(encode(Configuration(Configuration.of("abc").peers, ("x",))), 7, 1)
        write_now(parts.journal)
    make_sole_voter(folder, config(folder))
    with opened(folder) as parts:
        assert parts.journal.mark is not None
        assert decode(parts.journal.mark.payload).removed == ("x", "b", "c")


def test_a_member_without_a_log_can_be_a_sole_voter_too(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    assert make_sole_voter(folder, config(folder)).index == 2


def test_asked_twice_it_drops_nobody_more(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    make_sole_voter(folder, config(folder))
    assert make_sole_voter(folder, config(folder)).dropped == ()


def test_a_removed_member_cannot_be_the_sole_voter(tmp_path: Path) -> None:
    """It would be told of its removal by its own log, and stop."""
    folder = tmp_path / "a"
    removed = encode(Configuration(Configuration.of("bc").peers, ("a",)))
    with opened(folder) as parts:
        fill(parts, 5)
        parts.journal.append(removed, 7, 1)
        write = parts.journal.take()
        assert write is not None
        parts.journal.writer.write(write)
    with pytest.raises(StartupError, match="was removed from the cluster"):
        make_sole_voter(folder, config(folder))
    with opened(folder) as parts:
        assert (parts.journal.last_index, parts.journal.term) == (7, 1)


def test_the_journal_does_not_give_way_to_a_damaged_snapshot(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as parts:
        fill(parts, 5)
    shutil.copytree(giver(tmp_path / "b"), tmp_path / "a" / "snapshots", dirs_exist_ok=True)
    [file] = (tmp_path / "a" / "snapshots").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(StartupError, match="is damaged"), opened(tmp_path / "a"):
        pass
    file.unlink()
    with opened(tmp_path / "a") as parts:
        assert parts.journal.last_index == parts.machine.applied_index == 6


OTHER_VERSIONS: list[dict[str, Any]] = [
    {"state_format": FORMAT + 1},
    {"state_format": OLDEST_FORMAT - 1},
    {"configuration": encode(Configuration.of("abc")).replace(b"voter", b"ghost")},
    {"configuration": b"\x10\x92\x91\x93\xa1\xff"},
]
"""What the header of a snapshot says that another version of raftos made."""


@pytest.mark.parametrize("changes", OTHER_VERSIONS)
def test_the_journal_does_not_give_way_to_a_snapshot_of_another_version(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """In an upgrade a newer leader may have sent it; the journal is all the older one can go on from."""
    with opened(tmp_path / "a") as parts:
        fill(parts, 5)
    shutil.copytree(giver(tmp_path / "b", **changes), tmp_path / "a" / "snapshots", dirs_exist_ok=True)
    with pytest.raises(StartupError, match="run a version that can"), opened(tmp_path / "a"):
        pass
    [file] = (tmp_path / "a" / "snapshots").iterdir()
    file.unlink()
    with opened(tmp_path / "a") as parts:
        assert parts.journal.last_index == parts.machine.applied_index == 6


def test_a_log_whose_members_cannot_be_read_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as parts:
        fill(parts, 5)
        parts.journal.append(b"\x10garbage", 7, 1)
        write_now(parts.journal)
    with pytest.raises(StartupError, match="start the version that ran here"), opened(tmp_path / "a"):
        pass


# Disks that do not do what they are asked for.


@pytest.mark.parametrize("call", ["_put", "_sync"])
def test_a_disk_that_does_not_take_the_beginning_of_the_journal_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It may have become full just while the snapshot was being installed; with space, all goes on."""
    with opened(tmp_path / "a") as parts:
        fill(parts, 5)
    shutil.copytree(giver(tmp_path / "b"), tmp_path / "a" / "snapshots", dirs_exist_ok=True)
    with monkeypatch.context() as full:
        full.setattr(Writer, call, _full)
        with pytest.raises(StartupError, match=r"No space left.*free some space"), opened(tmp_path / "a"):
            pass
    with opened(tmp_path / "a") as parts:
        assert parts.machine.applied_index == parts.journal.last_index == 31


def test_a_sole_voter_that_cannot_be_written_down_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "_put", _full)
    folder = tmp_path / "a"
    folder.mkdir()
    with pytest.raises(StartupError, match="nothing is changed for certain"):
        make_sole_voter(folder, config(folder))


def damage_state(folder: Path) -> None:
    [file] = (folder / "state").glob("state-*.sqlite3")
    file.write_bytes(b"")


def test_a_damaged_state_that_cannot_be_replaced_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed(tmp_path / "a")
    damage_state(tmp_path / "a")
    with monkeypatch.context() as full:
        full.setattr(place, "put_in_place", _full)
        with pytest.raises(StartupError, match="free some space"), opened(tmp_path / "a"):
            pass
    with opened(tmp_path / "a") as parts:
        assert parts.machine.applied_index == 31


def test_a_damaged_state_and_a_damaged_snapshot_are_told_in_a_sentence(tmp_path: Path) -> None:
    trimmed(tmp_path / "a")
    damage_state(tmp_path / "a")
    [file] = (tmp_path / "a" / "snapshots").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StartupError, match="the snapshot is damaged"), opened(tmp_path / "a"):
        pass


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
