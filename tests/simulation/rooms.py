"""The rules of chat rooms once more, in plain lists, and the agreed log and all members held against them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from raftos.state.command import Command, Rejected
from raftos.state.domains import chat
from raftos.state.domains.chat import Archive, Create, Edit, History, Mark, Post, Redact, Search, Trim
from raftos.state.reader import Reader
from tests.simulation.history import Violation
from tests.simulation.ledger import Ledger
from tests.simulation.replay import Done, Replay


@dataclass
class Said:
    """One message. Its text is empty once it is redacted."""

    post: Post
    sent_ms: int
    text: str
    edited_ms: int | None = None


@dataclass
class Room:
    """A room with all messages it ever had; those before `first` are forgotten."""

    create: Create
    said: list[Said] = field(default_factory=list)
    first: int = 1
    archived: bool = False
    read: dict[str, int] = field(default_factory=dict)

    def message(self, sequence: int) -> Said | None:
        return self.said[sequence - 1] if self.first <= sequence <= len(self.said) else None

    def is_wanted(self, sequence: int, now_ms: int) -> bool:
        keep_messages, keep_ms = self.create.keep_messages, self.create.keep_ms
        too_many = keep_messages is not None and len(self.said) - sequence >= keep_messages
        too_old = keep_ms is not None and self.said[sequence - 1].sent_ms <= now_ms - keep_ms
        return not too_many and not too_old


Outcome = dict[str, Any] | str
"""What a command is answered, or the code of its refusal."""


class Rooms:
    """All rooms, and how each command ends in them."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self._rules: dict[type[Command], Callable[[Any, Done], Outcome]] = {
            Create: self._create,
            Archive: self._archive,
            Post: self._post,
            Edit: self._edit,
            Redact: self._redact,
            Mark: self._mark,
            Trim: self._trim,
        }

    def check(self, done: Done) -> None:
        """Apply a command; it has to have ended as it does here."""
        rule = self._rules.get(type(done.command))
        if rule is None:
            return
        is_there = isinstance(done.command, Create) or done.command.room in self.rooms  # type: ignore[attr-defined]
        expected = rule(done.command, done) if is_there else "not_found"
        found = done.result.code if isinstance(done.result, Rejected) else done.value
        if found != expected:
            raise Violation(f"in a chat room {done} should have ended as {expected}")

    def _create(self, create: Create, done: Done) -> Outcome:
        if create.room in self.rooms:
            return "conflict"
        self.rooms[create.room] = Room(create)
        return {"room": create.room, "revision": done.revision}

    def _archive(self, archive: Archive, done: Done) -> Outcome:
        room = self.rooms[archive.room]
        if room.archived:
            return "conflict"
        room.archived = True
        return {"room": archive.room, "revision": done.revision}

    def _post(self, post: Post, done: Done) -> Outcome:
        room = self.rooms[post.room]
        if room.archived:
            return "conflict"
        if (post.reply_to or 0) > len(room.said):
            return "not_found"
        room.said.append(Said(post, done.time_ms, post.text))
        return {"room": post.room, "sequence": len(room.said), "revision": done.revision}

    def _edit(self, edit: Edit, done: Done) -> Outcome:
        room = self.rooms[edit.room]
        message = room.message(edit.sequence)
        if message is None:
            return "not_found"
        if message.post.sender != edit.sender:
            return "denied"
        if not message.text or room.archived:
            return "conflict"
        message.text, message.edited_ms = edit.text, done.time_ms
        return {"room": edit.room, "sequence": edit.sequence, "revision": done.revision}

    def _redact(self, redact: Redact, done: Done) -> Outcome:
        message = self.rooms[redact.room].message(redact.sequence)
        if message is None:
            return "not_found"
        if message.post.sender != redact.sender:
            return "denied"
        message.text = ""
        return {"room": redact.room, "sequence": redact.sequence, "revision": done.revision}

    def _mark(self, mark: Mark, _: Done) -> Outcome:
        room = self.rooms[mark.room]
        if mark.sequence > len(room.said):
            return "not_found"
        room.read[mark.reader] = max(mark.sequence, room.read.get(mark.reader, 0))
        return {"room": mark.room, "reader": mark.reader, "sequence": room.read[mark.reader]}

    def _trim(self, trim: Trim, done: Done) -> Outcome:
        room, before = self.rooms[trim.room], self.rooms[trim.room].first
        while room.first < min(trim.before_sequence, len(room.said) + 1):
            if room.is_wanted(room.first, done.time_ms):
                break
            room.first += 1
        if room.first == before:
            return "conflict"
        return {"room": trim.room, "trimmed": room.first - before, "first": room.first}


def check_chat(replay: Replay, ledger: Ledger, readers: list[Reader]) -> None:
    """Raise a Violation where the rooms are not what was promised."""
    _check_once(replay)
    _check_posted(replay, ledger)
    rooms = Rooms()
    for done in replay.done.values():
        rooms.check(done)
    for reader in readers:
        for name, room in rooms.rooms.items():
            _check_history(reader, name, room)
    _check_search(readers[0], rooms)


def _check_once(replay: Replay) -> None:
    """No text is asked for twice, so none may be there twice."""
    posted = [
        done.command.text for done in replay.done.values() if isinstance(done.command, Post) and done.value
    ]
    if len(set(posted)) != len(posted):
        raise Violation("a message was posted twice")


def _check_posted(replay: Replay, ledger: Ledger) -> None:
    """The events of a room count its messages from 1, without a gap, each in the revision of its post."""
    last: dict[str, int] = {}
    for event in ledger.events:
        if event.type == "chat.posted":
            room, sequence = event.fields["room"], event.fields["sequence"]
            if sequence != last.get(room, 0) + 1:
                raise Violation(f"the sequences of {room} have a gap: {last.get(room, 0)}, then {sequence}")
            last[room] = sequence
    posts = sum(isinstance(done.command, Post) and done.value is not None for done in replay.done.values())
    if posts != sum(last.values()):
        raise Violation(f"{posts} posts succeeded, but {sum(last.values())} were told")


def _check_history(reader: Reader, name: str, room: Room) -> None:
    """A member holds exactly what the rules leave."""
    found = reader.query(History(name, limit=1_000))
    expected = [
        chat.Message(
            sequence,
            said.post.sender,
            said.text,
            _shown(said.sent_ms),
            said.post.reply_to,
            None if said.edited_ms is None else _shown(said.edited_ms),
            not said.text,
        )
        for sequence, said in enumerate(room.said[room.first - 1 :], room.first)
    ]
    if (found.items, found.first, found.last) != (expected, room.first, len(room.said)):
        raise Violation(
            f"a member's history of {name} is not what its rules leave: {found.items}, not {expected}"
        )


def _shown(time_ms: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _check_search(reader: Reader, rooms: Rooms) -> None:
    """Searching finds a message by its present text, if it is kept, and by no other."""
    for name, room in rooms.rooms.items():
        for sequence, said in list(enumerate(room.said, 1))[-20::4]:
            there = [sequence] if room.message(sequence) is said and said.text == said.post.text else []
            found = reader.query(Search(said.post.text.split()[0], room=name))
            if [message.sequence for message in found.items] != there:
                raise Violation(f"searching {name} for {said.post.text!r} finds {found.items}, not {there}")
