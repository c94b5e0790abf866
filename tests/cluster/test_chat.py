"""Chat on real daemons: what writers were told is what everybody reads and hears, whoever dies.

Three writers speak through a member each, and the leader is killed twice. A process that follows the room
was there before. In the end its output, and the history that every member gives, is one list: numbered
without gaps, with each message once, and each under the number that its writer was told.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any, Self

import pytest

from raftos.client import AsyncClient
from raftos.errors import Conflict, NotFound, OutcomeUnknown, Unavailable
from raftos.state.domains.chat import Message
from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster, wait_until
from tests.cluster.test_events import interrupted, lines_of, running

pytestmark = pytest.mark.timeout(180)

ROOM = "general"
REST_S = 0.005
BETWEEN_DEATHS = 150
"""Messages acknowledged before and after each death."""


class Speakers:
    """Three writers on a thread of their own, each preferring another member, and what they were told."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.told: dict[str, int] = {}
        """Text -> its sequence."""
        self.unknown: set[str] = set()

    async def _run(self) -> None:
        await asyncio.gather(*(self._speak(member) for member in self._cluster.members))

    async def _speak(self, member: Member) -> None:
        number = 0
        async with self._cluster.async_client(self._cluster.endpoints(member), timeout_s=2.0) as client:
            while not self._stop.is_set():
                number += 1
                await self._say(client, member.name, f"{member.name} says {number}")
                await asyncio.sleep(REST_S)

    async def _say(self, client: AsyncClient, sender: str, text: str) -> None:
        try:
            self.told[text] = (await client.chat.send(ROOM, text, sender=sender)).sequence
        except OutcomeUnknown:
            self.unknown.add(text)
        except Unavailable:
            pass  # Certainly not said.

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def wait_for_more(self, count: int) -> None:
        before = len(self.told)
        wait_until(f"{count} more messages are told", lambda: len(self.told) >= before + count)


def history_of(cluster: Cluster, member: Member) -> list[dict[str, Any]]:
    """`raftos chat history ROOM -o json`, asked of one member."""
    shown = cluster.cli("chat", "history", ROOM, "-o", "json", "--endpoint", member.endpoint)
    assert shown.exit_code == 0, shown.stderr
    messages: list[dict[str, Any]] = json.loads(shown.stdout)
    return messages


def test_three_writers_one_history_though_the_leader_dies_twice(cluster: Cluster) -> None:
    """The same on all members, without a gap, each message once; and a follower saw exactly that."""
    assert cluster.cli("chat", "create", ROOM).exit_code == 0
    with running(cluster, "chat", "follow", ROOM, "--since", "0", "-o", "json") as following:
        with Speakers(cluster) as speakers:
            for _ in range(2):
                speakers.wait_for_more(BETWEEN_DEATHS)
                leader = cluster.leader()
                cluster.kill(leader)
                speakers.wait_for_more(BETWEEN_DEATHS)
                cluster.start(leader)
            speakers.wait_for_more(BETWEEN_DEATHS)
        cluster.settle()
        history = history_of(cluster, cluster.members[0])
        followed = [json.loads(line) for line in lines_of(following, len(history))]
        assert followed == history
        assert interrupted(following) == (130, "", "")
    for member in cluster.members[1:]:
        assert history_of(cluster, member) == history
    assert [message["sequence"] for message in history] == list(range(1, len(history) + 1))
    said = {message["text"]: message["sequence"] for message in history}
    assert len(said) == len(history), "a message is there twice"
    assert {text: said.get(text) for text in speakers.told} == speakers.told
    assert said.keys() - speakers.told.keys() <= speakers.unknown
    assert len(history) >= 5 * BETWEEN_DEATHS


def test_the_leader_forgets_and_indexes_whoever_it_is(cluster: Cluster) -> None:
    """Retention by count and by age, and the index of words, go on after a change of leaders."""
    with cluster.client() as client:
        client.chat.create("counted", keep_messages=5)
        client.chat.create("aging", keep_s=1)
        for number in range(20):
            client.chat.send("counted", f"hello number {number}", sender="ann")
            client.chat.send("aging", "hello", sender="ann")
        assert client.chat.search("hello", room="counted").items[0].sequence == 20
        wait_until("five are kept", lambda: client.chat.page("counted").first == 16)
        wait_until("none is kept", lambda: client.chat.page("aging").items == [])
        cluster.kill(cluster.leader())
        assert client.chat.send("counted", "hello again", sender="ann").sequence == 21
        assert client.chat.send("aging", "hello again", sender="ann").sequence == 21
        wait_until("five are kept still", lambda: client.chat.page("counted").first == 17)
        wait_until("none is kept still", lambda: client.chat.page("aging").first == 22)
        found = [message.sequence for message in client.chat.search("hello").items]
        assert found == [21, 20, 19, 18, 17]


