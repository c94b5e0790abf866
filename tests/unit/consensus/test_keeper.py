"""Bounding the log of a running member: when snapshots are made, what goes, and what if it fails."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Self

import msgspec
import pytest

from raftos.config import Config
from raftos.consensus.configuration import Configuration, encode
from raftos.consensus.driver import Driver
from raftos.consensus.guard import NO_OP
from raftos.consensus.journal import Journal
from raftos.consensus.keeper import RETRY_S, Keeper, Policy
from raftos.consensus.messages import Message, SnapshotWanted
from raftos.consensus.opening import Opened
from raftos.consensus.replica import Replica
from raftos.consensus.snapshots import CorruptSnapshot, Header, SnapshotStore, Stored, read_header
from raftos.consensus.worker import Worker
from raftos.errors import NotReady, RaftosError, StartupError
from raftos.state.machine import CannotApply, Machine
from tests.unit.consensus import test_opening
from tests.unit.consensus.test_driver import config, opened, puts

KIB = 1024


class Running:
    """A cluster of one whose log may grow by 64 KiB."""

    def __init__(self, folder: Path, **settings: int) -> None:
        self.config: Config = msgspec.structs.replace(
            config(folder), **({"snapshot_log_bytes": 64 * KIB, "snapshot_keep": 2} | settings)
        )
        self.folder = folder

    async def __aenter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        self.parts = opened(self.folder)
        # Small segments, so that there is something to trim.
        self.parts.journal._segment_bytes = 16 * KIB
        self.driver = Driver(self.config, bytes(32), self.parts)
        await self.driver.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.driver.stop()
        self.parts.machine.close()

    @property
    def snapshots(self) -> SnapshotStore:
        return self.parts.snapshots

    async def write(self, count: int, size_bytes: int = KIB) -> None:
        for request in puts(self.driver, count, bytes(size_bytes)):
            await self.driver.propose([request], time.monotonic() + 5)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_a_grown_log_is_put_into_a_snapshot_and_trimmed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Running(tmp_path) as member:
            journal = member.parts.journal
            await member.write(100)
            await member.until(lambda: journal.first_index > 1)
            newest = member.snapshots.newest
            assert newest is not None
            assert journal.first_index <= newest.header.index
            kept_bytes = journal.bytes_since(journal.first_index - 1)
            assert kept_bytes >= 32 * KIB, "a tail stays for those that were away for a moment"
            files = len(list((tmp_path / "journal").iterdir()))
            await member.write(300)
            await member.until(lambda: len(member.snapshots.all()) == 2)
            await member.until(lambda: len(list((tmp_path / "journal").iterdir())) <= files + 2)
        async with Running(tmp_path) as member:
            assert member.parts.machine.revision == 400
            await member.write(1)

    run(scenario())


def test_a_calm_member_makes_no_snapshot(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Running(tmp_path) as member:
            await member.write(5)
            await asyncio.sleep(0.3)
            assert member.snapshots.newest is None

    run(scenario())


def test_a_scheduled_snapshot_is_made_only_of_something_new(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Running(tmp_path, snapshot_interval_ms=100) as member:
            await member.write(5)
            index = member.parts.machine.applied_index
            await member.until(lambda: (newest := member.snapshots.newest) and newest.header.index == index)
            newest = member.snapshots.newest
            await asyncio.sleep(0.4)
            assert member.snapshots.newest == newest

    run(scenario())


def test_who_asks_for_a_snapshot_gets_one_of_all_that_is_applied(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Running(tmp_path) as member:
            await member.write(7)
            applied = member.parts.machine.applied_index
            with await member.driver.snapshot(time.monotonic() + 5) as held:
                assert held.index >= applied
                whole = held.read(0, held.size_bytes)
                (tmp_path / "file").write_bytes(whole)
                assert read_header(tmp_path / "file").index == held.index
                assert len(whole) == held.size_bytes
            again = await member.driver.snapshot(time.monotonic() + 5)
            assert again.index == held.index, "nothing has changed, so it is the same one"

    run(scenario())


def test_a_snapshot_that_takes_too_long_is_not_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Running(tmp_path) as member:
            await member.write(1)
            with pytest.raises(NotReady, match="in time"):
                await member.driver.snapshot(time.monotonic())

    run(scenario())


def test_a_disk_without_space_for_a_snapshot_costs_no_write(tmp_path: Path) -> None:
    """It is said, tried again later, and the log grows until then."""

    async def scenario() -> None:
        async with Running(tmp_path) as member:

            def full(*_: object) -> Stored:
                raise NotReady("cannot write a snapshot: No space left on device; free some space")

            write, member.snapshots.write = member.snapshots.write, full  # type: ignore[method-assign,assignment]
            await member.write(150)
            with suppress(RaftosError):
                await member.driver.snapshot(time.monotonic() + 5)
            assert member.snapshots.newest is None
            assert member.parts.journal.first_index == 1
            member.snapshots.write = write  # type: ignore[method-assign]
            member.driver._keeper._not_before = 0.0
            await member.write(1)
            await member.until(lambda: member.parts.journal.first_index > 1)

    run(scenario())


def test_the_worker_brings_back_trouble_as_what_can_be_told_and_bugs_as_bugs() -> None:
    async def scenario() -> None:
        bugs: list[Exception] = []
        worker = Worker(bugs.append)
        told: list[object] = []

        def fails(error: Exception) -> Callable[[], None]:
            def job() -> None:
                raise error

            return job

        for error in (CannotApply("full"), OSError("gone"), NotReady("later")):
            worker.work(fails(error), told.append)
        worker.work(fails(KeyError("bug")), told.append)
        worker.work(lambda: 7, told.append)
        async with asyncio.timeout(5):
            while len(told) < 4:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
        assert [type(each) for each in told] == [NotReady, NotReady, NotReady, int]
        assert [type(bug) for bug in bugs] == [KeyError]
        await worker.stop()
        worker.work(lambda: 8, told.append)
        assert len(told) == 4

    run(scenario())


def test_a_snapshot_that_fails_after_its_caller_has_gone_stops_no_member(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Running(tmp_path) as member:
            failed: list[bool] = []

            def full(*_: object) -> Stored:
                failed.append(True)
                raise NotReady("cannot write a snapshot: No space left on device; free some space")

            await member.write(1)
            member.snapshots.write = full  # type: ignore[method-assign,assignment]
            with pytest.raises(NotReady, match="in time"):
                await member.driver.snapshot(time.monotonic())
            await member.until(lambda: failed and not member.driver._keeper._making)
            assert not member.driver.failed.done()
            await member.write(1)

    run(scenario())


def test_a_member_that_is_not_trusted_makes_no_snapshot_even_if_asked(tmp_path: Path) -> None:
    """It would be kept, restored elsewhere, and taken for the truth at the next start."""

    async def scenario() -> None:
        async with Running(tmp_path) as member:
            await member.write(1)
            member.driver.distrust("its state differs")
            with pytest.raises(NotReady, match="its state differs"):
                await member.driver.snapshot(time.monotonic() + 5)
            assert member.snapshots.newest is None

    run(scenario())


def replica_of(journal: Journal, applied_index: int = 0) -> Replica:
    """One of three."""
    return Replica(
        member_id="a",
        configuration=Configuration.of("abc"),
        journal=journal,
        applied_index=applied_index,
        time_ms=0,
        wall_ms=0,
        now=0.0,
        random=Random(0),
    )


class AtOnce:
    """What a keeper needs done, done as it is asked for."""

    def __init__(self, machine: Machine, replica: Replica) -> None:
        self._machine, self._replica = machine, replica
        self.removed: list[str] = []

    def work(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        try:
            value = job()
        except RaftosError as error:
            value = error
        done(value)

    def exchange(self, path: Path, stored: Stored) -> None:
        self._machine.replace(path)
        header = stored.header
        self._replica.install(0.0, header.index, header.term, header.configuration, self._machine.time_ms)

    def send(self, peer: str, generation: int, message: Message) -> None: ...

    def remove_segments(self, names: list[str]) -> None:
        self.removed += names

    def now(self) -> float:
        return 0.0


def test_a_snapshot_begun_before_the_state_was_found_wrong_is_not_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Running(tmp_path) as member:
            await member.write(5)
            waiting = asyncio.ensure_future(member.driver.snapshot(time.monotonic() + 5))
            await asyncio.sleep(0)
            member.driver.distrust("its state is wrong")
            with pytest.raises(NotReady, match="its state is wrong"):
                await waiting
            assert member.snapshots.newest is None
            await member.until(lambda: not (member.parts.machine.folder / "copy.sqlite3").exists())

    run(scenario())


def test_a_snapshot_being_written_while_the_state_is_found_wrong_is_not_kept(tmp_path: Path) -> None:
    """Nor do the sound ones of before go for it."""

    async def scenario() -> None:
        async with Running(tmp_path, snapshot_keep=1) as member:
            await member.write(5)
            (await member.driver.snapshot(time.monotonic() + 5)).__exit__(None, None, None)
            sound = member.snapshots.newest
            await member.write(5)
            write, is_writing, may_end = member.snapshots.write, threading.Event(), threading.Event()

            def slow(header: Header, pieces: Iterable[bytes]) -> Stored:
                is_writing.set()
                may_end.wait(5)
                return write(header, pieces)

            member.snapshots.write = slow  # type: ignore[method-assign]
            waiting = asyncio.ensure_future(member.driver.snapshot(time.monotonic() + 5))
            await member.until(is_writing.is_set)
            member.driver.distrust("its state is wrong")
            may_end.set()
            with pytest.raises(NotReady, match="its state is wrong"):
                await waiting
            assert member.snapshots.all() == [sound]

    run(scenario())


@contextmanager
def following(folder: Path) -> Iterator[tuple[Opened, Keeper, AtOnce]]:
    """A member that follows, its keeper, and what is done for that."""
    with test_opening.opened(folder) as parts:
        replica = replica_of(parts.journal, parts.machine.applied_index)
        world, policy = AtOnce(parts.machine, replica), Policy(keep=2)
        yield parts, Keeper(world, parts.snapshots, parts.journal, parts.machine, replica, policy), world


def received(parts: Opened, folder: Path, count: int) -> Stored:
    """A snapshot of so many entries, made by another member."""
    [file] = test_opening.giver(folder, count).iterdir()
    incoming = parts.snapshots.incoming(file.name, file.stat().st_size)
    incoming.write(0, file.read_bytes())
    return incoming.complete()


def test_who_installs_again_and_again_keeps_no_more_snapshots_than_it_should(tmp_path: Path) -> None:
    """It may never get as far as making one of its own, and its disk would fill up."""
    with following(tmp_path / "a") as (parts, keeper, _):
        for count in (10, 20, 30, 40):
            keeper._arrived(received(parts, tmp_path / f"{count}", count))
        assert parts.machine.applied_index == 41
        assert [stored.header.index for stored in parts.snapshots.all()] == [41, 31]


@pytest.mark.parametrize("changes", test_opening.OTHER_VERSIONS)
def test_a_snapshot_of_another_version_changes_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The state and the log go on as they are, and whatever the leader offers next may be fetched."""
    with test_opening.opened(tmp_path / "a") as parts:
        replica = replica_of(parts.journal)
        world = AtOnce(parts.machine, replica)
        keeper = Keeper(world, parts.snapshots, parts.journal, parts.machine, replica, Policy())
        [file] = test_opening.giver(tmp_path / "b", **changes).iterdir()
        incoming = parts.snapshots.incoming(file.name, file.stat().st_size)
        incoming.write(0, file.read_bytes())
        keeper._arrived(incoming.complete())
        assert (parts.machine.applied_index, parts.journal.last_index) == (0, 1)
        assert not (parts.machine.folder / "incoming.sqlite3").exists()
        assert keeper.courier._fetch is None


