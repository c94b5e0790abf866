"""Records which members are up.

| recorded | heard from within the lease | not heard from for a lease | never heard from by this leader |
|----------|-----------------------------|----------------------------|---------------------------------|
| alive    | -                           | mark down                  | mark down                       |
| down     | mark alive                  | -                          | -                               |
| joining  | -                           | -                          | -                               |

Nobody is marked down before the leader has led for one full lease: what it did not hear while it was no
leader says nothing. Coming back is recorded at once. Who is joining registers itself when it starts.
"""

from __future__ import annotations

from raftos.control.view import Liveness, View
from raftos.state.command import Command
from raftos.state.domains import members


def plan(view: View) -> list[Command]:
    plans = (_plan_one(view, member_id, member) for member_id, member in sorted(view.members.items()))
    return [command for command in plans if command is not None]


def _plan_one(view: View, member_id: str, member: Liveness) -> Command | None:
    if member.state == "joining":
        return None
    heard = member.heard_ms_ago is not None and member.heard_ms_ago < view.down_after_ms
    if member.state == "down":
        return members.Mark(member_id, state="alive", expect_state="down") if heard else None
    if heard or view.leading_ms < view.down_after_ms:
        return None
    return members.Mark(member_id, state="down", expect_state="alive")
