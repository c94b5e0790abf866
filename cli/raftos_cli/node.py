"""`raftos node`: the members one by one."""

from __future__ import annotations

from typing import Any

import click

from raftos.errors import NotFound
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
