"""PySyncObj behind its door: the seams exist, and what comes through them is what we mean."""

from __future__ import annotations

from typing import Any

import pysyncobj.pickle
import pysyncobj.syncobj
import pytest

from raftos.consensus.engine import APPEND_BYTES, MAX_APPEND_ENTRIES, MODULE_NAMES, PRIVATE_NAMES, Engine
from raftos.consensus.messages import Append, VoteGranted
from raftos.consensus.proposals import MAX_PROPOSAL_BYTES
from raftos.errors import TooLarge
from tests.unit.consensus.wire import Wire, request


def engine_of(wire: Wire, name: str) -> Any:
    return wire[name].core.engine


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_every_private_name_we_use_exists_in_pysyncobj(name: str) -> None:
    """The version is pinned; this is what tells a new one apart."""
    plain = pysyncobj.SyncObj.__init__.__code__
    is_method = hasattr(pysyncobj.SyncObj, name)
    assert is_method or name in plain.co_names


@pytest.mark.parametrize("name", MODULE_NAMES)
def test_every_name_we_replace_exists_in_pysyncobjs_module(name: str) -> None:
    assert hasattr(pysyncobj.syncobj, name)


@pytest.mark.parametrize("name", ["Serializer", "pickle", "monotonicTime", "random", "PIPE_NOTIFIER_ENABLED"])
def test_every_seam_is_ours_in_effect(name: str) -> None:
    """It is looked up where it is used, so that replacing it in the module is enough."""
    original = {
        "Serializer": pysyncobj.serializer.Serializer,
        "pickle": pysyncobj.pickle,
        "monotonicTime": pysyncobj.monotonic.monotonic,
        "random": __import__("random"),
        "PIPE_NOTIFIER_ENABLED": True,
    }[name]
    assert getattr(pysyncobj.syncobj, name) is not original


def test_what_pysyncobj_calls_pickle_takes_no_pickle_apart() -> None:
    """The bytes are those of a pickle that calls os.system("exit 1")."""
    ours = pysyncobj.syncobj.pickle
    assert ours is not pysyncobj.pickle
    poison = b"cos\nsystem\n(S'exit 1'\ntR."
    assert ours.loads(poison) == (0, (poison,))
    assert ours.dumps((0, (poison,))) == poison


def test_there_is_one_replicated_method_and_it_does_nothing() -> None:
    """Methods are numbered by sorted position: a second one would give the log another meaning."""
    wire = Wire(1)
    assert engine_of(wire, "a")._methodToID == {"hand_over_v0": 0}


def test_an_engine_never_campaigns_by_itself() -> None:
    """Its election deadline never comes, whatever it is told and however long it waits."""
    wire = Wire()
    wire.elect("a")
    term = wire["b"].core.term
    for name in "bc":
        engine: Engine = wire[name].core.engine
        for seconds in range(1, 100):
            engine.tick(wire.now + seconds)
        assert not engine.is_candidate
        assert engine.term == term


def test_an_engine_campaigns_when_it_is_told_to() -> None:
    wire = Wire()
    engine = engine_of(wire, "b")
    engine.campaign(wire.now)
    assert engine.is_candidate
    assert engine.term == 1


def test_an_observed_term_is_adopted_without_a_vote() -> None:
    wire = Wire()
    wire.elect("a")
    engine = engine_of(wire, "a")
    engine.observe_term(wire.now, 7)
    assert (engine.term, engine.is_leader, engine.leader) == (7, False, None)
    assert wire.members["a"].journal.vote is None


def test_a_calm_cluster_under_load_sends_no_entry_twice() -> None:
    """Acknowledgements of earlier entries arrive while later ones are under way (finding 1)."""
    wire = Wire()
    wire.elect("a")
    wire.delivered.clear()
    for number in range(200):
        wire.propose("a", str(number))
        wire.propose("b", str(number))
        for frame in wire.frames[: number % 5]:
            wire.frames.remove(frame)
            wire.give(frame)
        if number % 7 == 0:
            wire.pass_time(0.025)
    wire.pass_time(0.3)
    sent = [
        (frame.receiver, index)
        for frame in wire.delivered
        if isinstance(frame.message, Append)
        for _, index, _ in frame.message.entries
    ]
    assert len(sent) > 2 * 50
    assert len(sent) == len(set(sent))


def test_an_engine_starts_where_its_machine_is_and_not_at_the_beginning_of_the_log() -> None:
    wire = Wire()
    wire.elect("a")
    for number in range(5):
        wire.propose("a", str(number))
        wire.deliver()
    wire.pass_time(0.2)
    wire.restart("b")
    assert wire["b"].core.engine.commit_index == wire.members["b"].applied_index
    assert wire["b"].core.engine.raftLastApplied == wire.members["b"].applied_index


