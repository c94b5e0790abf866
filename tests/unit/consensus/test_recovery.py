"""The sole voter of a recovered cluster among members that were lost, and come back all the same."""

from __future__ import annotations

from raftos.consensus import recovery
from raftos.consensus.configuration import Add, Configuration, Peer, Standing, encode
from raftos.consensus.journal import Identity, Journal
from tests.unit.consensus.wire import Wire, request


def make_sole_voter(wire: Wire, name: str) -> None:
    """What the offline command does to the journal of a stopped member."""
    journal = Journal.open(wire.members[name].storage, Identity("wire", name))
    others = tuple(other for other in wire.names if other != name)
    recovery._append(journal, name, encode(Configuration((Peer(name, ""),), others)))
    journal.close()


def test_a_sole_voter_never_takes_entries_of_the_others_for_what_follows_its_own() -> None:
    """A led and had entries that nobody else has; the others had a leader in the next term, and come back."""
    wire = Wire()
    wire.elect("a")
    wire.propose("a", "agreed")
    wire.pass_time(0.3)
    wire.isolate("a")
    for number in range(2):
        wire.propose("a", f"own {number}")
    for peer in "bc":
        wire.unlink("a", peer)
    wire.until(lambda: bool({"b", "c"}.intersection(wire.leaders())))
    wire.pass_time(1.5)
    [leader] = wire.leaders()
    for number in range(6):
        wire.propose(leader, f"theirs {number}")
        wire.deliver()
    wire.pass_time(0.3)
    theirs = wire.members[leader].requests
    for name in "abc":
        wire.crash(name)
    wire.heal()
    make_sole_voter(wire, "a")
    for name in "bc":
        wire.start(name)
    wire.until(lambda: bool(wire.leaders()))
    wire.start("a")
    wire.pass_time(3)
    own = [request(text) for text in ("agreed", "own 0", "own 1")]
    assert wire.members["a"].requests in (own, theirs)


def test_who_comes_back_with_later_configurations_hears_that_it_was_given_up() -> None:
    """The sole voter lacked what the others had agreed on last; two clusters under one id would be worst."""
    wire = Wire()
    wire.elect("b")
    wire.isolate("a")
    wire.join("d")
    for number in range(5):
        wire.propose("b", f"{number}")
        wire.deliver()
    wire.change("b", Add("d", "h:1", Standing.LEARNER))
    wire.pass_time(0.5)
    for name in wire.names:
        wire.crash(name)
    wire.heal()
    make_sole_voter(wire, "a")
    wire.start("a")
    wire.pass_time(3)
    for name in "bcd":
        wire.start(name)
    wire.pass_time(3)
    assert wire["b"].core.configuration_index > wire["a"].core.configuration_index
    assert all(wire[name].core.expelled for name in "bcd")
