"""`raftos context`: the clusters this user knows, and which of them commands talk to."""

from __future__ import annotations

from typing import Any

import click

from raftos_cli.base import Group, Invocation, Text, context_names, pass_invocation
from raftos_cli.output import Column, print_table

context = Group(
    "context",
    help="The clusters you know, and which one commands talk to.",
    examples="""
        raftos context ls
        raftos context use dev
        raftos --context other status      once, without switching
    """,
)


@context.command(
    "ls",
    examples="""
        raftos context ls
        raftos context ls -o json
    """,
)
@pass_invocation
def ls(run: Invocation) -> None:
    """List the known contexts; a star marks the current one."""
    from raftos.client import contexts

    known = contexts.load()
    values = [_value(name, known) for name in sorted(known.contexts)]

    def table() -> None:
        columns = [Column(""), Column("CONTEXT"), Column("CLUSTER"), Column("ENDPOINTS", wraps=True)]
        rows = [
            ["*" if value["current"] else "", value["name"], value["cluster"], " ".join(value["endpoints"])]
            for value in values
        ]
        print_table(columns, rows)

    run.output.data({"current": known.current, "contexts": values}, table)
    if not values:
        run.output.say("No context yet; `raftos dev start` makes one.")


@context.command(
    "use",
    examples="""
        raftos context use dev
    """,
)
@click.argument("name", type=Text(), shell_complete=context_names)
@pass_invocation
def use(run: Invocation, name: str) -> None:
    """Make NAME the context of the commands that follow.

    In every terminal of this user; --context changes it for one command.
    """
    from raftos.client import contexts

    contexts.put(name, _find(name))
    run.output.data(_value(name, contexts.load()), lambda: None)
    run.output.say(f"{name} is the current context.")


@context.command(
    "show",
    examples="""
        raftos context show
        raftos context show dev -o json
    """,
)
@click.argument("name", type=Text(), required=False, shell_complete=context_names)
@pass_invocation
def show(run: Invocation, name: str | None) -> None:
    """Show one context, by default the current one. Its token stays hidden: see `raftos token show`."""
    from raftos.client import contexts
    from raftos.errors import NotFound

    known = contexts.load()
    chosen = name or run.context or known.current
    if chosen is None:
        raise NotFound("no context is current; `raftos dev start` makes one")
    _find(chosen)
    value = _value(chosen, known)
    run.output.data(value, lambda: "\n".join([f"{chosen}  cluster {value['cluster']}", *value["endpoints"]]))


def _find(name: str) -> Any:
    """The context of a name. Raises NotFound."""
    from raftos.client import contexts
    from raftos.errors import NotFound

    known = contexts.load().contexts
    if name not in known:
        raise NotFound(f"no context is named {name!r}; known: {', '.join(sorted(known)) or 'none'}")
    return known[name]


def _value(name: str, known: Any) -> dict[str, Any]:
    found = known.contexts[name]
    return {
        "name": name,
        "cluster": found.cluster,
        "endpoints": list(found.endpoints),
        "current": name == known.current,
    }
