"""One turn of the machine: the entries of one call of `apply`, inside one SQLite transaction.

A turn holds everything that is not saved yet, so that giving it up means forgetting it. For each
request of an entry, in order:

1. its id is looked up in the memory of recent requests: refused, answered as the first time, or new;
2. a new command is held against its domain's limits and the space left, then applied by its domain;
3. its result and its events are kept, in one row for each log entry.

Savepoints cost throughput and are needed almost never, so a turn is first tried without. When
domain code raises, the machine rolls the turn back and takes it again `guarded`, with a savepoint
around each command: the one that raises becomes `Failed`, all others are applied.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from traceback import format_exception
from typing import Any
from zlib import crc32

import msgspec
import structlog

from raftos.errors import InvalidInput
from raftos.levels import FIRST_LEVEL
from raftos.state import events
from raftos.state.command import (
    ENTRY_VERSION,
    REQUEST_ID_BYTES,
    Command,
    Failed,
    Ok,
    Rejected,
    encode_result,
)
from raftos.state.domain import Apply, Context, Domain, Validate, decoder_of, limits_of
from raftos.state.events import Told
from raftos.state.requests import RequestMemory, join_results
from raftos.state.storage import CannotApply, is_own_trouble
from raftos.state.tally import CLUSTER_LEVEL, STATE_BYTES, Tallies

HASH_BYTES = 16
STAMP_INDEXES = 64
"""Every member notes its hash at the multiples of this, so that two can be compared also under load."""
STAMPS = 64
"""How many of them it keeps, in memory."""
MAX_TIME_MS = 2**47
"""Far enough, and still within the 48 bits of a request id."""

_OK_PREFIX = b"\x81\xa2ok"
_ID_CONFLICT = encode_result(
    Rejected("conflict", "this request id was used for another command; send this one under an id of its own")
)
_NO_SPACE = encode_result(
    Rejected(
        "no_space",
        "the state is full, so nothing more is stored; delete something, or raise the quota `state.bytes`",
    )
)
_encode = msgspec.msgpack.Encoder().encode
_decode_entry = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[bytes, msgspec.Raw]]]).decode
_log = structlog.get_logger(__name__)

Requests = list[tuple[bytes, msgspec.Raw]]
"""Request ids with their commands, still encoded."""


Stamp = tuple[int, bytes]
"""A log index, and the `state_hash` after it."""


class Position(msgspec.Struct, frozen=True):
    """Where the machine stands; saved in the transaction that brought it there."""

    applied_index: int
    time_ms: int
    revision: int
    horizon_ms: int
    state_hash: bytes


class Vocabulary:
    """What the machine's domains understand."""

    def __init__(self, domains: Sequence[Domain]) -> None:
        self.apply: dict[type, Apply] = {}
        for domain in domains:
            self.apply.update(domain.commands)
        self.validate: dict[type, Validate] = limits_of(domains)
        self.grows: dict[type, Callable[[Any], bool]] = {}
        for domain in domains:
            self.grows.update(domain.grows)
        self.decode: Callable[[msgspec.Raw], Any] = decoder_of(self.apply).decode


