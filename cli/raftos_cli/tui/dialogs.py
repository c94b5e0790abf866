"""What is asked or shown on top of the terminal chat: help, a new room, a search, and one question."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from raftos.client import AsyncClient
from raftos.errors import RaftosError
from raftos.state.domains.chat import Found
from raftos_cli.tui import text as looks
from raftos_cli.tui.widgets import Field

KEYS = (
    ("Enter", "send"),
    ("Ctrl-J, Alt-Enter", "a new line"),
    ("Page Up, Page Down", "scroll"),
    ("Up, in the first line", "select a message; then"),
    ("  Enter", "reply to it"),
    ("  e", "edit it, if it is yours"),
    ("  d", "take it back, if it is yours"),
    ("  s", "send again what was not sent"),
    ("  End, Escape", "go back to writing"),
    ("Tab", "to the rooms and back"),
    ("Alt-Up, Alt-Down", "the room above, or below"),
    ("Ctrl-N", "a new room"),
    ("Ctrl-F", "search"),
    ("Ctrl-Q", "quit"),
)


Result = TypeVar("Result")


class Dialog(ModalScreen[Result]):
    """Something on top of the chat, until it is `finish`ed with a result."""

    def finish(self, result: Result) -> None:
        # Nobody can wait for the end from within; who opened the dialog is told.
        _ = self.dismiss(result)


class Help(Dialog[None]):
    """All keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,enter,q,question_mark", "leave", show=False)]

    def compose(self) -> ComposeResult:
        widest = max(len(key) for key, _ in KEYS) + 3
        lines = [
            Text.assemble((key.ljust(widest), looks.ACCENT), (meaning, looks.PLAIN)) for key, meaning in KEYS
        ]
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = "Keys"
            dialog.border_subtitle = "Escape closes"
            yield Static(Text("\n").join(lines))

    def action_leave(self) -> None:
        self.finish(None)


class Question(Dialog[bool]):
    """Yes or no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", show=False),
        Binding("n,escape", "answer(False)", show=False),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_subtitle = "y / n"
            yield Static(Text(self._question))

    def action_answer(self, answer: bool) -> None:
        self.finish(answer)


class NewRoom(Dialog[str | None]):
    """Asks for the name of a room, and makes it; its result is that name."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", show=False)]

    def __init__(self, client: AsyncClient, name: str = "", remark: str = "") -> None:
        super().__init__()
        self._client = client
        self._proposed = name
        self._remark = remark

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = "New room"
            dialog.border_subtitle = "Enter creates, Escape closes"
            yield Field(self._proposed, placeholder="its name", compact=True)
            yield Static(Text(self._remark, style=looks.DIM), id="remark")

    @on(Input.Submitted)
    @work(exclusive=True)
    async def create(self, submitted: Input.Submitted) -> None:
        name = submitted.value.strip()
        try:
            await self._client.chat.create(name)
        except RaftosError as error:
            self.query_one("#remark", Static).update(Text(error.message, style=looks.DANGER))
        else:
            self.finish(name)

    def action_leave(self) -> None:
        self.finish(None)


class Search(Dialog[Found | None]):
    """Finds messages in all rooms; its result is the one that was chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", show=False),
        Binding("down", "to_results", show=False),
    ]
    HELP = 'words, "a phrase", pre*, -not'

    def __init__(self, client: AsyncClient) -> None:
        super().__init__()
        self._client = client
        self._found: list[Found] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide") as dialog:
            dialog.border_title = "Search all rooms"
            dialog.border_subtitle = "Enter searches, Escape closes"
            yield Field(placeholder=self.HELP, compact=True)
            yield Static(Text(), id="remark")
            yield OptionList(id="found", compact=True)

    @on(Input.Submitted)
    @work(exclusive=True)
    async def search(self, submitted: Input.Submitted) -> None:
        remark, results = self.query_one("#remark", Static), self.query_one(OptionList)
        try:
            page = await self._client.chat.search(submitted.value)
        except RaftosError as error:
            remark.update(Text(error.message, style=looks.DANGER))
            return
        self._found = list(page.items)
        results.set_options([Option(self._prompt(found)) for found in self._found])
        many = "the newest " if page.more else ""
        remark.update(Text(f"{many}{len(self._found)} found" if self._found else "nothing found", looks.DIM))
        if self._found:
            results.highlighted = 0
            results.focus()

    def _prompt(self, found: Found) -> Text:
        width = self.query_one(OptionList).scrollable_content_region.width - 2
        day = looks.local(found.sent_at).strftime("%d %b")
        place = (f"{looks.one_line(found.room)} {found.sequence}  {day}  ", looks.FAINT)
        name = looks.sender_text(found.sender)
        return looks.clipped(Text.assemble(place, name, "  ", looks.one_line(found.text)), width)

    @on(OptionList.OptionSelected)
    def choose(self, selected: OptionList.OptionSelected) -> None:
        self.finish(self._found[selected.option_index])

    def action_to_results(self) -> None:
        if self._found:
            self.query_one(OptionList).focus()

    def action_leave(self) -> None:
        self.finish(None)
