"""The handshake as a pure exchange of messages: who is let in, and on which generation."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftos.consensus.handshake import (
    HANDSHAKE_FRAME_BYTES,
    PROTOCOL_VERSION,
    Accepting,
    Challenge,
    Dialling,
    Hello,
    Identity,
    Refused,
    first_offer,
)

SECRET = b"s" * 32
A, B = Identity("a", "cluster", SECRET), Identity("b", "cluster", SECRET)


def known(last: int = 0) -> dict[str, int]:
    return {"a": last, "b": last, "c": last}


def pair(
    dialler: Identity = A, acceptor: Identity = B, peer: str = "b", offer: int = 5
) -> tuple[Dialling, Accepting]:
    return Dialling(dialler, peer, offer, known().get), Accepting(acceptor, known().get)


def exchange(dialling: Dialling, accepting: Accepting) -> list[bytes]:
    """Run the whole handshake; returns its four messages."""
    challenge = accepting.receive(dialling.hello)
    proof = dialling.receive(challenge)
    welcome = accepting.receive(proof)
    dialling.receive(welcome)
    return [dialling.hello, challenge, proof, welcome]


def test_both_sides_agree_on_one_generation() -> None:
    """After four messages both name the link alike and know each other."""
    dialling, accepting = pair()
    exchange(dialling, accepting)
    assert dialling.generation == accepting.generation == 5
    assert (dialling.peer, accepting.peer) == ("b", "a")


@pytest.mark.parametrize(("offer", "last", "agreed"), [(5, 0, 5), (5, 4, 5), (5, 5, 6), (5, 90, 91)])
def test_the_generation_rises_above_what_either_side_knows(offer: int, last: int, agreed: int) -> None:
    """A dialler whose clock went back is lifted above the acceptor's last generation."""
    dialling = Dialling(A, "b", offer, known().get)
    accepting = Accepting(B, known(last).get)
    exchange(dialling, accepting)
    assert dialling.generation == accepting.generation == agreed


@pytest.mark.parametrize(("last", "now_ms", "offer"), [(0, 1, 65536), (65536, 1, 65537), (7, 0, 8)])
def test_an_offer_is_above_the_last_and_above_the_clock(last: int, now_ms: int, offer: int) -> None:
    """The offer rises from link to link and, through the clock, from process to process."""
    assert first_offer(last, now_ms) == offer


def test_neither_the_secret_nor_an_identity_shows_it() -> None:
    """The secret is in no message and in no representation."""
    assert not any(SECRET in message for message in exchange(*pair()))
    assert "ssss" not in repr(A)


@pytest.mark.parametrize(
    ("dialler", "acceptor", "peer", "reason"),
    [
        (Identity("a", "cluster", b"t" * 32), B, "b", "secrets differ"),
        (Identity("a", "other", SECRET), B, "b", "another cluster"),
        (Identity("stranger", "cluster", SECRET), B, "b", "not among the peers"),
        (A, B, "c", "looks for another member"),
        (Identity("c", "cluster", SECRET), B, "b", "lower id"),
    ],
)
def test_who_does_not_belong_is_refused(
    dialler: Identity, acceptor: Identity, peer: str, reason: str
) -> None:
    """Secret, cluster, both ids and the direction are checked, each with its own sentence."""
    dialling, accepting = pair(dialler, acceptor, peer)
    with pytest.raises(Refused, match=reason):
        exchange(dialling, accepting)
    assert dialling.generation == accepting.generation == 0


def test_another_protocol_version_is_refused() -> None:
    """A member of a future protocol is told apart from garbage."""
    hello = Hello(PROTOCOL_VERSION + 1, "cluster", "a", "b", bytes(32), 5)
    with pytest.raises(Refused, match="another version"):
        pair()[1].receive(msgspec.msgpack.encode(hello))


def test_an_acceptor_without_the_secret_is_refused() -> None:
    """The dialler too asks for proof: an impostor on a member's port gets no frame."""
    dialling, impostor = pair(acceptor=Identity("b", "cluster", b"guess" * 8))
    dialling.receive(impostor.receive(dialling.hello))
    with pytest.raises(Refused, match="secrets differ"):
        dialling.receive(_welcome_of(b"g" * 32))
    assert dialling.generation == 0


def _welcome_of(mac: bytes) -> bytes:
    return msgspec.msgpack.encode(["welcome", mac])


