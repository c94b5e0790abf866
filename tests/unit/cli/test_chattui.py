"""The terminal chat as its user sees it: keys go in, a screen of 80 columns comes out, over the real API."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import reduce

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input

from raftos.client import AsyncClient
from raftos.client.chat import AsyncChat
from raftos.consensus.memory import MemoryCluster
from raftos.errors import Unreachable
from raftos_cli.tui import session
from raftos_cli.tui.app import Chat
from tests.unit.cli.conftest import Raftos

pytestmark = pytest.mark.timeout(60)

LIMIT_S = 10.0
SIZE = (80, 24)


class Screen:
    """The chat of one user, and another user's client beside it."""

    def __init__(self, pilot: Pilot[Exception], chat: AsyncChat, client: AsyncClient) -> None:
        self.pilot = pilot
        self.chat = chat
        self.client = client

    @property
    def app(self) -> Chat:
        assert isinstance(self.pilot.app, Chat)
        return self.pilot.app

    @property
    def text(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips)

    async def until(self, holds: Callable[[str], bool], what: str) -> str:
        deadline = asyncio.get_running_loop().time() + LIMIT_S
        while not holds(self.text):
            assert asyncio.get_running_loop().time() < deadline, f"no {what} in:\n{self.text}"
            assert self.app.is_running, self.app.return_value
            await self.pilot.pause(0.02)
        # What is drawn may not have the focus yet.
        await self.pilot.pause()
        return self.text

    async def shows(self, *words: str) -> str:
        return await self.until(lambda text: all(word in text for word in words), repr(words))

    async def hides(self, *words: str) -> str:
        return await self.until(lambda text: not any(word in text for word in words), f"end of {words!r}")

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def type(self, text: str) -> None:
        for character in text:
            await self.pilot.press({" ": "space", "\n": "ctrl+j"}.get(character, character))

    async def settled(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Until something is so in the cluster."""
        async with asyncio.timeout(LIMIT_S):
            while not await holds():
                await self.pilot.pause(0.02)

    async def has_read(self, room: str, sequence: int) -> bool:
        readers = await self.chat.readers(room)
        return [(each.reader, each.sequence) for each in readers.items] == [("ada", sequence)]

    async def texts(self, room: str = "general") -> list[str]:
        return [message.text async for message in self.chat.history(room)]


Scenario = Callable[[Screen], Awaitable[None]]


@asynccontextmanager
async def opened(
    room: str | None = "general", *, timeout_s: float = 10.0, size: tuple[int, int] = SIZE
) -> AsyncIterator[Screen]:
    async with AsyncClient() as other, AsyncClient(timeout_s=timeout_s) as client:
        app = Chat(client, "ada", room)
        async with app.run_test(size=size) as pilot:
            yield Screen(pilot, other.chat, other)
        if app.return_value is not None:
            raise app.return_value


def chatting(scenario: Scenario, *, room: str | None = "general", timeout_s: float = 10.0) -> None:
    """Run a scenario in `general`, where bob has said hello."""

    async def whole() -> None:
        async with AsyncClient() as client:
            await client.chat.create("general")
            await client.chat.send("general", "hello, all", sender="bob")
        async with opened(room, timeout_s=timeout_s) as screen:
            await scenario(screen)

    asyncio.run(whole())


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the next look around."""
    monkeypatch.setattr(session, "LOOK_S", 0.1)
    monkeypatch.setattr(session, "MIND_S", 0.05)


@pytest.mark.usefixtures("cluster")
def test_what_is_said_appears_as_it_is_said() -> None:
    """By others and by this user, once each, in the order of the room; an edit and a redaction too."""

    async def scenario(screen: Screen) -> None:
        await screen.shows("general", "bob", "hello, all", "following n")
        await screen.chat.send("general", "and again", sender="bob")
        await screen.shows("and again")
        await screen.type("hello bob\nhow are you")
        await screen.press("enter")
        await screen.shows("ada", "hello bob", "how are you")
        await screen.hides("sending")
        assert await screen.texts() == ["hello, all", "and again", "hello bob\nhow are you"]
        await screen.chat.edit("general", 1, "hello, you", sender="bob")
        await screen.chat.redact("general", 2, sender="bob")
        shown = await screen.shows("hello, you  (edited)", "message taken back")
        assert "and again" not in shown
        assert shown.count("hello bob") == 1

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
def test_rooms_show_what_is_unread() -> None:
    """Until they are opened and read, by any key that leads there."""

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all")
        await screen.chat.create("ops")
        for number in range(12):
            await screen.chat.send("ops", f"alarm {number}", sender="bob")
        await screen.until(
            lambda text: any(line.split()[:2] == ["ops", "12"] for line in text.split("\n")), "12"
        )
        await screen.press("alt+down")
        await screen.shows("alarm 11", "12 messages")
        await screen.settled(lambda: screen.has_read("ops", 12))
        await screen.press("tab", "up", "enter")
        await screen.shows("hello, all")
        assert not any(line.split()[:2] == ["ops", "12"] for line in screen.text.split("\n"))

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
def test_messages_are_answered_edited_and_taken_back() -> None:
    """By selecting them; those of others can only be answered, and what was being written is kept."""

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all")
        await screen.type("draft")
        await screen.press("up", "enter")
        await screen.shows("answering bob: hello, all")
        await screen.press("enter")
        await screen.shows("\u258f bob  hello, all")
        await screen.type("half a sentence")
        await screen.press("up", "e")
        await screen.shows("editing message 2")
        await screen.type(" no more")
        await screen.press("enter")
        await screen.shows("draft no more  (edited)", "half a sentence")
        await screen.press("up", "up", "e")
        await screen.shows("somebody else wrote that")
        await screen.press("down", "d")
        await screen.shows("Take message 2 back")
        await screen.press("n")
        await screen.hides("Take message 2 back")
        await screen.press("d", "y")
        await screen.shows("message taken back")
        await screen.press("escape")
        assert await screen.texts() == ["hello, all", ""]
        (answer,) = [message async for message in screen.chat.history("general", since=1)]
        assert answer.reply_to == 1

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
def test_scrolling_back_leads_to_the_first_message() -> None:
    """Page by page; End leads back to the newest, and what comes meanwhile does not move the text."""

    async def scenario(screen: Screen) -> None:
        await asyncio.gather(
            *(screen.chat.send("general", f"line {number}", sender="bob") for number in range(2, 351))
        )
        await screen.shows("350 messages")
        for _ in range(60):
            await screen.press("pageup")
            await screen.pilot.pause(0.01)
        before = await screen.shows("this is where general begins", "hello, all")
        await screen.chat.send("general", "news", sender="bob")
        after = await screen.shows("351 messages", "1 new below")
        assert after.replace("351", "350").splitlines()[:20] == before.splitlines()[:20]
        await screen.press("up", "end")
        await screen.shows("news")

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("part", ["#footer", "Composer", "Rooms", "#title"])
def test_time_that_passes_while_the_chat_ends_is_no_error(part: str) -> None:
    """Its parts go one by one, in no order to count on; what is left is not written to any more."""

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all")
        await screen.app.query_one(part).remove()
        screen.app._tick()
        screen.app._show()

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
def test_a_search_leads_to_the_message() -> None:
    """In any room, however long ago; Escape leads nowhere."""

    async def scenario(screen: Screen) -> None:
        await screen.chat.create("archive")
        for number in range(300):
            words = "the needle" if number == 40 else f"straw {number}"
            await screen.chat.send("archive", words, sender="bob")
        await screen.shows("hello, all")
        await screen.press("ctrl+f")
        await screen.shows("Search all rooms")
        await screen.type('"')
        await screen.press("enter")
        await screen.shows("Search all rooms", "quot")
        await screen.press("backspace")
        await screen.type("needle")
        await screen.press("enter")
        await screen.shows("1 found", "archive 41")
        await screen.press("enter")
        await screen.shows("straw 38", "the needle", "older messages; Up, End leads to the newest")
        await screen.press("end")
        await screen.shows("straw 299")
        await screen.press("ctrl+f", "escape")
        await screen.hides("Search all rooms")

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
def test_others_see_who_is_there_and_who_is_typing() -> None:
    """In both directions, and no more once the room is left."""

    async def until_seen(screen: Screen, seen: dict[str, str]) -> None:
        async def is_seen() -> bool:
            people = await screen.client.beacons.list("chat/general")
            return {each.name: each.state for each in people} == seen

        await screen.settled(is_seen)

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all")
        await until_seen(screen, {"ada": "here"})
        await screen.client.beacons.announce("chat/general", "bob", "typing", ttl_s=1)
        await screen.shows("bob is typing ...", "\u25cf bob \u2026", "\u25cf ada")
        await screen.hides("bob is typing ...", "\u25cf bob")
        await screen.type("hm")
        await until_seen(screen, {"ada": "typing"})
        await screen.press("enter")
        await until_seen(screen, {"ada": "here"})
        await screen.chat.create("ops")
        await screen.shows("ops")
        await screen.press("alt+down")
        await until_seen(screen, {})

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
def test_what_could_not_be_sent_is_kept_and_sent_again(agreement: MemoryCluster) -> None:
    """With the reason; a key sends it, and nothing blocks meanwhile."""

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all")
        agreement.delay_s = 5.0
        await screen.type("are you there?")
        await screen.press("enter")
        await screen.shows("\u2026 sending")
        await screen.type("still typing")
        await screen.shows("\u2717 not sent:", "still typing")
        agreement.delay_s = 0.0
        await screen.press("up", "s")
        await screen.hides("not sent")
        assert (await screen.texts())[1:] == ["are you there?"]
        await screen.shows("still typing")

    chatting(scenario, timeout_s=0.5)


@pytest.mark.usefixtures("cluster")
def test_an_unknown_outcome_is_shown_until_the_room_shows_the_message(agreement: MemoryCluster) -> None:
    """Nobody is told that something failed that may have happened."""

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all")
        await screen.settled(lambda: screen.has_read("general", 1))
        agreement.outcome_unknown = True
        await screen.type("once")
        await screen.press("enter")
        # It was applied, and its event shows it: the doubt ends by itself.
        await screen.shows("2 messages", "once")
        await screen.hides("\u2026 sending")
        await screen.pilot.pause(1.0)
        assert "outcome unknown" not in screen.text
        agreement.outcome_unknown = False
        assert (await screen.texts())[1:] == ["once"]
        await screen.press("up", "e")
        await screen.type("!")
        agreement.delay_s = 5.0
        await screen.press("enter")
        await screen.shows("message 2 becomes", "\u2717 not edited:")

    chatting(scenario, timeout_s=0.5)


@pytest.mark.usefixtures("cluster")
def test_the_footer_says_whom_it_follows(agreement: MemoryCluster) -> None:
    """A member that lost touch is left for another; without any, it says that it looks for one."""

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all", "following n", "s behind")
        first = screen.app.model.link.member
        assert first is not None
        agreement.cut(first)
        await screen.shows(f"{first} lost touch; following n")
        await screen.chat.send("general", "meanwhile", sender="bob")
        await screen.shows("meanwhile")
        for name in ("n1", "n2", "n3"):
            agreement.cut(name)
        await screen.shows("reconnecting ... (")
        for name in ("n1", "n2", "n3"):
            agreement.heal(name)
        await screen.shows("following n")
        await screen.chat.send("general", "afterwards", sender="bob")
        await screen.shows("afterwards")

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
def test_nothing_in_a_text_is_more_than_text() -> None:
    """Markup of any kind stands there as it was written, in names of rooms and people too."""
    markup = "[red]x[/] [@click=app.quit]y[/]"

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all")
        await screen.chat.create(markup)
        await screen.chat.send(markup, f"{markup} \u202eevil", sender=markup)
        await screen.client.beacons.announce(f"chat/{markup}", markup, "typing", ttl_s=30)
        await screen.shows("[red]x[/] [@c")
        await screen.press("alt+down")
        shown = await screen.shows(f"{markup} evil", f"{markup} is typing ...", f"say something in {markup}")
        assert "\u202e" not in shown

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
def test_nothing_that_is_pasted_is_more_than_text() -> None:
    """Neither in a message nor in a dialog, wherever it was copied from."""

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all")
        screen.app.composer.post_message(events.Paste("a\x1b]0;evil\x07\r\nb"))
        await screen.shows("a]0;evil", "b")
        assert screen.app.composer.text == "a]0;evil\nb"
        await screen.press("ctrl+n")
        await screen.shows("New room")
        screen.app.screen.query_one(Input).post_message(events.Paste("c\x1b[31m\nd"))
        await screen.shows("c\ufffd[31m d")

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
def test_a_room_that_is_not_there_can_be_made() -> None:
    """When it is asked for, and by a key; what the cluster says against it is shown."""

    async def scenario(screen: Screen) -> None:
        await screen.shows("New room", "nowhere", "There is no such room yet.")
        await screen.press("enter")
        await screen.shows("say something in nowhere")
        await screen.press("ctrl+n")
        await screen.type("general")
        await screen.press("enter")
        await screen.shows("there is a room of this name")
        await screen.type("2")
        await screen.press("enter")
        await screen.shows("say something in general2")
        assert [room.room for room in await screen.chat.rooms()] == ["general", "general2", "nowhere"]

    chatting(scenario, room="nowhere")


@pytest.mark.usefixtures("cluster")
def test_an_archived_room_can_only_be_read() -> None:
    """From the moment on in which it is archived."""

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all")
        await screen.chat.archive("general")
        await screen.shows("archived: it can be read")
        await screen.type("x")
        await screen.press("enter")
        assert await screen.texts() == ["hello, all"]

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
def test_the_keys_are_explained() -> None:
    """By F1 anywhere, and by ? where it is no text; the help fits the screen."""

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all", "F1 help")
        await screen.press("f1")
        await screen.shows("Ctrl-J, Alt-Enter", "Ctrl-Q")
        await screen.press("escape", "?")
        await screen.hides("Ctrl-J, Alt-Enter")
        await screen.press("backspace", "up", "?")
        await screen.shows("Ctrl-J, Alt-Enter")

    chatting(scenario)


@pytest.mark.usefixtures("cluster")
def test_without_colour_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR leaves the terminal's own, and what is selected is still to be seen."""
    monkeypatch.setenv("NO_COLOR", "1")

    async def scenario(screen: Screen) -> None:
        await screen.shows("hello, all")
        await screen.press("up")
        await screen.shows("\u2590 hello, all")
        ground = screen.app.screen.background_colors[1]
        for line in screen.app.screen._compositor.render_strips():
            shown = reduce(lambda strip, each: strip.apply_filter(each, ground), screen.app._filters, line)
            for segment in shown:
                colours = () if segment.style is None else (segment.style.color, segment.style.bgcolor)
                assert all(colour is None or colour.is_default for colour in colours)

    chatting(scenario)


def test_the_chat_ends_with_the_error_of_a_cluster_that_is_not_there(dead_context: str) -> None:
    """As every other command does."""

    async def whole() -> None:
        async with opened(timeout_s=0.3) as screen:

            async def has_ended() -> bool:
                return not screen.app.is_running

            await screen.settled(has_ended)

    with pytest.raises(Unreachable):
        asyncio.run(whole())


def test_it_needs_textual_and_a_terminal(raftos: Raftos, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what to do without them."""
    refused = raftos("chat", "tui")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "raftos chat follow" in refused.stderr
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "textual" else find_spec(name)
    )
    refused = raftos("chat", "tui")
    assert refused.exit_code == 1
    assert 'pip install "raftos-cluster[tui]"' in refused.stderr
