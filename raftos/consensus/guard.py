"""The guard decides, for every message, what PySyncObj may see of it.

PySyncObj trusts its peers and its own bookkeeping more than Raft allows. The guard holds the
repairs as pure functions over plain values: no I/O, no clock, no engine. Each rule is named in
`Rules`, and the simulation can leave one out to show that it is needed; the shipped program never
does. The numbers are those of the findings the rules answer.

    rule                 without it
    keep_next_index   1  an acknowledgement moves the send position back: entries travel twice
    trim_held         2  a follower drops matching entries it has promised to keep
    match_term        3  an acknowledgement of an earlier term counts in this one
    durable_first     4  an acknowledgement or vote outruns the disk (27: the leader's own count)
    pre_vote          6  a returning member deposes a healthy leader, term after term
    members_only     20  an answer of somebody who is no member any more fails in every turn
    one_change_at_a_time 21  two configurations under way decide without a common majority
    answer_once       -  a late answer to an earlier pre-vote counts, and deposes a healthy leader
    read_own_term     -  a new leader answers a read before it knows what is committed
    read_new_round    -  a read joins a confirmation that was sent before the read began
    read_match_term   -  a confirmation of another term counts for a deposed leader
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from raftos.consensus.configuration import CONFIGURATION, decode
from raftos.consensus.messages import Acknowledged, Append
from raftos.errors import UNDECODABLE

FIRST_INDEX = 1
"""The index of the first entry of every log: a no-op of term 0, the same on all members."""

REGULAR, NO_OP = 0, 1
"""The kinds of log commands this version knows: the first byte of each command."""
_KINDS = frozenset((REGULAR, NO_OP, CONFIGURATION))


@dataclass(frozen=True)
class Rules:
    """Which repairs are on. All of them, except where the simulation proves that one is needed."""

    keep_next_index: bool = True
    trim_held: bool = True
    match_term: bool = True
    durable_first: bool = True
    pre_vote: bool = True
    members_only: bool = True
    one_change_at_a_time: bool = True
    answer_once: bool = True
    read_own_term: bool = True
    read_new_round: bool = True
    read_match_term: bool = True


class Log(Protocol):
    """What the guard needs to know of the log."""

    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...

    def term_at(self, index: int) -> int | None: ...


class SafetyViolation(Exception):
    """The cluster asked this member to break a promise. It has to stop; going on would lose data."""


@dataclass(frozen=True)
class Admitted:
    """An append that PySyncObj may see, and how far its answer may acknowledge."""

    append: Append
    acknowledge_to: int | None = None
    """The last index the answer may name, or None: what PySyncObj says is right."""


def well_formed(append: Append) -> bool:
    """Whether the entries are consecutive, in order of term and of kinds this version can read."""
    index, term = append.prev_index, append.prev_term
    if index < FIRST_INDEX or append.commit_index < 0:
        return False
    for command, entry_index, entry_term in append.entries:
        if entry_index != index + 1 or not term <= entry_term <= append.term:
            return False
        if not command or (kind := command[0]) not in _KINDS:
            return False
        if kind == CONFIGURATION and not _is_readable(command):
            return False
        index, term = entry_index, entry_term
    return True


def _is_readable(command: bytes) -> bool:
    """Whether a configuration can be decoded: it is in force from the moment it is in the log."""
    try:
        decode(command)
    except UNDECODABLE:
        return False
    return True


def admit_append(log: Log, commit_index: int, append: Append, rules: Rules) -> Admitted:
    """Drop what the log already holds, so that only a real conflict truncates it.

    PySyncObj deletes everything after `prev_index`. If all entries of the message are held and
    more follow them, the message is moved to the end of the log, where it truncates nothing; the
    answer still acknowledges only the last entry *in the message*, and so does the commit index.
    Raises SafetyViolation when a conflict reaches below the commit index.
    """
    if append.prev_index < log.first_index - 1:
        return _admit_above_base(log, commit_index, append, rules)
    if not rules.trim_held or log.term_at(append.prev_index) != append.prev_term:
        return Admitted(append)
    held = _held(log, append)
    entries = append.entries[held:]
    index = append.prev_index + held
    if entries:
        if index < commit_index:
            raise SafetyViolation(f"an append of term {append.term} replaces committed entry {index + 1}")
        prev_term = append.entries[held - 1][2] if held else append.prev_term
        return Admitted(_moved(append, index, prev_term, entries, append.commit_index))
    last = log.last_index
    if index == last:
        return Admitted(_moved(append, index, _term(log, index), [], append.commit_index))
    moved = _moved(append, last, _term(log, last), [], min(append.commit_index, index))
    return Admitted(moved, acknowledge_to=index)


def _admit_above_base(log: Log, commit_index: int, append: Append, rules: Rules) -> Admitted:
    """What lies before this log's first entry is agreed on, and so the same everywhere: it is held."""
    base = log.first_index - 1
    skipped = base - append.prev_index
    if len(append.entries) > skipped:
        if append.entries[skipped - 1][2] != log.term_at(base):
            raise SafetyViolation(
                f"an append of term {append.term} has another entry {base} than the snapshot"
            )
        rest = _moved(append, base, _term(log, base), append.entries[skipped:], append.commit_index)
        return admit_append(log, commit_index, rest, rules)
    index, last = append.prev_index + len(append.entries), log.last_index
    moved = _moved(append, last, _term(log, last), [], min(append.commit_index, index))
    return Admitted(moved, acknowledge_to=index)


def _held(log: Log, append: Append) -> int:
    """How many of the message's first entries the log holds already."""
    held = 0
    for _, index, term in append.entries:
        if log.term_at(index) != term:
            break
        held += 1
    return held


def _moved(
    append: Append, prev: int, prev_term: int, entries: list[tuple[bytes, int, int]], commit: int
) -> Append:
    return Append(append.term, commit, prev, prev_term, entries)


def _term(log: Log, index: int) -> int:
    term = log.term_at(index)
    if term is None:
        raise SafetyViolation(f"the log has no entry {index} although it was just found there")
    return term


def acknowledgement_counts(term: int, last_index: int, acknowledged: Acknowledged, rules: Rules) -> bool:
    """Whether an acknowledgement belongs to this leader's own term, and to entries that it has.

    PySyncObj would send what follows an entry that it does not have, and fails at that in every turn.
    """
    if acknowledged.next_index > last_index + 1:
        return False
    return acknowledged.term == term or not rules.match_term


def durable_part(acknowledged: Acknowledged, synced_index: int, rules: Rules) -> tuple[Acknowledged, bool]:
    """What of an acknowledgement the leader may count now, and whether more waits for its own disk.

    PySyncObj counts its own copy of an entry as soon as it is in memory, so a follower's
    acknowledgement may reach it only as far as this member's own log is durable.
    """
    beyond = acknowledged.success and acknowledged.next_index - 1 > synced_index
    if not beyond or not rules.durable_first:
        return acknowledged, False
    return Acknowledged(acknowledged.term, synced_index + 1, True, False), True
