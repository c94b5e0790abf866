"""The history that won, once more: a machine of its own applies the agreed log from the beginning.

What users were told, what watchers were told and what members keep is held against it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from raftos.state.command import Command, Ok, Result, decode_result, is_ok
from raftos.state.domain import Domain
from raftos.state.domains import command_decoder
from raftos.state.events import Told
from raftos.state.machine import Machine
from raftos.state.place import current_file
from tests.simulation.history import History, Violation
from tests.simulation.ledger import Ledger

PIECE = 97
"""So many entries are applied at once; members apply them in other pieces."""

_NAMES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite_%'"
_decode_entry = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[bytes, msgspec.Raw]]]).decode


class Done(NamedTuple):
    """A command of the agreed log with its result, when it was applied for the first time."""

    command: Command
    result: Result
    revision: int
    """The command's own, if it succeeded; else that of the one before."""
    time_ms: int

    @property
    def value(self) -> dict[str, Any] | None:
        """What it was answered, if it succeeded."""
        return self.result.value if isinstance(self.result, Ok) else None


class Replay:
    """All commands in order, with their results and their events."""

    def __init__(self, history: History, folder: Path, domains: Sequence[Domain]) -> None:
        self.done: dict[bytes, Done] = {}
        self.told: list[Told] = []
        self.folder = folder
        self._revision = self._time_ms = 0
        machine = Machine(folder, cluster_id="simulated", domains=domains)
        machine.on_events(self.told.extend)
        indexes = range(1, max(history.committed) + 1)
        for start in range(0, len(indexes), PIECE):
            entries = [(index, history.committed[index]) for index in indexes[start : start + PIECE]]
            for (_, payload), results in zip(entries, machine.apply(entries), strict=True):
                self._note(payload, results)
        if machine.revision != self._revision:
            raise Violation(f"{self._revision} commands succeeded, but the revision is {machine.revision}")
        self.position = machine.applied_index, machine.state_hash
        machine.close()

    def _note(self, payload: bytes, results: list[bytes]) -> None:
        _, time_ms, requests = _decode_entry(payload) if payload else (0, 0, [])
        self._time_ms = max(self._time_ms, time_ms)
        for (request_id, body), result in zip(requests, results, strict=True):
            if request_id not in self.done:
                self._revision += is_ok(result)
                command: Command = command_decoder.decode(body)
                self.done[request_id] = Done(command, decode_result(result), self._revision, self._time_ms)

    def check_answers(self, history: History) -> None:
        """Users were answered what the agreed log says."""
        for asked in history.asked:
            if asked.result is not None and self.done[asked.id].result != asked.result:
                raise Violation(f"{asked.command} was answered {asked.result}, but did {self.done[asked.id]}")

    def check_ledger(self, ledger: Ledger) -> None:
        """Members told their watchers what the agreed log says, and all of it."""
        if self.told != list(ledger.entries.values()):
            raise Violation("what members told is not what the agreed log tells")

    def check_tables(self, folder: Path) -> None:
        """A member keeps the same rows in every table, those of the search index among them."""
        ours, theirs = dict(_tables(self.folder)), dict(_tables(folder))
        differing = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        if differing:
            raise Violation(f"{folder.name} keeps other rows in {', '.join(sorted(differing))}")


def _tables(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Each table's name and a digest of its rows."""
    with closing(sqlite3.connect(current_file(folder))) as db:
        for (name,) in db.execute(_NAMES).fetchall():
            digest = blake2b(digest_size=16)
            for row in db.execute(f'SELECT * FROM "{name}"'):  # noqa: S608 - SQLite names it so itself.
                digest.update(repr(row).encode())
            yield name, digest.digest()
