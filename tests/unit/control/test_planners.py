"""The planners as tables: what is seen, and what is proposed."""

from __future__ import annotations

from typing import Literal

import pytest

from raftos.control import liveness, membership, upgrade, upkeep
from raftos.control.view import LastHeard, Liveness, View
from raftos.state.domains import cluster, kv, members

LEASE_MS = 5_000
DOWN = [members.Mark("m-1", state="down", expect_state="alive")]
ALIVE = [members.Mark("m-1", state="alive", expect_state="down")]


@pytest.mark.parametrize(
    ("state", "heard_ms_ago", "leading_ms", "commands"),
    [
        ("alive", 0, 0, []),
        ("alive", 0, 60_000, []),
        ("alive", LEASE_MS - 1, 60_000, []),
        ("alive", LEASE_MS, 60_000, DOWN),
        ("alive", 90_000, 60_000, DOWN),
        ("alive", LEASE_MS, LEASE_MS - 1, []),
        ("alive", 90_000, LEASE_MS - 1, []),
        ("alive", LEASE_MS, LEASE_MS, DOWN),
        ("alive", None, LEASE_MS - 1, []),
        ("alive", None, LEASE_MS, DOWN),
        ("down", None, 60_000, []),
        ("down", LEASE_MS, 60_000, []),
        ("down", LEASE_MS - 1, 60_000, ALIVE),
        ("down", 0, 0, ALIVE),
        ("joining", None, 60_000, []),
        ("joining", 0, 60_000, []),
    ],
)
def test_liveness_follows_what_the_leader_hears_but_not_before_a_full_lease(
    state: Literal["joining", "alive", "down"],
    heard_ms_ago: int | None,
    leading_ms: int,
    commands: list[members.Mark],
) -> None:
    """Down after one lease of silence and of leading; back at once."""
    view = View(leading_ms=leading_ms, down_after_ms=LEASE_MS, members={"m-1": Liveness(state, heard_ms_ago)})
    assert liveness.plan(view) == commands


def test_liveness_plans_for_each_member_by_itself() -> None:
    """In the order of the ids, so that the same view gives the same plan."""
    silent, heard = Liveness("alive", None), Liveness("alive", 0)
    view = View(
        leading_ms=LEASE_MS, down_after_ms=LEASE_MS, members={"m-3": silent, "m-2": heard, "m-1": silent}
    )
    assert [getattr(command, "id", "") for command in liveness.plan(view)] == ["m-1", "m-3"]


def test_the_names_of_removed_members_are_forgotten() -> None:
    """Those that consensus removed and the state still knows, in the order of their ids; no others."""
    known = dict.fromkeys(("m-3", "m-2", "m-1"), Liveness("alive", 0))
    removed = frozenset({"m-3", "m-1", "m-9"})
    early = View(leading_ms=0, down_after_ms=LEASE_MS, members=known, removed=removed)
    assert membership.plan(early) == [], "not before every member can read it"
    view = View(leading_ms=0, down_after_ms=LEASE_MS, members=known, removed=removed, level=2)
    assert membership.plan(view) == [members.Forget("m-1"), members.Forget("m-3")]


@pytest.mark.parametrize(
    ("enabled", "registered", "proposed"),
    [
        (1, {}, None),
        (1, {"m-1": 1, "m-2": 1}, None),
        (1, {"m-1": 2, "m-2": 1}, None),
        (1, {"m-1": 2, "m-2": None}, None),
        (1, {"m-2": 2, "m-1": 2}, 2),
        (1, {"m-1": 3, "m-2": 2}, 2),
        (2, {"m-1": 2, "m-2": 2}, None),
        (2, {"m-1": 3, "m-2": 3}, 3),
        (3, {"m-1": 2, "m-2": 2}, None),
    ],
)
def test_a_level_is_enabled_once_every_member_of_the_configuration_has_it(
    enabled: int, registered: dict[str, int | None], proposed: int | None
) -> None:
    """The lowest registered one; never a lower one than before."""
    view = View(leading_ms=0, down_after_ms=LEASE_MS, level=enabled, registered_levels=registered)
    expected = [] if proposed is None else [cluster.Enable(proposed, tuple(sorted(registered)))]
    assert upgrade.plan(view) == expected


def test_upkeep_proposes_what_the_domains_want() -> None:
    """In their order, unchanged."""
    due = (kv.Expire((kv.Seen("a", 1),)), kv.Expire((kv.Seen("b", 2),)))
    assert upkeep.plan(View(leading_ms=0, down_after_ms=LEASE_MS, due=due)) == list(due)


def test_last_heard_counts_from_the_last_time() -> None:
    """And a new leader begins without an opinion."""
    heard = LastHeard()
    heard.note(["m-1", "m-2"], 10.0)
    heard.note(["m-2"], 11.0)
    assert [heard.ms_ago(member, 12.5) for member in ("m-1", "m-2", "m-3")] == [2_500, 1_500, None]
    heard.forget()
    assert heard.ms_ago("m-1", 12.5) is None
