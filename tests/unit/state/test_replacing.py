"""One state takes the place of another: whole wherever it is interrupted, and readers go over."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftos.errors import NotFound, NotReady, StartupError
from raftos.levels import LEVEL
from raftos.state import place, storage
from raftos.state.command import Ok, Query, is_ok
from raftos.state.domain import Domain
from raftos.state.domains import DOMAINS, chat, kv
from raftos.state.machine import Copied, Machine, StateIncomplete
from tests.unit.state.feeder import Feeder
from tests.unit.state.test_chat_search import found as search
from tests.unit.state.test_copying import extracted, stands

WAIT_S = 20
"""So long at most for what another thread does."""


@pytest.fixture
def ahead(feeders: Callable[..., Feeder]) -> Feeder:
    """A machine at index 3."""
    feeder = feeders(cluster_id="c1")
    for number in range(3):
        feeder.do(kv.Put("a", bytes([number])), kv.Put(f"k{number}", bytes(30_000)))
    return feeder


@pytest.fixture
def behind(feeders: Callable[..., Feeder]) -> Feeder:
    """Another one of the same cluster at index 1."""
    feeder = feeders(cluster_id="c1")
    feeder.now_ms += 1  # Other request ids than those of the other machine.
    feeder.do(kv.Put("a", b"old"), kv.Put("gone", b""))
    return feeder


def incoming(source: Feeder, target: Feeder) -> Path:
    """The state of one machine, extracted in the folder of another."""
    copy = source.folder.parent / "for-another"
    return extracted(copy, source.machine.copy_to(copy), target.folder)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm"))}


def test_everything_is_as_in_the_other_machine(ahead: Feeder, behind: Feeder) -> None:
    """Position, tables and tallies; both go on alike, and it is found again after a restart."""
    behind.machine.replace(incoming(ahead, behind))
    payload = ahead.entry((ahead.new_id(), kv.Put("new", b"1")))
    for _ in range(2):
        assert stands(behind.machine) == stands(ahead.machine)
        assert behind.machine.tallies == ahead.machine.tallies
        behind.machine.check()
        assert behind.apply(payload) == ahead.apply(payload)
        behind.reopen()
    assert names(behind.folder) == {"state-1.sqlite3"}
    assert behind.machine.sync() == 5
    behind.machine.checkpoint()


def test_it_can_be_done_again_and_again(ahead: Feeder, behind: Feeder) -> None:
    """Each under the next number, also after a restart."""
    for number in range(1, 5):
        ahead.do(kv.Put("a", bytes([number])))
        behind.machine.replace(incoming(ahead, behind))
        assert names(behind.folder) == {f"state-{number}.sqlite3"}
        assert behind.ask(kv.Get("a")).value == bytes([number])
        if number == 2:
            behind.reopen()


def test_requests_are_remembered_as_where_the_state_came_from(ahead: Feeder, behind: Feeder) -> None:
    """Repetitions are answered as there; what only the old state knew is new."""
    request, lost = (ahead.new_id(), kv.Put("once", b"1")), (behind.new_id(), kv.Put("lost", b"1"))
    first = ahead.send(request)
    behind.send(lost)
    behind.machine.replace(incoming(ahead, behind))
    assert behind.send(request) == first
    assert behind.machine.revision == ahead.machine.revision
    [result] = behind.send((lost[0][:-1] + b"\xff", lost[1]))
    assert isinstance(result, Ok)
    behind.machine.check()


def test_quotas_come_along(ahead: Feeder, behind: Feeder) -> None:
    """What is counted is what is kept there."""
    assert behind.machine.tallies["kv.keys"] == 2
    behind.machine.replace(incoming(ahead, behind))
    assert behind.machine.tallies["kv.keys"] == 4
    behind.do(kv.Delete("a"))
    assert behind.machine.tallies["kv.keys"] == 3


def test_what_was_said_is_found(feeders: Callable[..., Feeder]) -> None:
    """What was indexed, what was not yet, and what is said afterwards; indexing goes on."""
    source, target = feeders(), feeders()
    target.now_ms += 1
    source.do(chat.Create("r"), chat.Post("r", "me", "an indexed fox"))
    source.do(*source.due())
    source.do(chat.Post("r", "me", "a fox of the tail"))
    target.machine.replace(incoming(source, target))
    target.do(chat.Post("r", "me", "a late fox"))
    for _ in range(2):
        assert search(target, "fox") == [("r", 3), ("r", 2), ("r", 1)]
        assert search(target, "indexed") == [("r", 1)]
        target.do(*target.due())


# What is refused.


def changed(path: Path, sql: str) -> Path:
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute(sql)
    db.commit()
    db.close()
    return path


REFUSED = {
    "another cluster": ("UPDATE machine SET cluster_id = 'c2'", "belongs to cluster 'c2', not to 'c1'"),
    "a newer format": ("UPDATE machine SET format = format + 1", "has format 4, this version reads 2 to 3"),
    "an older format": ("UPDATE machine SET format = format - 2", "has format 1"),
    "a level to come": (
        "UPDATE tallies SET value = value + 1000 WHERE name = 'cluster.level'",
        f"feature level 1000, and this version knows up to {LEVEL}",
    ),
    "no state": ("DELETE FROM machine", "it holds no state; extract it again"),
    "not newer": ("UPDATE machine SET applied_index = 1", "stands at 1, this member has applied 1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_unfit_state_is_refused_and_nothing_changes(ahead: Feeder, behind: Feeder, what: str) -> None:
    """The machine goes on from where it is."""
    sql, sentence = REFUSED[what]
    before = stands(behind.machine)
    with pytest.raises(StartupError, match=sentence):
        behind.machine.replace(changed(incoming(ahead, behind), sql))
    assert stands(behind.machine) == before
    assert isinstance(behind.do(kv.Put("a", b"2"))[0], Ok)
    behind.reopen()
    assert names(behind.folder) == {storage.FILE_NAME}


def test_a_missing_state_is_refused(behind: Feeder) -> None:
    """And none is created."""
    with pytest.raises(StartupError, match="extract it again"):
        behind.machine.replace(behind.folder / place.INCOMING_NAME)
    assert names(behind.folder) == {storage.FILE_NAME}


# Interrupted.


class Crashes:
    """Copies a folder before each thing that Python does to the disk, as a crash there would leave it."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.copies: list[Path] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, _: tuple[Any, ...]) -> None:
        if self.folder and event in {"open", "os.rename", "os.remove", "sqlite3.connect"}:
            folder, self.folder = self.folder, None
            self.copies.append(folder.with_name(f"crash{len(self.copies)}"))
            shutil.copytree(folder, self.copies[-1])
            self.folder = folder


