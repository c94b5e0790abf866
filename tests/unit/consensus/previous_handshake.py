"""The handshake as it was before members told anything of themselves: level 1, kept to prove upgrades.

A copy of what was shipped, and never to be changed: members of that version have to link with ours,
whichever side dials.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import msgspec

PROTOCOL_VERSION = 1
NONCE_BYTES = 32
MAC_BYTES = 32
HANDSHAKE_FRAME_BYTES = 1024
"""The longest frame anyone may send before authentication."""

_PURPOSE = "raftos peer link"
_encode = msgspec.msgpack.Encoder().encode

Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Mac = Annotated[bytes, msgspec.Meta(min_length=MAC_BYTES, max_length=MAC_BYTES)]
Generation = Annotated[int, msgspec.Meta(gt=0, le=2**62)]

LastGeneration = Callable[[str], int | None]
"""The last generation of the link with a peer, 0 before the first; None when it is not a peer."""


class Refused(Exception):
    """The other side is not who it has to be. The message is one fixed sentence about "it"."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    version: int
    cluster_id: str
    dialler: str
    acceptor: str
    nonce: Nonce
    offer: Generation


class Challenge(msgspec.Struct, frozen=True, array_like=True, tag="challenge"):
    nonce: Nonce
    generation: Generation


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

    def dials(self, peer: str) -> bool:
        """Whether this member is the one that dials `peer`: the lower id of a pair does."""
        return self.member_id < peer


def first_offer(last: int, now_ms: int) -> int:
    """The generation a dialler offers: above its last, and above all of earlier milliseconds."""
    return max(last + 1, now_ms << 16)


class Dialling:
    """The dialler's side: send `hello`, then feed `receive` until `generation` is set."""

    def __init__(self, identity: Identity, peer: str, offer: int, last: LastGeneration) -> None:
        self.peer = peer
        self.generation = 0
        self._secret = identity.secret
        self._last = last
        self._offer = offer
        self._challenge = b""
        self._agreed = 0
        nonce = os.urandom(NONCE_BYTES)
        self.hello = _encode(
            Hello(PROTOCOL_VERSION, identity.cluster_id, identity.member_id, peer, nonce, offer)
        )

    def receive(self, frame: bytes) -> bytes:
        """The reply to one frame, b"" when there is none. Raises Refused."""
        if not self._challenge:
            return self._prove(frame)
        welcome = _expect(Welcome, frame)
        _check_mac(welcome.mac, _mac(self._secret, "acceptor", self.hello, self._challenge))
        self.generation = _still_rising(self._last, self.peer, self._agreed)
        return b""

    def _prove(self, frame: bytes) -> bytes:
        self._agreed = _expect(Challenge, frame).generation
        if self._agreed < self._offer:
            raise Refused("it answered with an older generation than it was offered")
        self._challenge = frame
        return _encode(Proof(_mac(self._secret, "dialler", self.hello, frame)))


class Accepting:
    """The acceptor's side: feed `receive` until `generation` is set. `peer` is "" until it is known."""

    def __init__(self, identity: Identity, last: LastGeneration) -> None:
        self.peer = ""
        self.generation = 0
        self._identity = identity
        self._last = last
        self._hello = b""
        self._challenge = b""
        self._agreed = 0

    def receive(self, frame: bytes) -> bytes:
        """The reply to one frame. Raises Refused."""
        if not self._challenge:
            return self._answer(frame)
        secret = self._identity.secret
        proof = _expect(Proof, frame)
        _check_mac(proof.mac, _mac(secret, "dialler", self._hello, self._challenge))
        self.generation = _still_rising(self._last, self.peer, self._agreed)
        return _encode(Welcome(_mac(secret, "acceptor", self._hello, self._challenge)))

    def _answer(self, frame: bytes) -> bytes:
        hello = _expect(Hello, frame)
        last = self._check(hello)
        self.peer = hello.dialler
        self._agreed = max(hello.offer, last + 1)
        self._hello = frame
        self._challenge = _encode(Challenge(os.urandom(NONCE_BYTES), self._agreed))
        return self._challenge

    def _check(self, hello: Hello) -> int:
        """The last generation with the dialler, once everything it says of itself is right."""
        if hello.version != PROTOCOL_VERSION:
            raise Refused(f"it speaks another version of the peer protocol than {PROTOCOL_VERSION}")
        if hello.cluster_id != self._identity.cluster_id:
            raise Refused("it belongs to another cluster")
        if hello.acceptor != self._identity.member_id:
            raise Refused("it looks for another member at this address")
        last = self._last(hello.dialler)
        if last is None:
            raise Refused("its id is not among the peers")
        if self._identity.dials(hello.dialler):
            raise Refused("it dialled, but this member dials it: the lower id of a pair does")
        return last


Handshake = Dialling | Accepting


def _expect(kind: type[Message], frame: bytes) -> Message:
    try:
        return msgspec.msgpack.decode(frame, type=kind)
    # Beside its own errors msgspec lets these two through, for bad UTF-8 and for deep nesting.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"it sent something else where {kind.__name__} was expected") from error


def _mac(secret: bytes, role: str, hello: bytes, challenge: bytes) -> bytes:
    return hmac.digest(secret, _encode((_PURPOSE, role, hello, challenge)), "sha256")


def _check_mac(claimed: bytes, right: bytes) -> None:
    if not hmac.compare_digest(claimed, right):
        raise Refused("its proof is wrong: the two cluster secrets differ")


def _still_rising(last: LastGeneration, peer: str, generation: int) -> int:
    newest = last(peer)
    if newest is None or generation <= newest:
        raise Refused("a newer link was made, or the peer dropped, during the handshake")
    return generation
