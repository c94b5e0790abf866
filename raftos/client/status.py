"""The cluster at a glance, as `GET /v1/status` gives it.

Soft: what the member asked believes now. A member that could not be reached is listed with what is
known of it, never left out; what it did not say is None.
"""

from __future__ import annotations

from typing import Any

import msgspec

from raftos.levels import FIRST_LEVEL


class Node(msgspec.Struct, frozen=True):
    """One node: `role` is leader, follower, learner, or none for one without a place in the configuration.

    `state` is alive, unreachable, down, joining or removed.
    """

    id: str
    name: str
    role: str
    state: str
    endpoint: str
    applied_index: int | None = None
    synced_index: int | None = None
    version: str | None = None
    level: int | None = None
    load: dict[str, float] | None = None
    trouble: str | None = None
    state_hash: dict[str, Any] | None = None


class Alarm(msgspec.Struct, frozen=True):
    """Something an operator has to do: its stable name, such as NOSPACE, and a sentence.

    `node` is the name of the member it is about, None where it is about the cluster.
    """

    alarm: str
    message: str
    node: str | None = None


class Status(msgspec.Struct, frozen=True):
    """The whole cluster; `leader` is a member's name, None while there is no leader.

    `level` is the feature level that the cluster has enabled.
    """

    cluster: str
    leader: str | None
    term: int
    commit_index: int
    nodes: list[Node]
    alarms: list[Alarm] = []
    level: int = FIRST_LEVEL


decode_status = msgspec.json.Decoder(Status).decode
