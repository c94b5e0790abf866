"""The guard's rules, case by case."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftos.consensus.configuration import CONFIGURATION, Configuration, encode
from raftos.consensus.guard import (
    Admitted,
    Rules,
    SafetyViolation,
    acknowledgement_counts,
    admit_append,
    durable_part,
    well_formed,
)
from raftos.consensus.messages import Acknowledged, Append
from tests.unit.consensus.wire import Wire

TERM = 9
COMMAND = b"\x00command"
WITNESS = bytes((CONFIGURATION,)) + msgspec.msgpack.encode([[["d", "h:1", "witness"]], []])
Entries = list[tuple[bytes, int, int]]


class Log:
    """The terms of the entries 1, 2, ..."""

    def __init__(self, *terms: int, first_index: int = 1) -> None:
        self.terms = terms
        self.first_index = first_index

    @property
    def last_index(self) -> int:
        return len(self.terms)

    def term_at(self, index: int) -> int | None:
        return self.terms[index - 1] if max(1, self.first_index - 1) <= index <= len(self.terms) else None


def entries(after: int, *terms: int) -> Entries:
    return [(COMMAND, after + number, term) for number, term in enumerate(terms, 1)]


def append(after: int, after_term: int, *terms: int, commit: int = 0) -> Append:
    return Append(TERM, commit, after, after_term, entries(after, *terms))


HELD = Log(0, 1, 1, 2, 2)

ADMITTED = [
    pytest.param(append(5, 2, 3, 3), Admitted(append(5, 2, 3, 3)), id="what follows the log passes"),
    pytest.param(
        append(3, 1, 2, 2, 3),
        Admitted(append(5, 2, 3)),
        id="the held beginning is cut off, the rest passes",
    ),
    pytest.param(
        append(2, 1, 1, 2, 2),
        Admitted(append(5, 2)),
        id="all is held and the log ends there: a heartbeat at its end",
    ),
    pytest.param(
        append(2, 1, 1),
        Admitted(append(5, 2), acknowledge_to=3),
        id="all is held and more follows: only what was in the message is acknowledged",
    ),
    pytest.param(
        append(2, 1, 1, commit=5),
        Admitted(append(5, 2, commit=3), acknowledge_to=3),
        id="the commit index moves only as far as the message reaches",
    ),
    pytest.param(
        append(5, 2, commit=9),
        Admitted(append(5, 2, commit=9)),
        id="a heartbeat at the end passes with its commit index",
    ),
    pytest.param(
        append(3, 1, commit=5),
        Admitted(append(5, 2, commit=3), acknowledge_to=3),
        id="a heartbeat from the middle truncates nothing",
    ),
    pytest.param(
        append(3, 1, 4, 4), Admitted(append(3, 1, 4, 4)), id="a conflict above the commit index passes"
    ),
    pytest.param(
        append(2, 1, 1, 4),
        Admitted(append(3, 1, 4)),
        id="a conflict behind a held beginning begins at the conflict",
    ),
    pytest.param(
        append(7, 2, 3), Admitted(append(7, 2, 3)), id="a gap passes: the engine asks for what is missing"
    ),
    pytest.param(
        append(5, 1, 3), Admitted(append(5, 1, 3)), id="another entry before it passes: the engine rejects it"
    ),
]


@pytest.mark.parametrize(("message", "admitted"), ADMITTED)
def test_an_append_is_admitted_as_far_as_it_is_news(message: Append, admitted: Admitted) -> None:
    assert admit_append(HELD, 3, message, Rules()) == admitted


TRIMMED = Log(0, 1, 1, 2, 2, first_index=4)

ADMITTED_ABOVE_THE_BASE = [
    pytest.param(
        append(1, 0, 1, commit=5),
        Admitted(append(5, 2, commit=2), acknowledge_to=2),
        id="all of it is agreed on here already: what was in the message is acknowledged",
    ),
    pytest.param(
        append(1, 0), Admitted(append(5, 2), acknowledge_to=1), id="a heartbeat from the very beginning"
    ),
    pytest.param(
        append(1, 0, 1, 1, 2, 2, 3), Admitted(append(5, 2, 3)), id="what is agreed on and held is cut off"
    ),
    pytest.param(
        append(3, 1, 2), Admitted(append(5, 2), acknowledge_to=4), id="what begins at the base is as usual"
    ),
]


@pytest.mark.parametrize(("message", "admitted"), ADMITTED_ABOVE_THE_BASE)
def test_what_lies_before_a_trimmed_log_is_held(message: Append, admitted: Admitted) -> None:
    assert admit_append(TRIMMED, 3, message, Rules()) == admitted


def test_a_leader_that_has_another_entry_where_a_snapshot_ends_breaks_a_promise() -> None:
    with pytest.raises(SafetyViolation):
        admit_append(TRIMMED, 3, append(1, 0, 1, 2, 2), Rules())


@pytest.mark.parametrize("message", [append(1, 0, 7), append(2, 1, 7), append(1, 0, 1, 7)])
def test_an_append_that_replaces_a_committed_entry_is_a_broken_promise(message: Append) -> None:
    with pytest.raises(SafetyViolation):
        admit_append(HELD, 3, message, Rules())


def test_without_its_rule_an_append_passes_as_it_is() -> None:
    message = append(2, 1, 1)
    assert admit_append(HELD, 3, message, replace(Rules(), trim_held=False)) == Admitted(message)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_admitted_never_truncates_a_matching_entry_and_never_acknowledges_more_than_was_sent(
    data: st.DataObject,
) -> None:
    """Of two logs with a common beginning, the leader's is sent from some index on, in part."""
    terms = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(sorted)
    mine, theirs = data.draw(terms), data.draw(terms)
    common = 0
    while common < min(len(mine), len(theirs)) and mine[common] == theirs[common]:
        common += 1
    prev = data.draw(st.integers(1, len(theirs)))
    last = data.draw(st.integers(prev, len(theirs)))
    commit = data.draw(st.integers(0, last))
    message = Append(TERM, commit, prev, theirs[prev - 1], entries(prev, *theirs[prev:last]))
    if prev > common:
        return
    admitted = admit_append(Log(*mine), 0, message, Rules())
    passed = admitted.append
    assert passed.prev_index >= min(common, last) or passed.prev_index == len(mine)
    end = passed.prev_index + len(passed.entries)
    acknowledged = end if admitted.acknowledge_to is None else admitted.acknowledge_to
    assert acknowledged == last
    assert min(passed.commit_index, end) <= last


