"""What the cluster promised, and the checks that hold it to that.

Every successful write has a revision, and revisions are the order in which the machine applied
writes. So linearizability needs no search: if a write was acknowledged before another began, its
revision is lower; a read returns a revision of its key at least as high as any that was
acknowledged, or read, before it began, and never a value nobody had yet asked to write.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from raftos.state.command import Command, Ok, Result
from raftos.state.domains.chat import Post
from raftos.state.machine import Machine

CLOCK_SLACK_MS = 200
"""The first stamp is this much older, at most, when it is first seen applied."""


class Violation(Exception):
    """The cluster broke a promise."""


@dataclass(kw_only=True)
class Asked:
    """One command that a user wants done, over all attempts."""

    id: bytes
    command: Command
    began: float
    ended: float | None = None
    result: Result | None = None
    attempts: int = 0
    refused: int = 0
    """How many attempts ended with NoQuorum: certainly not applied."""


@dataclass(kw_only=True)
class Write(Asked):
    """A put of a value that nobody else puts."""

    key: str
    value: bytes
    revision: int | None = None
    version: int | None = None


@dataclass
class History:
    """What clients saw and what members did, over all crashes of one run."""

    asked: list[Asked] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    leaders: dict[int, str] = field(default_factory=dict)
    committed: dict[int, bytes] = field(default_factory=dict)
    hashes: dict[int, bytes] = field(default_factory=dict)
    clock_offset_ms: float | None = None
    """Cluster time less the world's, when the first stamp was applied."""
    floor: dict[str, int] = field(default_factory=dict)
    """For each key the highest revision acknowledged to a writer or returned by a read."""
    values: dict[bytes, Write] = field(default_factory=dict)
    reads: int = 0
    acknowledged: int = 0

    def leads(self, member: str, term: int) -> None:
        first = self.leaders.setdefault(term, member)
        if first != member:
            raise Violation(f"two leaders in term {term}: {first} and {member}")

    def handed_over(self, member: str, index: int, command: bytes) -> None:
        first = self.committed.setdefault(index, command)
        if first != command:
            raise Violation(f"{member} committed another entry {index} than was committed before")

    def applied(self, member: str, machine: Machine, now: float) -> None:
        self._stamped(member, machine.time_ms, now)
        first = self.hashes.setdefault(machine.applied_index, machine.state_hash)
        if first != machine.state_hash:
            raise Violation(f"{member} has another state at entry {machine.applied_index} than others")

    def _stamped(self, member: str, time_ms: int, now: float) -> None:
        """Cluster time goes no faster than the world's: it never jumps to some member's wall clock."""
        if time_ms == 0:
            return
        offset_ms = time_ms - 1000 * now
        if self.clock_offset_ms is None:
            self.clock_offset_ms = offset_ms
        if offset_ms > self.clock_offset_ms + CLOCK_SLACK_MS:
            raise Violation(
                f"{member} applied a stamp {offset_ms - self.clock_offset_ms:.0f} ms ahead of time"
            )

    def began(self, asked: Asked) -> None:
        self.asked.append(asked)
        if isinstance(asked, Write):
            self.writes.append(asked)
            self.values[asked.value] = asked

    def answered(self, asked: Asked, now: float, result: Result) -> None:
        """The first answer, or one more: whoever asks twice is answered the same."""
        if asked.result is None:
            asked.ended, asked.result = now, result
            self.acknowledged += 1
        elif asked.result != result:
            raise Violation(f"one request was answered twice, with {asked.result} and {result}")
        if isinstance(asked.command, Post) and isinstance(result, Ok):
            self._posted(asked, asked.command, now, result.value["sequence"])
        if isinstance(asked, Write):
            if not isinstance(result, Ok):
                raise Violation(f"a plain put was refused: {result}")
            self._write_ended(asked, now, result.value["version"], result.value["revision"])

    def _posted(self, asked: Asked, post: Post, now: float, sequence: int) -> None:
        known = self.posted_before(post.room, asked.began)
        if sequence <= known:
            raise Violation(f"{post} got sequence {sequence}, although {known} was there before it was sent")
        self._seen(f"chat {post.room}", now, sequence)

    def posted_before(self, room: str, began: float) -> int:
        """The highest sequence of a room that was acknowledged before this time."""
        return self.floor_at_begin(f"chat {room}", began)

    def _write_ended(self, write: Write, now: float, version: int, revision: int) -> None:
        if revision <= self.floor_at_begin(write.key, write.began):
            raise Violation(
                f"write of {write.key!r} got revision {revision}, not above what was seen before it began"
            )
        write.revision, write.version = revision, version
        self._seen(write.key, now, revision)

    def read_ended(self, key: str, began: float, now: float, found: tuple[bytes, int] | None) -> None:
        value, revision = found or (None, 0)
        if revision < self.floor_at_begin(key, began):
            raise Violation(
                f"a read of {key!r} at {began:.3f} returned revision {revision}, "
                f"older than {self.floor_at_begin(key, began)} seen before it began"
            )
        if value is not None and value not in self.values:
            raise Violation(f"a read of {key!r} returned a value that nobody wrote")
        self.reads += 1
        self._seen(key, now, revision)

    # The floor of a key rises over time; a call is judged by the floor when it began.

    _steps: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def _seen(self, key: str, now: float, revision: int) -> None:
        if revision > self.floor.get(key, 0):
            self.floor[key] = revision
            self._steps.setdefault(key, []).append((now, revision))

    def floor_at_begin(self, key: str, began: float) -> int:
        best = 0
        for at, revision in reversed(self._steps.get(key, [])):
            if at < began:
                best = revision
                break
        return best

    def check_end(self, machine: Machine, rows: dict[str, tuple[bytes, int, int]]) -> None:
        """After healing: every acknowledged write is in, exactly once."""
        acknowledged = [write for write in self.writes if write.revision is not None]
        revisions = [write.revision for write in acknowledged]
        if len(set(revisions)) != len(revisions):
            raise Violation("two acknowledged writes share one revision")
        for write in acknowledged:
            assert write.revision is not None
            if write.revision > machine.revision:
                raise Violation(f"acknowledged write of {write.key!r} (revision {write.revision}) is lost")
            _, version, revision = rows.get(write.key, (b"", 0, 0))
            if revision < write.revision or version < (write.version or 0):
                raise Violation(f"acknowledged write of {write.key!r} (revision {write.revision}) is lost")
        self._check_refused()
        asked = len(self.writes)
        applied = sum(rows[key][1] for key in {write.key for write in self.writes} & rows.keys())
        if applied > asked:
            raise Violation(
                f"{applied} writes were applied although only {asked} were asked for: one was doubled"
            )

    def _check_refused(self) -> None:
        """What was refused with NoQuorum every time it was sent is in no entry that was agreed on."""
        agreed = {request_id for payload in self.committed.values() for request_id in _request_ids(payload)}
        for asked in self.asked:
            if asked.attempts == asked.refused and asked.id in agreed:
                raise Violation(f"{asked.command} was agreed on although its caller was told it was not")


_decode_entry = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[bytes, msgspec.Raw]]]).decode


def _request_ids(payload: bytes) -> list[bytes]:
    return [request_id for request_id, _ in _decode_entry(payload)[2]] if payload else []