CRASHES = Crashes()
"""One, because an audit hook stays for ever."""


def test_wherever_it_is_interrupted_the_folder_holds_one_state_or_the_other(
    ahead: Feeder, behind: Feeder
) -> None:
    """Whole, and the same machine goes on; then it can be done again, and leftovers are removed."""
    old, new = stands(behind.machine), stands(ahead.machine)
    path = incoming(ahead, behind)
    CRASHES.folder = behind.folder
    behind.machine.replace(path)
    CRASHES.folder = None
    outcomes = []
    for folder in CRASHES.copies:
        again = Machine(folder, cluster_id="c1")
        outcomes.append(stands(again))
        again.check()
        assert names(folder) == {storage.FILE_NAME if outcomes[-1] == old else "state-1.sqlite3"}
        again.close()
    switched = outcomes.index(new)
    assert set(outcomes[:switched]) == {old}
    assert set(outcomes[switched:]) == {new}
    assert 3 < switched < len(outcomes) - 3


def test_leftovers_are_removed_and_other_files_are_not(behind: Feeder) -> None:
    """An extract or a copy that was interrupted, and older states with what belongs to them."""
    behind.machine.close()
    for name in ("incoming.sqlite3", "copy.sqlite3", "copy.sqlite3-journal", "notes.txt", "state-x.sqlite3"):
        (behind.folder / name).write_bytes(b"x")
    (behind.folder / storage.FILE_NAME).rename(behind.folder / "state-12.sqlite3")
    for name in ("state.sqlite3", "state-2.sqlite3", "state-2.sqlite3-wal", "state-9.sqlite3-shm"):
        (behind.folder / name).write_bytes(b"x")
    behind.machine = Machine(behind.folder, cluster_id="c1")
    assert names(behind.folder) == {"state-12.sqlite3", "notes.txt", "state-x.sqlite3"}
    assert behind.ask(kv.Get("a")).value == b"old"


@pytest.mark.parametrize("content", [b"", b"not a database " * 500])
def test_a_state_from_a_snapshot_that_is_not_whole_is_extracted_again(
    ahead: Feeder, behind: Feeder, content: bytes
) -> None:
    """Never taken for a new one: the log before the snapshot is gone."""
    path = incoming(ahead, behind)
    behind.machine.replace(path)
    behind.machine.close()
    for name in ("state-1.sqlite3-wal", "state-1.sqlite3-shm"):
        (behind.folder / name).unlink(missing_ok=True)
    (behind.folder / "state-1.sqlite3").write_bytes(content)
    with pytest.raises(StateIncomplete, match="extracted anew"):
        Machine(behind.folder, cluster_id="c1")
    place.put_in_place(behind.folder, incoming(ahead, behind))
    behind.machine = Machine(behind.folder, cluster_id="c1")
    assert stands(behind.machine) == stands(ahead.machine)
    assert names(behind.folder) == {"state-2.sqlite3"}


# Readers.


class Slow(Query, frozen=True, tag="odd.slow"):
    """Count the keys, and wait in the middle."""


class Count(msgspec.Struct, frozen=True):
    keys: int


def test_a_reader_goes_over_at_its_next_query(ahead: Feeder, behind: Feeder) -> None:
    """Queries, what is due, and events; one that was never used as well."""
    used, unused = behind.machine.reader(), behind.machine.reader()
    assert used.query(kv.Get("a")).value == b"old"
    behind.machine.replace(incoming(ahead, behind))
    for reader in (used, unused):
        assert reader.query(kv.Get("a")).value == b"\x02"
        with pytest.raises(NotFound):
            reader.query(kv.Get("gone"))
    ahead.do(kv.Put("a", b"again"))
    behind.machine.replace(incoming(ahead, behind))
    assert used.events(0, 10**6).entries[-1].last_revision == 7
    assert unused.due(0) == []
    behind.do(kv.Put("a", b"later"))
    assert used.query(kv.Get("a")).value == unused.query(kv.Get("a")).value == b"later"
    used.close()
    unused.close()


