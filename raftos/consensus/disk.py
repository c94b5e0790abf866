"""Where a journal write happens: at once while the disk is quick and the write is small, else on a thread.

Handing a write to a thread and hearing back costs two switches between threads, and with few cores
that is more than a quick `fdatasync` itself: a lone write would spend most of its time waiting for
its turn. So a small write is done in place, as long as syncs have lately been quick on average.

What a sync took includes waiting for a core, on a busy machine most of it. So one that took a few
milliseconds says little, and counts for little: if each of those sent the writes after it to the
thread, most would go there. One that took a twentieth of a second sends them there at once: a disk that
hangs blocks the event loop for one sync, and the thread has the rest until the disk is quick again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

SMALL_BYTES = 4 * 1024
QUICK_S = 0.001
LONG_S = 0.05
"""A sync that took so long is believed at once."""
OUTLIER_S = 0.004
"""As so much at most counts one that took less."""
_DECAY = 0.9


class Disk:
    """Runs `write` jobs, one at a time, and calls `done(failure)` where the caller lives.

    `call_soon` brings a call back from the thread (`loop.call_soon_threadsafe`). Whatever a job raises is
    its failure: a thread that ended would leave its owner waiting for ever. How long jobs take is measured
    by `clock`, in seconds.
    """

    def __init__(
        self, call_soon: Callable[..., object], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._call_soon = call_soon
        self._clock = clock
        self._typical_s = 0.0
        """What a sync takes, on average lately."""
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="raftos-disk", daemon=True)
        self._thread.start()

    def run(
        self, write: Callable[[], None], size_bytes: int, done: Callable[[Exception | None], None]
    ) -> None:
        """Do `write` and call `done`: before this returns, or soon after it."""
        if size_bytes <= SMALL_BYTES and self._typical_s < QUICK_S:
            done(self._timed(write))
        else:
            self._jobs.put(lambda: self._on_thread(lambda: self._timed(write), done))

    def run_apart(self, job: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Do what is no write, and may take long, on the thread, after the writes given before."""
        self._jobs.put(lambda: self._on_thread(lambda: self._tried(job), done))

    def stop(self) -> None:
        """Finish what was given, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _timed(self, write: Callable[[], None]) -> Exception | None:
        began = self._clock()
        failure = self._tried(write)
        if failure is not None:
            return failure
        took_s = self._clock() - began
        self._typical_s = _DECAY * self._typical_s + (1 - _DECAY) * min(took_s, OUTLIER_S)
        if took_s >= LONG_S:
            self._typical_s = took_s
        return None

    def _tried(self, job: Callable[[], None]) -> Exception | None:
        try:
            job()
        except Exception as failure:  # noqa: BLE001 - see above
            return failure
        return None

    def _on_thread(
        self, job: Callable[[], Exception | None], done: Callable[[Exception | None], None]
    ) -> None:
        failure = job()
        try:
            self._call_soon(done, failure)
        except RuntimeError:
            return  # The loop has ended with the process; nobody waits for this write any more.

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class Removals:
    """Files on their way off the disk, oldest first; `failed` is told what keeps them, and may call `go_on`.

    One that waits for space holds up those after it: were it overtaken, there would be a gap behind it.
    """

    def __init__(
        self, disk: Disk, remove: Callable[[Sequence[str]], None], failed: Callable[[Exception], None]
    ) -> None:
        self._disk = disk
        self._remove = remove
        self._failed = failed
        self._names: list[str] = []

    def add(self, names: Sequence[str]) -> None:
        """Remove these after those before them, on the thread."""
        is_under_way = bool(self._names)
        self._names += names
        if not is_under_way:
            self.go_on()

    def go_on(self) -> None:
        """Try what is left; call it once for each `failed`."""
        names = tuple(self._names)
        if names:
            self._disk.run_apart(lambda: self._remove(names), lambda failure: self._ended(names, failure))

    def _ended(self, names: Sequence[str], failure: Exception | None) -> None:
        if failure is None:
            del self._names[: len(names)]
            self.go_on()
        else:
            self._failed(failure)
