"""`raftos status`: the whole cluster in one table.

Status is soft: any member answers, also without a majority, and members it cannot reach are listed as
such. When no member answers at all, the known endpoints are listed as `unreachable`, so that a reader
of the JSON always finds the same shape, and the exit code is 5.
"""

from __future__ import annotations

from typing import Any

import click

from raftos.errors import RaftosError, Unavailable
from raftos_cli.base import Command, Invocation, pass_invocation
from raftos_cli.output import Column, print_table

STATUS_TIMEOUT_S = 3.0
"""Whoever asks how the cluster does wants to know soon, above all when it does badly."""
COLUMNS = (
    Column("NODE"),
    Column("ROLE"),
    Column("STATE"),
    Column("ENDPOINT"),
    Column("APPLIED", number=True),
    Column("TASKS", number=True),
    Column("CPU", number=True),
    Column("MEM", number=True),
)


@click.command(
    "status",
    cls=Command,
    examples="""
        raftos status
        raftos status -o json | jq -r .leader
        raftos status --endpoint http://127.0.0.1:4001
    """,
)
@pass_invocation
def status(run: Invocation) -> None:
    """Show the leader, and every member's role, state and load."""
    value, error = ask_status(run)
    run.output.data(value, lambda: _table(value))
    if error is not None:
        raise error
    for node in value["nodes"]:
        if node.get("trouble"):
            run.output.say(f"{node['name']}: {node['trouble']}")
    for alarm in value["alarms"]:
        run.output.say(f"{alarm['alarm']}: {alarm['message']} (`raftos quota ls`)")
    if value["leader"] is None:
        run.output.say("Nobody leads: a majority of the members has to run and see each other.")


def ask_status(run: Invocation) -> tuple[dict[str, Any], RaftosError | None]:
    """The cluster's status; when nobody answers, what is known without an answer, and the error."""
    import msgspec

    try:
        with run.client(timeout_s=run.chosen_timeout_s or STATUS_TIMEOUT_S) as client:
            value: dict[str, Any] = msgspec.to_builtins(client.status())
    except Unavailable as error:
        return _unreachable(run), error
    return value, None


def _unreachable(run: Invocation) -> dict[str, Any]:
    from raftos.client import contexts

    target = contexts.resolve(run.endpoints, run.context)
    known = contexts.load()
    chosen = known.contexts.get(run.context or known.current or "")
    unknown = dict.fromkeys(("id", "name", "role", "applied_index", "version", "load"))
    nodes = [{**unknown, "state": "unreachable", "endpoint": endpoint} for endpoint in target.endpoints]
    return {
        "cluster": chosen.cluster if chosen else None,
        "leader": None,
        "term": None,
        "commit_index": None,
        "nodes": nodes,
        "alarms": [],
    }


def _table(value: dict[str, Any]) -> None:
    if value["term"] is not None:
        click.echo(
            f"cluster {value['cluster']}, leader {value['leader'] or '-'}, "
            f"term {value['term']}, commit index {value['commit_index']}\n"
        )
    print_table(COLUMNS, [_row(node) for node in value["nodes"]])


def _row(node: dict[str, Any]) -> list[Any]:
    load = node.get("load") or {}
    return [
        node["name"],
        node["role"],
        node["state"],
        node["endpoint"],
        node["applied_index"],
        load.get("tasks_running"),
        _percent(load.get("cpu_percent")),
        _percent(load.get("memory_percent")),
    ]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0f}%"
