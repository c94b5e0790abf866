"""Opening what is there: the same cluster and a known format, or one sentence and nothing touched."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from raftos.errors import StartupError
from raftos.levels import LEVEL
from raftos.state import storage
from raftos.state.command import Ok
from raftos.state.domains import kv, members
from raftos.state.machine import Machine, StateIncomplete
from tests.unit.damaging import overwrite
from tests.unit.state.feeder import Feeder


def fingerprint(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_reopening_finds_everything_again(feeder: Feeder) -> None:
    """Position, time, revision, hash and rows."""
    feeder.do(kv.Put("a", b"1"), kv.Put("b", b"2"))
    machine = feeder.machine
    before = (machine.applied_index, machine.time_ms, machine.revision, machine.state_hash, feeder.rows())
    feeder.reopen()
    machine = feeder.machine
    after = (machine.applied_index, machine.time_ms, machine.revision, machine.state_hash, feeder.rows())
    assert after == before
    assert isinstance(feeder.do(kv.Put("a", b"3"))[0], Ok)


def test_the_state_of_another_cluster_is_refused(feeders: Callable[..., Feeder]) -> None:
    """One sentence, and the file is as it was."""
    feeder = feeders(cluster_id="ours")
    feeder.do(kv.Put("a", b"1"))
    feeder.machine.close()
    before = fingerprint(feeder.folder)
    with pytest.raises(StartupError, match="belongs to cluster 'ours', not to 'theirs'"):
        Machine(feeder.folder, cluster_id="theirs")
    assert fingerprint(feeder.folder) == before
    feeder.reopen()


def test_a_newer_format_is_refused(feeder: Feeder) -> None:
    """An older raftos does not touch what a newer one wrote."""
    feeder.machine.close()
    path = feeder.folder / storage.FILE_NAME
    db = sqlite3.connect(path)
    db.execute("UPDATE machine SET format = format + 1")
    db.commit()
    db.close()
    before = fingerprint(feeder.folder)
    with pytest.raises(StartupError, match="start the newer version"):
        Machine(feeder.folder)
    assert fingerprint(feeder.folder) == before
    db = sqlite3.connect(path)
    db.execute("UPDATE machine SET format = format - 1")
    db.commit()
    db.close()
    feeder.reopen()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """And not overwritten."""
    path = tmp_path / storage.FILE_NAME
    path.write_bytes(b"not a database " * 500)
    with pytest.raises(StartupError, match="not a database"):
        Machine(tmp_path)
    assert path.read_bytes() == b"not a database " * 500


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "state").write_text("")
    with pytest.raises(StartupError, match="check the disk and its rights"):
        Machine(tmp_path / "state")


def test_a_damaged_page_stops_the_member_and_is_no_fault(feeder: Feeder) -> None:
    """Corruption is this machine's trouble; other members go on."""
    feeder.do(*(kv.Put(f"k{number}", bytes(2_000)) for number in range(50)))
    feeder.machine.checkpoint()
    feeder.machine.close()
    path = feeder.folder / storage.FILE_NAME
    good = path.read_bytes()
    damaged_bytes = 20 * 4096  # The last pages: the first ones are tables that a machine needs to open.
    path.write_bytes(good[:-damaged_bytes] + b"\xff" * damaged_bytes)
    machine = Machine(feeder.folder)
    payload = feeder.entry(*((feeder.new_id(), kv.Put(f"k{number}", b"")) for number in range(50)))
    with pytest.raises(Exception, match="malformed") as caught:
        machine.apply([(2, payload)])
    assert type(caught.value).__name__ == "CannotApply"
    assert machine.faults == 0
    machine.close()
    path.write_bytes(good)
    feeder.reopen()


def test_a_checkpoint_empties_a_long_write_ahead_log(feeder: Feeder) -> None:
    """After it SQLite writes at the log's beginning again instead of growing it."""
    wal = feeder.folder / f"{storage.FILE_NAME}-wal"
    sizes = []
    for _ in range(4):
        feeder.do(kv.Put("a", bytes(500_000)))
        feeder.machine.checkpoint()
        sizes.append(wal.stat().st_size)
    assert max(sizes) < 1_500_000


