"""The parts of the terminal chat's screen: each shows the model, and says which key was meant for it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message as Signal
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, OptionList, TextArea
from textual.widgets.option_list import Option

from raftos_cli.tui import text as looks
from raftos_cli.tui.blocks import Block, blocks
from raftos_cli.tui.model import TYPING, Model, Room

GUTTER = 2
NEW_LINE = {"ctrl+j", "alt+enter", "shift+enter"}
NEAR_LINES = 3
"""So close to an end of what is held, more is asked for."""


class Messages(ScrollView, can_focus=True):
    """The open room. With the focus one message is selected; what it shows stays put as others come."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("home", "top", show=False),
        Binding("end", "bottom", show=False),
        Binding("enter,r", "act('reply')", show=False),
        Binding("e", "act('edit')", show=False),
        Binding("d", "act('drop')", show=False),
        Binding("s", "act('again')", show=False),
        Binding("escape", "leave", show=False),
    ]

    class Edge(Signal):
        """An end of what is held is in sight: -1 for the beginning, 1 for the end."""

        def __init__(self, side: int) -> None:
            super().__init__()
            self.side = side

    class Acted(Signal):
        """Something is to be done to the selected message."""

        def __init__(self, what: str, key: int) -> None:
            super().__init__()
            self.what = what
            self.key = key

    class Left(Signal):
        """The user is done with selecting."""

    selected: reactive[int | None] = reactive(None)

    def __init__(self, model: Model) -> None:
        super().__init__(id="messages")
        self._model = model
        self._blocks: Sequence[Block] = ()
        self._tops: Sequence[int] = ()
        self._height = 0

    # What is shown.

    def update(self, *, jump_to: int | None = None) -> None:
        """Show the model as it is now. The end stays in view if it was; else the line at the top does."""
        was_at_end, place = self._model.at_bottom, self._place()
        self._lay_out()
        if jump_to is not None:
            self.selected = jump_to
            self._reveal()
        elif was_at_end:
            self.scroll_end(animate=False, immediate=True, force=True)
        elif place is not None:
            self._restore(*place)
        if self.has_focus and self.selected not in self._keys():
            self._select_end()
        self._model.at_bottom = self._is_at_end()
        self.refresh()

    def _lay_out(self) -> None:
        width = self.scrollable_content_region.width
        self._blocks = blocks(self._model, max(width - GUTTER - 1, 20))
        self._tops = [0, *accumulate(len(block.lines) for block in self._blocks)]
        self._height = self._tops[-1]
        self.virtual_size = Size(width, self._height)

    def _is_at_end(self) -> bool:
        return self.scroll_offset.y >= self.max_scroll_y

    def _place(self) -> tuple[int, int] | None:
        """The first block in view that can be recognised, and how far it is below the top."""
        first = bisect_right(self._tops, self.scroll_offset.y) - 1
        for number, block in enumerate(self._blocks[max(first, 0) :], max(first, 0)):
            if block.key is not None:
                return block.key, self._tops[number] - self.scroll_offset.y
        return None

    def _restore(self, key: int, below: int) -> None:
        for block, top in zip(self._blocks, self._tops, strict=False):
            if block.key == key:
                self.scroll_to(y=top - below, animate=False, immediate=True, force=True)

    def render_line(self, y: int) -> Strip:
        line = y + self.scroll_offset.y
        width, base = self.scrollable_content_region.width, self.rich_style
        if not 0 <= line < self._height:
            return Strip.blank(width, base)
        number = bisect_right(self._tops, line) - 1
        block = self._blocks[number]
        chosen = block.key is not None and block.key == self.selected and self.has_focus
        text = block.lines[line - self._tops[number]]
        if chosen := chosen and bool(text):
            base += _RAISED
        style = base + self.app.console.get_style(
            text.style
        )  # Which rich leaves out where it is all there is.
        segments = [_GUTTERS[chosen], *text.render(self.app.console)]
        strip = Strip(Segment.apply_style(segments, style), GUTTER + text.cell_len)
        return strip.adjust_cell_length(width, base)

    # Where one is.

    def on_resize(self, _event: events.Resize) -> None:
        self.update()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._model.at_bottom = self._is_at_end()
        if new_value <= NEAR_LINES and new_value < old_value:
            self.post_message(self.Edge(-1))
        elif self.max_scroll_y - new_value <= NEAR_LINES and new_value > old_value:
            self.post_message(self.Edge(1))

    def page(self, step: int) -> None:
        """Move by a page, without selecting anything."""
        lines = max(self.scrollable_content_region.height - 2, 1)
        self.scroll_to(y=self.scroll_offset.y + step * lines, animate=False, immediate=True, force=True)
        if self.scroll_offset.y <= NEAR_LINES and step < 0:
            self.post_message(self.Edge(-1))

    # Selecting.

    def on_focus(self) -> None:
        if self.selected not in self._keys():
            self._select_end()

    def on_blur(self) -> None:
        self.selected = None

    def watch_selected(self) -> None:
        self.refresh()

    def _keys(self) -> list[int]:
        return [block.key for block in self._blocks if block.key is not None]

    def _select_end(self) -> None:
        """The last one in view."""
        bottom = self.scroll_offset.y + self.scrollable_content_region.height
        seen = [
            block.key
            for block, top in zip(self._blocks, self._tops, strict=False)
            if block.key is not None and top < bottom
        ]
        self.selected = seen[-1] if seen else None

    def action_move(self, step: int) -> None:
        keys = self._keys()
        if self.selected not in keys:
            self._select_end()
            return
        at = keys.index(self.selected) + step
        if at >= len(keys) and not self._model.has_newer:
            self.post_message(self.Left())
        elif 0 <= at < len(keys):
            self.selected = keys[at]
            self._reveal()
        if at <= 0:
            self.post_message(self.Edge(-1))
        elif at >= len(keys) - 1:
            self.post_message(self.Edge(1))

    def _reveal(self) -> None:
        for block, top in zip(self._blocks, self._tops, strict=False):
            if block.key is not None and block.key == self.selected:
                region = Region(0, top, 1, len(block.lines))
                self.scroll_to_region(region, animate=False, immediate=True, force=True)

    def action_top(self) -> None:
        self.selected = next(iter(self._keys()), None)
        self.scroll_home(animate=False, immediate=True, force=True)
        self.post_message(self.Edge(-1))

    def action_bottom(self) -> None:
        self.post_message(self.Left())

    def action_act(self, what: str) -> None:
        if self.selected is not None:
            self.post_message(self.Acted(what, self.selected))

    def action_leave(self) -> None:
        self.post_message(self.Left())


