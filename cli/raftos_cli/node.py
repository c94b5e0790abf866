"""`raftos node`: the members one by one."""

from __future__ import annotations

from typing import Any

import click

from raftos.errors import NotFound
from raftos_cli.asking import confirm, yes_option
from raftos_cli.base import Group, Invocation, Text, pass_invocation
from raftos_cli.names import nodes
from raftos_cli.output import Column, cell, print_table
from raftos_cli.status import ask_status, skew

COLUMNS = (
    Column("NODE", wraps=True),
    Column("ID"),
    Column("ROLE"),
    Column("STATE"),
    Column("ENDPOINT", wraps=True),
    Column("VERSION"),
)

node = Group(
    "node",
    help="The members of the cluster.",
    examples="""
        raftos node ls
        raftos node show n1
        raftos node remove n4
    """,
)


@node.command(
    "ls",
    examples="""
        raftos node ls
        raftos node ls -o json
    """,
)
@pass_invocation
def ls(run: Invocation) -> None:
    """List the members with their ids, roles and versions."""
    value, error = ask_status(run)

    def table() -> None:
        names = ("name", "id", "role", "state", "endpoint", "version")
        print_table(COLUMNS, [[each[name] for name in names] for each in value["nodes"]])

    run.output.data({"nodes": value["nodes"]}, table)
    if error is not None:
        raise error


@node.command(
    "show",
    examples="""
        raftos node show n1
        raftos node show n1 -o json
    """,
)
@click.argument("name", type=Text(), shell_complete=nodes)
@pass_invocation
def show(run: Invocation, name: str) -> None:
    """Show all that is known of one member, by its name or id."""
    value, error = ask_status(run)
    if error is not None:
        raise error
    found = next((each for each in value["nodes"] if name in {each["name"], each["id"]}), None)
    if found is None:
        names = ", ".join(each["name"] for each in value["nodes"])
        raise NotFound(f"the cluster has no member {name!r}; it has {names}")
    run.output.data(found, lambda: _description(found))
    for sentence in skew(value):
        run.output.say(sentence)


@node.command(
    "promote",
    examples="""
        raftos node promote n4
    """,
)
@click.argument("name", type=Text(), shell_complete=nodes)
@pass_invocation
def promote(run: Invocation, name: str) -> None:
    """Let the learner NAME vote.

    A member that joined without --learner is promoted by itself, once it has caught up.
    """
    import msgspec

    with run.client() as client:
        done = client.members.promote(name)
    run.output.data(msgspec.to_builtins(done), lambda: None)
    run.output.say(f"{done.name} votes now." if done.changed else f"{done.name} votes already.")


@node.command(
    "remove",
    examples="""
        raftos node remove n4
        raftos node remove n4 --yes
    """,
)
@click.argument("name", type=Text(), shell_complete=nodes)
@yes_option
@click.option("--force", is_flag=True, help="Also where no other member could fail then.")
@pass_invocation
def remove(run: Invocation, name: str, yes: bool, force: bool) -> None:
    """Send the member NAME away for good.

    A leader hands over first. Its daemon stops by itself; the machine can join again, under a new id and the
    same name. Refused where those left would be no majority that can be reached.
    """
    import msgspec

    confirm(f"Remove {name} from the cluster for good?", yes=yes)
    with run.client() as client:
        done = client.members.remove(name, force=force)
    run.output.data(msgspec.to_builtins(done), lambda: None)
    said = "does not belong to the cluster any more" if done.changed else "was removed already"
    run.output.say(f"{done.name} {said}.")


def _description(found: dict[str, Any]) -> str:
    """A line for each fact; what nests is indented by its path."""
    facts: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, dict):
            facts.update({f"{name}.{inner}": each for inner, each in value.items()})
        else:
            facts[name] = value
    width = max(map(len, facts)) + 2
    return "\n".join(f"{name:<{width}}{cell(value)}" for name, value in facts.items())
