"""Proposes what the domains want done because time passed: expiry, retention.

What is due a domain reads from its own tables (`Domain.due`); it names what it saw there, so that a plan
made from a moment ago changes nothing that has changed since.
"""

from __future__ import annotations

from raftos.control.view import View
from raftos.state.command import Command


def plan(view: View) -> list[Command]:
    return list(view.due)
