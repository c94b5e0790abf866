"""A machine with someone who hands it log entries, as consensus would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raftos.state import place, storage
from raftos.state.command import Command, Ok, Query, Result, decode_result, encode_entry, encode_request
from raftos.state.domain import Domain
from raftos.state.domains import DOMAINS
from raftos.state.machine import Machine

START_MS = 1_700_000_000_000


def request_id(created_ms: int, number: int) -> bytes:
    """A request id as clients mint them, but the same in every run."""
    return created_ms.to_bytes(6, "big") + b"\x70\x00\x80\x00" + number.to_bytes(6, "big")


class Feeder:
    """Feeds one machine, and can stop and reopen it."""

    def __init__(
        self,
        folder: Path,
        *,
        domains: Sequence[Domain] = DOMAINS,
        max_requests: int = 250_000,
        cluster_id: str = "",
    ) -> None:
        self._settings: dict[str, Any] = {
            "domains": domains,
            "max_requests": max_requests,
            "cluster_id": cluster_id,
        }
        self.folder = folder
        self.machine = Machine(folder, **self._settings)
        self.now_ms = START_MS
        self._ids = 0

    def new_id(self, created_ms: int | None = None) -> bytes:
        self._ids += 1
        return request_id(self.now_ms if created_ms is None else created_ms, self._ids)

    def entry(self, *requests: tuple[bytes, Command]) -> bytes:
        """One log entry stamped with the present time."""
        return encode_entry(self.now_ms, [encode_request(*request) for request in requests])

    def apply(self, *payloads: bytes) -> list[list[bytes]]:
        """Apply payloads in one call; the encoded results of each."""
        first = self.machine.applied_index + 1
        return self.machine.apply(list(enumerate(payloads, first)))

    def send(self, *requests: tuple[bytes, Command]) -> list[Result]:
        """Apply requests as one entry; their results."""
        [results] = self.apply(self.entry(*requests))
        return [decode_result(result) for result in results]

    def do(self, *commands: Command) -> list[Result]:
        """Apply commands as one entry, under new request ids; their results."""
        return self.send(*((self.new_id(), command) for command in commands))

    def ok(self, command: Command) -> Any:
        """Apply one command that has to succeed; the value of its result."""
        [result] = self.do(command)
        assert isinstance(result, Ok), result
        return result.value

    def ask(self, query: Query) -> Any:
        reader = self.machine.reader()
        try:
            return reader.query(query)
        finally:
            reader.close()

    def due(self, now_ms: int | None = None) -> list[Command]:
        """What the domains want proposed by this time."""
        reader = self.machine.reader()
        try:
            return reader.due(self.now_ms if now_ms is None else now_ms)
        finally:
            reader.close()

    def reopen(self) -> None:
        """Stop as a process does, without any last word, and start again."""
        self.machine.close()
        self.machine = Machine(self.folder, **self._settings)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table."""
        db = storage.connect_reader(place.current_file(self.folder))
        try:
            tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            everything = "SELECT * FROM {} ORDER BY 1"
            return {table: db.execute(everything.format(table)).fetchall() for table in tables}
        finally:
            db.close()

    def close(self) -> None:
        """The invariants hold at the end of every test."""
        self.machine.check()
        self.machine.close()
