"""Bugs in domain code and trouble of this machine: one becomes a result, the other never does."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
import pytest

from raftos.state import storage
from raftos.state.command import Command, Failed, Ok, Query, Rejected, Result, encode_request, is_ok
from raftos.state.domain import Context, Domain, described
from raftos.state.domains import kv
from raftos.state.events import Event
from raftos.state.machine import CannotApply
from tests.unit.state.feeder import START_MS, Feeder

# A domain as one of the coming ones, with every mistake one could make in it.


class Break(Command, frozen=True, tag="broken.break"):
    """Write something, then make a mistake."""

    how: Annotated[str, described("The mistake.")]


class Count(Query, frozen=True, tag="broken.count"):
    """How many rows there are."""


class Counted(msgspec.Struct, frozen=True):
    rows: int


class Happened(Event, frozen=True, tag="broken.happened"):
    what: Any


class DomainBug(Exception):
    pass


def apply_break(db: sqlite3.Connection, command: Break, context: Context) -> Any:
    db.execute("INSERT INTO broken VALUES (?, ?)", (context.revision, command.how))
    context.emit(Happened(object() if command.how == "event" else command.how))
    match command.how:
        case "raise":
            raise DomainBug("with words that only this member knows")
        case "noted":
            db.execute("SELECT noted(7 << 21)")
            raise DomainBug
        case "sql":
            db.execute("SELECT nothing FROM nowhere")
        case "constraint":
            db.execute("INSERT INTO broken VALUES (?, ?)", (context.revision, ""))
        case "binding":
            db.execute("INSERT INTO broken VALUES (?)", (1, 2, 3))
        case "none":
            return None
        case "value":
            return Ok(object())
        case "refuse":
            return Rejected("conflict", "after writing")
        case "memory":
            raise MemoryError
        case "disk":
            raise OSError("the disk is gone")
    return Ok(None)


def validate_break(command: Break) -> None:
    if command.how == "limits":
        raise DomainBug


BROKEN = Domain(
    name="broken",
    schema="CREATE TABLE IF NOT EXISTS broken (revision INTEGER PRIMARY KEY, how TEXT NOT NULL) STRICT;",
    commands={Break: apply_break},
    queries={Count: lambda db, _: Counted(*db.execute("SELECT count(*) FROM broken").fetchone())},
    answers={Count: Counted},
    validate={Break: validate_break},
    check=lambda _: (),
)
DOMAINS = (kv.DOMAIN, BROKEN)


@pytest.fixture
def broken(feeders: Callable[..., Feeder]) -> Feeder:
    return feeders(domains=DOMAINS)


MISTAKES = ["raise", "sql", "constraint", "binding", "none", "value", "event", "refuse", "limits"]


@pytest.mark.parametrize("how", MISTAKES)
def test_a_bug_fails_one_command_and_no_other(broken: Feeder, how: str) -> None:
    """What stood before and after it in its batch is applied; health turns red."""
    broken.do(kv.Put("before", b"1"))
    results = broken.do(kv.Put("a", b"1"), Break(how), Break("nothing"), kv.Put("a", b"2"))
    assert [type(result) for result in results] == [Ok, Failed, Ok, Ok]
    assert broken.machine.faults == 1
    assert broken.machine.revision == 4
    assert broken.ask(Count()) == Counted(1)
    assert broken.ask(kv.Get("a")).version == 2
    assert len(msgspec.msgpack.decode(broken.rows()["events"][1][2])) == 3


def test_a_bug_leaves_the_command_after_it_nothing_that_its_own_sql_had_noted(broken: Feeder) -> None:
    """Where both are of one turn: another member may take them in two, and must come to the same state."""
    failed, put = broken.do(Break("noted"), kv.Put("new", b"1"))
    assert isinstance(failed, Failed)
    assert isinstance(put, Ok)
    assert broken.ask(kv.Get("new")).version == 1


def test_every_member_gives_a_bug_the_same_words(feeders: Callable[..., Feeder]) -> None:
    """The result and the hash are replicated, so they hold nothing of one member's own."""
    machines = [feeders(domains=DOMAINS) for _ in range(2)]
    payloads = [
        machines[0].entry((machines[0].new_id(), kv.Put("a", b"1"))),
        machines[0].entry((machines[0].new_id(), Break("raise")), (machines[0].new_id(), kv.Put("a", b"2"))),
        machines[0].entry((machines[0].new_id(), Break("sql"))),
    ]
    together = machines[0].apply(*payloads)
    singly = [machines[1].apply(payload)[0] for payload in payloads]
    assert together == singly
    assert b"only this member" not in b"".join(together[1])
    assert machines[0].machine.state_hash == machines[1].machine.state_hash
    assert machines[0].rows() == machines[1].rows()
    assert [feeder.machine.faults for feeder in machines] == [2, 2]


