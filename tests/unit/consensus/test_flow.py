"""How much is under way to a follower: one probe, then a window."""

from __future__ import annotations

from collections.abc import Callable

from raftos.consensus.flow import Flow, Follower
from raftos.consensus.messages import Acknowledged, Append

APPEND_BYTES = 1_000
WINDOW_BYTES = 2 * APPEND_BYTES


def append(after: int, *sizes: int, commit_index: int = 90) -> Append:
    entries = [(bytes(size), after + number, 1) for number, size in enumerate(sizes, 1)]
    return Append(1, commit_index, after, 1, entries)


def send(follower: Follower, after: int, *sizes: int) -> None:
    follower.sent(0.0, append(after, *sizes), sum(sizes))


def success(index: int) -> Acknowledged:
    return Acknowledged(1, index + 1, success=True, reset=False)


def rejection(next_index: int) -> Acknowledged:
    return Acknowledged(1, next_index, success=False, reset=True)


def replicating() -> Follower:
    """A follower that has answered its probe at 10."""
    follower = Follower(WINDOW_BYTES)
    send(follower, 10)
    follower.acknowledged(success(10))
    return follower


def test_one_probe_is_under_way_until_it_is_answered() -> None:
    follower = Follower(WINDOW_BYTES)
    full = [follower.full]
    send(follower, 10, 5)
    full.append(follower.full)
    follower.acknowledged(success(11))
    send(follower, 11, 5)
    send(follower, 12, 5)
    assert [*full, follower.full] == [False, True, False]


def test_each_rejection_allows_one_new_probe() -> None:
    follower = Follower(WINDOW_BYTES)
    send(follower, 50, 5)
    for after in (40, 30, 20):
        follower.acknowledged(rejection(after + 1))
        full = [follower.full]
        send(follower, after, 5)
        assert [*full, follower.full] == [False, True]


def test_a_window_of_two_appends_is_under_way_and_acknowledgements_make_room() -> None:
    follower = replicating()
    send(follower, 10, APPEND_BYTES)
    full = [follower.full]
    send(follower, 11, APPEND_BYTES)
    full.append(follower.full)
    follower.acknowledged(success(11))
    assert [*full, follower.full] == [False, True, False]


def test_what_was_under_way_on_a_closed_link_does_not_fill_the_window_of_the_next() -> None:
    flow = Flow(APPEND_BYTES)
    send(flow.follower(1, "b"), 10, WINDOW_BYTES)
    flow.linked("b")
    assert not flow.follower(1, "b").full


def test_a_new_term_begins_with_probes_and_knows_of_no_match() -> None:
    flow = Flow(APPEND_BYTES)
    send(flow.follower(1, "b"), 10)
    flow.follower(1, "b").acknowledged(success(10))
    assert flow.follower(1, "b").matched == 10
    anew = flow.follower(2, "b")
    send(anew, 10, 5)
    assert (anew.matched, anew.full) == (1, True)


def test_followers_do_not_share_a_window() -> None:
    flow = Flow(APPEND_BYTES)
    send(flow.follower(1, "b"), 10, WINDOW_BYTES)
    assert not flow.follower(1, "c").full


def test_late_and_repeated_acknowledgements_do_not_lower_the_match() -> None:
    follower = replicating()
    send(follower, 10, 5)
    follower.acknowledged(success(11))
    follower.acknowledged(success(10))
    assert follower.matched == 11


def test_what_a_follower_was_told_is_forgotten_where_it_may_have_missed_it() -> None:
    """It rejected a message, or the link that carried one is gone."""
    ends: list[Callable[[Follower], None]] = [
        lambda follower: follower.acknowledged(rejection(5)),
        lambda follower: follower.probe(),
    ]
    for end in ends:
        follower = replicating()
        assert follower.told == 90
        end(follower)
        assert follower.told == 0
