"""`GET /v1/snapshot`: the whole state of this member as one file.

The file is made, or an existing one is held, before the first byte is sent; it is read piece by piece on a
thread, as fast as the reader takes it, and let go when the reader leaves. What breaks in the middle breaks
the connection, so that nobody takes a part for the whole: the length was said before.
"""

from __future__ import annotations

import asyncio

import structlog

from raftos.api import codec
from raftos.api.answers import Outlet, StreamAnswer
from raftos.api.connection import Request
from raftos.api.domains import consistency_of
from raftos.api.requests import deadline
from raftos.consensus.base import Snapshot
from raftos.errors import InvalidInput, LimitReached, RaftosError
from raftos.member import Member

CONTENT_TYPE = "application/octet-stream"
PIECE_BYTES = 256 * 1024
MAX_READERS = 4
"""So many may read snapshots of one member at once: each keeps the disk busy."""

_log = structlog.get_logger(__name__)


class SnapshotRoute:
    def __init__(self, member: Member) -> None:
        self._member = member
        self._readers = 0

    async def __call__(self, request: Request) -> StreamAnswer:
        fields = codec.parameters(request.query)
        consistency = consistency_of(fields.pop("consistency", "linearizable"))
        if fields:
            raise InvalidInput(f"unknown parameter {next(iter(fields))!r}; there is only consistency")
        if self._readers >= MAX_READERS:
            raise LimitReached(f"{MAX_READERS} snapshots of this member are being read; ask another member")
        self._readers += 1
        try:
            return await self._begin(consistency, deadline(request, self._member.config.request_timeout_ms))
        except BaseException:  # However it ends, also by cancelling: this reader no longer counts.
            self._readers -= 1
            raise

    async def _begin(self, consistency: str, until: float) -> StreamAnswer:
        consensus = self._member.consensus
        if consistency == "linearizable":
            await consensus.read_barrier(until)
        snapshot = await consensus.snapshot(until)

        async def run(outlet: Outlet) -> None:
            try:
                with snapshot:
                    await _send(snapshot, outlet)
            finally:
                self._readers -= 1

        headers = f"Raftos-Snapshot-Index: {snapshot.index}\r\n"
        return StreamAnswer(200, b"", CONTENT_TYPE, headers, run=run, size_bytes=snapshot.size_bytes)


async def _send(snapshot: Snapshot, outlet: Outlet) -> None:
    """Raises ConnectionResetError where the file cannot be read to its end."""
    sent = 0
    while sent < snapshot.size_bytes:
        try:
            piece = await asyncio.to_thread(snapshot.read, sent, PIECE_BYTES)
        except RaftosError as error:
            _log.error("a snapshot was not sent to its end", reason=error.message)
            raise ConnectionResetError("the snapshot cannot be read") from error
        if not piece:
            raise ConnectionResetError("the snapshot is shorter than it was")
        outlet.write(piece)
        sent += len(piece)
        await outlet.drained()
