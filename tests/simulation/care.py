"""What a cluster takes care of besides consensus; leave one thing out, and a check has to notice.

Consensus has its `Rules` in the shipped code. Here the missing care is put in from outside: a watcher,
a stream or a user of the simulation behaves carelessly, a domain's apply function is replaced, or nobody
listens to a replica that asks for a step.

| without             | what goes wrong                                                                   |
|---------------------|-----------------------------------------------------------------------------------|
| `whole_revisions`   | a watcher resumes after half a revision as if it had all of it                    |
| `one_step_handover` | a stream goes live a moment after its last page                                   |
| `notices_dropped`   | a stream does not look whether what it is asked for is still kept                 |
| `checks_position`   | a member that is behind its watcher tells it again what it knows                  |
| `confirms_first`    | a member does not confirm that it is up to date before it serves a watcher        |
| `bookmarks_last`    | a bookmark overtakes the events before it                                         |
| `agreed_first`      | a member tells what it has in its log before that is agreed on                    |
| `tells_alike`       | the events of a command depend on the member                                      |
| `proposes_due`      | no leader proposes what is due: nothing expires, no room is trimmed               |
| `same_request_id`   | a user who did not hear an answer asks again under a new request id               |
| `expects_absence`   | a lock is taken without looking whether somebody holds it                         |
| `fences_writes`     | a holder writes without naming its token                                          |
| `expires_late`      | a time-to-live ends before its time                                               |
| `numbers_densely`   | a room skips a number                                                             |
| `numbers_in_order`  | a post takes the number of an earlier one, which gets the later number            |
| `keeps_the_newest`  | retention takes one message too many                                              |
| `tables_alike`      | what a domain keeps depends on the member                                         |
| `syncs_ask`         | a sync in place never asks for a step                                             |
| `answers_ask`       | an acknowledgement never asks for a step                                          |
| `checks_journal`    | a journal does not look at the checksums of what its records carry                |
| `notices_failed_sync` | a member goes on after a sync that failed                                       |
| `syncs_at_start`    | a member takes what it reads at its start for durable                             |
| `keeps_time`        | a member that starts again believes its wall clock, not the last stamp            |
| `lets_lead`         | members campaign although a leader lives                                          |
| `whole_snapshots`   | a snapshot on its way counts as agreed on (15)                                    |
| `keeps_tail`        | installing a snapshot throws away the entries after it (17)                       |
| `trusts_journal`    | a start throws away what the journal has after the newest snapshot (16)           |
| `loads_snapshots`   | a snapshot counts as installed although its state is not (10)                     |
| `syncs_snapshots`   | the log is trimmed before the snapshot that has it is durable (25)                |
| `derives_members`   | after a start the first members vote, whoever the log names (22)                  |
| `snapshots_as_agreed` | a snapshot carries members that are not agreed on (23)                          |
| `learners_apart`    | learners count in the majority (24)                                               |
| `tells_synced`      | a lone voter tells its learners of what it has not synced (27)                    |
"""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import dataclass, replace

from raftos.consensus.journal import Journal
from raftos.consensus.journal.records import END, Head, split_body
from raftos.state.command import Command, Ok, Result
from raftos.state.domain import Apply, Context, Domain, Due
from raftos.state.domains import DOMAINS, chat, kv
from raftos.state.events import Told, encode_events
from raftos.state.machine import Machine

EARLY_MS = 400


@dataclass(frozen=True)
class Care:
    """All of it, except where a run shows that a check would notice."""

    whole_revisions: bool = True
    one_step_handover: bool = True
    notices_dropped: bool = True
    checks_position: bool = True
    confirms_first: bool = True
    bookmarks_last: bool = True
    agreed_first: bool = True
    tells_alike: bool = True
    proposes_due: bool = True
    same_request_id: bool = True
    expects_absence: bool = True
    fences_writes: bool = True
    expires_late: bool = True
    numbers_densely: bool = True
    numbers_in_order: bool = True
    keeps_the_newest: bool = True
    tables_alike: bool = True
    syncs_ask: bool = True
    answers_ask: bool = True
    checks_journal: bool = True
    notices_failed_sync: bool = True
    syncs_at_start: bool = True
    keeps_time: bool = True
    lets_lead: bool = True
    whole_snapshots: bool = True
    keeps_tail: bool = True
    trusts_journal: bool = True
    loads_snapshots: bool = True
    syncs_snapshots: bool = True
    derives_members: bool = True
    snapshots_as_agreed: bool = True
    learners_apart: bool = True
    tells_synced: bool = True