def test_after_an_installation_the_whole_old_log_goes_once_the_journal_is_sure_of_it(tmp_path: Path) -> None:
    """It would be read at every start until this member has made a snapshot of its own."""
    with test_opening.opened(tmp_path / "a") as parts:
        parts.journal._segment_bytes = KIB
        for _ in range(4):
            test_opening.fill(parts, 8)
    with following(tmp_path / "a") as (parts, keeper, world):
        keeper._arrived(received(parts, tmp_path / "b", 50))
        keeper.tick()
        assert not world.removed, "a crash may yet bring the old log back"
        write = parts.journal.take()
        assert write is not None
        parts.journal.writer.write(write)
        parts.journal.finish(write)
        keeper.tick()
        assert len(world.removed) >= 3
        parts.journal.writer.remove(world.removed)
    with test_opening.opened(tmp_path / "a") as parts:
        assert (parts.journal.first_index, parts.machine.applied_index) == (52, 51)


def test_an_extracted_state_that_is_not_wanted_any_more_goes(tmp_path: Path) -> None:
    with following(tmp_path / "a") as (parts, keeper, _):
        stored = received(parts, tmp_path / "b", 30)
        path = keeper._extract(stored)
        keeper._replica.core.engine.installed(stored.header.index)
        keeper._extracted(stored, path)
        assert not path.exists()
        assert parts.machine.applied_index == 0