def test_what_is_applied_while_the_state_is_synced_does_not_count_as_durable(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log would be trimmed by it, and after a power cut nobody had what came just after the sync."""
    feeder.do(kv.Put("a", b"1"))
    sync_log = storage.sync_log

    def sync_and_apply_more(path: Path) -> None:
        sync_log(path)
        feeder.do(kv.Put("a", b"2"))

    monkeypatch.setattr(storage, "sync_log", sync_and_apply_more)
    assert feeder.machine.sync() == 1


OLD_MEMBERS = """
CREATE TABLE machine (
    id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL, cluster_id TEXT NOT NULL,
    applied_index INTEGER NOT NULL, time_ms INTEGER NOT NULL, revision INTEGER NOT NULL,
    horizon_ms INTEGER NOT NULL, state_hash BLOB NOT NULL
) STRICT;
INSERT INTO machine VALUES (1, 2, '', 7, 5000, 3, 0, zeroblob(16));
CREATE TABLE members (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, endpoint TEXT NOT NULL, peer_address TEXT NOT NULL,
    version TEXT NOT NULL, state TEXT NOT NULL, since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO members VALUES ('m-1', 'n1', 'e', 'p', '0.1', 'alive', 4000);
"""


@pytest.fixture
def format_2(tmp_path: Path) -> Path:
    """The state of a version before feature levels."""
    db = sqlite3.connect(tmp_path / storage.FILE_NAME)
    db.executescript(OLD_MEMBERS)
    db.close()
    return tmp_path


def test_a_state_of_format_2_is_upgraded_where_it_is(format_2: Path) -> None:
    """Its members count as of level 1, and everything else is as it was."""
    for _ in range(2):
        machine = Machine(format_2)
        assert (machine.applied_index, machine.level) == (7, 1)
        reader = machine.reader()
        assert reader.query(members.Get(id="m-1")) == members.Member(
            "m-1", "n1", "e", "p", "0.1", "alive", 4000, 1
        )
        reader.close()
        machine.check()
        machine.close()
    db = sqlite3.connect(format_2 / storage.FILE_NAME)
    assert db.execute("SELECT format FROM machine").fetchone() == (storage.FORMAT,)
    db.close()


def test_an_upgrade_that_breaks_off_leaves_the_old_format_whole(format_2: Path) -> None:
    """One transaction: the next start finds what the older version left, and upgrades it then."""
    half = {2: "ALTER TABLE members ADD COLUMN level INTEGER NOT NULL DEFAULT 1; SELECT * FROM nowhere;"}
    with pytest.raises(StartupError, match="nowhere"):
        storage.open_state(format_2, "", "", half)
    db = sqlite3.connect(format_2 / storage.FILE_NAME)
    assert db.execute("SELECT format FROM machine").fetchone() == (2,)
    assert "level" not in [row[1] for row in db.execute("PRAGMA table_info(members)")]
    db.close()
    Machine(format_2).close()


def test_damage_on_the_disk_is_found_table_by_table(tmp_path: Path) -> None:
    """A page is overwritten, as a bad disk does. The tables that are sound are called so."""
    machine = Feeder(tmp_path)
    machine.do(*(kv.Put(f"k{number}", bytes(500)) for number in range(200)))
    assert "kv" in machine.machine.tables()
    assert not [table for table in machine.machine.tables() if machine.machine.damage(table)]
    machine.close()
    path = tmp_path / storage.FILE_NAME
    overwrite(path, "kv")
    found = {table: storage.damage(path, table) for table in storage.tables(path)}
    assert found["members"] is None
    assert "the table 'kv' in state.sqlite3 is damaged" in (found["kv"] or "")


@pytest.mark.parametrize("table", ["requests", "tallies"])
def test_damage_that_is_met_at_the_start_is_one_sentence(tmp_path: Path, table: str) -> None:
    """And where the state came from a snapshot, it is one that can be mended."""
    fed = Feeder(tmp_path)
    fed.do(kv.Put("a", b"1"))
    fed.close()
    path = tmp_path / storage.FILE_NAME
    overwrite(path, table)
    with pytest.raises(StartupError, match=r"cannot open the state .* malformed; check the disk") as caught:
        Machine(tmp_path)
    assert not isinstance(caught.value, StateIncomplete)
    path.rename(tmp_path / "state-1.sqlite3")
    with pytest.raises(StateIncomplete, match="extracted anew"):
        Machine(tmp_path)


@pytest.mark.parametrize(("offset", "size"), [(0, 100), (100, 3_000)])
def test_damage_of_the_list_of_tables_is_found_like_any_other(tmp_path: Path, offset: int, size: int) -> None:
    """Without it nothing can be read, whether the file's header is gone or what follows it."""
    Machine(tmp_path).close()
    path = tmp_path / storage.FILE_NAME
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * size)
    [table] = storage.tables(path)
    assert "the table 'sqlite_schema' in state.sqlite3 is damaged" in (storage.damage(path, table) or "")


def test_a_state_of_a_level_to_come_is_refused(feeder: Feeder) -> None:
    """The member was replaced by an older version after the cluster had gone on."""
    feeder.machine.close()
    path = feeder.folder / storage.FILE_NAME
    db = sqlite3.connect(path)
    db.execute("UPDATE tallies SET value = ? WHERE name = 'cluster.level'", (LEVEL + 1,))
    db.commit()
    with pytest.raises(StartupError, match=f"knows up to {LEVEL}"):
        Machine(feeder.folder)
    db.execute("UPDATE tallies SET value = 0 WHERE name = 'cluster.level'")
    db.commit()
    db.close()
    feeder.reopen()
