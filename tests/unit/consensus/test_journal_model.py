"""The journal against a plain list, with power cuts anywhere: what was synced is there, in order."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raftos.consensus.journal import Entry, Identity, Journal, Write
from tests.unit.consensus.forgetful import ForgetfulStorage, PowerCut

IDENTITY = Identity("cluster-1", "member-1")

View = tuple[tuple[Entry, ...], int, str | None]

payloads = st.one_of(st.binary(max_size=60), st.integers(0, 200).map(bytes))


class JournalAgainstList(RuleBasedStateMachine):
    """`views[p]` is what the journal has to hold at position `p`."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = ForgetfulStorage()
        self.outstanding: Write | None = None
        self.reopen()

    def reopen(self) -> None:
        self.journal = Journal.open(self.storage, IDENTITY, segment_bytes=400, cache_bytes=300)
        self.outstanding = None
        self.views = [self.view()]

    def view(self) -> View:
        return tuple(self.journal.entries(1)), self.journal.term, self.journal.vote

    def mutated(self, entries: tuple[Entry, ...], term: int, vote: str | None) -> None:
        self.views.append((entries, term, vote))

    @rule(payload=payloads, term=st.integers(0, 2))
    def append(self, payload: bytes, term: int) -> None:
        entries, hard_term, vote = self.views[-1]
        entry = Entry(payload, len(entries) + 1, self.journal.last_term + term)
        self.journal.append(*entry)
        self.mutated((*entries, entry), hard_term, vote)

    @precondition(lambda self: self.journal.last_index > 0)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        entries, term, vote = self.views[-1]
        index = data.draw(st.integers(1, len(entries)))
        self.journal.truncate_from(index)
        self.mutated(entries[: index - 1], term, vote)

    @rule(more=st.integers(1, 3), vote=st.sampled_from([None, "member-1", "member-2"]))
    def set_hard_state(self, more: int, vote: str | None) -> None:
        entries, term, _ = self.views[-1]
        self.journal.set_hard_state(term + more, vote)
        self.mutated(entries, term + more, vote)

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
        cut_after=st.integers(0, 5),
        twice=st.booleans(),
        only_killed=st.booleans(),
    )
    def cut_the_power(self, seed: int, cut_after: int, twice: bool, only_killed: bool) -> None:
        choice = random.Random(seed)
        allowed = self.views[self.journal.synced_position : self.journal.synced_position + 1]
        self.storage.cut_after = cut_after
        if self.outstanding is not None:
            allowed = self.views[self.journal.synced_position : self.outstanding.position + 1]
            try:
                self.journal.writer.write(self.outstanding)
                allowed = allowed[-1:]
            except PowerCut:
                pass
        if not only_killed:
            self.storage = self.storage.power_cut(choice)
        self.recover(choice, cut_after if twice else None)
        recovered = self.views[0]
        assert recovered in allowed
        self.storage = self.storage.power_cut(choice)
        self.reopen()
        assert self.views[0] == recovered, "what an open journal holds is durable"

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
        assert self.view() == self.views[-1]
        assert self.journal.last_index == len(self.views[-1][0])
        assert self.journal.position == len(self.views) - 1

    @invariant()
    def synced_entries_are_a_common_prefix(self) -> None:
        synced = self.views[self.journal.synced_position]
        index = self.journal.synced_index
        assert synced[0][:index] == self.views[-1][0][:index]
        assert (self.journal.synced_term, self.journal.synced_vote) == synced[1:]


TestJournalAgainstList = JournalAgainstList.TestCase
TestJournalAgainstList.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    # A machine's state is its point; hypothesis calls large ones slow on a busy test machine.
    suppress_health_check=[HealthCheck.too_slow],
)
