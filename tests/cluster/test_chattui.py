"""The terminal chat in a real terminal, on real daemons, while the member it follows and the leader die."""

from __future__ import annotations

import re
import signal

import pytest

from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster, wait_until
from tests.unit.cli.terminal import RAFTOS, Terminal

pytestmark = pytest.mark.timeout(180)

ALT_ENTER, CTRL_Q, ENTER = "\x1b\r", "\x11", "\r"
FOLLOWS = re.compile(r"following (n\d), \d+\.\d s behind")


def terminal(cluster: Cluster, *arguments: str, **environment: str) -> Terminal:
    home = {"RAFTOS_HOME": str(cluster.directory / "home"), "RAFTOS_USER": "ada", "RAFTOS_ENDPOINTS": ""}
    return Terminal([*RAFTOS, "chat", "tui", *arguments], home | environment)


def followed(cluster: Cluster, chat: Terminal, *, but: Member | None = None) -> Member:
    """The member that the footer names, once it names one with its age."""

    def names_one(seen: str) -> bool:
        found = FOLLOWS.search(seen)
        return found is not None and (but is None or found[1] != but.name)

    found = FOLLOWS.search(chat.wait_until(names_one, "member followed"))
    assert found
    return next(member for member in cluster.members if member.name == found[1])


def say(cluster: Cluster, text: str) -> None:
    """Bob says something, as soon as the cluster lets him."""
    assert cluster.cli("chat", "send", "general", text, "--as", "bob", "--timeout", "20").exit_code == 0


def texts(cluster: Cluster) -> list[tuple[str, str]]:
    with cluster.client() as client:
        return [(message.sender, message.text) for message in client.chat.history("general")]


@pytest.fixture
def room(cluster: Cluster) -> Cluster:
    """Three members and a room in which bob has said hello."""
    assert cluster.cli("chat", "create", "general").exit_code == 0
    say(cluster, "hello, ada")
    return cluster


def lose(cluster: Cluster, chat: Terminal, victim: Member, text: str) -> None:
    """Kill a member; say something at once, and let bob say something as well; both arrive, once."""
    cluster.kill(victim)
    chat.type(text + ENTER)
    say(cluster, f"bob on {text}")
    chat.wait_until(lambda seen: seen.count(f"bob on {text}") == 1, "message of bob")
    chat.wait_until(lambda seen: seen.count(text) == 2 and "sending" not in seen, "own message")
    cluster.start(victim)


def test_it_survives_the_member_it_follows_and_the_leader(room: Cluster) -> None:
    """What others say goes on appearing, what is typed meanwhile is sent once, and the footer tells."""
    with terminal(room, "general") as chat:
        chat.wait_for("hello, ada")
        victim = followed(room, chat)
        lose(room, chat, victim, "first loss")
        assert followed(room, chat, but=victim) is not victim
        lose(room, chat, room.leader(), "second loss")
        followed(room, chat)
        chat.type(CTRL_Q)
        assert chat.end() == 0
        assert "Traceback" not in chat.raw.decode(errors="replace")
    said = texts(room)
    assert sorted(said) == sorted(
        [("bob", "hello, ada")]
        + [(who, text) for each in ("first loss", "second loss") for who, text in
           (("ada", each), ("bob", f"bob on {each}"))]
    )  # fmt: skip


def test_the_footer_tells_what_happens_to_the_member(room: Cluster) -> None:
    """Which one is gone and which one is followed instead; and, without any, that it looks for one."""
    with terminal(room, "general") as chat:
        victim = followed(room, chat)
        room.kill(victim)
        chat.wait_until(lambda seen: f"{victim.name} is gone; following n" in seen, "change of member")
        room.kill(*(member for member in room.members if member is not victim))
        chat.wait_for("reconnecting ...")
        chat.type("in the dark" + ENTER)
        chat.wait_for("sending")
        chat.type("still awake")
        chat.wait_for("still awake")
        room.start()
        followed(room, chat)
        chat.wait_until(lambda seen: "sending" not in seen and "not sent" not in seen, "acknowledgement")
        chat.signal(signal.SIGTERM)
        assert chat.end() == 128 + signal.SIGTERM
    assert texts(room) == [("bob", "hello, ada"), ("ada", "in the dark")]


def test_a_terminal_without_colours_gets_none(room: Cluster) -> None:
    """And a plain one tells Alt-Enter from Enter: the first makes a line, the second sends it."""
    with terminal(room, "general", NO_COLOR="1") as chat:
        chat.wait_for("hello, ada")
        chat.type("two" + ALT_ENTER + "lines")
        chat.wait_for("lines")
        assert texts(room) == [("bob", "hello, ada")]
        chat.type(ENTER)
        wait_until("it is sent", lambda: texts(room)[1:] == [("ada", "two\nlines")])
        chat.type(CTRL_Q)
        assert chat.end() == 0
        assert not re.search(rb"\x1b\[[0-9;]*\b(3[0-8]|4[0-8]|9[0-7]|10[0-7])\b[0-9;]*m", chat.raw)


def test_it_ends_as_other_commands_do_when_nobody_is_there(idle: Cluster) -> None:
    """With their sentence and exit code, and the terminal as it was."""
    with terminal(idle, "general", "--timeout", "1") as chat:
        assert chat.end() == 5
        assert "no member could be reached" in chat.seen