_GUTTERS = {False: Segment(" " * GUTTER), True: Segment("\u2590 ", Style.parse(looks.ACCENT))}
_RAISED = Style.parse(f"on {looks.RAISED}")


class Rooms(OptionList):
    """All rooms: what is new in them, and which are archived."""

    def __init__(self, model: Model) -> None:
        super().__init__(id="rooms", compact=True)
        self._model = model
        self._shown: list[tuple[str, bool, int, bool]] = []

    def update(self) -> None:
        opened = self._model.window.room if self._model.window else None
        rooms = self._model.listed()
        shown = [(room.name, room.archived, room.unread, room.name == opened) for room in rooms]
        if [name for name, *_ in shown] == [name for name, *_ in self._shown]:
            for at, room in enumerate(rooms):
                if shown[at] != self._shown[at]:
                    self.replace_option_prompt_at_index(at, self._prompt(room, opened))
        else:
            self._replace_all(rooms, opened)
        if shown != self._shown and not self.has_focus:
            self.highlighted = next((at for at, room in enumerate(rooms) if room.name == opened), None)
        self._shown = shown

    def _replace_all(self, rooms: Sequence[Room], opened: str | None) -> None:
        pointed = self.highlighted_option.id if self.highlighted_option else None
        self.set_options([Option(self._prompt(room, opened), id=room.name) for room in rooms])
        self.highlighted = next((at for at, room in enumerate(rooms) if room.name == pointed), None)

    def on_blur(self) -> None:
        opened = self._model.window.room if self._model.window else None
        names = [name for name, *_ in self._shown]
        self.highlighted = names.index(opened) if opened in names else None

    def _prompt(self, room: Room, opened: str | None) -> Text:
        width = max(self.scrollable_content_region.width - 2, 10)
        count = _count(room.unread) if room.name != opened else ""
        if room.name == opened:
            style = f"bold {looks.ACCENT}"
        elif room.archived:
            style = f"italic {looks.FAINT}"
        else:
            style = f"bold {looks.PLAIN}" if room.unread else looks.DIM
        name = looks.clipped(Text(looks.one_line(room.name), style=style), width - len(count) - 1)
        gap = " " * (width - name.cell_len - len(count))
        return Text.assemble(name, gap, (count, f"bold {looks.WARNING}"), no_wrap=True)


