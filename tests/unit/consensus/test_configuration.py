"""Who belongs to the cluster: each change is of one member, and asked twice it is made once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftos.consensus.configuration import (
    CONFIGURATION,
    MAX_PEERS,
    MAX_REMOVED,
    Add,
    Change,
    Configuration,
    Peer,
    Promote,
    Remove,
    Standing,
    changed,
    decode,
    encode,
)
from raftos.errors import Conflict, InvalidInput, LimitReached, NotFound, RaftosError


def three() -> Configuration:
    return Configuration(tuple(Peer(name, f"127.0.0.1:{at}") for at, name in enumerate("abc", 4001)))


JOIN = Add("d", "127.0.0.1:4004", Standing.JOINING)


def test_a_new_member_is_sent_the_log_and_does_not_vote() -> None:
    after = changed(three(), JOIN)
    assert after.voters == ("a", "b", "c")
    assert after.learners == ("d",)


def test_a_promoted_learner_votes_under_the_address_it_came_with() -> None:
    after = changed(changed(three(), JOIN), Promote("d"))
    assert after.voters == ("a", "b", "c", "d")
    assert after.peer("d") == Peer("d", "127.0.0.1:4004")


def test_who_was_removed_is_remembered_and_not_let_in_again() -> None:
    after = changed(three(), Remove("b"))
    assert after.voters == ("a", "c")
    assert after.removed == ("b",)
    with pytest.raises(Conflict, match="under a new id"):
        changed(after, Add("b", "127.0.0.1:4002", Standing.JOINING))


@pytest.mark.parametrize("change", [JOIN, Promote("d"), Remove("c")])
def test_a_change_asked_for_again_changes_nothing(change: Change) -> None:
    once = changed(changed(three(), JOIN), change)
    assert changed(once, change) == once


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (Add("d", "x:1", Standing.VOTER), InvalidInput),
        (Add("d" * 65, "h:1", Standing.JOINING), InvalidInput),
        (Add("d e", "h:1", Standing.JOINING), InvalidInput),
        (Add("d", "nowhere", Standing.LEARNER), InvalidInput),
        (Add("d", "h:0", Standing.LEARNER), InvalidInput),
        (Add("d", "h:65536", Standing.LEARNER), InvalidInput),
        (Add("d", "h" * 256 + ":1", Standing.LEARNER), InvalidInput),
        (Promote("x"), NotFound),
        (Remove("x"), NotFound),
    ],
)
def test_what_cannot_be_is_refused(change: Change, refusal: type[RaftosError]) -> None:
    with pytest.raises(refusal):
        changed(three(), change)


def test_the_last_voter_stays() -> None:
    """A learner could not carry on alone."""
    alone = changed(Configuration((Peer("a", "127.0.0.1:1"),)), JOIN)
    with pytest.raises(Conflict, match="last voter"):
        changed(alone, Remove("a"))


def test_there_are_at_most_so_many_members_and_memories() -> None:
    full = Configuration(tuple(Peer(f"m{at:03}", "h:1") for at in range(MAX_PEERS)))
    with pytest.raises(LimitReached):
        changed(full, Add("z", "h:1", Standing.LEARNER))
    many = Configuration(three().peers, tuple(f"old{at}" for at in range(MAX_REMOVED)))
    assert changed(many, Remove("a")).removed[-2:] == (f"old{MAX_REMOVED - 1}", "a")
    assert len(changed(many, Remove("a")).removed) == MAX_REMOVED


ids = st.sampled_from("abcdef")
changes = st.one_of(
    st.builds(Add, ids, st.just("h:1"), st.sampled_from([Standing.JOINING, Standing.LEARNER])),
    st.builds(Promote, ids),
    st.builds(Remove, ids),
)


@given(st.lists(changes, max_size=12))
def test_neighbouring_majorities_always_share_a_member(asked: list[Change]) -> None:
    """The voters of two neighbouring configurations differ by one at most; all survive encoding."""
    present = three()
    for change in asked:
        try:
            after = changed(present, change)
        except RaftosError:
            continue
        assert len(set(present.voters) ^ set(after.voters)) <= 1
        assert list(after.peers) == sorted(after.peers, key=lambda peer: peer.id)
        assert not {peer.id for peer in after.peers} & set(after.removed)
        command = encode(after)
        assert command[0] == CONFIGURATION
        assert decode(command) == after
        present = after


@pytest.mark.parametrize("change", [JOIN, Promote("d")])
def test_who_was_removed_is_remembered_whoever_comes_after_it(change: Change) -> None:
    """Else it could come back under its id, and would not be told that it is gone."""
    after = changed(changed(three(), Remove("b")), JOIN)
    assert changed(after, change).removed == ("b",)
