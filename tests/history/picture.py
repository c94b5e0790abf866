"""A picture of a history that has no order, as one SVG file that any browser opens.

One lane for each client, one bar for each call from its invocation to its return, time to the right. The
number in a bar is its place in the order that was possible until the blamed call returned; a bar without a
number had not taken effect by then. Faults are shaded behind the lanes. Each bar tells more when pointed
at; what led up to the end is written out below. Only the last calls before the end are drawn (`MOST_CALLS`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tests.history.linearizability import Call, Verdict
from tests.history.operations import NEVER, Cell, Read, Window, Write

MOST_CALLS = 120
LISTED = 14
MOST_STATES = 3
LEFT, TOP, LANE, BAR = 110, 90, 34, 22
NARROWEST, WIDEST = 1_100, 8_000
PIXELS_EACH = 26
CHARACTER = 6.2

COLOURS = {
    "read": "#9ecae8",
    "done": "#a6d8a8",
    "conflict": "#f2d58f",
    "unknown": "#d9c2ec",
    "refused": "#e2e2e2",
    "blamed": "#e8584f",
}
LEGEND = {
    "read": "read",
    "done": "write, acknowledged",
    "conflict": "write, conflict",
    "unknown": "write, outcome unknown",
    "refused": "write, refused",
    "blamed": "no longer fits",
}
STYLE = (
    "text{font:11px ui-monospace,monospace;fill:#222}.t{font-size:15px;font-weight:bold}"
    ".w{fill:#c0392b;fill-opacity:.10}.l{stroke:#ddd}.b{stroke:#555;stroke-width:.8}"
    ".x{stroke:#7b0000;stroke-width:2.5}.u{stroke-dasharray:4 3}"
    ".r{fill:#b00}.e{text-anchor:end}"
)
Operation = Read | Write


@dataclass(frozen=True)
class _Scale:
    """Seconds to pixels."""

    began: float
    ended: float
    width: float

    def x(self, moment: float) -> float:
        inside = min(max(moment, self.began), self.ended)
        return LEFT + (inside - self.began) / (self.ended - self.began) * self.width


def draw(
    title: str, operations: Sequence[Operation], windows: Sequence[Window], verdict: Verdict[Operation, Any]
) -> str:
    """The SVG of one group of keys, around the call that is blamed."""
    shown = _around(operations, verdict.blamed)
    scale = _scale(shown)
    lanes = {client: number for number, client in enumerate(sorted({each.client for each in shown}))}
    places = {_place(call.item): number for number, call in enumerate(verdict.order, 1)}
    blamed = None if verdict.blamed is None else _place(verdict.blamed.item)
    bottom = TOP + LANE * len(lanes)
    body = [
        *_frame(title, scale, lanes),
        *_windows(windows, scale, bottom),
        *(
            _bar(each, scale, lanes, places.get(_place(each)), blamed=_place(each) == blamed)
            for each in shown
        ),
        *_story(verdict, bottom + 34),
    ]
    height = bottom + 60 + 16 * (LISTED + 8)
    width = LEFT + scale.width + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


def _place(operation: Operation) -> tuple[str, float, str]:
    """What tells one call from another: a client makes one at a time, and begins it once."""
    return operation.client, operation.invoked, "r" if isinstance(operation, Read) else "w"


def _around(operations: Sequence[Operation], blamed: Call[Operation] | None) -> list[Operation]:
    end = max((each.invoked for each in operations), default=0.0) if blamed is None else blamed.returned
    earlier = sorted((each for each in operations if each.invoked <= end), key=lambda each: each.invoked)
    return earlier[-MOST_CALLS:]


def _scale(shown: Sequence[Operation]) -> _Scale:
    began = min((each.invoked for each in shown), default=0.0)
    ends = [each.returned if each.returned != NEVER else each.invoked for each in shown]
    ended = max(ends, default=1.0)
    margin = max((ended - began) * 0.02, 1e-6)
    width = min(max(NARROWEST, PIXELS_EACH * len(shown)), WIDEST)
    return _Scale(began - margin, ended + margin, width)


def _frame(title: str, scale: _Scale, lanes: dict[str, int]) -> Iterator[str]:
    yield f'<text class="t" x="12" y="24">{escape(title)}</text>'
    x = 12
    for kind, words in LEGEND.items():
        yield f'<rect class="b" x="{x}" y="36" width="14" height="12" fill="{COLOURS[kind]}"/>'
        yield f'<text x="{x + 20}" y="46">{words}</text>'
        x += 46 + int(CHARACTER * len(words))
    for client, number in lanes.items():
        y = TOP + LANE * number + LANE / 2
        yield f'<line class="l" x1="{LEFT}" x2="{LEFT + scale.width:.0f}" y1="{y}" y2="{y}"/>'
        yield f'<text x="12" y="{y + 4}">{escape(client)}</text>'
    for tenth in range(11):
        moment = scale.began + (scale.ended - scale.began) * tenth / 10
        yield f'<text x="{scale.x(moment) - 18:.1f}" y="{TOP - 8}">{moment:.3f} s</text>'


def _windows(windows: Sequence[Window], scale: _Scale, bottom: float) -> Iterator[str]:
    """The names of faults that are close together go on lines of their own."""
    line, free_from = 0, 0.0
    for name, began, ended in sorted(windows, key=lambda window: window.began):
        if ended < scale.began or began > scale.ended:
            continue
        left, right = scale.x(began), scale.x(ended)
        line = (line + 1) % 2 if left < free_from else 0
        free_from = left + CHARACTER * len(name)
        yield (
            f'<rect class="w" x="{left:.1f}" y="{TOP}" width="{max(right - left, 2):.1f}" '
            f'height="{bottom - TOP}"><title>{escape(name)}</title></rect>'
            f'<text x="{left:.1f}" y="{TOP - 22 - 12 * line}" class="r">{escape(name)}</text>'
        )


def _bar(
    operation: Operation, scale: _Scale, lanes: dict[str, int], place: int | None, *, blamed: bool
) -> str:
    kind = "read" if isinstance(operation, Read) else operation.outcome.value
    left, right = scale.x(operation.invoked), scale.x(operation.returned)
    y = TOP + LANE * lanes[operation.client] + (LANE - BAR) / 2
    number = "" if place is None else str(place)
    label = f"{number} {operation}".strip()
    room = int((right - left - 4) / CHARACTER)
    words = label if len(label) <= room else number if len(number) <= room else ""
    classes = "x" if blamed else "b u" if operation.returned == NEVER else "b"
    until = "never told" if operation.returned == NEVER else f"{operation.returned:.4f} s"
    below = f'<text class="e r" x="{right:.1f}" y="{y + BAR + 9}">{escape(label)}</text>' if blamed else ""
    more = f"{label}\n{operation.client}, {operation.invoked:.4f} s to {until}"
    return (
        f'<g><rect class="{classes}" x="{left:.1f}" y="{y}" rx="3" width="{max(right - left, 2):.1f}" '
        f'height="{BAR}" fill="{COLOURS["blamed" if blamed else kind]}"/>'
        f'<text x="{left + 3:.1f}" y="{y + BAR - 7}">{escape(words)}</text>{below}'
        f"<title>{escape(more)}</title></g>"
    )


def _shown_state(cells: Sequence[Cell]) -> str:
    return "; ".join(f"version {cell.version}, {cell.value}" if cell.version else "nothing" for cell in cells)


def _story(verdict: Verdict[Operation, Any], y: float) -> Iterator[str]:
    """The end of the possible order in words, what the keys could hold then, and what does not fit."""
    first = max(0, len(verdict.order) - LISTED)
    lines = ["The last that took effect, in an order that was possible:"]
    lines += [
        f"{number:>6}  {call.item}  ({call.item.client})"
        for number, call in enumerate(verdict.order[first:], first + 1)
    ]
    for state in sorted(map(_shown_state, verdict.states))[:MOST_STATES]:
        lines.append(f"        then the keys held {state}")
    if verdict.blamed is not None:
        lines.append(f"No order has: {verdict.blamed.item}  ({verdict.blamed.item.client})")
    for number, line in enumerate(lines):
        colour = ' class="r"' if line.startswith("No order") else ""
        yield f'<text x="12" y="{y + 16 * number}" xml:space="preserve"{colour}>{escape(line)}</text>'
