"""`raftos version`: which raftos this is."""

from __future__ import annotations

import importlib.metadata
import platform

import click

from raftos.levels import LEVEL
from raftos_cli.base import Command, Invocation, pass_invocation


@click.command(
    "version",
    cls=Command,
    examples="""
        raftos version
        raftos version -o json
    """,
)
@pass_invocation
def version(run: Invocation) -> None:
    """Print the version and the feature level of this raftos.

    Which versions the members run is in `raftos status` and `raftos node ls`.
    """
    value = {
        "version": importlib.metadata.version("raftos-cluster"),
        "level": LEVEL,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
    }
    run.output.data(value, lambda: f"raftos {value['version']}, level {LEVEL} (Python {value['python']})")