def test_a_proof_cannot_be_reflected() -> None:
    """The dialler's own proof, sent back as the welcome, does not convince it."""
    dialling, accepting = pair()
    proof = dialling.receive(accepting.receive(dialling.hello))
    mac = msgspec.msgpack.decode(proof)[1]
    with pytest.raises(Refused, match="secrets differ"):
        dialling.receive(_welcome_of(mac))


def test_a_recorded_session_cannot_be_replayed() -> None:
    """The acceptor's nonce is fresh: yesterday's hello and proof prove nothing today."""
    hello, _, proof, _ = exchange(*pair())
    accepting = pair()[1]
    accepting.receive(hello)
    with pytest.raises(Refused, match="secrets differ"):
        accepting.receive(proof)


def test_a_recorded_acceptor_cannot_be_replayed() -> None:
    """The dialler's nonce is fresh: yesterday's challenge and welcome prove nothing today."""
    _, challenge, _, welcome = exchange(*pair())
    dialling = pair()[0]
    dialling.receive(challenge)
    with pytest.raises(Refused, match="secrets differ"):
        dialling.receive(welcome)


def test_an_answer_below_the_offer_is_refused() -> None:
    """An acceptor cannot make a dialler reuse a generation."""
    with pytest.raises(Refused, match="older generation"):
        pair(offer=5)[0].receive(msgspec.msgpack.encode(Challenge(bytes(32), 4)))


def test_of_two_overlapping_handshakes_the_late_one_loses() -> None:
    """Two handshakes that agreed on one generation never both become links."""
    last = known()
    (first, second) = (Dialling(A, "b", 5, last.get) for _ in range(2))
    (one, two) = (Accepting(B, last.get) for _ in range(2))
    proofs = [first.receive(one.receive(first.hello)), second.receive(two.receive(second.hello))]
    one.receive(proofs[0])
    last["a"] = one.generation
    with pytest.raises(Refused, match="newer link"):
        two.receive(proofs[1])


def test_a_peer_dropped_during_the_handshake_is_refused() -> None:
    """Being known at the hello is not enough: it counts at the end."""
    last = known()
    dialling, accepting = Dialling(A, "b", 5, last.get), Accepting(B, last.get)
    proof = dialling.receive(accepting.receive(dialling.hello))
    del last["a"]
    with pytest.raises(Refused, match="dropped"):
        accepting.receive(proof)


def test_every_flipped_byte_prevents_the_link() -> None:
    """Nothing that either side believes can be changed on the way."""
    lengths = [len(message) for message in exchange(*pair())]
    for number, length in enumerate(lengths):
        for position in range(length):
            assert not _agree_with_flip(number, position), f"message {number}, byte {position}"


def _agree_with_flip(number: int, position: int) -> bool:
    dialling, accepting = pair()
    message, receiver = dialling.hello, 1
    try:
        for step in range(4):
            if step == number:
                changed = bytearray(message)
                changed[position] ^= 0x01
                message = bytes(changed)
            message = (dialling, accepting)[receiver].receive(message)
            receiver = 1 - receiver
    except Refused:
        return False
    return dialling.generation > 0


@given(st.binary(max_size=HANDSHAKE_FRAME_BYTES))
@settings(max_examples=100, deadline=None)
def test_garbage_is_refused_by_both_sides(garbage: bytes) -> None:
    """Whatever arrives, the answer is Refused and nothing else."""
    for side in pair():
        with pytest.raises(Refused):
            side.receive(garbage)


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x97\xa5hello\x01\xa1\xff",
        b"\x97\xa5hello" + b"\x91" * 1000,
        b"\x9f\xa5hello\x01\xa7cluster\xa1a\xa1b\xc4\x20" + bytes(32) + b"\x05" + b"\x91" * 900,
        b"\xdd\xff\xff\xff\xff\xa5hello",
        b"\xdf\xff\xff\xff\xff",
        b"\xa5hello",
    ],
    ids=[
        "bad utf-8",
        "deep nesting",
        "deep nesting in a field to come",
        "huge array",
        "huge map",
        "no array",
    ],
)
def test_hostile_encodings_are_refused(hostile: bytes) -> None:
    """Bad text, deep nesting and lengths that promise gigabytes end like any other garbage."""
    with pytest.raises(Refused):
        pair()[1].receive(hostile)
