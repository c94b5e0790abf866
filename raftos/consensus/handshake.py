"""How two members prove to each other that they belong together, before any frame is believed.

    dialler                                                            acceptor
       | -- Hello      version, cluster, both ids, nonce, offer, about ---> |
       | <- Challenge  nonce, generation, about --------------------------- |
       | -- Proof      HMAC(secret, "dialler", Hello, Challenge) ---------> |  linked
       | <- Welcome    HMAC(secret, "acceptor", Hello, Challenge) --------- |
    linked

Each side proves that it knows the cluster's secret by authenticating (HMAC-SHA256, RFC 2104) the
two messages that carry both fresh nonces, both ids and the generation; the secret itself never
crosses the wire. The role inside the MAC keeps a proof from being reflected, the fresh nonces keep
it from being replayed. The dialler proves itself first, so the acceptor computes nothing with the
secret for a stranger to collect.

The **generation** names one link between two members, alike on both ends, and rises from link to
link. The dialler offers its wall clock (so that it rises across restarts without being stored),
each side raises it above the last one it knows, and both check once more, at the end, that it
still rises. Either member of a pair may dial, even both at once. Generations of links that the lower
id dialled are odd, those of the higher id even, so two handshakes that cross never agree on the same
one: the higher wins on both ends, in whatever order they are done. A dialler that sees another link
made before it has sent its proof gives way, which no acceptor can have believed in by then.

**About** is what a member tells of itself: its feature level, its build, and the address its peers
shall dial. It travels in the two messages the MACs cover, and counts only once the handshake is
done. A stranger may read it, as whoever reaches this port may: it has nothing secret. The code before
it existed sends none, which is level 1 at an address unchanged, and ignores ours: arrays may grow at
their end. Whoever proves the secret is let in while there is room, although its id may be new to us:
the acceptor's `last` decides about room; a dialler dials only whom it knows.

What this does not do: the frames after the handshake are neither encrypted nor authenticated one
by one. That is enough on loopback, where nobody sits between two members; elsewhere it takes TLS.

Pure: no I/O, no clock; fresh nonces are the only thing it asks of the world.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import msgspec

from raftos.errors import UNDECODABLE, StartupError
from raftos.levels import LEVEL

PROTOCOL_VERSION = 1
MAX_ID_LENGTH = 64
MAX_ADDRESS_LENGTH = 256
MAX_BUILD_LENGTH = 64
MAX_CLUSTER_ID_BYTES = 256
NONCE_BYTES = 32
MAC_BYTES = 32
HANDSHAKE_FRAME_BYTES = 1024
"""The longest frame anyone may send before authentication."""

_PURPOSE = "raftos peer link"
_encode = msgspec.msgpack.Encoder().encode

Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Mac = Annotated[bytes, msgspec.Meta(min_length=MAC_BYTES, max_length=MAC_BYTES)]
Generation = Annotated[int, msgspec.Meta(gt=0, le=2**62)]

MemberId = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH, pattern=r"\A[!-~]+\Z")]
Level = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Build = Annotated[str, msgspec.Meta(max_length=MAX_BUILD_LENGTH, pattern=r"\A[ -~]*\Z")]
Address = Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS_LENGTH, pattern=r"\A(?:[!-~]+:[0-9]{1,5})?\Z")]

LastGeneration = Callable[[str], int | None]
"""The last generation of the link with a peer, 0 before the first; None when no link with it is wanted."""

SUPERSEDED = "another link with it was made during the handshake"


class Refused(Exception):
    """The other side is not who it has to be. The message is one fixed sentence about "it"."""


class About(msgspec.Struct, frozen=True, array_like=True):
    """What a member tells of itself. An empty address says that the one known shall stay."""

    level: Level = LEVEL
    build: Build = ""
    address: Address = ""

    def __post_init__(self) -> None:
        port = self.address.rpartition(":")[2]
        if port.isdigit() and not 0 < int(port) <= 65535:
            raise ValueError("a port is a number from 1 to 65535")


TELLS_NOTHING = About(level=1)
"""Of a member whose code is older than `About`."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    version: int
    cluster_id: str
    dialler: MemberId
    acceptor: MemberId
    nonce: Nonce
    offer: Generation
    about: About = TELLS_NOTHING


