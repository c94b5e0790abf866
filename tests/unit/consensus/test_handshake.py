"""The handshake as a pure exchange of messages: who is let in, and on which generation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftos.consensus.handshake import (
    HANDSHAKE_FRAME_BYTES,
    PROTOCOL_VERSION,
    TELLS_NOTHING,
    About,
    Accepting,
    Challenge,
    Dialling,
    Hello,
    Identity,
    Refused,
    checked_identity,
    first_offer,
)
from raftos.errors import StartupError
from raftos.levels import LEVEL
from tests.unit.consensus import previous_handshake as previous

SECRET = b"s" * 32
A = Identity("a", "cluster", SECRET, About(7, "0.7", "127.0.0.1:4001"))
B = Identity("b", "cluster", SECRET, About(8, "0.8", "localhost:4002"))
LONGEST = About(65535, "b" * 64, "h" * 250 + ":65535")


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


@pytest.mark.parametrize(
    ("offer", "last", "agreed"), [(5, 0, 5), (5, 4, 5), (5, 5, 7), (6, 0, 7), (5, 90, 91)]
)
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
        (Identity("stranger", "cluster", SECRET), B, "b", "not among the peers, and there is no room"),
        (A, B, "c", "looks for another member"),
        (B, B, "b", "claims the id of this member"),
    ],
)
def test_who_does_not_belong_is_refused(
    dialler: Identity, acceptor: Identity, peer: str, reason: str
) -> None:
    """Secret, cluster and both ids are checked, each with its own sentence."""
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
    with pytest.raises(Refused, match="another link with it was made"):
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


# What members tell of themselves.


def test_each_side_learns_what_the_other_tells() -> None:
    """Level, build and address arrive on both sides as they were sent."""
    dialling, accepting = pair()
    exchange(dialling, accepting)
    assert (dialling.about, accepting.about) == (B.about, A.about)


def test_nothing_that_is_told_counts_before_the_proof() -> None:
    """Until the other side has proved that it knows the secret, it has told nothing."""
    dialling, accepting = pair()
    proof = dialling.receive(accepting.receive(dialling.hello))
    assert dialling.about == accepting.about == TELLS_NOTHING
    welcome = accepting.receive(proof)
    assert (dialling.about, accepting.about) == (TELLS_NOTHING, A.about)
    dialling.receive(welcome)
    assert dialling.about == B.about


def test_the_longest_handshake_fits_a_strangers_frame() -> None:
    """With every text as long as it may be, no message is above what anybody may send."""
    one, other = (checked_identity(x * 64, "c" * 256, SECRET, LONGEST) for x in "ab")
    last = {one.member_id: 2**62 - 9, other.member_id: 2**62 - 9}
    dialling = Dialling(one, other.member_id, 2**62 - 9, last.get)
    messages = exchange(dialling, Accepting(other, last.get))
    assert max(map(len, messages)) <= HANDSHAKE_FRAME_BYTES
    assert dialling.about == LONGEST


BAD_IDS = ["", "x" * 65, "two words", "line\n", "\u00e9", "\x00"]
BAD_ABOUTS = [
    [0, "", ""],
    [65536, "", ""],
    [2, "b" * 65, ""],
    [2, "two\nlines", ""],
    [2, "", "h" * 251 + ":65535"],
    [2, "", "nowhere"],
    [2, "", ":4001"],
    [2, "", "host:0"],
    [2, "", "host:65536"],
    [2, "", "host:4001\n"],
    [2, "", "h\u00f6st:4001"],
    [2, "", "a host:4001"],
]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_an_id_out_of_its_limits_is_refused_at_either_place(bad: str) -> None:
    """1 to 64 visible ASCII characters: a dialler with another id gets no challenge, nor does it start."""
    hello = ["hello", PROTOCOL_VERSION, "cluster", bad, "b", bytes(32), 5]
    with pytest.raises(Refused, match="where Hello was expected"):
        Accepting(B, lambda _: 0).receive(msgspec.msgpack.encode(hello))
    with pytest.raises(StartupError, match="visible ASCII"):
        checked_identity(bad, "cluster", SECRET, About())


@pytest.mark.parametrize("bad", BAD_ABOUTS)
def test_what_is_told_out_of_its_limits_is_refused_by_both_sides(bad: list[int | str]) -> None:
    """Levels, builds and addresses have limits, and an address is host:port or nothing."""
    hello = ["hello", PROTOCOL_VERSION, "cluster", "a", "b", bytes(32), 5, bad]
    with pytest.raises(Refused, match="where Hello was expected"):
        pair()[1].receive(msgspec.msgpack.encode(hello))
    with pytest.raises(Refused, match="where Challenge was expected"):
        pair()[0].receive(msgspec.msgpack.encode(["challenge", bytes(32), 5, bad]))
    pair()[1].receive(msgspec.msgpack.encode([*hello[:-1], [2, "", "[::1]:65535"]]))


def test_a_member_whose_peers_would_refuse_it_does_not_start() -> None:
    """What others would not accept is found at home, with a sentence."""
    with pytest.raises(StartupError, match="a build at most 64"):
        checked_identity("a", "cluster", SECRET, About(2, "b" * 65, ""))
    with pytest.raises(StartupError, match="at most 256 bytes"):
        checked_identity("a", "\u00e9" * 129, SECRET, About())


# Both dial.


@dataclass
class End:
    """One member of two that dial each other: its last generation, and the link it has now."""

    identity: Identity
    last: dict[str, int]
    dialling: Dialling
    accepting: Accepting
    current: int = 0

    def agreed(self, generation: int) -> None:
        """As the transport does: the newer link replaces the older, which ends at both ends."""
        assert generation > self.last[self.dialling.peer]
        self.current = self.last[self.dialling.peer] = generation


def crossing(offers: tuple[int, int], lasts: tuple[int, int]) -> tuple[End, End]:
    ends = []
    for me, peer, offer, last in ((A, "b", offers[0], lasts[0]), (B, "a", offers[1], lasts[1])):
        known_to_me = {peer: last}
        offer_above = max(offer, last + 1)
        ends.append(
            End(
                me,
                known_to_me,
                Dialling(me, peer, offer_above, known_to_me.get),
                Accepting(me, known_to_me.get),
            )
        )
    return ends[0], ends[1]


def run_crossing(ends: tuple[End, End], order: tuple[int, ...]) -> tuple[int, int]:
    """Deliver the messages of both handshakes in this order (0: those of a's dial); the links at the end."""
    waiting = [ends[0].dialling.hello, ends[1].dialling.hello]
    steps, made = [0, 0], [[0, 0], [0, 0]]
    broken = [False, False]
    for which in order:
        dialler, acceptor = ends[which], ends[1 - which]
        if broken[which]:
            continue
        is_dialler = steps[which] % 2 == 1
        end = dialler if is_dialler else acceptor
        side = end.dialling if is_dialler else end.accepting
        steps[which] += 1
        try:
            waiting[which] = side.receive(waiting[which])
        except Refused:
            broken[which] = True
            continue
        if side.generation:
            end.agreed(side.generation)
            made[which][ends.index(end)] = side.generation
    # A link stands where both ends have it and neither went on to a newer one.
    return tuple(
        end.current if any(links[0] == links[1] == end.current for links in made) else 0 for end in ends
    )  # type: ignore[return-value]


@pytest.mark.parametrize("offers", [(5, 5), (5, 6), (6, 5), (6, 6), (90, 5), (5, 90)])
@pytest.mark.parametrize("lasts", [(0, 0), (5, 5), (5, 0), (0, 5), (80, 81)])
def test_when_both_dial_both_end_on_one_link(offers: tuple[int, int], lasts: tuple[int, int]) -> None:
    """In whatever order the messages of two crossing handshakes come, one link stands at both ends."""
    for chosen in combinations(range(8), 4):
        order = tuple(0 if place in chosen else 1 for place in range(8))
        one, other = run_crossing(crossing(offers, lasts), order)
        assert one == other > max(lasts), (order, one, other)


def test_a_dialler_gives_way_to_a_link_made_before_its_proof() -> None:
    """While it waited for the challenge the other side's dial got through: one link is enough."""
    last = {"b": 5}
    dialling = Dialling(A, "b", 90, last.get)
    challenge = Accepting(B, {"a": 5}.get).receive(dialling.hello)
    last["b"] = 6
    with pytest.raises(Refused, match="another link with it was made"):
        dialling.receive(challenge)


# Upgrades.

OLD_A, OLD_B = (previous.Identity(name, "cluster", SECRET) for name in "ab")


def test_a_previous_member_dials_a_new_one() -> None:
    """It is linked, counts as level 1, and tells no address."""
    dialling = previous.Dialling(OLD_A, "b", 5, known().get)
    accepting = Accepting(B, known().get)
    dialling.receive(accepting.receive(dialling.receive(accepting.receive(dialling.hello))))
    assert dialling.generation == accepting.generation == 5
    assert accepting.about == TELLS_NOTHING == About(1, "", "")


def test_a_new_member_dials_a_previous_one() -> None:
    """What it tells is passed over, what it hears is level 1."""
    dialling = Dialling(A, "b", 5, known().get)
    accepting = previous.Accepting(OLD_B, known().get)
    dialling.receive(accepting.receive(dialling.receive(accepting.receive(dialling.hello))))
    assert dialling.generation == accepting.generation == 5
    assert dialling.about == TELLS_NOTHING


def test_a_previous_member_refuses_to_be_dialled_in_reverse() -> None:
    """That is no fault: it dials us itself, as it always did."""
    dialling = Dialling(B, "a", 5, known().get)
    with pytest.raises(previous.Refused, match="lower id"):
        previous.Accepting(OLD_A, known().get).receive(dialling.hello)


def test_a_member_of_a_later_version_is_understood() -> None:
    """Arrays may grow at their end, the one of what is told as well."""
    hello = ["hello", PROTOCOL_VERSION, "cluster", "a", "b", bytes(32), 5, [9, "1.0", "", "more"], "more"]
    accepting = pair()[1]
    accepting.receive(msgspec.msgpack.encode(hello))
    assert accepting._claimed == About(9, "1.0", "")
    assert LEVEL == 2
