"""What the planners see: plain data, gathered once a round.

Half of it is agreed state, read from this member's own tables, which may be a moment old; planners name
the value they saw, so an outdated plan is refused and made anew. The other half is what only the leader
knows: when it last heard from whom, and how long it has led.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from raftos.levels import FIRST_LEVEL
from raftos.state.command import Command, Query
from raftos.state.domains import cluster, members

State = Literal["joining", "alive", "down"]


class Liveness(msgspec.Struct, frozen=True):
    """One member: what is recorded of it, and what the leader hears."""

    state: State
    heard_ms_ago: int | None
    """None when this leader has never heard from it."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a round of planning knows. Times are milliseconds."""

    leading_ms: int
    """How long this member has led."""
    down_after_ms: int
    """The lease: a member not heard from for this long is down."""
    members: Mapping[str, Liveness] = {}
    """By member id."""
    removed: frozenset[str] = frozenset()
    """The ids that consensus has removed."""
    due: tuple[Command, ...] = ()
    """What the domains want done by now."""
    level: int = FIRST_LEVEL
    """The feature level that is enabled."""
    registered_levels: Mapping[str, int | None] = {}
    """The level that each member of the configuration registered, by id; None if it never registered."""


class LastHeard:
    """When each member was last heard from. `now_s` is any clock that only goes forward."""

    def __init__(self) -> None:
        self._heard_s: dict[str, float] = {}

    def note(self, member_ids: Iterable[str], now_s: float) -> None:
        self._heard_s.update(dict.fromkeys(member_ids, now_s))

    def forget(self) -> None:
        """A new leader starts without an opinion."""
        self._heard_s.clear()

    def ms_ago(self, member_id: str, now_s: float) -> int | None:
        heard_s = self._heard_s.get(member_id)
        return None if heard_s is None else int((now_s - heard_s) * 1000)


async def gather(
    query: Callable[[Query], Awaitable[Any]],
    due: Callable[[int], Awaitable[Sequence[Command]]],
    heard_ms_ago: Callable[[str], int | None],
    *,
    now_ms: int,
    leading_ms: int,
    down_after_ms: int,
    removed: Iterable[str] = (),
    configuration: Iterable[str] = (),
) -> View:
    """The view at cluster time `now_ms`; `query` and `due` read this member's state and raise RaftosError.

    `configuration` has the ids of all who vote or learn.
    """
    known: members.Members = await query(members.List())
    enabled: cluster.Level = await query(cluster.Show())
    levels = {member.id: member.level for member in known.items}
    return View(
        leading_ms=leading_ms,
        down_after_ms=down_after_ms,
        members={member.id: Liveness(member.state, heard_ms_ago(member.id)) for member in known.items},
        removed=frozenset(removed),
        due=tuple(await due(now_ms)),
        level=enabled.level,
        registered_levels={member_id: levels.get(member_id) for member_id in configuration},
    )