def failing(error: RaftosError) -> Callable[..., Path]:
    def fail(*_: object) -> Path:
        raise error

    return fail


def test_a_snapshot_that_cannot_be_extracted_is_told_and_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has room for the file, and not for the state in it."""
    with following(tmp_path / "a") as (parts, keeper, _):
        stored = received(parts, tmp_path / "b", 30)
        monkeypatch.setattr("raftos.consensus.keeper.extract", failing(StartupError("free some space")))
        keeper._arrived(stored)
        told = keeper.trouble
        assert told == "the leader's snapshot cannot be installed: free some space"
        assert keeper.courier._not_before == RETRY_S
        assert parts.snapshots.newest == stored
        monkeypatch.undo()
        keeper._arrived(stored)
        assert (keeper.trouble, parts.machine.applied_index) == (None, 31)


def test_a_snapshot_that_was_damaged_since_it_came_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with following(tmp_path / "a") as (parts, keeper, _):
        monkeypatch.setattr("raftos.consensus.keeper.extract", failing(CorruptSnapshot("damaged")))
        keeper._arrived(received(parts, tmp_path / "b", 30))
        assert parts.snapshots.newest is None


def test_a_member_that_cannot_install_what_it_needs_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        parts = opened(tmp_path)
        driver = Driver(config(tmp_path, others=["m2"]), bytes(32), parts)
        await driver.start()
        header = Header("test", 30, 1, b"", 0, 0, b"", 1, 1, "", 0)
        driver._keeper._keep_for_later(Stored("", header, 1), NotReady("free some space"))
        assert driver.status().trouble == "the leader's snapshot cannot be installed: free some space"
        with pytest.raises(NotReady, match="cannot be installed"):
            await driver.read_barrier(time.monotonic() + 5)
        await driver.stop()
        parts.machine.close()

    run(scenario())


def test_a_member_that_joined_makes_no_snapshot_before_it_knows_the_others(tmp_path: Path) -> None:
    """Whoever installed it would know no voters, as of an entry at which there were some."""

    async def scenario() -> None:
        parts = opened(tmp_path)
        joined = msgspec.structs.replace(config(tmp_path, others=["m2"]), joined=True, snapshot_interval_ms=1)
        joined = msgspec.structs.replace(joined, voters=joined.voters[1:])
        driver = Driver(joined, bytes(32), parts)
        parts.journal.append(bytes((NO_OP,)), 1, 0)
        parts.machine.apply([(1, b"")])
        await driver.start()
        await asyncio.sleep(0.2)
        assert driver._keeper._not_before < time.monotonic(), "none was tried"
        with pytest.raises(NotReady, match="ask one of them"):
            await driver.snapshot(time.monotonic() + 5)
        assert not parts.snapshots.all()
        parts.journal.append(encode(Configuration.of("ab")), 2, 0)
        parts.machine.apply([(2, b"")])
        driver._keeper._not_before = 0.0
        (await driver.snapshot(time.monotonic() + 5)).__exit__(None, None, None)
        newest = parts.snapshots.newest
        assert newest is not None
        assert newest.header.configuration == encode(Configuration.of("ab"))
        await driver.stop()
        parts.machine.close()

    run(scenario())


def test_a_damaged_snapshot_is_replaced_at_once(tmp_path: Path) -> None:
    """The log has not grown, so that otherwise none would be made for long."""

    async def scenario() -> None:
        async with Running(tmp_path, snapshot_log_bytes=2**30) as member:
            await member.write(5)
            made = await member.driver.snapshot(time.monotonic() + 5)
            made.__exit__(None, None, None)
            [file] = (member.folder / "snapshots").glob("*.snapshot")
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
            newest = member.snapshots.newest
            assert newest is not None
            wanted = SnapshotWanted(newest.header.index, newest.header.term, 0)
            keeper = member.driver._keeper
            keeper.received("b", 1, wanted)
            await member.until(lambda: keeper.courier._serving["b"].is_sent)
            keeper.received("b", 1, wanted)
            await member.until(lambda: member.snapshots.newest not in {None, newest})
            member.snapshots.check(file.name)

    run(scenario())


@contextmanager
def trimming(folder: Path) -> Iterator[tuple[Opened, Keeper, AtOnce]]:
    """A member of whose log nothing stays that need not, in segments of a few entries."""
    with test_opening.opened(folder) as parts:
        test_opening.fill(parts, 1)
    with following(folder) as (parts, keeper, world):
        parts.journal._segment_bytes = KIB
        keeper._policy = Policy(log_bytes=0)
        yield parts, keeper, world


def test_nothing_of_the_log_goes_before_the_state_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the state would lack what the log has no more."""
    with trimming(tmp_path / "a") as (parts, keeper, world):
        for _ in range(4):
            test_opening.fill(parts, 8)
        with monkeypatch.context() as patched:
            patched.setattr(parts.machine, "sync", lambda: 1)
            keeper._make()
            assert (parts.journal.first_index, world.removed) == (1, [])
        keeper._forget()
        assert parts.journal.first_index > 1


