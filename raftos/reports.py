"""What members say of themselves and of each other.

A **report** is what one member tells a peer that asks. Fields that were added later have defaults: a member
of an older version does not send them. The **views** are what `/v1/status` shows, made of reports.

`judge` compares states. Every report carries **stamps**, (log index, state hash) at indexes that all members
note alike, so that two members under load are compared at an index that both have passed:

| at one index                                     | verdict                                              |
|--------------------------------------------------|------------------------------------------------------|
| all hashes are equal                             | -                                                    |
| a majority of the voters has one, somebody not   | who has another is **wrong**: its state is corrupt   |
| no majority has the same                         | all of them are **suspect**: nobody knows who is right |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Literal

import msgspec

from raftos.consensus.base import Role
from raftos.levels import FIRST_LEVEL


class StateHash(msgspec.Struct, frozen=True):
    """The rolling hash of the applied state; two members compare theirs at one `index` only."""

    index: int
    hash: str


class Alarm(msgspec.Struct, frozen=True):
    """Something an operator has to do; `alarm` is its stable name, `message` what it is and what to do.

    `node` is the name of the member it is about, where it is about one.
    """

    alarm: str
    message: str
    node: str | msgspec.UnsetType = msgspec.UNSET


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One node, as `status` shows it. What an unreachable node did not say is None."""

    id: str
    name: str
    role: Literal["leader", "follower", "learner", "agent", "none"]
    """`none` is a member that has a name but no place in the configuration: joining, or just removed."""
    state: Literal["joining", "alive", "unreachable", "down", "removed"]
    endpoint: str
    applied_index: int | None = None
    synced_index: int | None = None
    version: str | None = None
    level: int | None = None
    load: Mapping[str, int | float] | None = None
    trouble: str | None = None
    state_hash: StateHash | None = None


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster, as the member that was asked sees it. `leader` is a name, `level` the enabled level."""

    cluster: str
    leader: str | None
    term: int
    commit_index: int
    nodes: list[NodeView]
    alarms: list[Alarm]
    level: int


class LeaderView(msgspec.Struct, frozen=True):
    leader: str
    id: str
    endpoint: str
    term: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a member says of itself when a peer asks."""

    role: Role
    leader_id: str | None
    term: int
    commit_index: int
    applied_index: int
    synced_index: int
    version: str
    load: dict[str, int | float]
    trouble: str | None
    state_hash: StateHash
    level: int = FIRST_LEVEL
    """The feature level of its version."""
    lost: str | None = None
    """Why its state is not to be trusted, if so."""
    wall_ms: int | None = None
    """Its wall clock."""
    stamps: list[tuple[int, bytes]] = []
    lagging: dict[str, int] = {}
    """On the leader: who has been far behind for long, and by how many entries."""


encode_report = msgspec.msgpack.Encoder().encode
decode_report = msgspec.msgpack.Decoder(Report).decode


class Reading(msgspec.Struct, frozen=True):
    """A report, and what the way it took says of the clock of its sender."""

    report: Report
    ahead_ms: int = 0
    """How far the sender's wall clock is ahead of the reader's, if both ways took equally long."""
    doubt_ms: int = 0
    """By how much that may be wrong: half of the round trip."""


class Verdict(msgspec.Struct, frozen=True):
    """A member's state is wrong: at `index` a majority has the hash `right`, and it has another."""

    index: int
    right: bytes


encode_verdict = msgspec.msgpack.Encoder().encode
decode_verdict = msgspec.msgpack.Decoder(Verdict).decode


class Judgement(msgspec.Struct, frozen=True):
    """By member id; empty as long as all is well."""

    wrong: dict[str, Verdict]
    suspects: dict[str, int]
    """With the first index at which they differ."""


def judge(reports: Mapping[str, Report], voters: Collection[str]) -> Judgement:
    """Compare all members at every index that two of them report; those already found out are left aside."""
    stamps = {member_id: _stamps(report) for member_id, report in reports.items() if report.lost is None}
    wrong: dict[str, Verdict] = {}
    for index, sides in _differences(stamps):
        right = _majority(sides, voters)
        if right is not None:
            for member_id in _others(sides, right):
                wrong.setdefault(member_id, Verdict(index, right))
    rest = {member_id: noted for member_id, noted in stamps.items() if member_id not in wrong}
    suspects: dict[str, int] = {}
    for index, sides in _differences(rest):
        for member_id in _others(sides, None):
            suspects.setdefault(member_id, index)
    return Judgement(wrong, suspects)


def _stamps(report: Report) -> dict[int, bytes]:
    latest = report.state_hash
    return {**dict(report.stamps), latest.index: bytes.fromhex(latest.hash)}


def _differences(stamps: Mapping[str, Mapping[int, bytes]]) -> Iterator[tuple[int, dict[bytes, list[str]]]]:
    """Each index at which not all are of one opinion, with the sides; the earliest first."""
    sides: defaultdict[int, defaultdict[bytes, list[str]]] = defaultdict(lambda: defaultdict(list))
    for member_id, noted in stamps.items():
        for index, state_hash in noted.items():
            sides[index][state_hash].append(member_id)
    for index in sorted(sides):
        if len(sides[index]) > 1:
            yield index, sides[index]


def _majority(sides: Mapping[bytes, list[str]], voters: Collection[str]) -> bytes | None:
    for state_hash, member_ids in sides.items():
        if 2 * sum(member_id in voters for member_id in member_ids) > len(voters):
            return state_hash
    return None


def _others(sides: Mapping[bytes, list[str]], right: bytes | None) -> list[str]:
    return [
        member_id for state_hash, members in sides.items() if state_hash != right for member_id in members
    ]
