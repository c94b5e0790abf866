"""Chat against plain lists: whatever happens in whatever order, both say the same."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from raftos.state.command import Command, Ok, Rejected, Result
from raftos.state.domains import chat
from raftos.state.domains.chat import Archive, Create, Edit, History, Mark, Post, Redact, Search, Trim
from tests.unit.state.feeder import Feeder

ROOMS = st.sampled_from(["a", "b", "c"])
SENDERS = st.sampled_from(["ann", "bob"])
TEXTS = st.sampled_from(["hello", "hello there", "bye", "Hello again"])
SEQUENCES = st.integers(1, 8)


class Said(msgspec.Struct):
    """A message as it should be, and the revision of its post, by which it is newer than others."""

    sender: str
    text: str
    sent_ms: int
    revision: int
    reply_to: int | None
    edited: bool = False


class Room(msgspec.Struct):
    """What a room should be: its messages by sequence, in their order."""

    keep_messages: int | None
    keep_ms: int | None
    archived: bool = False
    last: int = 0
    messages: dict[int, Said] = {}
    markers: dict[str, int] = {}

    def surplus(self, now_ms: int, before: int) -> list[int]:
        """The sequences before this one that need not be kept, from the oldest on."""
        found = []
        for sequence, said in self.messages.items():
            is_old = self.keep_ms is not None and said.sent_ms <= now_ms - self.keep_ms
            is_over = self.keep_messages is not None and sequence <= self.last - self.keep_messages
            if sequence >= before or not (is_old or is_over):
                break
            found.append(sequence)
        return found


class ChatModel(RuleBasedStateMachine):
    """A machine and what plain lists say it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.feeder = Feeder(self.folder / "state", domains=(chat.DOMAIN,))
        self.rooms: dict[str, Room] = {}
        self.revision = 0

    def teardown(self) -> None:
        self.feeder.close()
        shutil.rmtree(self.folder)

    def send(self, command: Command, expected: str | None) -> Any:
        """Apply the command; `expected` is the code of the refusal the model foresees."""
        result: Result
        [result] = self.feeder.do(command)
        if expected is not None:
            assert isinstance(result, Rejected), result
            assert result.code == expected
            return None
        assert isinstance(result, Ok), result
        self.revision += 1
        return result.value

    @rule(room=ROOMS, keep_messages=st.none() | st.integers(1, 3), keep_ms=st.none() | st.integers(1, 30))
    def create(self, room: str, keep_messages: int | None, keep_ms: int | None) -> None:
        refused = "conflict" if room in self.rooms else None
        if self.send(Create(room, keep_messages, keep_ms), refused):
            self.rooms[room] = Room(keep_messages, keep_ms)

    @rule(room=ROOMS)
    def archive(self, room: str) -> None:
        known = self.rooms.get(room)
        refused = "not_found" if known is None else "conflict" if known.archived else None
        if self.send(Archive(room), refused) and known:
            known.archived = True

    @rule(room=ROOMS, sender=SENDERS, text=TEXTS, reply_to=st.none() | SEQUENCES)
    def post(self, room: str, sender: str, text: str, reply_to: int | None) -> None:
        known = self.rooms.get(room)
        refused = None
        if known is None or (not known.archived and (reply_to or 0) > known.last):
            refused = "not_found"
        elif known.archived:
            refused = "conflict"
        answer = self.send(Post(room, sender, text, reply_to), refused)
        if answer and known:
            known.last += 1
            said = Said(sender, text, self.feeder.now_ms, self.revision, reply_to)
            known.messages[known.last] = said
            assert answer == {"room": room, "sequence": known.last, "revision": self.revision}

    def refusal(self, room: str, sequence: int, sender: str) -> str | None:
        known = self.rooms.get(room)
        if known is None or sequence not in known.messages:
            return "not_found"
        return None if known.messages[sequence].sender == sender else "denied"

    @rule(room=ROOMS, sequence=SEQUENCES, sender=SENDERS, text=TEXTS)
    def edit(self, room: str, sequence: int, sender: str, text: str) -> None:
        refused = self.refusal(room, sequence, sender)
        if refused is None and (self.rooms[room].archived or not self.rooms[room].messages[sequence].text):
            refused = "conflict"
        if self.send(Edit(room, sequence, text, sender), refused):
            said = self.rooms[room].messages[sequence]
            said.text, said.edited = text, True

    @rule(room=ROOMS, sequence=SEQUENCES, sender=SENDERS)
    def redact(self, room: str, sequence: int, sender: str) -> None:
        if self.send(Redact(room, sequence, sender), self.refusal(room, sequence, sender)):
            self.rooms[room].messages[sequence].text = ""

    @rule(room=ROOMS, reader=SENDERS, sequence=st.integers(0, 8))
    def mark(self, room: str, reader: str, sequence: int) -> None:
        known = self.rooms.get(room)
        refused = "not_found" if known is None or sequence > known.last else None
        if self.send(Mark(room, reader, sequence), refused) and known:
            if sequence == 0:
                known.markers.pop(reader, None)
            else:
                known.markers[reader] = max(sequence, known.markers.get(reader, 0))

    @rule(room=ROOMS, before=st.integers(1, 9))
    def trim(self, room: str, before: int) -> None:
        known = self.rooms.get(room)
        gone = known.surplus(self.feeder.now_ms, before) if known else []
        refused = "not_found" if known is None else None if gone else "conflict"
        if self.send(Trim(room, before), refused) and known:
            for sequence in gone:
                del known.messages[sequence]

    @rule(share=st.integers(1, 3))
    def lead(self, share: int) -> None:
        """Some of what is due is done; none of it meets a bug."""
        due = self.feeder.due()
        for command in due[: len(due) // share]:
            [result] = self.feeder.do(command)
            self.revision += isinstance(result, Ok)
            if isinstance(command, Trim) and isinstance(result, Ok):
                known = self.rooms[command.room]
                for sequence in known.surplus(self.feeder.now_ms, command.before_sequence):
                    del known.messages[sequence]

    @rule(passed_ms=st.integers(1, 20))
    def wait(self, passed_ms: int) -> None:
        self.feeder.now_ms += passed_ms

    @rule()
    def reopen(self) -> None:
        self.feeder.reopen()

    @rule(
        room=st.none() | ROOMS,
        word=st.sampled_from(["hello", "again", "there", "bye"]),
        leave_out=st.booleans(),
    )
    def search(self, room: str | None, word: str, leave_out: bool) -> None:
        """The newest first, over all rooms or in one."""
        if room is not None and room not in self.rooms:
            return
        matching = [
            (said.revision, name, sequence)
            for name, known in self.rooms.items()
            if room in {None, name}
            for sequence, said in known.messages.items()
            if re.search(word, said.text, re.IGNORECASE) and not (leave_out and "there" in said.text)
        ]
        found = self.feeder.ask(Search(f"{word} -there" if leave_out else word, room)).items
        expected = [(name, sequence) for _, name, sequence in sorted(matching, reverse=True)][:20]
        assert [(each.room, each.sequence) for each in found] == expected

    @invariant()
    def both_say_the_same(self) -> None:
        self.feeder.machine.check()
        assert self.feeder.machine.revision == self.revision
        listed = {item.room: item for item in self.feeder.ask(chat.Rooms()).items}
        assert listed.keys() == self.rooms.keys()
        for name, known in self.rooms.items():
            history = self.feeder.ask(History(name))
            assert listed[name].archived == known.archived
            assert (listed[name].first, listed[name].last) == (history.first, history.last)
            assert (history.first, history.last) == (known.last - len(known.messages) + 1, known.last)
            assert [
                (each.sequence, each.sender, each.text, each.reply_to, each.edited_at is not None)
                for each in history.items
            ] == [
                (sequence, said.sender, said.text, said.reply_to, said.edited)
                for sequence, said in known.messages.items()
            ]
            markers = self.feeder.ask(chat.Markers(name)).items
            assert {each.reader: each.sequence for each in markers} == known.markers


ChatModel.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
test_chat_follows_the_model = ChatModel.TestCase
