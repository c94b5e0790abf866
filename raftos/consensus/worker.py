"""The thread for snapshots: jobs in order, with what they gave brought back to the loop.

Copying, compressing and verifying a large state takes seconds of a core; SQLite and lz4 let go of the
interpreter while they work. The thread has no lower priority than the loop: it would now and then be put
aside just while it holds the interpreter, and the loop would wait for it (see docs/decisions/snapshots.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from raftos.errors import NotReady, RaftosError
from raftos.state.machine import CannotApply


class Worker:
    """Runs jobs one after another; `failed` hears of what is no trouble of the disk, but a bug."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, "raftos-snapshots")
        self._stopped = False

    def work(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run `job` on the thread, then `done` on the loop with its value, or its trouble as RaftosError."""
        if not self._stopped:
            self._thread.submit(job).add_done_callback(lambda ended: self._bring_back(ended, done))

    def _bring_back(self, ended: Future[Any], done: Callable[[Any], None]) -> None:
        if not ended.cancelled():
            with suppress(RuntimeError):  # The loop has ended with the process.
                self._loop.call_soon_threadsafe(self._conclude, ended, done)

    def _conclude(self, ended: Future[Any], done: Callable[[Any], None]) -> None:
        if self._stopped:
            return
        failure = ended.exception()
        if isinstance(failure, CannotApply | OSError):
            failure = NotReady(str(failure))
        try:
            done(failure if isinstance(failure, RaftosError) else ended.result())
        except Exception as bug:  # noqa: BLE001 - whatever it is, it ends this member, and the log has its trace
            self._failed(bug)

    async def stop(self) -> None:
        """Let the present job end and forget those that wait; nothing is brought back any more."""
        self._stopped = True
        await self._loop.run_in_executor(None, lambda: self._thread.shutdown(cancel_futures=True))
