"""The terminal chat on textual: keys go to the session, and what the session learns goes on the screen.

All of it runs on one event loop. Nothing here waits for the cluster but in a worker, so keys are heard and
text is shown whatever the cluster does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Coroutine
from typing import Any, ClassVar, cast

from rich.text import Text
from textual import on, work
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.keys import Keys
from textual.theme import Theme
from textual.widgets import OptionList, TextArea

from raftos.client import AsyncClient
from raftos.errors import RaftosError
from raftos.state.domains.chat import Message
from raftos_cli.tui import text as looks
from raftos_cli.tui.dialogs import Help, NewRoom, Question, Search
from raftos_cli.tui.model import Outgoing, Room
from raftos_cli.tui.session import Session
from raftos_cli.tui.widgets import Composer, Line, Messages, People, Rooms

TICK_S = 0.25
NEWS_S = 8.0
"""How long the footer says that the member has changed."""
HINTS = "F1 help  Ctrl-Q quit"
_PARTS = "#name, Rooms, People, #title, Messages, #context, Composer, #footer"

# What terminals without the newer keyboard protocol send for Alt-Enter. Textual would take it for Enter, and
# a message would be on its way that its author meant to go on with.
cast("dict[str, Any]", ANSI_SEQUENCES_KEYS).setdefault("\x1b\r", (Keys.ControlJ,))

THEME = Theme(
    name="raftos",
    primary=looks.ACCENT,
    accent=looks.ACCENT,
    warning=looks.WARNING,
    error=looks.DANGER,
    foreground=looks.PLAIN,
    background=looks.GROUND,
    surface=looks.GROUND,
    panel=looks.PANEL,
)


class Chat(App[Exception]):
    """`raftos chat tui`. It returns the error that ended it, or None."""

    CSS_PATH = "chat.tcss"
    TITLE = "raftos chat"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "help", priority=True, show=False),
        Binding("question_mark", "help", show=False),
        Binding("ctrl+f", "search", priority=True, show=False),
        Binding("ctrl+n", "new_room", priority=True, show=False),
        Binding("alt+up", "step(-1)", priority=True, show=False),
        Binding("alt+down", "step(1)", priority=True, show=False),
        Binding("tab", "swap", priority=True, show=False),
        Binding("ctrl+q", "quit", priority=True, show=False),
    ]

    def __init__(self, client: AsyncClient, user: str, room: str | None = None) -> None:
        super().__init__(ansi_color=True if os.environ.get("NO_COLOR") else None)
        self.register_theme(THEME)
        self.theme = THEME.name
        self.client = client
        self.session = Session(client, user, self._schedule)
        self.model = self.session.model
        self._wanted = room
        self._scheduled = False
        self._paging: set[int] = set()
        self._answers: Message | None = None
        self._edits: Message | None = None
        self._writes_for = ""
        """The room that what is being written is for."""
        self._drafts: dict[str, str] = {}
        """What was being written in the rooms that were left."""
        self._aside = ""
        """What was being written when an edit came between."""
        self._notice = Text()

    def compose(self) -> ComposeResult:
        with Horizontal(id="top"):
            with Vertical(id="side"):
                yield Line(id="name")
                yield Rooms(self.model)
                yield People(self.model)
            with Vertical(id="room"):
                yield Line(id="title")
                yield Messages(self.model)
                yield Line(id="context")
                yield Composer()
        yield Line(id="footer")

    def on_mount(self) -> None:
        self.composer.focus()
        name = self.query_one("#name", Line)
        name.left = Text("raftos chat", style=f"bold {looks.ACCENT}")
        name.right = Text(looks.one_line(self.model.user), style=looks.sender_colour(self.model.user))
        self.set_interval(TICK_S, self._tick)
        self.run_session()
        self._show()

    @work
    async def run_session(self) -> None:
        try:
            await self.session.run(self._begin)
        except Exception as error:  # noqa: BLE001 - Whoever runs this reports it; textual would show secrets.
            self.exit(error)

    async def _begin(self) -> None:
        """The rooms are known: open the one that was asked for, or the one to begin with."""
        wanted = self._wanted or self.model.first_choice()
        if wanted is None:
            await self._ask_for_room("", "There is no room yet.")
        elif wanted not in self.model.rooms:
            await self._ask_for_room(wanted, "There is no such room yet.")
        else:
            await self._open(wanted)

    def on_app_focus(self) -> None:
        self.model.looking = True

    def on_app_blur(self) -> None:
        self.model.looking = False

    # Showing.

    @property
    def _stands(self) -> bool:
        """Whether there is a whole screen: while the chat ends, its parts go one by one."""
        return bool(self.screen_stack) and len(self.query(_PARTS)) == len(_PARTS.split(","))

    @property
    def composer(self) -> Composer:
        return self.query_one(Composer)

    @property
    def messages(self) -> Messages:
        return self.query_one(Messages)

    def _schedule(self) -> None:
        """Show the model soon: once, however much happens until then."""
        if not self._scheduled and self.is_running:
            self._scheduled = True
            self.call_later(self._show)

    def _show(self, *, jump_to: int | None = None) -> None:
        self._scheduled = False
        if not self._stands:
            return
        self.query_one(Rooms).update()
        self.query_one(People).update()
        self.messages.update(jump_to=jump_to)
        room = self.model.room
        self.composer.read_only = room is None or room.archived
        self.composer.placeholder = Content(_invitation(room))
        self._tick()

    def _tick(self) -> None:
        """The lines that change with time."""
        if not self._stands:
            return
        self.query_one("#title", Line).left, self.query_one("#title", Line).right = self._title()
        context, footer = self.query_one("#context", Line), self.query_one("#footer", Line)
        context.left = self._above_composer()
        footer.left, footer.right = self._footer(), Text(HINTS, style=looks.FAINT)

    def _title(self) -> tuple[Text, Text]:
        room = self.model.room
        if room is None:
            return Text(), Text()
        title = Text(looks.one_line(room.name), style=f"bold {looks.PLAIN}")
        if room.archived:
            title.append("  archived", style=f"italic {looks.WARNING}")
        kept = room.last - room.first + 1
        return title, Text(f"{kept:,} message{'s' * (kept != 1)}".replace(",", " "), style=looks.FAINT)

    def _above_composer(self) -> Text:
        if self._edits is not None:
            return Text(f"editing message {self._edits.sequence}; Escape leaves it as it is", looks.ACCENT)
        if self._answers is not None:
            answered = f"{looks.one_line(self._answers.sender)}: {looks.one_line(self._answers.text)}"
            return Text(f"answering {answered}", looks.ACCENT)
        if self._notice:
            return self._notice
        room = self.model.room
        if room is not None and room.archived:
            return Text("archived: it can be read, but nothing be posted", style=looks.WARNING)
        if self.model.window is not None and not self.model.window.follows:
            return Text("older messages; Up, End leads to the newest", style=looks.WARNING)
        if room is not None and room.unread and not self.model.at_bottom:
            return Text(f"{room.unread} new below; Up, End leads there", style=looks.ACCENT)
        return _typing(self.model.typing())

    def _footer(self) -> Text:
        link, behind_s = self.model.link, self.session.behind_s
        now = time.monotonic()
        if link.member is None:
            return self._unlinked(now)
        if link.lost is not None and link.lost != link.member and now - link.since_s < NEWS_S:
            words = f"{link.lost} {link.reason}; following {link.member}"
            return Text.assemble(("\u25cf ", looks.WARNING), (words, looks.DIM))
        behind = "" if behind_s is None else f", {behind_s:.1f} s behind"
        return Text.assemble(("\u25cf ", looks.ACCENT), (f"following {link.member}{behind}", looks.DIM))

    def _unlinked(self, now: float) -> Text:
        link = self.model.link
        if link.lost is None:
            return Text("\u25cb connecting ...", style=looks.DIM)
        words = f"{link.lost} {link.reason}; reconnecting ... ({now - link.since_s:.0f} s)"
        return Text.assemble(("\u25cb ", looks.DANGER), (words, looks.DIM))

    def notice(self, words: str) -> None:
        """Say something until the next key that is part of a message."""
        self._notice = Text(words, style=looks.DANGER)
        self._tick()

    # What takes time.

    def attempt(self, doing: Coroutine[Any, Any, None]) -> None:
        """Do something that may fail with a sentence for the user."""
        self.run_worker(self._attempt(doing))

    async def _attempt(self, doing: Coroutine[Any, Any, None]) -> None:
        try:
            await doing
        except RaftosError as error:
            self.notice(error.message)
        except Exception as error:  # noqa: BLE001 - As above: a bug.
            self.exit(error)

    def open(self, room: str, *, around: int | None = None) -> None:
        self._notice = Text(f"opening {looks.one_line(room)} ...", style=looks.DIM)
        self.attempt(self._open(room, around))

    async def _open(self, room: str, around: int | None = None) -> None:
        if not await self.session.open(room, around=around):
            return
        self._notice = Text()
        if self._writes_for != room:
            self._drafts[self._writes_for] = self.composer.text if self._edits is None else self._aside
            self._write(self._drafts.get(room, ""))
            self._writes_for, self._answers, self._edits = room, None, None
        (self.composer if around is None else self.messages).focus()
        self._show(jump_to=around)

    @on(Messages.Edge)
    def fetch_more(self, edge: Messages.Edge) -> None:
        if edge.side not in self._paging:
            self._paging.add(edge.side)
            self.attempt(self._fetch_more(edge.side))

    async def _fetch_more(self, side: int) -> None:
        try:
            await (self.session.older() if side < 0 else self.session.newer())
        finally:
            self._paging.discard(side)

    # Writing.

    @on(TextArea.Changed)
    def typed(self) -> None:
        self._notice = Text()
        if self.composer.text and not self._edits:
            self.session.typed()

    @on(Composer.Sent)
    def send(self, sent: Composer.Sent) -> None:
        if self._edits is not None:
            self.session.send(sent.text, edits=self._edits.sequence)
            self._write(self._aside + self.composer.text)
        else:
            self.session.send(sent.text, reply_to=self._answers.sequence if self._answers else None)
        self._answers = self._edits = None
        self.to_newest()

    @on(Composer.Cancelled)
    def cancel(self) -> None:
        """Neither answer nor edit a message any more."""
        if self._edits is not None:
            self._write(self._aside)
        self._answers = self._edits = None
        self._tick()

    def _write(self, text: str) -> None:
        self.composer.load_text(text)
        self.composer.move_cursor(self.composer.document.end)

    @on(Composer.Paged)
    def page(self, paged: Composer.Paged) -> None:
        self.messages.page(paged.step)

    @on(Composer.Selecting)
    def select(self) -> None:
        self.messages.focus()

    @on(Messages.Left)
    def to_newest(self) -> None:
        self.composer.focus()
        if self.model.window is not None and not self.model.window.follows:
            self.open(self.model.window.room)
        else:
            self.messages.scroll_end(animate=False, immediate=True, force=True)

    # What is done to a message.

    @on(Messages.Acted)
    async def act(self, acted: Messages.Acted) -> None:
        outgoing = self.model.outgoing_of(acted.key)
        if outgoing is not None:
            self._act_on_outgoing(acted.what, outgoing)
            return
        window = self.model.window
        message = window.message(acted.key) if window else None
        if message is None:
            return
        if acted.what == "reply":
            self._answer(message)
        elif message.sender != self.model.user:
            self.notice("somebody else wrote that; you can answer it with Enter")
        elif message.redacted:
            self.notice("that message is taken back already")
        elif acted.what == "edit":
            self._edit(message)
        elif acted.what == "drop":
            await self._take_back(message)

    def _act_on_outgoing(self, what: str, outgoing: Outgoing) -> None:
        if not outgoing.stuck:
            self.notice("it is on its way")
        elif what in {"again", "reply"}:
            self.session.send_again(outgoing)
        elif what == "drop":
            self.model.drop(outgoing)
            self._show()
        elif what == "edit":
            self._take_up(outgoing)

    def _take_up(self, outgoing: Outgoing) -> None:
        """Go on writing what was not sent."""
        edited = self.model.window.message(outgoing.edits) if self.model.window and outgoing.edits else None
        if self.composer.text:
            self.notice("send or delete first what you are writing")
            return
        self.model.drop(outgoing)
        if edited is not None:
            self._edit(edited)
        self._write(outgoing.text)
        self.composer.focus()
        self._show()

    def _answer(self, message: Message) -> None:
        self._answers, self._edits = message, None
        self.composer.focus()
        self._tick()

    def _edit(self, message: Message) -> None:
        self._aside = self.composer.text if self._edits is None else self._aside
        self._answers, self._edits = None, message
        self._write(message.text)
        self.composer.focus()
        self._tick()

    async def _take_back(self, message: Message) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.attempt(self.session.redact(message.sequence))

        await self.push_screen(
            Question(f"Take message {message.sequence} back, for everybody and for good?"), answered
        )

    # Rooms, search, help.

    @on(OptionList.OptionSelected, "#rooms")
    def choose_room(self, selected: OptionList.OptionSelected) -> None:
        if selected.option.id is not None:
            self.open(selected.option.id)

    def action_step(self, step: int) -> None:
        room = self.model.neighbour(step)
        if room is not None:
            self.open(room)

    def action_swap(self) -> None:
        if self.composer.has_focus:
            self.query_one(Rooms).focus()
        else:
            self.composer.focus()

    async def action_new_room(self) -> None:
        await self._ask_for_room("", "")

    async def _ask_for_room(self, name: str, remark: str) -> None:
        def created(room: str | None) -> None:
            if room is not None:
                self.open(room)

        await self.push_screen(NewRoom(self.client, name, remark), created)

    async def action_search(self) -> None:
        def found(message: Any) -> None:
            if message is not None:
                self.open(message.room, around=message.sequence)

        await self.push_screen(Search(self.client), found)

    async def action_help(self) -> None:
        await self.push_screen(Help())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A dialog is dealt with before anything else is begun."""
        own = {"help", "search", "new_room", "step", "swap"}
        return not (action in own and len(self.screen_stack) > 1)


def _invitation(room: Room | None) -> str:
    """What stands where nothing is written yet."""
    if room is None:
        return "Ctrl-N makes a room"
    return "archived" if room.archived else f"say something in {looks.one_line(room.name)}"


def _typing(names: list[str]) -> Text:
    shown = [looks.one_line(name) for name in names]
    match shown:
        case []:
            return Text()
        case [one]:
            words = f"{one} is typing ..."
        case [one, two]:
            words = f"{one} and {two} are typing ..."
        case _:
            words = f"{len(shown)} people are typing ..."
    return Text(words, style=f"italic {looks.DIM}")