def test_a_failed_request_is_remembered_like_any_other(broken: Feeder) -> None:
    """Sent again, it fails again without being tried again."""
    request = (broken.new_id(), Break("raise"))
    assert broken.send(request) == broken.send(request)
    assert broken.machine.faults == 1


@pytest.mark.parametrize("how", ["memory", "disk"])
def test_trouble_of_this_machine_is_never_a_result(broken: Feeder, how: str) -> None:
    """Not even beside a bug: nothing of the call has happened, and it may be made again."""
    broken.do(kv.Put("a", b"1"))
    before = (broken.rows(), broken.machine.state_hash, broken.machine.applied_index)
    request = (broken.new_id(), kv.Put("a", b"2"))
    troubled = broken.entry((broken.new_id(), Break("raise")), request, (broken.new_id(), Break(how)))
    for _ in range(2):
        with pytest.raises(CannotApply, match="cannot apply log entry 2"):
            broken.apply(troubled)
    assert (broken.rows(), broken.machine.state_hash, broken.machine.applied_index) == before
    assert broken.machine.faults == 0
    assert isinstance(broken.send(request)[0], Ok)


@pytest.fixture
def small(feeder: Feeder) -> Iterator[Callable[[int], None]]:
    """Limits how many pages the database may have, as a full disk would; 0 lifts the limit."""
    db = feeder.machine._db

    def limit(more_pages: int) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages + more_pages if more_pages else 2**30}")

    yield limit
    limit(0)


def test_a_full_disk_undoes_the_whole_call_and_nothing_is_lost_once_there_is_space(
    feeder: Feeder, small: Callable[[int], None]
) -> None:
    """SQLITE_FULL in the middle of the second entry: neither the first nor any request id stays."""
    feeder.do(kv.Put("a", b"1"))
    before = (feeder.rows(), feeder.machine.state_hash)
    requests = [(feeder.new_id(), kv.Put(f"k{number}", bytes(50_000))) for number in range(8)]
    payloads = [feeder.entry(*requests[:1]), feeder.entry(*requests[1:])]
    small(30)
    for _ in range(3):
        with pytest.raises(CannotApply, match="full"):
            feeder.apply(*payloads)
        assert (feeder.rows(), feeder.machine.state_hash) == before
        assert (feeder.machine.applied_index, feeder.machine.revision) == (1, 1)
        feeder.machine.check()
    small(0)
    results = feeder.apply(*payloads)
    assert all(is_ok(result) for entry in results for result in entry)
    assert feeder.machine.revision == 9
    assert len(feeder.ask(kv.List()).items) == 9


def test_what_was_forgotten_in_an_undone_call_is_known_again(
    feeders: Callable[..., Feeder],
) -> None:
    """The memory of request ids follows the transaction in both directions."""
    feeder = feeders(domains=DOMAINS, max_requests=5)
    sent = [(feeder.new_id(), kv.Put("a", bytes([number]))) for number in range(5)]
    first = [feeder.send(request) for request in sent]
    feeder.now_ms += 1
    evicting = [feeder.entry((feeder.new_id(), kv.Put("b", b"1"))) for _ in range(4)]
    with pytest.raises(CannotApply):
        feeder.apply(*evicting, feeder.entry((feeder.new_id(), Break("disk"))))
    feeder.machine.check()
    assert [feeder.send(request) for request in sent] == first


