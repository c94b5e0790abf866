"""Who belongs to the cluster, where they are, and whether they are up.

A newcomer is announced by the member that lets it in, and registers itself whenever it starts: its id is
minted once and stays, its addresses and version are attributes that may change, its name is unique. Whether
it is up is agreed through the log: the leader proposes `members.mark` when it has not heard from a member
for long enough, or hears from it again. Who votes and who leads is not kept here; consensus knows.

| state   | announce   | register   | mark down   | mark alive  | forget  |
|---------|------------|------------|-------------|-------------|---------|
| -       | joining    | alive      | `not_found` | `not_found` | removed |
| joining | joining    | alive      | `conflict`  | `conflict`  | removed |
| alive   | alive      | alive      | down        | `conflict`  | removed |
| down    | down       | alive      | `conflict`  | alive       | removed |
| removed | `conflict` | `conflict` | `not_found` | `not_found` | removed |

`removed` is the end of an id: its row goes to a table of its own, so that the name is free again and a
registration that was under way is refused. The latest thousand are kept.

It also says which feature level (`raftos/levels.py`) its version has; versions before levels do not, and
could not read an entry that does. So level 1 is left out of commands and answers alike: an entry without
one means the same, to the byte, to every version. Below the enabled level nobody may register.

At most a thousand members are known at a time, those counted that were announced and never joined: one more
is refused as `limit_reached`. The limit came with level 2, and below it nobody is counted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import msgspec

from raftos.errors import InvalidInput, NotFound, TooLarge
from raftos.levels import FIRST_LEVEL, MEMBERSHIP_SINCE
from raftos.state.command import Command, Ok, Query, Rejected, Result
from raftos.state.domain import MAX_ROWS, Context, Domain, described
from raftos.state.events import Event
from raftos.state.limits import check_number
from raftos.state.tally import CLUSTER_LEVEL

SCHEMA = """
CREATE TABLE IF NOT EXISTS members (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    endpoint TEXT NOT NULL,
    peer_address TEXT NOT NULL,
    version TEXT NOT NULL,
    state TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    level INTEGER NOT NULL DEFAULT 1
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS members_removed (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    removed_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
UPGRADES = {2: "ALTER TABLE members ADD COLUMN level INTEGER NOT NULL DEFAULT 1;"}

MAX_TEXT_CHARACTERS = 256
MAX_REMOVED = 1_000
"""So many removed members are remembered, the latest ones; consensus remembers as many."""
MAX_MEMBERS = MAX_ROWS
"""So many may be known at a time; a cluster has fewer, and the rest is names of some that never joined."""

Marking = Literal["alive", "down"]
State = Literal["joining", "alive", "down"]
Id = Annotated[
    str, described("The minted id, which never changes.", minLength=1, maxLength=MAX_TEXT_CHARACTERS)
]
Name = Annotated[
    str, described("The name people use; unique in the cluster.", minLength=1, maxLength=MAX_TEXT_CHARACTERS)
]


Endpoint = Annotated[str, described("The URL of its API.", maxLength=MAX_TEXT_CHARACTERS)]
PeerAddress = Annotated[str, described("host:port that its peers dial.", maxLength=MAX_TEXT_CHARACTERS)]


# Commands


class Announce(Command, frozen=True, tag="members.announce"):
    """Say who and where a member is that is about to join; it counts as alive once it registers itself.

    The member that lets it in does it. Rejected with `conflict` when another member has the name, or when
    the id was removed, and with `limit_reached` when too many members are known already.
    """

    since: ClassVar[int] = MEMBERSHIP_SINCE
    internal: ClassVar[bool] = True

    id: Id
    name: Name
    endpoint: Endpoint
    peer_address: PeerAddress


class Register(Command, frozen=True, tag="members.register", omit_defaults=True):
    """Say who and where a member is; it counts as alive from now on.

    Members do it themselves when they start. Rejected with `conflict` when another member has the name, when
    the id was removed, or when the version is too old for what the cluster has enabled, and with
    `limit_reached` when it is new and too many members are known already.
    """

    internal: ClassVar[bool] = True

    id: Id
    name: Name
    endpoint: Endpoint
    peer_address: PeerAddress
    version: Annotated[str, described("The version of raftos it runs.", maxLength=MAX_TEXT_CHARACTERS)]
    level: Annotated[int, described("The feature level of that version.", minimum=1)] = FIRST_LEVEL


class Mark(Command, frozen=True, tag="members.mark"):
    """Record that a member went down or came back.

    The leader proposes it. Rejected with `conflict` when the member is not in `expect_state` any more.
    """

    internal: ClassVar[bool] = True

    id: Id
    state: Annotated[Marking, described("The state it has from now on.")]
    expect_state: Annotated[Marking, described("The state in which it was seen; the other one.")]


class Forget(Command, frozen=True, tag="members.forget"):
    """Forget a member that was removed from the cluster: its name is free again, its id never is.

    The cluster does it by itself. To remove a member, use `POST /v1/cluster/remove`.
    """

    since: ClassVar[int] = MEMBERSHIP_SINCE
    internal: ClassVar[bool] = True

    id: Id


# Queries


class List(Query, frozen=True, tag="members.list"):
    """All members, by name."""


class Get(Query, frozen=True, tag="members.get"):
    """One member, by its id or by its name. `not_found` when there is none."""

    point: ClassVar[bool] = True

    id: Annotated[str | None, described("Its id; give this or `name`.")] = None
    name: Annotated[str | None, described("Its name; give this or `id`.")] = None


class ListRemoved(Query, frozen=True, tag="members.removed"):
    """The members that were removed, the latest first; at most the last thousand."""


# Answers and events


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """One member as the cluster knows it.

    `since_ms` is when it entered its state, in cluster time. `level` is left out while it is 1.
    """

    id: str
    name: str
    endpoint: str
    peer_address: str
    version: str
    state: State
    since_ms: int
    level: int = FIRST_LEVEL


class Members(msgspec.Struct, frozen=True):
    items: list[Member]


class Marked(msgspec.Struct, frozen=True):
    """A member and the state it has now."""

    id: str
    state: Marking
    revision: int


class RemovedMember(msgspec.Struct, frozen=True):
    """A member that was removed: the name it had, empty where none was known, and when, in cluster time."""

    id: str
    name: str
    removed_ms: int


class RemovedMembers(msgspec.Struct, frozen=True):
    items: list[RemovedMember]


class MemberAnnounced(Event, frozen=True, tag="members.announced"):
    """A member is about to join."""

    id: str
    name: str


class MemberRegistered(Event, frozen=True, tag="members.registered"):
    """A member told the cluster who and where it is."""

    id: str
    name: str


class MemberMarked(Event, frozen=True, tag="members.marked"):
    """A member went down or came back."""

    id: str
    state: Marking


class MemberRemoved(Event, frozen=True, tag="members.removed"):
    """A member was removed from the cluster."""

    id: str
    name: str


# Limits


def _check_text(what: str, text: str, least: int = 0) -> None:
    if not least <= len(text) <= MAX_TEXT_CHARACTERS:
        sentence = f"{what} has {len(text)} characters; it has to have {least} to {MAX_TEXT_CHARACTERS}"
        raise TooLarge(sentence) if len(text) > MAX_TEXT_CHARACTERS else InvalidInput(sentence)
    # Visible ASCII only, so that a name looks like itself in every table and URL.
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise InvalidInput(f"{what} may only have letters, digits and marks of ASCII, without spaces")


def _validate_announce(command: Announce | Register) -> None:
    _check_text("id", command.id, 1)
    _check_text("name", command.name, 1)
    _check_text("endpoint", command.endpoint)
    _check_text("peer_address", command.peer_address)


def _validate_register(command: Register) -> None:
    _validate_announce(command)
    _check_text("version", command.version)
    check_number("level", command.level, FIRST_LEVEL)


def _validate_mark(command: Mark) -> None:
    _check_text("id", command.id, 1)
    if command.state == command.expect_state:
        raise InvalidInput("state and expect_state are the same; a mark changes the state")


def _validate_forget(command: Forget) -> None:
    _check_text("id", command.id, 1)


def _validate_get(query: Get) -> None:
    if (query.id is None) == (query.name is None):
        raise InvalidInput("give either id or name")
    _check_text("id" if query.name is None else "name", query.id or query.name or "", 1)


# Apply

_HAS_NAME = "SELECT id FROM members WHERE name = ?"
_WAS_REMOVED = "SELECT 1 FROM members_removed WHERE id = ?"
_VERSION = "SELECT version, state, since_ms, level FROM members WHERE id = ?"
_STATE = "SELECT state, since_ms FROM members WHERE id = ?"
_WRITE = "REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_MARK = "UPDATE members SET state = ?, since_ms = ? WHERE id = ?"
_NAME = "SELECT name FROM members WHERE id = ?"
_COUNT = "SELECT COUNT(*) FROM members"
_DELETE = "DELETE FROM members WHERE id = ?"
_REMEMBER = "INSERT INTO members_removed VALUES (?, ?, ?)"
_BOUND = """
DELETE FROM members_removed WHERE id IN
    (SELECT id FROM members_removed ORDER BY removed_ms DESC, id LIMIT -1 OFFSET ?)
"""


def _refusal(db: sqlite3.Connection, member_id: str, name: str, level: int) -> Rejected | None:
    """Why a member may not be known under this id and name, or None where it may."""
    if db.execute(_WAS_REMOVED, (member_id,)).fetchone():
        return Rejected(
            "conflict",
            f"member {member_id} was removed from the cluster; let the machine join again under a new id",
        )
    owner = db.execute(_HAS_NAME, (name,)).fetchone()
    if owner is not None and owner[0] != member_id:
        return Rejected("conflict", f"the name {name!r} belongs to another member; choose another name")
    if level >= MEMBERSHIP_SINCE and not db.execute(_NAME, (member_id,)).fetchone():
        (count,) = db.execute(_COUNT).fetchone()
        if count >= MAX_MEMBERS:
            return Rejected(
                "limit_reached",
                f"{count} members are known already; remove those that never joined (see `raftos node ls`)",
            )
    return None


def apply_announce(db: sqlite3.Connection, command: Announce, context: Context) -> Result:
    if refusal := _refusal(db, command.id, command.name, context.counts[CLUSTER_LEVEL]):
        return refusal
    known = db.execute(_VERSION, (command.id,)).fetchone()
    state: State
    version, state, since_ms, level = known or ("", "joining", context.time_ms, FIRST_LEVEL)
    member = Member(
        command.id, command.name, command.endpoint, command.peer_address, version, state, since_ms, level
    )
    db.execute(_WRITE, msgspec.structs.astuple(member))
    context.emit(MemberAnnounced(member.id, member.name))
    return Ok(member)


def apply_register(db: sqlite3.Connection, command: Register, context: Context) -> Result:
    if refusal := _refusal(db, command.id, command.name, context.counts[CLUSTER_LEVEL]):
        return refusal
    if command.level < context.counts[CLUSTER_LEVEL]:
        return Rejected(
            "conflict",
            f"the cluster has enabled level {context.counts[CLUSTER_LEVEL]}, and the version of "
            f"{command.name!r} knows up to {command.level}; install the version that the other members run",
        )
    known = db.execute(_STATE, (command.id,)).fetchone()
    since_ms = known[1] if known and known[0] == "alive" else context.time_ms
    member = Member(
        command.id,
        command.name,
        command.endpoint,
        command.peer_address,
        command.version,
        "alive",
        since_ms,
        command.level,
    )
    db.execute(_WRITE, msgspec.structs.astuple(member))
    context.emit(MemberRegistered(member.id, member.name))
    return Ok(member)


def apply_mark(db: sqlite3.Connection, command: Mark, context: Context) -> Result:
    known = db.execute(_STATE, (command.id,)).fetchone()
    if known is None:
        return Rejected("not_found", f"no member has the id {command.id!r}")
    if known[0] != command.expect_state:
        return Rejected("conflict", f"member {command.id!r} is {known[0]}, not {command.expect_state}")
    db.execute(_MARK, (command.state, context.time_ms, command.id))
    context.emit(MemberMarked(command.id, command.state))
    return Ok(Marked(command.id, command.state, context.revision))


def apply_forget(db: sqlite3.Connection, command: Forget, context: Context) -> Result:
    gone = db.execute(_ONE_REMOVED, (command.id,)).fetchone()
    if gone is not None:
        return Ok(RemovedMember(*gone))
    known = db.execute(_NAME, (command.id,)).fetchone()
    removed = RemovedMember(command.id, known[0] if known else "", context.time_ms)
    db.execute(_DELETE, (command.id,))
    db.execute(_REMEMBER, msgspec.structs.astuple(removed))
    db.execute(_BOUND, (MAX_REMOVED,))
    context.emit(MemberRemoved(removed.id, removed.name))
    return Ok(removed)


# Queries

_ALL = "SELECT id, name, endpoint, peer_address, version, state, since_ms, level FROM members"
_BY_NAME = _ALL + " ORDER BY name LIMIT ?"
_ONE = _ALL + " WHERE id = ? OR name = ?"
_ALL_REMOVED = "SELECT id, name, removed_ms FROM members_removed"
_LATEST_REMOVED = _ALL_REMOVED + " ORDER BY removed_ms DESC, id LIMIT ?"
_ONE_REMOVED = _ALL_REMOVED + " WHERE id = ?"


def list_members(db: sqlite3.Connection, _query: List) -> Members:
    rows = db.execute(_BY_NAME, (MAX_ROWS,))
    return Members([Member(*row) for row in rows])


def get(db: sqlite3.Connection, query: Get) -> Member:
    row = db.execute(_ONE, (query.id, query.name)).fetchone()
    if row is None:
        raise NotFound(f"no member is called {query.id or query.name!r}")
    return Member(*row)


def list_removed(db: sqlite3.Connection, _query: ListRemoved) -> RemovedMembers:
    rows = db.execute(_LATEST_REMOVED, (MAX_ROWS,))
    return RemovedMembers([RemovedMember(*row) for row in rows])


# Invariants


def check(db: sqlite3.Connection) -> Iterator[str]:
    for row in db.execute(_ALL):
        member = Member(*row)
        if member.state not in {"joining", "alive", "down"}:
            yield f"{member.id!r} is in no known state: {member.state!r}"
        if db.execute(_WAS_REMOVED, (member.id,)).fetchone():
            yield f"{member.id!r} was removed, and is known all the same"
        try:
            _validate_register(
                Register(
                    member.id, member.name, member.endpoint, member.peer_address, member.version, member.level
                )
            )
        except InvalidInput as error:
            yield f"{member.id!r}: {error.message}"
    (removed,) = db.execute("SELECT COUNT(*) FROM members_removed").fetchone()
    if removed > MAX_REMOVED:
        yield f"{removed} removed members are remembered, more than {MAX_REMOVED}"


DOMAIN = Domain(
    name="members",
    schema=SCHEMA,
    commands={
        Announce: apply_announce,
        Register: apply_register,
        Mark: apply_mark,
        Forget: apply_forget,
    },
    queries={List: list_members, Get: get, ListRemoved: list_removed},
    answers={
        Announce: Member,
        Register: Member,
        Mark: Marked,
        Forget: RemovedMember,
        List: Members,
        Get: Member,
        ListRemoved: RemovedMembers,
    },
    validate={
        Announce: _validate_announce,
        Register: _validate_register,
        Mark: _validate_mark,
        Forget: _validate_forget,
        Get: _validate_get,
    },
    events={
        MemberAnnounced: "id",
        MemberRegistered: "id",
        MemberMarked: "id",
        MemberRemoved: "id",
    },
    upgrades=UPGRADES,
    check=check,
)
