"""The driver of a cluster of one: real files, a real machine, an event loop that others need too."""

from __future__ import annotations

import asyncio
import errno
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import structlog

from raftos.config import Config, Voter
from raftos.consensus import disk, messages
from raftos.consensus.base import Role
from raftos.consensus.calls import joined
from raftos.consensus.configuration import Configuration, Peer, Standing, encode
from raftos.consensus.core import Frame
from raftos.consensus.driver import Driver
from raftos.consensus.guard import NO_OP
from raftos.consensus.journal import FileStorage, Identity, Journal
from raftos.consensus.messages import Acknowledged, Answered, Append
from raftos.consensus.opening import Opened, open_member
from raftos.consensus.proposals import MAX_BATCH_REQUESTS
from raftos.consensus.snapshots import Header, SnapshotStore, Stored, pieces_of
from raftos.errors import NoQuorum, NotReady, OutcomeUnknown
from raftos.state.command import encode_entry, encode_request, is_ok, new_request_id
from raftos.state.domains.kv import Put
from raftos.state.machine import Machine
from tests.unit.consensus.test_messages import NESTED

APPLY_S = 0.02


class SlowMachine(Machine):
    """Applies at the speed of a poor disk."""

    def apply(self, entries: Sequence[tuple[int, bytes]]) -> list[list[bytes]]:
        time.sleep(APPLY_S)
        return super().apply(entries)


class CountingDriver(Driver):
    """Counts how often it looks."""

    looks = 0

    def _tick(self) -> None:
        self.looks += 1
        super()._tick()


Notes = asyncio.Queue[str]
"""What happened, in order."""


class NotingMachine(Machine):
    """Notes what it applies, in `notes`."""

    notes: Notes

    def apply(self, entries: Sequence[tuple[int, bytes]]) -> list[list[bytes]]:
        for index, _ in entries:
            self.notes.put_nowait(f"applied {index}")
        return super().apply(entries)


class NotingDriver(Driver):
    """Notes the acknowledgements that it sends, in `notes`; there is nobody to send them to."""

    notes: Notes

    def _send(self, frames: list[Frame]) -> None:
        for _, _, message in frames:
            if isinstance(message, Acknowledged):
                self.notes.put_nowait(f"acknowledged {message.next_index - 1}")


def config(folder: Path, *, others: Sequence[str] = (), heartbeat_ms: int = 20) -> Config:
    return Config(
        cluster="test",
        cluster_id="test",
        member_id="m1",
        name="n1",
        data_dir=str(folder),
        secret_file="unused",
        voters=tuple(Voter(name, name, "127.0.0.1:0", "http://127.0.0.1:0") for name in ("m1", *others)),
        peer_address="127.0.0.1:0",
        api_address="127.0.0.1:0",
        heartbeat_ms=heartbeat_ms,
        election_timeout_ms=5 * heartbeat_ms,
    )


def opened(folder: Path, kind: type[Machine] = Machine) -> Opened:
    """The durable parts of m1, with a machine of some kind."""
    journal = Journal.open(FileStorage(folder / "journal"), Identity("test", "m1"))
    snapshots = SnapshotStore(FileStorage(folder / "snapshots"), "test")
    return open_member(journal, snapshots, folder / "state", lambda state: kind(state, cluster_id="test"))


@asynccontextmanager
async def leading(folder: Path, kind: type[Driver] = Driver) -> AsyncIterator[tuple[Driver, Machine]]:
    """A started member that leads."""
    parts = opened(folder)
    machine = parts.machine
    driver = kind(config(folder), bytes(32), parts)
    elected = asyncio.Event()
    driver.on_role(lambda role, _: elected.set() if role == Role.LEADER else None)
    await driver.start()
    try:
        await asyncio.wait_for(elected.wait(), 5)
        yield driver, machine
    finally:
        await driver.stop()
        machine.close()


@asynccontextmanager
async def following(folder: Path) -> AsyncIterator[tuple[Callable[[Append], None], Notes]]:
    """A started member that hears from a leader what the test gives it, and nothing else for seconds."""
    notes: Notes = asyncio.Queue()
    parts = opened(folder, NotingMachine)
    machine = cast("NotingMachine", parts.machine)
    driver = NotingDriver(config(folder, others=("m2", "m3"), heartbeat_ms=4_000), bytes(32), parts)
    machine.notes = driver.notes = notes
    await driver.start()
    driver.linked("m2", 1)
    try:
        yield lambda append: driver.received("m2", 1, [messages.encode(append)]), notes
    finally:
        await driver.stop()
        machine.close()