def test_a_follower_hears_of_changes_at_whichever_member(shared: Cluster) -> None:
    """Said through one member, heard at another, and again when it is edited or redacted."""
    speaker, listener = shared.members[0], shared.members[2]
    with shared.client(speaker) as speaking, shared.client(listener) as listening:
        speaking.chat.create("changes")
        with listening.chat.follow("changes", changes=True) as heard:
            sent = speaking.chat.send("changes", "helo", sender="ann")
            assert next(heard).text == "helo"
            assert heard.member == listener.name
            speaking.chat.edit("changes", sent.sequence, "hello", sender="ann")
            edited = next(heard)
            assert (edited.text, edited.edited_at is not None) == ("hello", True)
            speaking.chat.redact("changes", sent.sequence, sender="ann")
            redacted = next(heard)
            assert isinstance(redacted, Message)
            assert (redacted.text, redacted.redacted) == ("", True)


def test_the_command_line_speaks_and_reads(shared: Cluster) -> None:
    """Shapes, exit codes and lines, as scripts and people rely on them."""
    cli = shared.cli
    assert json.loads(cli("chat", "create", "shapes", "-o", "json").stdout).keys() == {"room", "revision"}
    assert cli("chat", "create", "shapes").exit_code == 4
    sent = cli("chat", "send", "shapes", "-", "--as", "ann", "-o", "json", stdin="grüße\nan alle\n".encode())
    assert json.loads(sent.stdout) == {"room": "shapes", "sequence": 1}
    assert cli("chat", "send", "shapes", "danke", "--as", "bob", "--reply-to", "1").stdout == "shapes #2\n"
    assert cli("chat", "send", "shapes", "?", "--reply-to", "9").exit_code == 3
    assert cli("chat", "send", "nowhere", "hello").exit_code == 3
    first, second = json.loads(cli("chat", "history", "shapes", "-o", "json").stdout)
    assert first.keys() == {"sequence", "sender", "text", "sent_at"}
    assert second.keys() == {"sequence", "sender", "text", "sent_at", "reply_to"}
    assert first["text"] == "grüße\nan alle"
    lines = cli("chat", "history", "shapes").stdout.splitlines()
    assert [line.split(" ", 2)[0] for line in lines] == ["#1", "", "#2"]
    assert lines[2].endswith(" bob (to #1): danke")

    assert cli("chat", "edit", "shapes", "1", "hello", "--as", "bob").exit_code == 6
    assert cli("chat", "edit", "shapes", "1", "hello", "--as", "ann").exit_code == 0
    assert cli("chat", "redact", "shapes", "2", "--as", "bob").exit_code == 0
    assert "(edited)" in cli("chat", "history", "shapes", "--limit", "1").stdout
    assert "(redacted)" in cli("chat", "history", "shapes", "--last", "1").stdout

    found = json.loads(cli("chat", "search", "hel*", "--room", "shapes", "-o", "json").stdout)
    assert ([each["sequence"] for each in found["items"]], found["more"]) == ([1], False)
    refused = cli("chat", "search", '"open')
    assert (refused.exit_code, "quotation mark" in refused.stderr) == (2, True)

    assert cli("chat", "read", "shapes", "--as", "ann").stdout == "shapes: ann has read up to #2\n"
    assert cli("chat", "read", "shapes", "--as", "eve", "--up-to", "0").stdout.endswith(
        "eve is off the list of readers\n"
    )
    cli("chat", "read", "shapes", "--as", "bob", "--up-to", "1")
    readers = json.loads(cli("chat", "readers", "shapes", "-o", "json").stdout)["items"]
    assert readers == [
        {"reader": "ann", "sequence": 2, "unread": 0},
        {"reader": "bob", "sequence": 1, "unread": 1},
    ]
    assert cli("chat", "archive", "shapes").exit_code == 0
    assert cli("chat", "send", "shapes", "too late").exit_code == 4
    rooms = json.loads(cli("chat", "rooms", "-o", "json").stdout)["items"]
    assert [(room["room"], room["archived"]) for room in rooms if room["room"] == "shapes"] == [
        ("shapes", True)
    ]
    assert "shapes" in cli("chat", "rooms").stdout


def test_the_api_speaks_chat_as_well(shared: Cluster) -> None:
    """Routes and shapes follow from the domain; a wrong search is the caller's mistake."""
    member = shared.members[1]

    def post(verb: str, **fields: object) -> Any:
        return shared.request(member, f"/v1/chat/{verb}", json.dumps(fields).encode()).json

    assert post("create", room="api")["room"] == "api"
    assert post("post", room="api", sender="ann", text="hello")["sequence"] == 1
    page = shared.request(member, "/v1/chat/history?room=api&last=1").json
    assert (page["room"], page["more"], page["first"], page["last"]) == ("api", False, 1, 1)
    assert page["items"][0].keys() == {"sequence", "sender", "text", "sent_at"}
    found = shared.request(member, "/v1/chat/search?text=hello&room=api").json
    assert [each["room"] for each in found["items"]] == ["api"]
    assert shared.request(member, "/v1/chat/search?text=-hello").error_code() == "invalid"
    assert post("redact", room="api", sequence=1, sender="bob")["error"]["code"] == "denied"
    assert post("post", room="api", sender="ann", text="\u001b[2J")["error"]["code"] == "invalid"
    with shared.client(member) as client:
        with pytest.raises(Conflict):
            client.chat.create("api")
        with pytest.raises(NotFound):
            client.chat.page("nowhere")
