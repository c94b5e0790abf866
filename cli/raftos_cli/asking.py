"""Questions before something that cannot be undone. Only a person at a terminal is asked."""

from __future__ import annotations

import sys

import click

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def confirm(question: str, *, yes: bool) -> None:
    """Go on if that was agreed to, or nobody can be asked. Raises Abort."""
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)
