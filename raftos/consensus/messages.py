"""What members say to each other: frozen values, msgpack arrays on the wire, never pickle.

    Append        -> Acknowledged       replication and heartbeat (Raft section 5.3)
    VoteRequest   -> VoteGranted        election (section 5.2)
    PreVote       -> PreVoteAnswer      would you vote? raises no term (thesis section 9.6)
    StaleTerm                           your term is over
    Confirm       -> Confirmed          a round of a read barrier (thesis section 6.4)
    BarrierAsked  -> BarrierAnswered    a member asks the leader for a read index
    Forwarded     -> ForwardAnswered    requests handed to the leader, their results handed back
    TimeoutNow                          leadership transfer (thesis section 3.10)
    SnapshotOffered -> SnapshotWanted   the log does not reach back to what a follower lacks (section 7)
    SnapshotWanted  -> SnapshotPiece    a part of the leader's snapshot file, asked for by its place
    Removed                             you do not belong to the cluster any more
    Asked         -> Answered           soft questions between members (status, load)

What the log depends on carries the sender's term. What only asks and answers has a number of the asker
instead (`Barrier...`, `Forward...`, `Asked`, `Answered`) or names the piece of a file. The link generation is
the transport's: it drops what belongs to an older link before it gets here.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from raftos.errors import UNDECODABLE

Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""An index, a term, an offset: so that one more of it still fits into 64 bits, wherever it is written."""


class Malformed(msgspec.DecodeError):
    """What came over a link is no message; the link is to be closed."""


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all messages."""


Entry = tuple[bytes, int, int]
"""(command, index, term)"""


class Append(Message, frozen=True, tag=1):
    term: Number
    commit_index: Number
    prev_index: Number
    prev_term: Number
    entries: list[Entry]
    """Consecutive, beginning at prev_index + 1."""


class Acknowledged(Message, frozen=True, tag=2):
    term: Number
    next_index: Number
    success: bool
    reset: bool
    watching: bool = False
    """Whether somebody at the sender waits for news: then commits are told to it at once."""


class VoteRequest(Message, frozen=True, tag=3):
    term: Number
    last_index: Number
    last_term: Number


class VoteGranted(Message, frozen=True, tag=4):
    term: Number


class PreVote(Message, frozen=True, tag=5):
    term: Number
    """The term the sender would campaign in: its own plus one."""
    last_index: Number
    last_term: Number
    transfer: bool
    question: int = 0
    """Its number: an answer that comes late must not count for the next question."""


class PreVoteAnswer(Message, frozen=True, tag=6):
    term: Number
    """The term that was asked for."""
    granted: bool
    current_term: Number
    question: int = 0


class StaleTerm(Message, frozen=True, tag=7):
    term: Number


class Confirm(Message, frozen=True, tag=8):
    term: Number
    round: Number


class Confirmed(Message, frozen=True, tag=9):
    term: Number
    round: Number


class BarrierAsked(Message, frozen=True, tag=10):
    id: int


class BarrierAnswered(Message, frozen=True, tag=11):
    id: int
    index: Number
    """The read index, or 0: not the leader (any more), ask another."""


class Forwarded(Message, frozen=True, tag=12):
    id: int
    time_left_ms: int
    requests: list[bytes]


class Outcome(IntEnum):
    RESULTS = 0
    NOT_LEADER = 1
    """Not agreed here as far as this member knows: send the same requests to the leader."""
    LATE = 2
    """Certainly not proposed: the deadline passed first."""


class ForwardAnswered(Message, frozen=True, tag=13):
    id: int
    outcome: int
    results: list[bytes]


class TimeoutNow(Message, frozen=True, tag=14):
    term: Number


class Asked(Message, frozen=True, tag=15):
    id: int
    channel: int
    body: bytes


class Answered(Message, frozen=True, tag=16):
    id: int
    error: bool
    body: bytes


class SnapshotOffered(Message, frozen=True, tag=17):
    """What you lack is not in my log any more, but in this file. Repeated until it is acknowledged."""

    term: Number
    index: Number
    index_term: Number
    """The last entry the snapshot contains, and that entry's term."""
    size_bytes: Number
    """Of the file."""


class SnapshotWanted(Message, frozen=True, tag=18):
    index: Number
    index_term: Number
    offset: Number


class SnapshotPiece(Message, frozen=True, tag=19):
    index: Number
    index_term: Number
    offset: Number
    data: bytes
    """Empty: the file is not there any more."""


class Removed(Message, frozen=True, tag=20):
    index: Number
    """The configuration without the receiver, which is agreed on."""
    term: Number = 0
    """The sender's."""


AnyMessage = (
    Append
    | Acknowledged
    | VoteRequest
    | VoteGranted
    | PreVote
    | PreVoteAnswer
    | StaleTerm
    | Confirm
    | Confirmed
    | BarrierAsked
    | BarrierAnswered
    | Forwarded
    | ForwardAnswered
    | TimeoutNow
    | Asked
    | Answered
    | SnapshotOffered
    | SnapshotWanted
    | SnapshotPiece
    | Removed
)

encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(AnyMessage)


def decode(frame: bytes) -> AnyMessage:
    """The message in a frame. Raises Malformed for anything else."""
    try:
        return _decoder.decode(frame)  # type: ignore[no-any-return]  # the decoder is typed by the union
    except UNDECODABLE as error:
        raise Malformed(str(error)) from error