def entry(index: int, commit_index: int) -> Append:
    return Append(1, commit_index, index - 1, 1 if index > 2 else 0, [(bytes([NO_OP]), index, 1)])


def puts(driver: Driver, count: int, value: bytes = b"v") -> list[bytes]:
    time_ms = driver.cluster_time_ms()
    return [
        encode_request(new_request_id(time_ms), Put(key=f"key{number}", value=value))
        for number in range(count)
    ]


async def longest_pause_s(until: Callable[[], bool]) -> float:
    """How long the event loop was busy with something else at a stretch."""
    longest = 0.0
    while not until():
        began = time.monotonic()
        await asyncio.sleep(0.001)
        longest = max(longest, time.monotonic() - began)
    return longest


def run(scenario: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario, 20)

    asyncio.run(bounded())


def test_a_list_longer_than_one_entry_comes_back_whole_and_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with leading(tmp_path) as (driver, _):
            results = await driver.propose(puts(driver, MAX_BATCH_REQUESTS + 10), time.monotonic() + 10)
            assert len(results) == MAX_BATCH_REQUESTS + 10
            assert all(map(is_ok, results))

    run(scenario())


@pytest.mark.parametrize(
    ("outcomes", "error"),
    [
        ([NoQuorum("late"), NoQuorum("late")], NoQuorum),
        ([[b"result"], NoQuorum("late")], OutcomeUnknown),
        ([OutcomeUnknown("late"), NoQuorum("late")], OutcomeUnknown),
    ],
)
def test_no_quorum_is_said_of_a_long_list_only_if_it_is_true_of_all_of_it(
    outcomes: list[list[bytes] | BaseException], error: type[Exception]
) -> None:
    """NoQuorum promises that nothing was applied."""
    with pytest.raises(error):
        joined(outcomes)


def test_a_member_with_much_to_apply_stays_on_speaking_terms(tmp_path: Path) -> None:
    """Its state is lost and it applies the whole log again, but never for long at a stretch."""

    async def scenario() -> None:
        async with leading(tmp_path) as (driver, _):
            for request in puts(driver, 40, bytes(900_000)):
                await driver.propose([request], time.monotonic() + 5)
        shutil.rmtree(tmp_path / "state")
        parts = opened(tmp_path, SlowMachine)
        machine = parts.machine
        driver = Driver(config(tmp_path), bytes(32), parts)
        await driver.start()
        longest = await longest_pause_s(lambda: machine.revision == 40)
        await driver.stop()
        machine.close()
        assert longest < 20 * APPLY_S

    run(scenario())


def test_a_calm_member_looks_twice_in_a_heartbeat_however_its_links_come_and_go(tmp_path: Path) -> None:
    """A leader that looked less often would send its heartbeats too late for short election timeouts."""

    async def scenario() -> None:
        async with leading(tmp_path, CountingDriver) as (driver, _):
            assert isinstance(driver, CountingDriver)
            before, began = driver.looks, time.monotonic()
            while time.monotonic() < began + 0.3:
                driver.unlinked("m2", 1)
                await asyncio.sleep(0.002)
            assert driver.looks - before >= 10

    run(scenario())


@pytest.mark.parametrize("failure", [RuntimeError("half way"), msgspec.ValidationError("half way")])
def test_a_failure_while_working_off_a_message_stops_the_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Half of a message may have been worked off; closing the link would not undo that."""

    async def scenario() -> None:
        async with leading(tmp_path) as (driver, _):
            monkeypatch.setattr(driver._replica, "received", lambda *_: _raise(failure))
            driver.received("m2", 1, [messages.encode(messages.StaleTerm(1))])
            with pytest.raises(type(failure), match="half way"):
                await driver.failed

    run(scenario())


def test_a_follower_acknowledges_what_is_durable_before_it_applies_what_is_committed(tmp_path: Path) -> None:
    """The leader waits for the one; nobody waits for the other."""

    async def scenario() -> None:
        async with following(tmp_path) as (hear, notes):
            for index in (2, 3):
                hear(entry(index, commit_index=index - 1))
                await asyncio.sleep(0.05)
            happened = [notes.get_nowait() for _ in range(4)]
            assert happened == ["acknowledged 2", "applied 1", "acknowledged 3", "applied 2"]

    run(scenario())


def test_what_became_durable_on_the_thread_is_acknowledged_without_another_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty-four writers at once once waited for the next look, 25 ms later, each time."""
    monkeypatch.setattr(disk, "SMALL_BYTES", 0)

    async def scenario() -> None:
        async with following(tmp_path) as (hear, notes):
            for index in (2, 3):
                hear(entry(index, commit_index=0))
                async with asyncio.timeout(1):
                    while await notes.get() != f"acknowledged {index}":
                        pass
                await asyncio.sleep(0.05)

    run(scenario())