class Turn:
    """Entries applied but not yet saved."""

    def __init__(
        self,
        db: sqlite3.Connection,
        vocabulary: Vocabulary,
        memory: RequestMemory,
        tallies: Tallies,
        start: Position,
        noted: list[int],
        *,
        guarded: bool,
    ) -> None:
        self._db = db
        self._apply = vocabulary.apply
        self._validate = vocabulary.validate
        self._grows = vocabulary.grows
        self._decode = vocabulary.decode
        self._memory = memory
        self._tallies = tallies
        self._execute = self._guarded if guarded else self._plain
        noted.clear()
        self._context = Context(db, noted, tallies, start.time_ms, start.revision + 1)
        self._index = start.applied_index
        self._hash = start.state_hash
        self.told: list[Told] = []
        """What to tell the watchers once the turn is saved."""
        self.stamps: list[Stamp] = []
        """What to remember of the hash once the turn is saved."""
        self.faults = 0

    def position(self) -> Position:
        context = self._context
        return Position(
            self._index, context.time_ms, context.revision - 1, self._memory.horizon_ms, self._hash
        )

    def entry(self, index: int, payload: bytes) -> list[bytes]:
        """Apply the entry at `index`, the next one; returns one encoded result for each request."""
        self._index = index
        answers: list[bytes] = []
        if payload:
            answers = self._fill(payload)
        else:
            self._stamp(b"", answers, b"")
        time_ms, revision = self._context.time_ms, self._context.revision - 1
        self._memory.sweep(index, time_ms)
        if index % events.SWEEP_INDEXES == 0:
            events.sweep(self._db, time_ms, revision, self._context.counts)
        if index % STAMP_INDEXES == 0:
            self.stamps.append((index, self._hash))
        return answers

    def _fill(self, payload: bytes) -> list[bytes]:
        context = self._context
        time_ms, requests = _read(self._index, payload)
        context.time_ms = time_ms = max(time_ms, context.time_ms)
        answers, ids = self._answer(requests)
        body = events.encode_events(context.events)
        context.events.clear()
        if body is not events.EMPTY:
            told = Told(context.revision - 1, time_ms, body)
            events.append(self._db, told)
            self.told.append(told)
        self._stamp(ids, answers, body)
        return answers

    def _answer(self, requests: Requests) -> tuple[list[bytes], bytes]:
        """One result for each request, and the ids and checksums of those that were new."""
        time_ms, known = self._context.time_ms, self._memory.known
        execute, decode = self._execute, self._decode
        lowest, highest = self._memory.window(time_ms)
        answers: list[bytes] = []
        fresh: dict[bytes, int] = {}
        results: list[bytes] = []
        for request_id, body in requests:
            if (
                lowest <= request_id <= highest
                and request_id not in known
                and request_id not in fresh
                and len(request_id) == REQUEST_ID_BYTES
            ):
                try:
                    command = decode(body)
                except msgspec.MsgspecError as error:
                    raise _unreadable(self._index, str(error)) from error
                fresh[request_id] = crc32(body)
                result = execute(command)
                results.append(result)
            else:
                result = self._answer_again(request_id, body, fresh, results)
            answers.append(result)
        return answers, self._memory.remember(self._index, time_ms, fresh, results)

    def _answer_again(
        self, request_id: bytes, body: msgspec.Raw, fresh: dict[bytes, int], results: list[bytes]
    ) -> bytes:
        """The answer to a request that is refused for its id, or was answered before."""
        refusal = self._memory.refusal(request_id, self._context.time_ms)
        if refusal is not None:
            return encode_result(refusal)
        if request_id in fresh:
            checksum, result = fresh[request_id], results[list(fresh).index(request_id)]
        else:
            checksum, result = self._memory.recall(request_id)
        return result if crc32(body) == checksum else _ID_CONFLICT

    def _plain(self, command: Command) -> bytes:
        """Apply one command; a bug in its domain raises, and leaves the tables half written."""
        kind, context, db = type(command), self._context, self._db
        try:
            self._validate[kind](command)
        except InvalidInput as error:
            return encode_result(Rejected(error.code, error.message))
        if kind.since > FIRST_LEVEL and kind.since > context.counts[CLUSTER_LEVEL]:
            return encode_result(_not_enabled(kind))
        if context.counts[STATE_BYTES] >= context.most[STATE_BYTES] and self._is_refused(command):
            return _NO_SPACE
        changes = db.total_changes
        result = self._apply[kind](db, command, context)
        if type(result) is Ok:
            answer = _OK_PREFIX + _encode(result.value)
            context.revision += 1
            return answer
        if not isinstance(result, Rejected):
            raise TypeError(f"an apply function returned {type(result).__name__}")
        if db.total_changes != changes or (context.events and context.events[-1][0] == context.revision):
            raise RuntimeError("an apply function wrote before it refused")
        return encode_result(result)

    def _is_refused(self, command: Command) -> bool:
        grows = self._grows.get(type(command))
        return grows is not None and grows(command)

    def _guarded(self, command: Command) -> bytes:
        """Apply one command in a savepoint; a bug in its domain makes it `Failed`."""
        context, events_before, revision = self._context, len(self._context.events), self._context.revision
        tallies = self._tallies.copy()
        self._db.execute("SAVEPOINT command")
        try:
            answer = self._plain(command)
            _encode(context.events[events_before:])
        except Exception as error:  # Whatever a bug raises; this machine's own trouble goes on.
            if isinstance(error, CannotApply) or is_own_trouble(error):
                raise
            self._db.execute("ROLLBACK TO command")
            del context.events[events_before:]
            context.revision = revision
            context.noted.clear()
            self._tallies.restore(tallies)
            answer = self._fault(command, error)
        self._db.execute("RELEASE command")
        return answer

    def _fault(self, command: Command, error: Exception) -> bytes:
        self.faults += 1
        tag = type(command).__struct_config__.tag
        # As text, because a renderer of tracebacks might show local variables, and so what users store.
        trace = "".join(format_exception(error))
        _log.error("fault: a command was rolled back", command=tag, log_index=self._index, traceback=trace)
        # The message is part of the replicated result: it must not hold what differs between members.
        return encode_result(
            Failed(
                f"{tag} met a bug in raftos ({type(error).__name__}); it changed nothing, the log says more"
            )
        )

    def _stamp(self, ids: bytes, answers: list[bytes], body: bytes) -> None:
        """Roll the hash on. Commands count by their id and checksum: hashing them whole cost 6 % more."""
        context = self._context
        head = struct.pack(">QQQQ", self._index, context.time_ms, context.revision, len(ids))
        parts = (self._hash, head, ids, join_results(answers), body)
        self._hash = blake2b(b"".join(parts), digest_size=HASH_BYTES).digest()


def _not_enabled(kind: type[Command]) -> Rejected:
    return Rejected(
        "not_enabled",
        f"{kind.__struct_config__.tag} can be used once every member knows level {kind.since}; upgrade all "
        "of them, `raftos status` says which are behind",
    )


def _read(index: int, payload: bytes) -> tuple[int, Requests]:
    try:
        version, time_ms, requests = _decode_entry(payload)
    except msgspec.MsgspecError as error:
        raise _unreadable(index, str(error)) from error
    if version != ENTRY_VERSION:
        raise _unreadable(index, f"it has version {version}, this member knows {ENTRY_VERSION}")
    if not 0 <= time_ms <= MAX_TIME_MS:
        raise _unreadable(index, f"its time is {time_ms}")
    return time_ms, requests


def _unreadable(index: int, reason: str) -> CannotApply:
    return CannotApply(
        f"the log entry {index} cannot be read: {reason}; start this member with the leader's version"
    )
