"""Running a command while a lock is held: `raftos lock acquire NAME -- CMD...`.

The command runs in the foreground like any other: same terminal, same streams, same process group. What
it exits with is what this exits with, in the manner of `env` and `timeout`:

| code    | because                                                                                   |
|---------|-------------------------------------------------------------------------------------------|
| CMD's   | it ended by itself; 128 + N if signal N ended it                                          |
| 125     | the lock could not be had, or was lost: then CMD is sent SIGTERM, and SIGKILL after 5 s   |
| 126     | CMD was found and cannot be executed                                                      |
| 127     | CMD was not found                                                                         |

Signals that are meant to end something are passed on, and the lock is kept until the command has ended.
What the terminal sends (Ctrl-C) goes to every process of the foreground, so that is not said twice.

Killed by SIGKILL, this cannot end the command, which then runs on while the lock runs out. What it must
not do then has to be fenced by the token.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from raftos.client.aio import AsyncClient
from raftos.client.lock import AsyncLock
from raftos.errors import Conflict, RaftosError
from raftos_cli.base import Invocation

FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
GRACE_S = 5.0
FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
FORWARDED = (*FROM_TERMINAL, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def hold(
    run: Invocation,
    words: Sequence[str],
    name: str,
    *,
    ttl_s: float,
    wait_s: float | None,
    owner: str | None,
) -> int:
    """Run the command line `words` while holding the lock; the exit code."""

    async def holding() -> int:
        endpoints = list(run.endpoints) or None
        async with (
            AsyncClient(endpoints, run.context, timeout_s=run.timeout_s) as client,
            client.lock(name, ttl_s=ttl_s, wait_s=wait_s, owner=owner) as held,
        ):
            return await _run(held, words, run)

    try:
        return asyncio.run(holding())
    except RaftosError as error:
        run.report(error)
        return FAILED


async def _run(held: AsyncLock, words: Sequence[str], run: Invocation) -> int:
    tenure = {"RAFTOS_LOCK_NAME": held.name, "RAFTOS_LOCK_TOKEN": str(held.token)}
    with _Signals() as signals:
        try:
            command = await asyncio.create_subprocess_exec(*words, env=os.environ | tenure)
        except OSError as error:
            run.report(RaftosError(f"{words[0]!r} cannot be run: {error.strerror or error}"))
            return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        signals.go_to(command)
        reason = await _until_either(command, held)
        if reason is None:
            assert command.returncode is not None
            return command.returncode if command.returncode >= 0 else 128 - command.returncode
        await _end(command)
    run.report(Conflict(f"{reason}: somebody else may have it; the command has ended"))
    return FAILED


async def _until_either(command: Process, held: AsyncLock) -> str | None:
    """Wait for the end of the command, or of the lock; why the lock was lost, if it was."""
    ended, lost = asyncio.create_task(command.wait()), asyncio.create_task(held.until_lost())
    await asyncio.wait({ended, lost}, return_when=asyncio.FIRST_COMPLETED)
    if not held.lost:
        lost.cancel()
        return None
    # Also when the command has ended: it did so unprotected. The reason follows at once.
    ended.cancel()
    return await lost


async def _end(command: Process) -> None:
    with suppress(ProcessLookupError):
        command.terminate()
    try:
        async with asyncio.timeout(GRACE_S):
            await command.wait()
    except TimeoutError:
        command.kill()
        await command.wait()


class _Signals:
    """Within the block signals go to the command, also those that come while it is being started.

    This process would end by them otherwise, and leave the command running without its lock.
    """

    def __init__(self) -> None:
        self._command: Process | None = None
        self._early: list[signal.Signals] = []

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in FORWARDED:
            loop.add_signal_handler(number, self._came, number)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in FORWARDED:
            loop.remove_signal_handler(number)

    def go_to(self, command: Process) -> None:
        self._command = command
        for number in self._early:
            self._came(number)

    def _came(self, number: signal.Signals) -> None:
        if self._command is None:
            self._early.append(number)
        elif number not in FROM_TERMINAL or not _is_foreground():
            with suppress(ProcessLookupError):
                self._command.send_signal(number)


def _is_foreground() -> bool:
    """Whether a terminal sends its signals to this process, and so to the command as well."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