class FullOnce(FileStorage):
    """The first removal finds no space, as it may on a file system that copies on write."""

    refused = ""

    def remove(self, name: str) -> None:
        if not self.refused:
            self.refused = name
            raise OSError(errno.ENOSPC, "No space left on device")
        super().remove(name)


@pytest.mark.parametrize("wait_s", [0.1, 0.6], ids=["it stops first", "there is space again"])
def test_a_segment_that_waits_for_space_is_not_overtaken(tmp_path: Path, wait_s: float) -> None:
    """Whenever the member stops, what is left of its journal has no gap."""
    identity = Identity("test", "m1")

    async def scenario() -> None:
        journal = Journal.open(FullOnce(tmp_path / "journal"), identity, segment_bytes=1_000)
        snapshots = SnapshotStore(FileStorage(tmp_path / "snapshots"), "test")
        parts = open_member(
            journal, snapshots, tmp_path / "state", lambda state: Machine(state, cluster_id="test")
        )
        driver = Driver(config(tmp_path), bytes(32), parts)
        await driver.start()
        for _ in range(20):
            await driver.propose(puts(driver, 5, b"v" * 200), driver.now() + 5)
        segments = len(list((tmp_path / "journal").iterdir()))
        for index in (8, 16):  # Two snapshots, one soon after the other.
            parts.machine.sync()
            journal.trim(index)
            driver.remove_segments(journal.take_removals())
        await asyncio.sleep(wait_s)
        await driver.stop()
        parts.machine.close()
        assert (len(list((tmp_path / "journal").iterdir())) < segments) == (wait_s > 0.25)

    run(scenario())
    Journal.open(FileStorage(tmp_path / "journal"), identity).close()


def _raise(failure: Exception) -> None:
    raise failure


def _fails(*_: object) -> None:
    raise RuntimeError("half way")


@pytest.mark.parametrize("before_the_start", [True, False])
def test_a_member_that_is_not_trusted_reads_nothing_and_says_why(
    tmp_path: Path, before_the_start: bool
) -> None:
    """Also if it was known before; a disk that recovers does not make it good again."""

    async def scenario() -> None:
        parts = opened(tmp_path)
        driver = Driver(config(tmp_path), bytes(32), parts)
        if before_the_start:
            driver.distrust("its state is wrong")
        await driver.start()
        if not before_the_start:
            driver.distrust("its state is wrong")
        driver._trouble(disk="full")
        driver._trouble(disk=None)
        assert driver.status().trouble == "its state is wrong"
        with pytest.raises(NotReady, match="its state is wrong"):
            await driver.read_barrier(time.monotonic() + 1)
        await asyncio.sleep(0.3)
        assert driver.status().role != Role.LEADER, "it campaigns"
        await driver.stop()
        parts.machine.close()

    asyncio.run(scenario())