class Challenge(msgspec.Struct, frozen=True, array_like=True, tag="challenge"):
    nonce: Nonce
    generation: Generation
    about: About = TELLS_NOTHING


class Proof(msgspec.Struct, frozen=True, array_like=True, tag="proof"):
    mac: Mac


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    mac: Mac


Message = TypeVar("Message", Hello, Challenge, Proof, Welcome)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a member is to its peers. The secret stays out of every representation."""

    member_id: str
    cluster_id: str
    secret: bytes = field(repr=False)
    about: About = field(default_factory=About)

    def dials(self, peer: str) -> bool:
        """Whether this member normally dials `peer`: the lower id of a pair does, the other if it has to."""
        return self.member_id < peer


def checked_identity(member_id: str, cluster_id: str, secret: bytes, about: About) -> Identity:
    """An identity that every peer will understand. Raises StartupError with a sentence."""
    check_member_id(member_id)
    if len(cluster_id.encode()) > MAX_CLUSTER_ID_BYTES:
        raise StartupError(f"a cluster_id has at most {MAX_CLUSTER_ID_BYTES} bytes; choose a shorter one")
    try:
        msgspec.convert([about.level, about.build, about.address], About)
    except msgspec.ValidationError as error:
        raise StartupError(
            f"this member cannot tell its peers {about!r}: a level is 1 to 65535, a build at most "
            f"{MAX_BUILD_LENGTH} and an address, as host:port, at most {MAX_ADDRESS_LENGTH} ASCII characters"
        ) from error
    return Identity(member_id, cluster_id, secret, about)


def check_member_id(member_id: str) -> None:
    """Raise StartupError for an id that no peer would accept."""
    try:
        msgspec.convert(member_id, MemberId)
    except msgspec.ValidationError as error:
        raise StartupError(
            f"member id {member_id[:80]!r} is not 1 to {MAX_ID_LENGTH} visible ASCII characters; choose one"
        ) from error


def check_address(address: str) -> None:
    """Raise StartupError for an address that no member could tell its peers. An empty one says nothing."""
    try:
        msgspec.convert([LEVEL, "", address], About)
    except msgspec.ValidationError as error:
        raise StartupError(
            f"address {address[:80]!r} is not host:port, in at most {MAX_ADDRESS_LENGTH} visible ASCII "
            "characters and with a port from 1 to 65535; write it like 127.0.0.1:4001"
        ) from error


def first_offer(last: int, now_ms: int) -> int:
    """The generation a dialler offers: above its last, and above all of earlier milliseconds."""
    return max(last + 1, now_ms << 16)


class Dialling:
    """The dialler's side: send `hello`, then feed `receive` until `generation` is set."""

    def __init__(self, identity: Identity, peer: str, offer: int, last: LastGeneration) -> None:
        self.peer = peer
        self.generation = 0
        self.about = TELLS_NOTHING
        self._secret = identity.secret
        self._last = last
        self._last_before = last(peer)
        self._offer = offer
        self._challenge = b""
        self._agreed = 0
        self._claimed = TELLS_NOTHING
        nonce = os.urandom(NONCE_BYTES)
        member_id, cluster_id = identity.member_id, identity.cluster_id
        self.hello = _encode(
            Hello(PROTOCOL_VERSION, cluster_id, member_id, peer, nonce, offer, identity.about)
        )

    def receive(self, frame: bytes) -> bytes:
        """The reply to one frame, b"" when there is none. Raises Refused."""
        if not self._challenge:
            return self._prove(frame)
        welcome = _expect(Welcome, frame)
        _check_mac(welcome.mac, _mac(self._secret, "acceptor", self.hello, self._challenge))
        self.generation = _still_rising(self._last, self.peer, self._agreed)
        self.about = self._claimed
        return b""

    def _prove(self, frame: bytes) -> bytes:
        challenge = _expect(Challenge, frame)
        if challenge.generation < self._offer:
            raise Refused("it answered with an older generation than it was offered")
        self._agreed = _still_rising(self._last, self.peer, challenge.generation)
        if self._last(self.peer) != self._last_before:
            raise Refused(SUPERSEDED)
        self._claimed = challenge.about
        self._challenge = frame
        return _encode(Proof(_mac(self._secret, "dialler", self.hello, frame)))


