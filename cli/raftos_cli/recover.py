"""`raftos recover`: going on after a majority of the members is lost for good."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from raftos.errors import InvalidInput
from raftos_cli.base import Command, Invocation, pass_invocation


@click.command(
    "recover",
    cls=Command,
    examples="""
        raftos recover --config /var/lib/raftos/member.json
        raftos recover --config /var/lib/raftos/member.json --yes shop
    """,
)
@click.option(
    "--config",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The member to go on with.",
)
@click.option("--yes", "answer", metavar="CLUSTER", help="The cluster's name: do not ask for it.")
@pass_invocation
def recover(run: Invocation, config: Path, answer: str | None) -> None:
    """Go on with one member, when a majority is lost for good.

    It becomes the only voter. What the lost members acknowledged and this one had not received is gone. All
    others are removed, and have to join again under new ids. Its daemon has to be stopped, and those of all
    others too.
    """
    value = recovered(config, answer)
    run.output.data(value, lambda: None)
    lost = len(value["dropped"])
    run.output.say(
        f"{value['member']} is the only voter of {value['cluster']!r} now, in term {value['term']}, and "
        f"goes on without {lost} other{'' if lost == 1 else 's'}. `python -m raftos --config {config}` "
        "starts it; then let the others join anew."
    )


def recovered(config: Path, answer: str | None) -> dict[str, Any]:
    """Do it; without an answer a person at the terminal is asked. Raises RaftosError."""
    from raftos_cli.offline import run_offline

    refuse_unasked(answer)
    given = () if answer is None else ("--yes", answer)
    return run_offline("recover", "--config", config, *given, asks=answer is None)


def refuse_unasked(answer: str | None) -> None:
    """Raises InvalidInput where no name was given and nobody is there to type it."""
    if answer is None and not sys.stdin.isatty():
        raise InvalidInput(
            "this gives up what the lost members alone had; say so with --yes CLUSTER, its name"
        )
