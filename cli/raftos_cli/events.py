"""`raftos events`: what happened in the cluster, and what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from raftos_cli.base import Command, Invocation, Text, pass_invocation
from raftos_cli.following import Revision, timestamp, told
from raftos_cli.output import one_line

if TYPE_CHECKING:
    from raftos.client.events import Event

DEFAULT_SINCE = -20


@click.command(
    "events",
    cls=Command,
    examples="""
        raftos events
        raftos events -f --topic kv --prefix config/
        raftos events --since 0 -o json
    """,
)
@click.option(
    "--since",
    type=Revision(),
    default=DEFAULT_SINCE,
    metavar="REV",
    help="Those after this revision; -N: the last N revisions.  [default: -20]",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option(
    "--topic", "topics", multiple=True, type=Text(), metavar="T", help="Only these, like kv or kv.written."
)
@click.option("--prefix", type=Text(), default="", metavar="P", help="Only of what begins so, like a key.")
@pass_invocation
def events(run: Invocation, since: int, follow: bool, topics: tuple[str, ...], prefix: str) -> None:
    """Print what happened in the cluster, one event a line.

    A line has revision, time, type, subject and the rest; in JSON it is one object. Following goes on
    until it is interrupted, at another member when one is lost: complete, in order, nothing twice.
    """
    from raftos.client.events import Bookmark

    give_up_s = None if follow else run.timeout_s
    with (
        run.client() as client,
        client.events(topics, prefix=prefix, since=since, give_up_s=give_up_s) as stream,
    ):
        for news in told(run, stream):
            for item in news:
                if not isinstance(item, Bookmark):
                    _print(run, item)
                elif not follow:
                    return


def _print(run: Invocation, event: Event) -> None:
    value = {"type": event.type, "revision": event.revision, "time_ms": event.time_ms, **event.fields}
    run.output.line(value, lambda: _line(event))


def _line(event: Event) -> str:
    from raftos.state.domains import EVENTS

    fields = dict(event.fields)
    subject = fields.pop(EVENTS.get(event.type, ""), "")
    rest = [f"{name}={_shown(value)}" for name, value in fields.items()]
    words = [f"{event.revision:>7}", timestamp(event.time_ms), f"{event.type:<18}", _shown(subject), *rest]
    return "  ".join(words).rstrip()


def _shown(value: object) -> str:
    return one_line(value if isinstance(value, str) else msgspec.json.encode(value).decode())
