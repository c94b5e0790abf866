"""Enables the feature level that every member of the configuration has.

| lowest registered level      | proposed                   |
|------------------------------|----------------------------|
| somebody has registered none | -                          |
| not above the enabled one    | -                          |
| above it                     | `cluster.enable` with that |

Down members count as well: one that comes back must be able to read what it missed. The leader itself is of
the configuration, so it never proposes what its own version does not know.
"""

from __future__ import annotations

from raftos.control.view import View
from raftos.state.command import Command
from raftos.state.domains import cluster


def plan(view: View) -> list[Command]:
    levels = [level or 0 for level in view.registered_levels.values()]
    lowest = min(levels, default=0)
    if lowest <= view.level:
        return []
    return [cluster.Enable(lowest, tuple(sorted(view.registered_levels)))]
