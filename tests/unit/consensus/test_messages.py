"""Messages on the wire: each comes back as it was, and anything else is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftos.consensus import messages
from raftos.consensus.messages import (
    Acknowledged,
    Answered,
    Append,
    Asked,
    BarrierAnswered,
    BarrierAsked,
    Confirm,
    Confirmed,
    ForwardAnswered,
    Forwarded,
    Message,
    Outcome,
    PreVote,
    PreVoteAnswer,
    Removed,
    SnapshotOffered,
    SnapshotPiece,
    SnapshotWanted,
    StaleTerm,
    TimeoutNow,
    VoteGranted,
    VoteRequest,
)

ALL: list[Message] = [
    Append(3, 7, 8, 2, [(b"\x00payload", 9, 3), (b"\x01", 10, 3)]),
    Append(3, 7, 8, 2, []),
    Acknowledged(3, 11, success=True, reset=False),
    VoteRequest(4, 10, 3),
    VoteGranted(4),
    PreVote(4, 10, 3, transfer=True),
    PreVoteAnswer(4, granted=False, current_term=3),
    StaleTerm(5),
    Confirm(3, 12),
    Confirmed(3, 12),
    BarrierAsked(1),
    BarrierAnswered(1, 10),
    Forwarded(2, 900, [b"one", b"two"]),
    ForwardAnswered(2, Outcome.RESULTS, [b"r1", b"r2"]),
    TimeoutNow(3),
    Asked(6, 0, b"body"),
    Answered(6, error=True, body=b""),
    SnapshotOffered(3, 900, 2, 70_000_000),
    SnapshotWanted(900, 2, 2**20),
    SnapshotPiece(900, 2, 2**20, b"piece"),
    Removed(901, 7),
]

NESTED = b"\x93\x07\x01" + b"\x91" * 100_000 + b"\x90"
"""A StaleTerm with one element more, as a later version may send it; its lists are nested deeply."""


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert messages.decode(messages.encode(message)) == message


def test_every_kind_of_message_is_tried_here() -> None:
    assert {type(message) for message in ALL} == set(Message.__subclasses__())


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x80",
        msgspec.msgpack.encode(None),
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode([99, 1]),
        msgspec.msgpack.encode([3, "term", 1, 1]),
        msgspec.msgpack.encode([3, 1]),
        msgspec.msgpack.encode([1, 1, 1, 1, 1, [[b"no index"]]]),
        msgspec.msgpack.encode([7, 2**64 - 1]),
        msgspec.msgpack.encode([7, -1]),
        msgspec.msgpack.encode([18, 1, 1, 2**63]),
        msgspec.msgpack.encode([18, 1, 1, -1]),
        NESTED,
        messages.encode(StaleTerm(1)) + b"\x00",
    ],
)
def test_anything_else_is_refused(frame: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        messages.decode(frame)


@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_random_bytes_give_a_message_or_a_refusal_and_nothing_else(frame: bytes) -> None:
    try:
        message = messages.decode(frame)
    except msgspec.MsgspecError:
        return
    assert isinstance(message, Message)


def test_a_real_pickle_is_refused() -> None:
    """PySyncObj's own transport would have unpickled what a stranger sends."""
    with pytest.raises(msgspec.MsgspecError):
        messages.decode(b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.")
