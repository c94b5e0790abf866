"""Copies of a state in use: of one moment, equal to a replay, and no hindrance to those who apply."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from raftos.errors import StartupError
from raftos.state import place, storage
from raftos.state.copying import copied, restore_file
from raftos.state.domains import chat, kv, members
from raftos.state.machine import CannotApply, Copied, Machine
from raftos.state.rehome import adopt
from tests.unit.filling import hardly_any_room
from tests.unit.state.feeder import START_MS, Feeder, request_id
from tests.unit.state.test_determinism import some_log


def stands(machine: Machine) -> tuple[int, int, int, bytes]:
    return machine.applied_index, machine.time_ms, machine.revision, machine.state_hash


def tables(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table of a closed file."""
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    try:
        everything = "SELECT * FROM {} ORDER BY 1"
        return {name: db.execute(everything.format(name)).fetchall() for name in names}
    finally:
        db.close()


def pieces(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    return (content[at : at + 50_000] for at in range(0, len(content), 50_000))


def extracted(path: Path, found: Copied, folder: Path) -> Path:
    return restore_file(pieces(path), folder, index=found.applied_index, state_hash=found.state_hash)


def test_a_copy_made_while_others_apply_equals_a_replay(
    feeders: Callable[..., Feeder], tmp_path: Path
) -> None:
    """Each of several is the state as of the index that it says, in every table; nothing is beside it."""
    feeder = feeders()
    made: list[tuple[Path, Copied]] = []
    stop = threading.Event()

    def copy() -> None:
        while not stop.is_set():
            path = tmp_path / f"copy{len(made)}"
            made.append((path, feeder.machine.copy_to(path)))

    log = [payload for seed in range(8) for payload in some_log(seed)]
    thread = threading.Thread(target=copy)
    thread.start()
    for payload in log:
        feeder.apply(payload)
    stop.set()
    thread.join()
    assert len({found.applied_index for _, found in made}) > 1
    for path, found in (made[0], made[len(made) // 2], made[-1]):
        replayed = feeders()
        replayed.apply(*log[: found.applied_index])
        assert found[:4] == stands(replayed.machine)
        assert found.size_bytes == path.stat().st_size
        assert tables(path) == replayed.rows()
    assert not list(tmp_path.glob("copy*-*"))


def test_a_copy_takes_the_place_of_what_was_there(feeder: Feeder, tmp_path: Path) -> None:
    """A leftover is no obstacle."""
    (tmp_path / "copy").write_bytes(b"something else" * 9_000)
    feeder.do(kv.Put("a", b"1"))
    found = feeder.machine.copy_to(tmp_path / "copy")
    assert found == copied(tmp_path / "copy")
    assert (found.format, found.cluster_id) == (storage.FORMAT, "")
    assert found[:4] == stands(feeder.machine)


def test_a_disk_without_space_is_a_sentence_and_leaves_nothing(feeder: Feeder, tmp_path: Path) -> None:
    """With space again it works, and the machine never noticed."""
    feeder.do(*(kv.Put(f"k{number}", bytes(50_000)) for number in range(10)))
    with (
        hardly_any_room(200_000),
        pytest.raises(CannotApply, match=r"cannot copy the state: .*free some space"),
    ):
        feeder.machine.copy_to(tmp_path / "copy")
    assert not list(tmp_path.glob("copy*"))
    with pytest.raises(CannotApply, match="cannot copy the state"):
        feeder.machine.copy_to(tmp_path / "missing" / "copy")
    assert feeder.machine.copy_to(tmp_path / "copy").applied_index == 1


def test_while_a_copy_is_made_a_checkpoint_holds_nobody_up(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a long log cannot be moved then, and waiting for it would make the writer wait."""
    monkeypatch.setattr(storage, "WAL_KEEP_BYTES", 50_000)
    feeder.do(kv.Put("a", bytes(50_000)))
    reading = storage.connect_reader(place.current_file(feeder.folder))
    reading.execute("BEGIN")
    reading.execute("SELECT * FROM machine").fetchone()
    feeder.do(kv.Put("b", bytes(50_000)))
    feeder.machine._is_copying = True
    began = time.monotonic()
    feeder.machine.checkpoint()
    assert time.monotonic() - began < storage.LOCK_TIMEOUT_S / 2
    feeder.machine._is_copying = False
    reading.close()
    feeder.machine.checkpoint()


# What is durable.


def test_what_is_synced_is_found_in_the_files_as_they_are(feeder: Feeder, tmp_path: Path) -> None:
    """Database and log make up the state, whether a reader held a checkpoint up or none was made."""
    reading = storage.connect_reader(feeder.folder / storage.FILE_NAME)
    for number in range(6):
        feeder.do(kv.Put("a", bytes([number]) * 9_000))
        if number == 2:
            reading.execute("BEGIN")
            reading.execute("SELECT * FROM machine").fetchone()
        if number % 2:
            feeder.machine.checkpoint()
        index = feeder.machine.sync()
        assert index == feeder.machine.applied_index == number + 1
        folder = tmp_path / f"crash{number}"
        folder.mkdir()
        for name in (storage.FILE_NAME, f"{storage.FILE_NAME}-wal"):
            (folder / name).write_bytes((feeder.folder / name).read_bytes())
        again = Machine(folder)
        assert stands(again) == stands(feeder.machine)
        again.check()
        again.close()
    reading.close()


def test_syncing_keeps_sqlites_locks(feeder: Feeder) -> None:
    """Closing any descriptor of the database would drop them, and another program take the log away."""
    feeder.do(kv.Put("a", b"1"))
    feeder.machine.sync()
    inode = (feeder.folder / storage.FILE_NAME).stat().st_ino
    locks = Path("/proc/locks").read_text(encoding="ascii")
    assert any(line.split()[5].endswith(f":{inode}") for line in locks.splitlines())


def test_after_a_failed_sync_nothing_is_ever_called_durable(feeder: Feeder) -> None:
    """What the disk lost looks written from then on."""
    feeder.do(kv.Put("a", b"1"))
    wal = place.beside(feeder.folder / storage.FILE_NAME, "-wal")
    wal.rename(wal.with_name("away"))
    with pytest.raises(CannotApply, match="cannot sync the state"):
        feeder.machine.sync()
    wal.with_name("away").rename(wal)
    with pytest.raises(CannotApply, match="start again"):
        feeder.machine.sync()
    feeder.reopen()
    assert feeder.machine.sync() == 1


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC])
def test_a_checkpoint_whose_sync_failed_is_the_last(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Later syncs would succeed without what this one lost, and a checkpoint move what is not there."""
    feeder.do(kv.Put("a", b"1"))
    database = feeder.folder / storage.FILE_NAME
    with monkeypatch.context() as patch:
        patch.setattr(storage, "checkpoint", partial(_fails, code))
        with pytest.raises(CannotApply, match="cannot write the state"):
            feeder.machine.checkpoint()
    before = database.read_bytes()
    for relied_on in (feeder.machine.sync, feeder.machine.checkpoint):
        with pytest.raises(CannotApply, match="start again"):
            relied_on()
    assert "start again" in feeder.machine.sync_trouble
    feeder.reopen()
    assert database.read_bytes() == before


def test_a_turn_whose_sync_failed_is_the_last_to_be_believed(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite syncs when it begins its log anew, which a commit may do."""
    with monkeypatch.context() as patch:
        patch.setattr("raftos.state.tally.Tallies.save", lambda _: _fails(sqlite3.SQLITE_IOERR_FSYNC))
        with pytest.raises(CannotApply):
            feeder.do(kv.Put("a", b"1"))
    with pytest.raises(CannotApply, match="start again"):
        feeder.machine.sync()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_want_of_open_files_is_no_failed_sync(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nothing was to be written yet, so nothing is lost; another time it may go."""
    feeder.do(kv.Put("a", b"1"))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "sync_log", partial(_raises, OSError(number, os.strerror(number))))
        with pytest.raises(CannotApply, match="cannot sync the state"):
            feeder.machine.sync()
    assert feeder.machine.sync_trouble == ""
    assert feeder.machine.sync() == 1


def _fails(code: int, *_: object, **__: object) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    raise error


def _raises(error: Exception, *_: object) -> None:
    raise error


# Put together from a snapshot.


def test_a_restored_file_is_the_copy(feeder: Feeder, tmp_path: Path) -> None:
    """In the folder of the state, where a replacement takes it; a folder is made if there is none."""
    feeder.do(kv.Put("a", bytes(200_000)))
    found = feeder.machine.copy_to(tmp_path / "copy")
    path = extracted(tmp_path / "copy", found, tmp_path / "new" / "state")
    assert path == tmp_path / "new" / "state" / place.INCOMING_NAME
    assert path.read_bytes() == (tmp_path / "copy").read_bytes()
    assert copied(path) == found


def test_a_state_that_is_not_what_its_header_says_is_refused(feeder: Feeder, tmp_path: Path) -> None:
    """Another index, another hash, no state at all, or no space: a sentence, and nothing is left."""
    feeder.do(kv.Put("a", bytes(200_000)))
    found = feeder.machine.copy_to(tmp_path / "copy")
    folder = tmp_path / "state"
    for wrong in (found._replace(applied_index=2), found._replace(state_hash=bytes(16))):
        with pytest.raises(StartupError, match="use another snapshot"):
            extracted(tmp_path / "copy", wrong, folder)
    with pytest.raises(StartupError, match="not a database"):
        restore_file([b"no state " * 1_000], folder, index=1, state_hash=b"")
    with pytest.raises(StartupError, match="no such table"):
        restore_file([], folder, index=1, state_hash=b"")
    with hardly_any_room(100_000), pytest.raises(StartupError, match="free some space"):
        extracted(tmp_path / "copy", found, folder)
    assert list(folder.iterdir()) == []


def test_what_the_pieces_raise_goes_on(tmp_path: Path) -> None:
    """A corrupt snapshot is not called a full disk; what was extracted of it is removed."""

    def broken() -> Iterator[bytes]:
        yield b"SQLite"
        raise LookupError

    with pytest.raises(LookupError):
        restore_file(broken(), tmp_path, index=1, state_hash=b"")
    assert list(tmp_path.iterdir()) == []


# In another cluster.


def register(name: str) -> members.Register:
    return members.Register(id=name, name=name, endpoint="", peer_address="", version="1")


def test_members_that_adopt_alone_hold_equal_states(feeders: Callable[..., Feeder], tmp_path: Path) -> None:
    """Of the new cluster, without the old one's machines, and with everything else."""
    old = feeders(cluster_id="old")
    old.do(register("m1"), register("m2"), kv.Put("a", b"1"), chat.Create("r"), chat.Post("r", "me", "hello"))
    found = old.machine.copy_to(tmp_path / "copy")
    adopted = []
    for number in range(3):
        new = feeders(cluster_id="new")
        path = extracted(tmp_path / "copy", found, new.folder)
        adopt(path, "new")
        assert copied(path)[:4] == found[:4]
        assert sorted(new.folder.glob("incoming*")) == [path]
        new.machine.replace(path)
        adopted.append((new.rows(), new.machine.state_hash))
        assert new.ask(members.List()).items == []
        assert new.ask(kv.Get("a")).value == b"1"
        payload = old.entry((request_id(START_MS, 90), register(f"n{number}")))
        new.apply(payload)
    assert adopted[0] == adopted[1] == adopted[2]
    expected = old.rows()
    different = {name for name, rows in expected.items() if rows != adopted[0][0][name]}
    assert different == {"machine", "members"}


def test_what_cannot_be_adopted_is_a_sentence(tmp_path: Path) -> None:
    """A missing file is not created."""
    with pytest.raises(StartupError, match="cannot give the state"):
        adopt(tmp_path / "missing", "new")
    assert list(tmp_path.iterdir()) == []
