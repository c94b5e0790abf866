"""Clients on a thread with an event loop of its own, so that tests are plain sequences."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.cluster.daemons import Cluster, wait_until

JOIN_S = 30.0
PROGRESS_S = 60.0
"""How long a cluster may take to go on, on a machine with much else to do."""


class Load(ABC):
    """Works until the block ends, or until an exception, which is raised where the test waits or ends."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load")

    @abstractmethod
    async def _work(self) -> None:
        """All clients, until `_stop` is set."""

    @property
    @abstractmethod
    def acknowledgements(self) -> int:
        """How many writes were acknowledged."""

    @property
    def failures(self) -> int:
        """How many were not, where that is no exception."""
        return 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(JOIN_S)
        if error is None:
            assert not self._thread.is_alive(), "the clients do not end"
            self._raise_failure()

    def progress(self, writes: int) -> None:
        """Wait until this many more writes were acknowledged."""
        wanted = self.acknowledgements + writes
        self._wait(f"{writes} more writes are acknowledged", lambda: self.acknowledgements >= wanted)

    def trouble(self, failures: int) -> None:
        """Wait until this many more writes ended without an acknowledgement."""
        wanted = self.failures + failures
        self._wait(f"{failures} more writes end in trouble", lambda: self.failures >= wanted)

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        wait_until(what, lambda: self._failure is not None or condition(), PROGRESS_S)
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as failure:  # noqa: BLE001 - the test's own thread raises it
            self._failure = failure
