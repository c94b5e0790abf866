"""Where a journal write happens: in place, or on the disk thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from raftos.consensus.disk import LONG_S, OUTLIER_S, SMALL_BYTES, Disk
from raftos.consensus.journal import DiskFull

Done = Callable[[], None]


class Owner:
    """The side that gives writes and takes calls back, as an event loop would."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self.disk = Disk(lambda call, *values: self.calls.put(lambda: call(*values)))
        self.ended: list[tuple[str, Exception | None]] = []

    def write(self, size_bytes: int = 100, slow_s: float = 0.0, failure: Exception | None = None) -> None:
        """One write; notes the name of the thread that did it."""
        where: list[str] = []

        def work() -> None:
            where.append(threading.current_thread().name)
            time.sleep(slow_s)
            if failure is not None:
                raise failure

        self.disk.run(work, size_bytes, lambda ended: self.ended.append((where[0], ended)))

    def wait(self) -> None:
        """Take one call back from the thread."""
        self.calls.get(timeout=10)()


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.disk.stop()


HERE, THERE = threading.current_thread().name, "raftos-disk"


def test_a_small_write_to_a_quick_disk_is_done_in_place(owner: Owner) -> None:
    """Its end is told before `run` returns."""
    owner.write(SMALL_BYTES)
    assert owner.ended == [(HERE, None)]


def test_a_large_write_goes_to_the_thread(owner: Owner) -> None:
    """So that the loop goes on during a long sync; the end is told through `call_soon`."""
    owner.write(SMALL_BYTES + 1)
    assert owner.ended == []
    owner.wait()
    assert owner.ended == [(THERE, None)]


def test_one_long_sync_sends_the_following_writes_to_the_thread(owner: Owner) -> None:
    """Until the disk has been quick there for a while; then small writes are done in place again."""
    owner.write(slow_s=LONG_S)
    owner.write()
    owner.wait()
    assert owner.ended == [(HERE, None), (THERE, None)]
    for _ in range(2_000):
        before = len(owner.ended)
        owner.write()
        if len(owner.ended) > before:
            return
        owner.wait()
    pytest.fail("the disk was quick 2000 times and is still not trusted")


def test_a_sync_that_waited_for_its_turn_now_and_then_changes_nothing(owner: Owner) -> None:
    """One in ten took long enough to be an outlier: on a busy machine that is not the disk."""
    for number in range(100):
        owner.write(slow_s=2 * OUTLIER_S if number % 10 == 0 else 0.0)
    assert owner.ended == [(HERE, None)] * 100


def test_a_disk_that_is_always_slow_is_left_to_the_thread(owner: Owner) -> None:
    """Although no sync of it is long."""
    for _ in range(20):
        before = len(owner.ended)
        owner.write(slow_s=OUTLIER_S)
        if len(owner.ended) == before:
            owner.wait()
    assert [where for where, _ in owner.ended[-10:]] == [THERE] * 10


@pytest.mark.parametrize("size_bytes", [100, SMALL_BYTES + 1])
def test_a_full_disk_is_told_to_the_owner(owner: Owner, size_bytes: int) -> None:
    """Wherever the write was tried."""
    full = DiskFull("no space")
    owner.write(size_bytes, failure=full)
    if not owner.ended:
        owner.wait()
    assert owner.ended[0][1] is full


def test_stopping_finishes_what_was_given(owner: Owner) -> None:
    """A stop in the middle of a sync waits for it."""
    owner.write(SMALL_BYTES + 1, slow_s=0.05)
    owner.write(SMALL_BYTES + 1)
    disk = owner.disk
    disk.stop()
    owner.wait()
    owner.wait()
    assert [failure for _, failure in owner.ended] == [None, None]
    owner.disk = Disk(lambda *_: None)  # for the fixture to stop


@pytest.mark.parametrize("size_bytes", [100, SMALL_BYTES + 1])
def test_whatever_a_write_fails_with_is_told_and_the_next_one_is_done(owner: Owner, size_bytes: int) -> None:
    """A bug must not end the thread in silence: its owner would wait for ever."""
    bug = KeyError("bug")
    owner.write(size_bytes, failure=bug)
    owner.write(SMALL_BYTES + 1)
    while len(owner.ended) < 2:
        owner.wait()
    assert [failure for _, failure in owner.ended] == [bug, None]
