"""Forgets the names of members that were removed.

Whoever removes a member forgets it as well; but it may stop in between, and a registration that was under
way may come after. So the leader looks again and again:

| recorded | its id was removed | otherwise |
|----------|--------------------|-----------|
| yes      | forget             | -         |
"""

from __future__ import annotations

from raftos.control.view import View
from raftos.levels import MEMBERSHIP_SINCE
from raftos.state.command import Command
from raftos.state.domains import members


def plan(view: View) -> list[Command]:
    if view.level < MEMBERSHIP_SINCE:
        return []
    return [members.Forget(member_id) for member_id in sorted(view.members) if member_id in view.removed]