MALFORMED = [
    pytest.param(Append(TERM, 0, 0, 0, []), id="before the first entry"),
    pytest.param(Append(TERM, -1, 1, 0, []), id="a negative commit index"),
    pytest.param(Append(TERM, 0, 5, 2, entries(6, 3)), id="a gap before the first entry"),
    pytest.param(Append(TERM, 0, 5, 2, [*entries(5, 3), *entries(7, 3)]), id="a gap between entries"),
    pytest.param(append(5, 3, 2), id="a term that goes back"),
    pytest.param(append(5, 2, 4, 3), id="a term that goes back between entries"),
    pytest.param(append(5, 2, TERM + 1), id="a term above the leader's"),
    pytest.param(Append(TERM, 0, 5, 2, [(b"", 6, 3)]), id="an empty command"),
    pytest.param(Append(TERM, 0, 5, 2, [(b"\x02add", 6, 3)]), id="PySyncObj's membership command"),
    pytest.param(Append(TERM, 0, 5, 2, [(b"\x03ver", 6, 3)]), id="PySyncObj's version command"),
    pytest.param(Append(TERM, 0, 5, 2, [(b"\x10garbage", 6, 3)]), id="a configuration that is none"),
    pytest.param(Append(TERM, 0, 5, 2, [(WITNESS, 6, 3)]), id="a standing of a later version"),
    pytest.param(Append(TERM, 0, 5, 2, [(b"\x10\x92\x91\x93\xa1\xff", 6, 3)]), id="an id that is no text"),
]


@pytest.mark.parametrize("message", MALFORMED)
def test_a_malformed_append_is_known(message: Append) -> None:
    assert not well_formed(message)


def test_a_plain_append_and_a_heartbeat_are_well_formed() -> None:
    assert well_formed(append(5, 2, 2, 3, TERM))
    assert well_formed(Append(TERM, 5, 5, 2, []))
    assert well_formed(Append(TERM, 5, 5, 2, [(b"\x01", 6, TERM)]))
    assert well_formed(Append(TERM, 5, 5, 2, [(encode(Configuration.of("abc")), 6, TERM)]))


def test_a_malformed_append_reaches_neither_engine_nor_log() -> None:
    wire = Wire()
    wire.elect("a")
    core, journal = wire["b"].core, wire.members["b"].journal
    last, term = journal.last_index, core.term
    wire["b"].received(
        wire.now, "a", core.links["a"], Append(term, 0, last, term, [(b"\x02add", last + 1, term)])
    )
    wire.step("b")
    assert journal.last_index == last
    assert not wire.frames


def test_a_configuration_that_cannot_be_read_is_not_taken_for_the_one_in_force() -> None:
    """However often it is looked at, and wherever it came from."""
    wire = Wire()
    wire.elect("a")
    core, journal = wire["b"].core, wire.members["b"].journal
    journal.append(WITNESS, journal.last_index + 1, core.term)
    for _ in range(2):
        with pytest.raises(msgspec.ValidationError):
            core.adopt()
    assert core.configuration_index == 0


@pytest.mark.parametrize(
    ("acknowledged", "counts"),
    [
        (Acknowledged(TERM, 11, success=True, reset=False), True),
        (Acknowledged(TERM, 2, success=False, reset=True), True),
        (Acknowledged(TERM - 1, 11, success=True, reset=False), False),
        (Acknowledged(TERM + 1, 11, success=True, reset=False), False),
        (Acknowledged(TERM, 12, success=True, reset=False), False),
        (Acknowledged(TERM, 12, success=False, reset=True), False),
    ],
)
def test_an_acknowledgement_counts_in_its_own_term_and_for_entries_the_leader_has(
    acknowledged: Acknowledged, counts: bool
) -> None:
    assert acknowledgement_counts(TERM, 10, acknowledged, Rules()) == counts


@pytest.mark.parametrize(
    ("next_index", "success", "part", "more"),
    [
        (8, True, 8, False),
        (9, True, 9, False),
        (10, True, 9, True),
        (11, True, 9, True),
        (11, False, 11, False),
    ],
)
def test_a_success_counts_as_far_as_the_leaders_own_disk_and_the_rest_waits(
    next_index: int, success: bool, part: int, more: bool
) -> None:
    acknowledged = Acknowledged(TERM, next_index, success, reset=False)
    assert durable_part(acknowledged, 8, Rules()) == (Acknowledged(TERM, part, success, reset=False), more)


def test_an_acknowledgement_of_entries_the_leader_does_not_have_changes_nothing() -> None:
    """PySyncObj would look for the entry before the next one, and fail in every turn from then on."""
    wire = Wire()
    wire.elect("a")
    core = wire["a"].core
    for success in (True, False):
        wire["a"].received(
            wire.now, "b", core.links["b"], Acknowledged(core.term, 1000, success, not success)
        )
        wire.step("a")
    wire.pass_time(0.3)
    token = wire.propose("a", "x")
    wire.deliver()
    assert token in wire.ended
