"""`raftos version`: which raftos this is."""

from __future__ import annotations

import importlib.metadata
import platform

import click

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
    """Print the version of raftos and of the Python that runs it."""
    value = {
        "version": importlib.metadata.version("raftos-cluster"),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
    }
    run.output.data(value, lambda: f"raftos {value['version']} (Python {value['python']})")
