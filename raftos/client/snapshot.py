"""Snapshots: the whole state of the cluster as one file, to be kept and restored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from raftos.client.core import Core
from raftos.client.pool import Pool, Request
from raftos.client.replacing import begun, part_of, place_of, put_in_place, sync, sync_folder
from raftos.client.streaming import Stream
from raftos.errors import InvalidInput, RaftosError, Unavailable

PREPARE_S = 60.0
"""How long a member may take to make the file before it sends the first byte."""
PATIENCE_S = 15.0

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and those of the whole file."""
Check = Callable[[Path], None]
"""Called with the file that has come, on a thread; raises what is wrong with it."""


class Saved(msgspec.Struct, frozen=True):
    """A snapshot that was saved: the last log index in it, its size, and the member it came from."""

    index: int
    size_bytes: int
    endpoint: str


class AsyncSnapshot:
    """`client.snapshot`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def save(
        self,
        file: str | Path | BinaryIO,
        *,
        stale: bool = False,
        progress: Progress | None = None,
        check: Check | None = None,
    ) -> Saved:
        """Save a snapshot with everything that was acknowledged before the call.

        A path is replaced in one step: until the whole file is on disk it is called FILE.part. `check` is
        called with that before it takes the place of FILE; if it raises, FILE is as it was. A symbolic link
        is followed. A file object has to be seekable, as another member is asked from the beginning when one
        breaks off, and is not checked. `stale`: what one member has, also without a leader. Raises
        InvalidInput where FILE is no regular file, Conflict while another saves to it, NoQuorum, NotReady,
        LimitReached, Unreachable, OSError, and what `check` raises.
        """
        if not isinstance(file, str | Path):
            if check is not None:
                raise InvalidInput("only a path is checked before it is replaced; check the file yourself")
            return await self._save(file, stale=stale, progress=progress)
        target = place_of(Path(file))
        with begun(target) as opened:
            saved = await self._save(opened, stale=stale, progress=progress)
            await asyncio.to_thread(sync, opened, target)
            if check is not None:
                await asyncio.to_thread(check, part_of(target))
            put_in_place(opened, target)  # Not on a thread: that might do it after this call was cancelled.
        await asyncio.to_thread(sync_folder, target)
        return saved

    async def _save(self, file: BinaryIO, *, stale: bool, progress: Progress | None) -> Saved:
        pool = self._core.open_pool()
        last: RaftosError | None = None
        for _ in range(len(pool) + 1):
            # The member that answers this comes first; so nobody waits long for one that does not.
            await self._core.request(Request("GET", "/livez" if stale else "/readyz"), bytes)
            try:
                return await _save_once(pool, file, stale=stale, progress=progress)
            except Unavailable as error:
                last = error
        assert last is not None
        raise last


async def _save_once(pool: Pool, file: BinaryIO, *, stale: bool, progress: Progress | None) -> Saved:
    """One attempt at one member, from the beginning of the file."""
    endpoint = pool.pick()
    path = "/v1/snapshot?consistency=" + ("stale" if stale else "linearizable")
    try:
        stream = await pool.stream(endpoint, path, PREPARE_S)
        try:
            index, size_bytes = _told(stream)
            await _copy(stream, file, size_bytes, progress or _nobody)
        finally:
            await stream.close()
    except RaftosError as error:
        pool.learn(endpoint, error)
        raise
    return Saved(index, size_bytes, endpoint.address.url)


def _told(stream: Stream) -> tuple[int, int]:
    return int(stream.header(b"raftos-snapshot-index") or 0), int(stream.header(b"content-length") or 0)


async def _copy(stream: Stream, file: BinaryIO, size_bytes: int, progress: Progress) -> None:
    file.seek(0)
    file.truncate()
    written = 0
    progress(written, size_bytes)
    while piece := await stream.read(PATIENCE_S):
        await asyncio.to_thread(file.write, piece)
        written += len(piece)
        progress(written, size_bytes)


def _nobody(_written: int, _whole: int) -> None:
    """Nobody wants to know."""