def _count(unread: int) -> str:
    return "" if not unread else str(unread) if unread < 1000 else "999+"


class People(Widget):
    """Who is in the open room."""

    def __init__(self, model: Model) -> None:
        super().__init__(id="people")
        self._model = model

    def update(self) -> None:
        self.styles.height = min(len(self._model.people), 8) + 1
        self.refresh()

    def render(self) -> RenderResult:
        lines = [Text("here", style=looks.FAINT)]
        for person in self._model.people:
            typing = " \u2026" if person.state == TYPING and person.name != self._model.user else ""
            dot = Text("\u25cf ", style=looks.sender_colour(person.name))
            name = Text(looks.one_line(person.name), style=looks.DIM)
            lines.append(Text.assemble(dot, looks.clipped(name, self.size.width - 4), (typing, looks.ACCENT)))
        return Text("\n", no_wrap=True).join(lines)


class Composer(TextArea):
    """Where a message is written. Enter sends it; a line more is Ctrl-J or Alt-Enter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "up_or_select", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("escape", "cancel", show=False),
    ]

    class Sent(Signal):
        """A text is to be sent; it stands here no more."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Paged(Signal):
        """Look at what is above, or below."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

    class Selecting(Signal):
        """The user wants to choose a message."""

    class Cancelled(Signal):
        """No reply and no edit after all."""

    def __init__(self) -> None:
        super().__init__(id="composer", compact=True, highlight_cursor_line=False)

    async def _on_key(self, event: events.Key) -> None:
        # Not as bindings: those are looked at later, when the keys that follow may be text already.
        if event.key == "enter":
            self._send()
        elif event.key in NEW_LINE:
            self.insert("\n")
        else:
            return
        event.stop()
        event.prevent_default()

    async def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        if not self.read_only:
            self.replace(looks.sendable(event.text), *self.selection)

    def _send(self) -> None:
        text = looks.sendable(self.text)
        if text and not self.read_only:
            self.load_text("")
            self.post_message(self.Sent(text))

    def action_up_or_select(self) -> None:
        if (
            self.cursor_location[0] == 0
            and self.wrapped_document.location_to_offset(self.cursor_location).y == 0
        ):
            self.post_message(self.Selecting())
        else:
            self.action_cursor_up()

    def action_page(self, step: int) -> None:
        self.post_message(self.Paged(step))

    def action_cancel(self) -> None:
        self.post_message(self.Cancelled())


class Field(Input):
    """One line of input, which is only text, wherever it was copied from."""

    def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        self.insert_text_at_cursor(looks.one_line(event.text))


class Line(Widget):
    """One line of text at the left, and one at the right as long as there is room for it."""

    left: reactive[Text] = reactive(Text(), layout=False)
    right: reactive[Text] = reactive(Text(), layout=False)

    def render(self) -> RenderResult:
        width = self.content_size.width
        left = looks.clipped(self.left, width)
        room = width - left.cell_len - 2
        if self.right.cell_len > room:
            return left
        return Text.assemble(left, " " * (width - left.cell_len - self.right.cell_len), self.right)
