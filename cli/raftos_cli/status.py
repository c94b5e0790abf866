"""`raftos status`: the whole cluster in one table.

Status is soft: any member answers, also without a majority, and members it cannot reach are listed as
such. When no member answers at all, the known endpoints are listed as `unreachable`, so that a reader
of the JSON always finds the same shape, and the exit code is 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from raftos.errors import RaftosError, Unavailable
from raftos.levels import FIRST_LEVEL
from raftos_cli.base import Command, Invocation, Seconds, pass_invocation
from raftos_cli.output import Column, table_lines

if TYPE_CHECKING:
    from raftos.client import Client

STATUS_TIMEOUT_S = 3.0
"""Whoever asks how the cluster does wants to know soon, above all when it does badly."""
COLUMNS = (
    Column("NODE", wraps=True),
    Column("ROLE"),
    Column("STATE"),
    Column("ENDPOINT", wraps=True),
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
        raftos status --watch
        raftos status -o json | jq -r .leader
        raftos status --endpoint http://127.0.0.1:4001
    """,
)
@click.option(
    "--watch",
    "interval_s",
    type=Seconds(),
    is_flag=False,
    flag_value=1.0,
    metavar="[SECONDS]",
    help="Show it anew every 1 or so many seconds, until Ctrl-C.",
)
@pass_invocation
def status(run: Invocation, interval_s: float | None) -> None:
    """Show the leader, and every member's role, state and load.

    Watching goes on when members die, also when all do, until it is interrupted, with code 130: in
    place on a terminal, else one status after the other, in JSON one object a line.
    """
    if interval_s is not None:
        from raftos_cli.statuswatch import watch

        return watch(run, interval_s)
    value, error = ask_status(run)
    run.output.data(value, lambda: "\n".join(status_lines(value)))
    if error is not None:
        raise error
    for sentence in remarks(value):
        run.output.say(sentence)
    return None


def ask_status(run: Invocation) -> tuple[dict[str, Any], RaftosError | None]:
    """The cluster's status; when nobody answers, what is known without an answer, and the error."""
    try:
        with run.client(timeout_s=run.chosen_timeout_s or STATUS_TIMEOUT_S) as client:
            return status_of(client, run)
    except Unavailable as error:
        return _unreachable(run), error


def status_of(client: Client, run: Invocation) -> tuple[dict[str, Any], RaftosError | None]:
    """The same from a client that is there already."""
    import msgspec

    try:
        value: dict[str, Any] = msgspec.to_builtins(client.status())
    except Unavailable as error:
        return _unreachable(run), error
    return value, None


def _unreachable(run: Invocation) -> dict[str, Any]:
    from raftos.client import contexts

    target = contexts.resolve(run.endpoints, run.context)
    known = contexts.load()
    chosen = known.contexts.get(run.context or known.current or "")
    unknown = dict.fromkeys(("id", "name", "role", "applied_index", "version", "level", "load"))
    nodes = [{**unknown, "state": "unreachable", "endpoint": endpoint} for endpoint in target.endpoints]
    return {
        "cluster": chosen.cluster if chosen else None,
        "leader": None,
        "term": None,
        "commit_index": None,
        "nodes": nodes,
        "alarms": [],
        "level": None,
    }


def status_lines(value: dict[str, Any]) -> list[str]:
    """The status for people, as wide as stdout."""
    title = (
        f"cluster {value['cluster']}, leader {value['leader'] or '-'}, "
        f"term {value['term']}, commit index {value['commit_index']}"
    )
    above = [] if value["term"] is None else [title, ""]
    return [*above, *table_lines(COLUMNS, [_row(node) for node in value["nodes"]])]


def remarks(value: dict[str, Any]) -> list[str]:
    """What needs attention, each in a sentence; nothing of a cluster that nobody answers for."""
    if value["term"] is None:
        return []
    said = [_alarm_sentence(alarm) for alarm in value["alarms"]]
    said += skew(value)
    said += [sentence for node in value["nodes"] if (sentence := _half_way(node))]
    if value["leader"] is None:
        said.append("Nobody leads: a majority of the members has to run and see each other.")
    return said


def _half_way(node: dict[str, Any]) -> str | None:
    """What a member is between two states, if it is."""
    name, role = node["name"], node.get("role")
    if role == "none" and node["state"] == "joining":
        return f"{name} has not joined yet: start it again there, or `raftos node remove {name}`."
    if role not in {None, "none"} and name == node["id"] and not node["endpoint"]:
        return f"{name} has a place in the cluster, but never said its name: start it, or remove it."
    return None


def _alarm_sentence(alarm: dict[str, Any]) -> str:
    about = f"{alarm['node']}: " if alarm.get("node") else ""
    return f"{alarm['alarm']}: {about}{alarm['message']}"


def skew(value: dict[str, Any]) -> list[str]:
    """What there is to say of members that run different versions, or of a level that is not yet enabled."""
    said = []
    versions: dict[str, list[str]] = {}
    for node in value["nodes"]:
        if node["version"] is not None:
            versions.setdefault(node["version"], []).append(node["name"])
    if len(versions) > 1:
        parts = [f"{version} on {', '.join(names)}" for version, names in sorted(versions.items())]
        said.append(f"The members run different versions: {'; '.join(parts)}.")
    enabled = value.get("level")
    levels = {node["name"]: node.get("level") or FIRST_LEVEL for node in value["nodes"]}
    highest = max(levels.values(), default=FIRST_LEVEL)
    behind = sorted(name for name, level in levels.items() if level < highest)
    if enabled is not None and behind and enabled < highest:
        said.append(
            f"The cluster stays at level {enabled} of {highest} until {', '.join(behind)} "
            f"{'are' if len(behind) > 1 else 'is'} upgraded."
        )
    return said


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