def test_a_lock_that_is_held_is_trouble_of_this_machine(feeder: Feeder) -> None:
    """Somebody's sqlite3 shell must not make a member skip an entry."""
    payload = feeder.entry((feeder.new_id(), kv.Put("a", b"1")))
    other = storage.connect(feeder.folder / storage.FILE_NAME)
    other.execute("BEGIN IMMEDIATE")
    feeder.machine._db.execute("PRAGMA busy_timeout = 50")
    with pytest.raises(CannotApply, match="locked"):
        feeder.apply(payload)
    other.close()
    assert is_ok(feeder.apply(payload)[0][0])


UNREADABLE = {
    "garbage": b"\xc1",
    "nothing": b"\x90",
    "a time before all time": msgspec.msgpack.encode([1, -1, []]),
    "a time after all time": msgspec.msgpack.encode([1, 2**47 + 1, []]),
    "a later version": msgspec.msgpack.encode([2, START_MS, []]),
    "a version of another shape": msgspec.msgpack.encode([2, {"time": START_MS}]),
    "an unknown field": msgspec.msgpack.encode(
        [
            1,
            START_MS,
            [[START_MS.to_bytes(6, "big") + bytes(10), {"type": "kv.delete", "key": "a", "new": 1}]],
        ]
    ),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_entry_this_version_cannot_read_is_kept_for_one_that_can(feeder: Feeder, what: str) -> None:
    """Never skipped, and what stood before it in the call is not applied either."""
    good = feeder.entry((feeder.new_id(), kv.Put("a", b"1")))
    with pytest.raises(CannotApply, match="log entry 2 cannot be read"):
        feeder.apply(good, UNREADABLE[what])
    assert feeder.machine.applied_index == 0
    assert is_ok(feeder.apply(good)[0][0])


def test_an_unknown_command_is_unreadable_too(feeder: Feeder) -> None:
    """A member of the next version may propose one too early."""
    unknown = Break("a command this machine has no domain for")
    payload = msgspec.msgpack.encode([1, START_MS, [msgspec.Raw(encode_request(feeder.new_id(), unknown))]])
    with pytest.raises(CannotApply, match="start this member with the leader's version"):
        feeder.apply(payload)


@pytest.mark.parametrize("keep_bytes", [storage.WAL_KEEP_BYTES, 100_000])
def test_checkpoints_run_beside_writing(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch, keep_bytes: int
) -> None:
    """On a thread of their own; a write-ahead log that is long starts again although writing never stops."""
    monkeypatch.setattr(storage, "WAL_KEEP_BYTES", keep_bytes)
    wal = feeder.folder / f"{storage.FILE_NAME}-wal"
    stop = threading.Event()
    failures: list[BaseException] = []
    ended = threading.Event()

    def checkpoints() -> None:
        while not stop.is_set():
            try:
                feeder.machine.checkpoint()
            except CannotApply as error:
                failures.append(error)
            ended.set()

    thread = threading.Thread(target=checkpoints)
    thread.start()
    for number in range(400):
        feeder.do(kv.Put(f"k{number % 10}", bytes(10_000)))
        if number % 40 == 0:  # However busy the machine is, the two keep about the same pace.
            ended.clear()
            ended.wait()
    stop.set()
    thread.join()
    assert not failures
    assert feeder.machine.revision == 400
    if keep_bytes == 100_000:
        assert wal.stat().st_size < 400 * 10_000  # Never started again, it would have 7.3 MB.


def test_results_have_one_type_each(broken: Feeder) -> None:
    """Ok, Rejected and Failed are told apart after encoding."""
    results: list[Result] = broken.do(Break("nothing"), kv.Delete("a"), Break("raise"))
    assert [type(result) for result in results] == [Ok, Rejected, Failed]
