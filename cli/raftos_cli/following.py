"""What the commands that follow events have in common: where to begin, and what is said meanwhile.

They print one line for each thing that happens, at once, until they are interrupted or nobody reads them
any more. When the member they listen to is lost they go on at another one, and people at a terminal are
told so; the lines on stdout show no trace of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from raftos_cli.base import Invocation
from raftos_cli.output import check_reader

if TYPE_CHECKING:
    from raftos.client.events import Bookmark, Interruption

Value_co = TypeVar("Value_co", covariant=True)


class Follower(Protocol[Value_co]):
    """Somebody who has something to tell, and waits until there is."""

    def news(self) -> Sequence[Value_co | Bookmark | Interruption]: ...


class Revision(click.ParamType[int]):
    """A revision; a negative number counts from the newest."""

    name = "revision"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 17):
            self.fail(
                f"{text!r} is not a revision; write a whole number, -20 for the last twenty", param, ctx
            )
        return int(text)


def told(run: Invocation, events: Follower[Value_co]) -> Iterator[list[Value_co | Bookmark]]:
    """What a follower has to tell, as it comes, without its interruptions: those are remarked on."""
    from raftos.client.events import Bookmark, Interruption

    lost = False
    while news := events.news():
        for item in news:
            if isinstance(item, Interruption):
                lost = True
                run.output.remark(f"{item.member or 'the member'} is gone ({item.error.message})")
            elif isinstance(item, Bookmark):
                check_reader()
                if lost:
                    lost = False
                    run.output.remark(f"following {item.member}")
        yield [item for item in news if not isinstance(item, Interruption)]


def timestamp(time_ms: int) -> str:
    """Cluster time for people: RFC 3339 in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
