"""`raftos leader`: who leads, and handing leadership over."""

from __future__ import annotations

import click

from raftos_cli.base import Group, Invocation, Text, pass_invocation
from raftos_cli.names import nodes

leader = Group(
    "leader",
    help="Who leads the cluster.",
    examples="""
        raftos leader show
        raftos leader transfer n2
    """,
)


@leader.command(
    "show",
    examples="""
        raftos leader show
        raftos leader show -o json
    """,
)
@pass_invocation
def show(run: Invocation) -> None:
    """Print the leader's name.

    With -o json also its id, its endpoint and its term.
    """
    import msgspec

    with run.client() as client:
        value = msgspec.to_builtins(client.leader.show())
    run.output.data(value, lambda: str(value["leader"]))


@leader.command(
    "transfer",
    examples="""
        raftos leader transfer         to the member that is furthest along
        raftos leader transfer n2
    """,
)
@click.argument("name", type=Text(), required=False, shell_complete=nodes)
@pass_invocation
def transfer(run: Invocation, name: str | None) -> None:
    """Hand leadership to the member NAME, or to the best one.

    Writes wait for a moment; none is lost.
    """
    import msgspec

    with run.client() as client:
        value = msgspec.to_builtins(client.leader.transfer(name))
    run.output.data(value, lambda: str(value["leader"]))
