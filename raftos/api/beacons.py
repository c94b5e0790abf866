"""`/v1/beacons`: what clients say of themselves for a moment. Soft state: answered without a leader too."""

from __future__ import annotations

from typing import Annotated

import msgspec

from raftos.api import codec
from raftos.api.answers import JSON, Answer, json_answer
from raftos.api.connection import Request
from raftos.api.requests import content_type
from raftos.beacons import MAX_TEXT_BYTES, MAX_TTL_MS, Listed
from raftos.member import Member
from raftos.state.domain import described

Topic = Annotated[
    str, described("What it is about, such as `chat/general`.", minLength=1, maxLength=MAX_TEXT_BYTES)
]


class Announce(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A beacon to show for `ttl_ms` milliseconds."""

    topic: Topic
    name: Annotated[str, described("Whose it is.", minLength=1, maxLength=MAX_TEXT_BYTES)]
    state: Annotated[str, described("What it says.", maxLength=MAX_TEXT_BYTES)]
    ttl_ms: Annotated[
        int, described("How long it is shown unless it is announced again.", minimum=1, maximum=MAX_TTL_MS)
    ]


class ListTopic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The topic whose beacons are wanted."""

    topic: Topic


class Announced(msgspec.Struct, frozen=True):
    """The beacon that is shown from now on."""

    topic: str
    name: str


class BeaconList(msgspec.Struct, frozen=True):
    """The beacons of a topic, by name; `member` is the name of the member each was announced at."""

    items: list[Listed]


class BeaconRoutes:
    def __init__(self, member: Member) -> None:
        self._member = member

    async def announce(self, request: Request) -> Answer:
        content_type(request, JSON)
        wanted = codec.typed(codec.decode_object(request.body), Announce)
        self._member.beacons.announce(wanted.topic, wanted.name, wanted.state, wanted.ttl_ms)
        return json_answer(Announced(wanted.topic, wanted.name))

    async def list(self, request: Request) -> Answer:
        wanted = codec.typed(codec.parameters(request.query), ListTopic)
        listed = self._member.beacons.listed(wanted.topic)
        return json_answer(BeaconList([self._named(beacon) for beacon in listed]))

    def _named(self, beacon: Listed) -> Listed:
        return msgspec.structs.replace(beacon, member=self._member.name_of(beacon.member))
