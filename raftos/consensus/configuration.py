"""Who belongs to the cluster, as consensus knows it: an entry of the log, and in force once it is appended.

Every change appends an entry that holds the whole new configuration, so the one in force is simply the
newest in the log (Raft section 6; thesis section 4.1): a truncation brings back the one before it, a
restart and a snapshot carry it along, and nothing is ever applied twice.

| standing  | votes, counts | is sent the log | becomes                                        |
|-----------|---------------|-----------------|------------------------------------------------|
| `joining` | no            | yes             | `voter` by itself, once it has caught up       |
| `learner` | no            | yes             | `voter` when somebody promotes it              |
| `voter`   | yes           | yes             |                                                |
| removed   | no            | no              | nothing: ids are minted and never used again   |

One change at a time, each of one member: two majorities of neighbouring configurations always share a
member. A member that is removed is remembered (`removed`), so that it can be told and not let in again.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from raftos.consensus.handshake import check_address, check_member_id
from raftos.errors import Conflict, InvalidInput, LimitReached, NotFound, StartupError

CONFIGURATION = 16
"""The first byte of a log command that holds a configuration (the journal's `MARK`)."""

MAX_PEERS = 100
MAX_REMOVED = 1_000
"""So many removed ids are remembered, the latest ones."""


class Standing(StrEnum):
    VOTER = "voter"
    JOINING = "joining"
    LEARNER = "learner"


class Peer(msgspec.Struct, frozen=True, array_like=True):
    """One member: its minted id, and the host:port at which it was to be found when it joined."""

    id: str
    address: str
    standing: Standing = Standing.VOTER


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """All members, ordered by id, and the ids that were removed, oldest first."""

    peers: tuple[Peer, ...]
    removed: tuple[str, ...] = ()

    @classmethod
    def of(cls, voters: Iterable[str]) -> Configuration:
        """These ids as voters, wherever they may be found."""
        return cls(tuple(Peer(voter, "") for voter in sorted(voters)))

    @property
    def voters(self) -> tuple[str, ...]:
        return tuple(peer.id for peer in self.peers if peer.standing == Standing.VOTER)

    @property
    def learners(self) -> tuple[str, ...]:
        """Those that are sent the log but do not vote, the joining ones among them."""
        return tuple(peer.id for peer in self.peers if peer.standing != Standing.VOTER)

    def peer(self, peer_id: str) -> Peer | None:
        return next((peer for peer in self.peers if peer.id == peer_id), None)


class Add(msgspec.Struct, frozen=True, array_like=True, tag="add"):
    """Let a new member in, to be a learner for good or a voter once it has caught up."""

    id: str
    address: str
    standing: Standing


class Promote(msgspec.Struct, frozen=True, array_like=True, tag="promote"):
    """Let a learner vote."""

    id: str


class Remove(msgspec.Struct, frozen=True, array_like=True, tag="remove"):
    """Send a member away for good."""

    id: str


Change = Add | Promote | Remove


def changed(present: Configuration, change: Change) -> Configuration:
    """The configuration after a change; the same one if it is made already, so that asking twice is harmless.

    Raises NotFound, Conflict, InvalidInput or LimitReached.
    """
    match change:
        case Add():
            return _with(present, change)
        case Promote(id=peer_id):
            peer = _known(present, peer_id)
            return _with_peer(present, Peer(peer.id, peer.address, Standing.VOTER))
        case Remove(id=peer_id):
            return _without(present, peer_id)


def _with(present: Configuration, add: Add) -> Configuration:
    if add.standing == Standing.VOTER:
        raise InvalidInput("a new member joins as a learner, or as one that votes once it has caught up")
    if add.id in present.removed:
        raise Conflict(f"member {add.id} was removed; let the machine join under a new id, with empty data")
    if present.peer(add.id) is not None:
        return present
    check(add)
    if len(present.peers) >= MAX_PEERS:
        raise LimitReached(f"the cluster has {MAX_PEERS} members already; remove one first")
    return _with_peer(present, Peer(add.id, add.address, add.standing))


def check(add: Add) -> None:
    """Raises InvalidInput for an id or an address that no other member could make a link with."""
    try:
        check_member_id(add.id)
        check_address(add.address)
    except StartupError as error:
        raise InvalidInput(error.message) from None


def _with_peer(present: Configuration, peer: Peer) -> Configuration:
    others = [other for other in present.peers if other.id != peer.id]
    return Configuration(tuple(sorted([*others, peer], key=lambda each: each.id)), present.removed)


def _without(present: Configuration, peer_id: str) -> Configuration:
    if peer_id in present.removed:
        return present
    _known(present, peer_id)
    if present.voters == (peer_id,):
        raise Conflict("the last voter cannot be removed; `raftos dev stop --purge` ends a whole cluster")
    left = tuple(peer for peer in present.peers if peer.id != peer_id)
    return Configuration(left, (*present.removed, peer_id)[-MAX_REMOVED:])


def _known(present: Configuration, peer_id: str) -> Peer:
    peer = present.peer(peer_id)
    if peer is None:
        raise NotFound(f"no member has the id {peer_id}; `raftos node ls` lists them")
    return peer


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def encode(configuration: Configuration) -> bytes:
    """As a log command: the byte `CONFIGURATION`, then the configuration."""
    return bytes((CONFIGURATION,)) + _encoder.encode(configuration)


def decode(command: bytes) -> Configuration:
    """The configuration in a log command. Raises one of UNDECODABLE for what this version cannot read."""
    return _decoder.decode(command[1:])
