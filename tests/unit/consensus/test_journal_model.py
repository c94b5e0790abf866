"""The journal against a plain list, with power cuts anywhere: what was synced is there, in order.

The list keeps what the journal may forget: `trim` changes only where the journal may begin.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftos.consensus.journal import MARK, Entry, Journal, Mark, Write
from raftos.consensus.journal.records import record_bytes
from tests.unit.consensus.forgetful import ForgetfulStorage, PowerCut, from_image
from tests.unit.consensus.journals import OLD_ENTRIES, OLD_HARD_STATE, old_image, open_journal

MARKED = bytes([MARK])

payloads = st.one_of(
    st.binary(max_size=60), st.integers(0, 200).map(bytes), st.binary(max_size=20).map(MARKED.__add__)
)


class View(NamedTuple):
    """All that the journal has to know, had it forgotten nothing since the newest snapshot."""

    base: int
    base_term: int
    base_mark: Mark | None
    entries: tuple[Entry, ...]
    term: int
    vote: str | None

    @property
    def last_index(self) -> int:
        return self.base + len(self.entries)

    def term_at(self, index: int) -> int:
        return self.entries[index - self.base - 1].term if index > self.base else self.base_term

    def mark_at(self, index: int) -> Mark | None:
        marks = [
            Mark(entry.index, entry.payload)
            for entry in self.entries
            if entry.index <= index and entry.payload.startswith(MARKED)
        ]
        return marks[-1] if marks else self.base_mark

    def cut(self, index: int) -> View:
        """Without the entry `index` and everything after it."""
        return self._replace(entries=self.entries[: index - self.base - 1])


EMPTY = View(0, 0, None, (), 0, None)


def agrees(journal: Journal, view: View) -> bool:
    """Whether the journal is the view, but for a forgotten head."""
    first = journal.first_index
    if first <= view.base or first > view.last_index + 1:
        return False
    edges = (first - 1, view.last_index)
    return (
        tuple(journal.entries(1)) == view.entries[first - view.base - 1 :]
        and (journal.last_index, journal.last_term) == (view.last_index, view.term_at(view.last_index))
        and journal.previous_term == journal.term_at(first - 1) == view.term_at(first - 1)
        and (journal.term, journal.vote) == (view.term, view.vote)
        and journal.mark == view.mark_at(view.last_index)
        and all(journal.mark_at(index) == view.mark_at(index) for index in range(edges[0], edges[1] + 1))
    )


class JournalAgainstList(RuleBasedStateMachine):
    """`views[p]` is what the journal has to hold at position `p`."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = ForgetfulStorage()
        self.covered = 0
        """The newest index that a snapshot covers: trimmed up to there at most."""
        self.removals: list[str] = []
        self.views = [EMPTY]
        self.reopen()

    def reopen(self) -> None:
        self.journal = open_journal(self.storage, segment_bytes=400, cache_bytes=300)
        self.outstanding: Write | None = None
        self.removals = []

    @initialize(is_old=st.booleans())
    def begin(self, is_old: bool) -> None:
        if is_old:
            self.storage = from_image(old_image())
            self.views = [EMPTY._replace(entries=tuple(OLD_ENTRIES), term=3, vote="member-2")]
            assert self.views[0][-2:] == OLD_HARD_STATE
            self.reopen()

    @rule(payload=payloads, more=st.integers(0, 2))
    def append(self, payload: bytes, more: int) -> None:
        view = self.views[-1]
        entry = Entry(payload, view.last_index + 1, self.journal.last_term + more)
        self.journal.append(*entry)
        self.views.append(view._replace(entries=(*view.entries, entry)))

    @precondition(lambda self: self.journal.last_index >= self.journal.first_index)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.journal.first_index, self.journal.last_index))
        self.journal.truncate_from(index)
        self.covered = min(self.covered, index - 1)
        self.views.append(self.views[-1].cut(index))

    @rule(more=st.integers(1, 3), vote=st.sampled_from([None, "member-1", "member-2"]))
    def set_hard_state(self, more: int, vote: str | None) -> None:
        view = self.views[-1]
        self.journal.set_hard_state(view.term + more, vote)
        self.views.append(view._replace(term=view.term + more, vote=vote))

    @rule(
        data=st.data(), more=st.integers(0, 2), payload=st.none() | st.binary(max_size=20).map(MARKED.__add__)
    )
    def install(self, data: st.DataObject, more: int, payload: bytes | None) -> None:
        view, journal = self.views[-1], self.journal
        index = data.draw(st.integers(max(journal.first_index - 1, 1), journal.last_index + 4))
        term = journal.last_term + more
        matches = index <= view.last_index and view.term_at(index) == term
        journal.install(index, term, payload)
        if not matches:
            mark = Mark(index, payload) if payload else None
            self.views.append(View(index, term, mark, (), view.term, view.vote))
            self.covered = index

    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, self.journal.synced_index))
        before = self.journal.first_index
        first_index = self.journal.trim(index)
        assert before <= first_index <= max(before, index + 1)
        self.covered = max(self.covered, index)
        self.removals += self.journal.take_removals()

    @rule()
    def remove(self) -> None:
        self.journal.writer.remove(self.removals)
        self.removals = []

    @precondition(lambda self: self.outstanding is None)
    @rule()
    def take(self) -> None:
        self.outstanding = self.journal.take()
        assert (self.outstanding is None) == (self.journal.synced_position == self.journal.position)

    @precondition(lambda self: self.outstanding is not None)
    @rule()
    def write_and_finish(self) -> None:
        assert self.outstanding is not None
        self.journal.writer.write(self.outstanding)
        self.journal.finish(self.outstanding)
        assert self.journal.synced_position == self.outstanding.position
        self.outstanding = None

    @rule(
        seed=st.integers(0, 1 << 32),
        cut_after=st.integers(0, 7),
        is_removed_first=st.booleans(),
        twice=st.booleans(),
        only_killed=st.booleans(),
    )
    def cut_the_power(
        self, seed: int, cut_after: int, is_removed_first: bool, twice: bool, only_killed: bool
    ) -> None:
        choice = random.Random(seed)
        synced = self.journal.synced_position
        allowed = self.views[synced : (self.outstanding.position if self.outstanding else synced) + 1]
        self.storage.cut_after = cut_after
        try:
            if is_removed_first:
                self.journal.writer.remove(self.removals)
            if self.outstanding is not None:
                self.journal.writer.write(self.outstanding)
                allowed = allowed[-1:]
            self.journal.writer.remove(self.removals)
        except PowerCut:
            pass
        if not only_killed:
            self.storage = self.storage.power_cut(choice)
        self.recover(choice, cut_after if twice else None)
        recovered = [view for view in allowed if agrees(self.journal, view)]
        assert recovered
        self.views = recovered[:1]
        self.covered = max(self.covered, self.views[0].base)
        self.storage = self.storage.power_cut(choice)
        self.reopen()
        assert agrees(self.journal, recovered[0]), "what an open journal holds is durable"

    def recover(self, choice: random.Random, cut_after: int | None) -> None:
        """Open what is left, and once more if the power fails meanwhile."""
        self.storage.cut_after = cut_after
        try:
            self.reopen()
        except PowerCut:
            self.storage = self.storage.power_cut(choice)
            self.reopen()
        self.storage.cut_after = None

    @invariant()
    def the_journal_is_the_list(self) -> None:
        assert agrees(self.journal, self.views[-1])
        assert self.journal.position == len(self.views) - 1

    @invariant()
    def only_what_a_snapshot_covers_is_forgotten(self) -> None:
        assert self.journal.first_index <= max(self.covered, self.views[-1].base) + 1

    @invariant()
    def synced_entries_are_a_common_prefix(self) -> None:
        journal, now, synced = self.journal, self.views[-1], self.views[self.journal.synced_position]
        assert (journal.synced_term, journal.synced_vote) == (synced.term, synced.vote)
        if synced[:2] == now[:2]:
            count = journal.synced_index - now.base
            assert count >= 0
            assert synced.entries[:count] == now.entries[:count]
        else:
            assert journal.synced_index < now.base

    @invariant()
    def bytes_are_those_of_the_entries(self) -> None:
        journal = self.journal
        sizes = [record_bytes(len(entry.payload)) for entry in journal.entries(1)]
        first = journal.first_index - 1
        since = [sum(sizes[count:]) for count in range(len(sizes) + 1)]
        assert [journal.bytes_since(first + count) for count in range(len(sizes) + 1)] == since
        for tail_bytes in (0, 1, 300):
            fitting = [first + count for count, size_bytes in enumerate(since) if size_bytes >= tail_bytes]
            assert journal.index_before_bytes(tail_bytes) == (fitting or [first])[-1]

    @invariant()
    def the_size_is_that_of_the_files(self) -> None:
        if self.journal.synced_position == self.journal.position:
            contents = [data for name, data in self.storage.image().items() if name not in self.removals]
            assert self.journal.size_bytes == sum(len(content.rstrip(b"\0")) for content in contents)


TestJournalAgainstList = JournalAgainstList.TestCase
TestJournalAgainstList.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    # A machine's state is its point; hypothesis calls large ones slow on a busy test machine.
    suppress_health_check=[HealthCheck.too_slow],
)