def test_a_query_in_the_old_file_ends_there_and_harms_nothing(
    feeders: Callable[..., Feeder], ahead: Feeder
) -> None:
    """The old file is gone from the folder before it ends; the new one keeps its log when it does."""
    began, go_on = threading.Event(), threading.Event()

    def slow(db: sqlite3.Connection, _: Slow) -> Count:
        rows = db.execute("SELECT key FROM kv")
        rows.fetchone()
        began.set()
        go_on.wait(WAIT_S)
        return Count(1 + len(rows.fetchall()))

    odd = Domain(
        name="odd", schema="", commands={}, queries={Slow: slow}, answers={Slow: Count}, check=lambda _: ()
    )
    behind = feeders(cluster_id="c1", domains=(*DOMAINS, odd))
    behind.do(*(kv.Put(f"old{number}", bytes(900)) for number in range(500)))
    reader = behind.machine.reader()
    answers: list[Count] = []
    thread = threading.Thread(target=lambda: answers.append(reader.query(Slow())), daemon=True)
    thread.start()
    try:
        assert began.wait(WAIT_S)
        behind.machine.replace(incoming(ahead, behind))
        assert names(behind.folder) == {"state-1.sqlite3"}
        results = behind.do(kv.Put("new", b"1"))
    finally:
        go_on.set()
        thread.join(WAIT_S)
    assert answers == [Count(500)]
    assert isinstance(results[0], Ok)
    assert reader.query(Slow()) == Count(5)
    assert (behind.folder / "state-1.sqlite3-wal").stat().st_size > 0
    reader.close()


@pytest.mark.parametrize("seen", ["what a file without its log looks like", sqlite3.OperationalError("gone")])
def test_a_scan_goes_over_as_well(
    ahead: Feeder, behind: Feeder, monkeypatch: pytest.MonkeyPatch, seen: str | Exception
) -> None:
    """What it sees of the old file while that goes is neither damage nor trouble of this member."""
    looked = []

    def look(path: Path, table: str) -> str | None:
        looked.append((path.name, table))
        if len(looked) > 1:
            return None
        behind.machine.replace(incoming(ahead, behind))
        if isinstance(seen, Exception):
            raise seen
        return seen

    monkeypatch.setattr(storage, "damage", look)
    assert behind.machine.damage("kv") is None
    assert looked == [("state.sqlite3", "kv"), ("state-1.sqlite3", "kv")]


def test_a_reader_that_cannot_go_over_says_so_and_tries_again(ahead: Feeder, behind: Feeder) -> None:
    """It never answers from the old state."""
    reader = behind.machine.reader()
    reader.query(kv.Get("a"))
    behind.machine.replace(incoming(ahead, behind))
    path = behind.folder / "state-1.sqlite3"
    path.rename(path.with_name("away"))
    for _ in range(2):
        with pytest.raises(NotReady, match="unable to open"):
            reader.query(kv.Get("a"))
    path.with_name("away").rename(path)
    assert reader.query(kv.Get("a")).value == b"\x02"
    reader.close()


@contextmanager
def repeated(*works: Callable[[], object]) -> Iterator[list[Exception]]:
    """Each on a thread of its own, over and over while the block runs; gives what they raise."""
    stop = threading.Event()
    troubles: list[Exception] = []

    def repeat(work: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                work()
            except Exception as error:  # noqa: BLE001 - the test looks at all of them
                troubles.append(error)

    threads = [threading.Thread(target=repeat, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield troubles
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in threads)


def test_copies_checkpoints_and_syncs_on_threads_survive_replacements(ahead: Feeder, behind: Feeder) -> None:
    """Whatever file they find, the states stay whole and the old names stay away."""
    copies: list[Copied] = []
    reader = behind.machine.reader()
    copy = behind.folder.parent / "copy"
    with repeated(
        behind.machine.checkpoint,
        behind.machine.sync,
        lambda: copies.append(behind.machine.copy_to(copy)),
        lambda: reader.query(kv.Get("a")),
    ) as troubles:
        for number in range(15):
            payload = ahead.entry((ahead.new_id(), kv.Put("a", bytes([number]) * 5_000)))
            ahead.apply(payload)
            behind.machine.replace(incoming(ahead, behind))
            payload = ahead.entry((ahead.new_id(), kv.Put("b", bytes(5_000))))
            results = (*ahead.apply(payload), *behind.apply(payload))
            assert [is_ok(result) for [result] in results] == [True] * 2
    reader.close()
    assert {str(error) for error in troubles} == set()
    assert copies
    assert stands(behind.machine) == stands(ahead.machine)
    behind.reopen()
    assert stands(behind.machine) == stands(ahead.machine)
    assert names(behind.folder) == {"state-15.sqlite3"}