def foreseen(journal: Journal, machine: Machine) -> list[Told]:
    """What a careless member would tell of the next entry in its log."""
    if journal.last_index <= machine.applied_index:
        return []
    revision = machine.revision + 1
    event = kv.KeyWritten("key0", 1)
    return [Told(revision, machine.time_ms, encode_events([(revision, event)]))]


def domains_with(care: Care) -> tuple[Domain, ...]:
    """The shipped domains, but for what is not taken care of."""
    careless = {kind: apply for name, kind, apply in _CARELESS if not getattr(care, name)}
    domains = [
        replace(domain, commands={kind: careless.get(kind, apply) for kind, apply in domain.commands.items()})
        for domain in DOMAINS
    ]
    if not care.expires_late:
        domains = [replace(each, due=_early(each.due)) if each.due else each for each in domains]
    return tuple(domains)


def unchecked_body(head: Head, body: bytes) -> tuple[bytes, bytes] | None:
    """In place of the journal's `split_body`: a record with an end is taken for what was written."""
    return (body[: head.length], END) if body.endswith(END) else split_body(head, body)


_applied = itertools.count()
"""Something that differs from member to member."""


def _put_told_otherwise(db: sqlite3.Connection, command: kv.Put, context: Context) -> Result:
    result = kv.apply_put(db, command, context)
    if isinstance(result, Ok):
        context.events[-1] = (context.revision, kv.KeyWritten(command.key, next(_applied)))
    return result


def _expire_early(db: sqlite3.Connection, command: kv.Expire, context: Context) -> Result:
    context.time_ms += EARLY_MS
    result = kv.apply_expire(db, command, context)
    context.time_ms -= EARLY_MS
    return result


def _early(due: Due) -> Due:
    return lambda db, now_ms: due(db, now_ms + EARLY_MS)


def _post_with_a_gap(db: sqlite3.Connection, command: chat.Post, context: Context) -> Result:
    result = chat.apply_post(db, command, context)
    if isinstance(result, Ok) and context.revision % 5 == 0:
        db.execute("UPDATE chat_rooms SET last = last + 1 WHERE room = ?", (command.room,))
    return result


def _post_before_the_last(db: sqlite3.Connection, command: chat.Post, context: Context) -> Result:
    result = chat.apply_post(db, command, context)
    if not isinstance(result, Ok) or result.value.sequence == 1 or context.revision % 5:
        return result
    sequence = result.value.sequence
    (room,) = db.execute("SELECT number FROM chat_rooms WHERE room = ?", (command.room,)).fetchone()
    for new, old in ((0, sequence - 1), (sequence - 1, sequence), (sequence, 0)):
        db.execute("UPDATE chat_messages SET sequence = ? WHERE (room, sequence) = (?, ?)", (new, room, old))
    return Ok(chat.Posted(command.room, sequence - 1, context.revision))


def _trim_one_more(db: sqlite3.Connection, command: chat.Trim, context: Context) -> Result:
    full = "SELECT 1 FROM chat_rooms WHERE room = ? AND last - trimmed > keep_messages"
    if not db.execute(full, (command.room,)).fetchone():
        return chat.apply_trim(db, command, context)
    keep = "UPDATE chat_rooms SET keep_messages = keep_messages + ? WHERE room = ?"
    db.execute(keep, (-1, command.room))
    result = chat.apply_trim(db, chat.Trim(command.room, command.before_sequence + 1), context)
    db.execute(keep, (1, command.room))
    return result


def _post_shown_otherwise(db: sqlite3.Connection, command: chat.Post, context: Context) -> Result:
    result = chat.apply_post(db, command, context)
    if isinstance(result, Ok):
        db.execute("UPDATE chat_rooms SET posted_ms = ? WHERE room = ?", (next(_applied), command.room))
    return result


_CARELESS: tuple[tuple[str, type[Command], Apply], ...] = (
    ("tells_alike", kv.Put, _put_told_otherwise),
    ("expires_late", kv.Expire, _expire_early),
    ("numbers_densely", chat.Post, _post_with_a_gap),
    ("numbers_in_order", chat.Post, _post_before_the_last),
    ("keeps_the_newest", chat.Trim, _trim_one_more),
    ("tables_alike", chat.Post, _post_shown_otherwise),
)