def test_a_member_whose_removal_was_undone_is_dialled_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader follows a removal that it has appended; the next one may have the log without it."""
    monkeypatch.setattr("raftos.consensus.driver._FAREWELL_S", 0.1)

    async def scenario() -> None:
        async with leading(tmp_path) as (consensus, _):
            core = consensus._replica.core
            before = Configuration((Peer("a", ""), Peer("b", "127.0.0.1:9")))
            for configuration in (before, Configuration((Peer("a", ""),), ("b",)), before):
                core.configuration = configuration
                consensus._follow_configuration()
            await asyncio.sleep(0.2)
            assert "b" in consensus._transport._peers
            core.configuration = Configuration((Peer("a", ""),), ("b",))
            consensus._follow_configuration()
            await asyncio.sleep(0.2)
            assert "b" not in consensus._transport._peers

    asyncio.run(scenario())


UNDIALABLE = (
    Peer("m9", "nowhere", Standing.LEARNER),
    Peer("x" * 65, "127.0.0.1:9", Standing.JOINING),
    Peer("z", "127.0.0.1:9", Standing.LEARNER),
)
"""Two that an earlier version let in, although nobody can dial them, and one like any other."""


def test_a_log_that_names_members_nobody_can_dial_keeps_no_member_from_starting(tmp_path: Path) -> None:
    """They are passed over, as is an address that a member registered; who comes after them is dialled."""

    async def scenario() -> None:
        parts = opened(tmp_path)
        agreed = Configuration((Peer("m1", "127.0.0.1:9"), *UNDIALABLE))
        parts.journal.append(bytes((NO_OP,)), 1, 0)
        parts.journal.append(encode(agreed), 2, 0)
        driver = Driver(config(tmp_path), bytes(32), parts, addresses={"z": "nowhere", "x" * 65: "h:1"})
        await driver.start()
        assert driver._transport._peers == {"z": "127.0.0.1:9"}
        async with asyncio.timeout(5):
            while driver.status().role != Role.LEADER:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        assert driver._transport._peers == {"z": "127.0.0.1:9"}
        await driver.stop()
        parts.machine.close()

    run(scenario())


def test_members_that_nobody_can_dial_do_not_keep_others_from_being_dialled(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with leading(tmp_path) as (driver, _):
            driver._replica.core.configuration = Configuration((Peer("m1", ""), *UNDIALABLE))
            driver._kick()
            await asyncio.sleep(0.05)
            assert driver._transport._peers == {"z": "127.0.0.1:9"}
            assert not driver.failed.done()

    run(scenario())


def test_a_configuration_that_cannot_be_followed_stops_the_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go on without links to some of the others, and nobody would know."""

    async def scenario() -> None:
        async with leading(tmp_path) as (driver, _):
            monkeypatch.setattr(driver._transport, "set_peer", _fails)
            driver._replica.core.configuration = Configuration((Peer("m1", ""), Peer("z", "127.0.0.1:9")))
            driver._kick()
            with pytest.raises(RuntimeError, match="half way"):
                await driver.failed

    run(scenario())


BAD_TEXT = b"\x92\xa1\xff\xa1x"
"""What an error in an answer looks like, but that its code is no UTF-8."""


@pytest.mark.parametrize(
    "frame",
    [b"\xc1", NESTED, messages.encode(Answered(1, error=True, body=BAD_TEXT))],
    ids=["none", "nested", "answer"],
)
def test_what_is_no_message_closes_the_link_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame: bytes
) -> None:
    async def scenario() -> None:
        async with leading(tmp_path) as (driver, _):
            monkeypatch.setattr(driver._questions, "_send", lambda *_: True)
            asked = asyncio.ensure_future(driver._questions.ask("m2", 1, 0, b"", 5))
            await asyncio.sleep(0)
            with pytest.raises(messages.Malformed):
                driver.received("m2", 1, [frame])
            assert not driver.failed.done()
            asked.cancel()

    run(scenario())


def stored(snapshots: SnapshotStore, folder: Path, configuration: Configuration) -> Stored:
    """A snapshot of another member's state at entry 2, when these were the members."""
    machine = Machine(folder, cluster_id="test")
    request = encode_request(new_request_id(1_000), Put(key="key", value=b"v"))
    machine.apply([(1, b""), (2, encode_entry(1_000, [request]))])
    copy = folder / "copy.sqlite3"
    copied = machine.copy_to(copy)
    machine.close()
    header = Header(
        cluster_id="test",
        index=copied.applied_index,
        term=1,
        configuration=encode(configuration),
        time_ms=copied.time_ms,
        revision=copied.revision,
        state_hash=copied.state_hash,
        state_format=copied.format,
        raw_bytes=copied.size_bytes,
        version="1",
        created_ms=0,
    )
    return snapshots.write(header, pieces_of(copy))


def test_members_that_a_snapshot_brings_are_logged_and_shown(tmp_path: Path) -> None:
    """Finding 12: they take the place of those that were configured, and whoever looks can see it."""

    async def scenario() -> None:
        parts = opened(tmp_path)
        driver = Driver(config(tmp_path, others=("m2", "m3"), heartbeat_ms=4_000), bytes(32), parts)
        with structlog.testing.capture_logs() as logs:
            await driver.start()
            try:
                await _configurations(logs, 1)
                driver._keeper._arrived(
                    stored(parts.snapshots, tmp_path / "giver", Configuration.of(["m1", "m4"]))
                )
                assert await _configurations(logs, 2) == [("m1", "m2", "m3"), ("m1", "m4")]
                assert driver.status().voters == ("m1", "m4")
            finally:
                await driver.stop()
                parts.machine.close()

    run(scenario())


async def _configurations(logs: Sequence[MutableMapping[str, Any]], count: int) -> list[tuple[str, ...]]:
    """The voters that were logged, as soon as it was so many times."""
    async with asyncio.timeout(5):
        while True:
            voters = [entry["voters"] for entry in logs if entry["event"] == "configuration"]
            if len(voters) >= count:
                return voters
            await asyncio.sleep(0.01)
