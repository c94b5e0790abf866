"""PySyncObj behind its door: the seams exist, and what comes through them is what we mean."""

from __future__ import annotations

import pytest

from raftos.consensus.engine import APPEND_BYTES
from raftos.consensus.messages import Append, VoteGranted
from raftos.consensus.proposals import MAX_PROPOSAL_BYTES
from raftos.errors import TooLarge
from tests.unit.consensus.wire import Wire, request


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
    wire.pass_time(1.5)
    (leader,) = wire.leaders()
    for number in range(12):
        wire.propose(leader, str(number) * 2**20)
    log = wire[leader].core.engine._SyncObj__raftLog
    for seen in (log[0:], log[0:100], log[3:9]):
        assert 0 < sum(len(entry[0]) for entry in seen) <= APPEND_BYTES + 1