def test_entries_of_the_greatest_size_are_agreed_and_replaced() -> None:
    """A follower has to see the entry that conflicts behind one of the greatest size."""
    size = MAX_PROPOSAL_BYTES - 5
    wire = Wire()
    wire.elect("a")
    assert len(request("1" * size)) == MAX_PROPOSAL_BYTES
    first = wire.propose("a", "1" * size)
    wire.pass_time(0.3)
    assert first in wire.ended
    wire.isolate("a")
    wire.propose("a", "2" * size)
    wire.pass_time(2.5)
    (new,) = set(wire.leaders()) - {"a"}
    other = wire.propose(new, "3" * size)
    wire.pass_time(0.1)
    assert other in wire.ended
    for name in "bc":
        wire.unlink("a", name)
    wire.heal()
    for name in "bc":
        wire.link("a", name)
    wire.pass_time(1)
    wanted = [request(digit * size) for digit in "132"]
    assert [member.requests for member in wire.members.values()] == [wanted] * 3


def test_what_would_not_fit_into_one_entry_is_refused_before_it_reaches_the_log() -> None:
    wire = Wire()
    wire.elect("a")
    before = wire.members["a"].journal.last_index
    token = wire.propose("a", "x" * (MAX_PROPOSAL_BYTES - 4))
    assert isinstance(wire.ended[token], TooLarge)
    assert wire.members["a"].journal.last_index == before


@pytest.mark.parametrize("size", [3, 5, 7])
def test_a_new_leader_is_heard_at_every_heartbeat_however_many_follow_it(size: int) -> None:
    """Its disk hangs, so that no commit makes it send; only heartbeats keep the others from voting."""
    wire = Wire(size)
    wire["a"].elections.lost_leader()
    wire.tick("a", after_s=0.025)
    wire.deliver(lambda frame: not isinstance(frame.message, VoteGranted))
    wire.members["a"].disk_stuck = True
    wire.deliver()
    assert wire.leaders() == ["a"]
    for _ in range(3):
        wire.delivered.clear()
        wire.pass_time(0.15)
        heard = {frame.receiver for frame in wire.delivered if isinstance(frame.message, Append)}
        assert heard == set(wire.names) - {"a"}


def test_no_look_at_the_log_reads_more_than_one_append_of_it() -> None:
    """A member may learn at once that a gigabyte of its log is committed."""
    wire = Wire(1)
    wire.until(lambda: bool(wire.leaders()))
    for number in range(12):
        wire.propose("a", str(number) * 2**20)
    log = engine_of(wire, "a")._SyncObj__raftLog
    for seen in (log[0:], log[0:100], log[3:9]):
        assert 0 < sum(len(entry[0]) for entry in seen) <= APPEND_BYTES + 1


def test_a_look_at_a_range_of_the_log_reads_nothing_and_knows_the_terms() -> None:
    """PySyncObj counts acknowledgements by the terms, and what it applies does nothing."""
    wire = Wire()
    wire.elect("a")
    wire.propose("a", "x" * 10_000)
    log = engine_of(wire, "a")._SyncObj__raftLog
    assert log[0:3] == [(b"\x01", 1, 0), (b"\x01", 2, 1), (b"\x01", 3, 1)]
    assert log[2:99] == [(b"\x01", 3, 1)]
    assert log[3:4] == []


def test_an_append_carries_at_most_so_many_entries_however_small_they_are() -> None:
    """Reading each costs the leader's loop some time, and a follower may lack a million."""
    wire = Wire()
    wire.elect("a")
    wire.crash("c")
    journal = wire.members["a"].journal
    for _ in range(3 * MAX_APPEND_ENTRIES):
        journal.append(b"\x01", journal.last_index + 1, journal.last_term)
    wire.propose("a", "x")
    wire.start("c")
    wire.delivered.clear()
    wire.pass_time(1)
    counts = [len(frame.message.entries) for frame in wire.delivered if isinstance(frame.message, Append)]
    assert max(counts) == MAX_APPEND_ENTRIES
    assert wire.members["c"].requests == [request("x")]


def test_an_engine_that_was_not_elected_does_not_campaign_again_by_itself() -> None:
    """Each campaign costs a term, so it takes a majority that would vote."""
    wire = Wire()
    engine: Engine = wire["b"].core.engine
    engine.campaign(wire.now)
    term = engine.term
    for seconds in range(1, 100):
        engine.tick(wire.now + seconds)
    assert engine.is_candidate
    assert engine.term == term