def test_no_more_of_the_log_goes_than_the_newest_snapshot_holds(tmp_path: Path) -> None:
    """However much of the state is durable: a follower would find a gap between the two."""
    with trimming(tmp_path / "a") as (parts, keeper, _):
        test_opening.fill(parts, 8)
        keeper._make()
        made = parts.snapshots.newest
        assert made is not None
        for _ in range(4):
            test_opening.fill(parts, 8)
        keeper._forget()
        assert parts.journal.first_index <= made.header.index + 1


def test_the_log_after_what_somebody_fetches_stays(tmp_path: Path) -> None:
    """Who has installed it would lack the rest, and have to fetch another one."""
    with trimming(tmp_path / "a") as (parts, keeper, _):
        test_opening.fill(parts, 8)
        keeper._make()
        fetched = parts.snapshots.newest
        assert fetched is not None
        keeper.received("b", 1, SnapshotWanted(fetched.header.index, fetched.header.term, 0))
        for _ in range(4):
            test_opening.fill(parts, 8)
        keeper._make()
        assert parts.snapshots.newest != fetched
        assert parts.journal.first_index <= fetched.header.index + 1


def test_a_snapshot_says_what_was_so_as_of_its_index_and_not_what_came_after(tmp_path: Path) -> None:
    """The log goes on in a later term, with a configuration that may never be agreed on."""
    with test_opening.opened(tmp_path / "a") as parts:
        test_opening.fill(parts, 5, term=1)
    with following(tmp_path / "a") as (parts, keeper, _):
        parts.journal.append(encode(Configuration.of("abcd")), 7, 2)
        keeper._make()
        newest = parts.snapshots.newest
        assert newest is not None
        assert (newest.header.index, newest.header.term, newest.header.configuration) == (6, 1, b"")


def test_what_was_installed_is_what_others_are_offered(tmp_path: Path) -> None:
    """The log begins after it, so that nothing else would be of use, should this member come to lead."""
    with following(tmp_path / "a") as (parts, keeper, world):
        stored = received(parts, tmp_path / "b", 20)
        keeper._arrived(stored)
        assert world._replica.core.snapshot == (21, 1, stored.size_bytes)


def test_a_log_without_its_beginning_is_reason_enough_for_a_snapshot(tmp_path: Path) -> None:
    """However little it has grown: without one nobody who lacks that beginning could catch up."""
    with following(tmp_path / "a") as (parts, keeper, _):
        stored = received(parts, tmp_path / "b", 20)
        keeper._arrived(stored)
        parts.snapshots.discard(stored.name)
        keeper.tick()
        assert parts.snapshots.newest is not None