class Accepting:
    """The acceptor's side: feed `receive` until `generation` is set. `peer` is "" until it is known."""

    def __init__(self, identity: Identity, last: LastGeneration) -> None:
        self.peer = ""
        self.generation = 0
        self.about = TELLS_NOTHING
        self._identity = identity
        self._last = last
        self._hello = b""
        self._challenge = b""
        self._agreed = 0
        self._claimed = TELLS_NOTHING

    def receive(self, frame: bytes) -> bytes:
        """The reply to one frame. Raises Refused."""
        if not self._challenge:
            return self._answer(frame)
        secret = self._identity.secret
        proof = _expect(Proof, frame)
        _check_mac(proof.mac, _mac(secret, "dialler", self._hello, self._challenge))
        self.generation = _still_rising(self._last, self.peer, self._agreed)
        self.about = self._claimed
        return _encode(Welcome(_mac(secret, "acceptor", self._hello, self._challenge)))

    def _answer(self, frame: bytes) -> bytes:
        hello = _expect(Hello, frame)
        last = self._check(hello)
        self.peer = hello.dialler
        self._claimed = hello.about
        self._agreed = _agreed_generation(hello.offer, last, reverse=self._identity.dials(hello.dialler))
        self._hello = frame
        self._challenge = _encode(Challenge(os.urandom(NONCE_BYTES), self._agreed, self._identity.about))
        return self._challenge

    def _check(self, hello: Hello) -> int:
        """The last generation with the dialler, once everything it says of itself is right."""
        if hello.version != PROTOCOL_VERSION:
            raise Refused(f"it speaks another version of the peer protocol than {PROTOCOL_VERSION}")
        if hello.cluster_id != self._identity.cluster_id:
            raise Refused("it belongs to another cluster")
        if hello.acceptor != self._identity.member_id:
            raise Refused("it looks for another member at this address")
        if hello.dialler == self._identity.member_id:
            raise Refused("it claims the id of this member; no two members may run under one id")
        last = self._last(hello.dialler)
        if last is None:
            raise Refused("its id is not among the peers, and there is no room for more such links")
        return last


Handshake = Dialling | Accepting


def _expect(kind: type[Message], frame: bytes) -> Message:
    try:
        return msgspec.msgpack.decode(frame, type=kind)
    except UNDECODABLE as error:
        raise Refused(f"it sent something else where {kind.__name__} was expected") from error


def _mac(secret: bytes, role: str, hello: bytes, challenge: bytes) -> bytes:
    return hmac.digest(secret, _encode((_PURPOSE, role, hello, challenge)), "sha256")


def _check_mac(claimed: bytes, right: bytes) -> None:
    if not hmac.compare_digest(claimed, right):
        raise Refused("its proof is wrong: the two cluster secrets differ")


def _still_rising(last: LastGeneration, peer: str, generation: int) -> int:
    newest = last(peer)
    if newest is None:
        raise Refused("the peer was dropped, or the room for it taken, during the handshake")
    if generation <= newest:
        raise Refused(SUPERSEDED)
    return generation


def _agreed_generation(offer: int, last: int, *, reverse: bool) -> int:
    """At least the offer and above the last; odd where the lower id dials, even in reverse."""
    lowest = max(offer, last + 1)
    return lowest + (lowest % 2 == reverse)
