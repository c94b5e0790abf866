"""How much is under way to a follower: one probe, then a window, and nothing read for who has to wait."""

from __future__ import annotations

from collections.abc import Callable

from raftos.consensus.flow import Flow
from raftos.consensus.messages import Acknowledged, Append

HEARTBEAT_S = 0.1
APPEND_BYTES = 1_000
WINDOW_BYTES = 2 * APPEND_BYTES


class Log:
    """A log of 100 entries of term 1."""

    last_index = 100

    def term_at(self, index: int) -> int | None:
        return 1 if 0 < index <= self.last_index else None


def new_flow() -> Flow:
    return Flow(Log(), HEARTBEAT_S, APPEND_BYTES)


def append(after: int, *sizes: int, term: int = 1) -> Append:
    entries = [(bytes(size), after + number, 1) for number, size in enumerate(sizes, 1)]
    return Append(term, 90, after, 1, entries)


def success(index: int) -> Acknowledged:
    return Acknowledged(1, index + 1, success=True, reset=False)


def rejection(next_index: int) -> Acknowledged:
    return Acknowledged(1, next_index, success=False, reset=True)


def replicating() -> Flow:
    """A flow whose follower b has answered its probe at 10."""
    flow = new_flow()
    assert flow.admit(0.0, "b", append(10)) is not None
    flow.acknowledged("b", success(10))
    return flow


def test_one_probe_is_under_way_until_it_is_answered() -> None:
    flow = new_flow()
    probe = append(10, 5)
    assert flow.admit(0.0, "b", probe) is probe
    assert flow.admit(0.01, "b", append(11, 5)) is None
    flow.acknowledged("b", success(11))
    more = [append(11, 5), append(12, 5)]
    assert [flow.admit(0.02, "b", one) for one in more] == more


def test_each_rejection_allows_one_new_probe() -> None:
    flow = new_flow()
    flow.admit(0.0, "b", append(50, 5))
    for after in (40, 30, 20):
        flow.acknowledged("b", rejection(after + 1))
        probe = append(after, 5)
        assert flow.admit(0.0, "b", probe) is probe
        assert flow.admit(0.0, "b", probe) is None


def test_a_window_of_two_appends_is_under_way_and_acknowledgements_make_room() -> None:
    flow = replicating()
    assert flow.admit(0.0, "b", append(10, APPEND_BYTES)) is not None
    assert flow.admit(0.0, "b", append(11, APPEND_BYTES)) is not None
    assert flow.admit(0.0, "b", append(12, 1)) is None
    flow.acknowledged("b", success(11))
    assert flow.admit(0.0, "b", append(12, 1)) is not None


def test_a_follower_with_a_full_window_hears_a_heartbeat_on_common_ground() -> None:
    """Common is what it acknowledged; the commit index is not told further than that."""
    flow = replicating()
    flow.admit(0.0, "b", append(10, WINDOW_BYTES))
    assert flow.admit(0.05, "b", append(11, 5)) is None
    assert flow.admit(0.11, "b", append(11, 5)) == Append(1, 10, 10, 1, [])
    assert flow.admit(0.12, "b", append(11, 5)) is None


def test_a_parked_follower_is_sent_on_from_the_first_entry_it_was_not_sent() -> None:
    flow = replicating()
    flow.admit(0.0, "b", append(10, WINDOW_BYTES))
    flow.admit(0.0, "b", append(11, 5))
    flow.admit(0.0, "b", append(40, 5))
    assert flow.resume("b") is None
    flow.acknowledged("b", success(11))
    assert flow.resume("b") == 12
    assert flow.resume("b") is None


def test_a_rejection_and_a_new_link_end_parking() -> None:
    """Then the follower, or the probe, says where to go on."""
    ends: list[Callable[[Flow], None]] = [
        lambda flow: flow.acknowledged("b", rejection(5)),
        lambda flow: flow.linked("b"),
    ]
    for end in ends:
        flow = replicating()
        flow.admit(0.0, "b", append(10, WINDOW_BYTES))
        flow.admit(0.0, "b", append(11, 5))
        end(flow)
        assert flow.resume("b") is None


def test_what_was_under_way_on_a_closed_link_does_not_fill_the_window_of_the_next() -> None:
    flow = replicating()
    flow.admit(0.0, "b", append(10, WINDOW_BYTES))
    flow.linked("b")
    assert flow.admit(0.0, "b", append(11)) is not None


def test_a_new_term_begins_with_probes_and_knows_of_no_match() -> None:
    flow = replicating()
    assert flow.matched("b") == 10
    assert flow.admit(0.0, "b", append(10, 5, term=2)) is not None
    assert flow.matched("b") == 1
    assert flow.admit(0.0, "b", append(11, 5, term=2)) is None


def test_followers_do_not_share_a_window() -> None:
    flow = replicating()
    flow.admit(0.0, "b", append(10, WINDOW_BYTES))
    assert flow.admit(0.0, "c", append(10, 5)) is not None


def test_late_and_repeated_acknowledgements_do_not_lower_the_match() -> None:
    flow = replicating()
    flow.admit(0.0, "b", append(10, 5))
    flow.acknowledged("b", success(11))
    flow.acknowledged("b", success(10))
    assert flow.matched("b") == 11


def test_only_news_of_commits_may_wait_and_only_for_a_follower_that_was_just_sent_something() -> None:
    flow = replicating()
    flow.admit(0.0, "b", append(10, 5))
    assert flow.may_wait(0.01, append(11), "b")
    assert not flow.may_wait(0.01, append(11, 5), "b")
    assert not flow.may_wait(0.01, append(11, term=2), "b")
    assert not flow.may_wait(HEARTBEAT_S, append(11), "b")
    assert not flow.may_wait(0.01, append(11), "c")


def test_news_of_commits_behind_entries_a_parked_follower_was_not_sent_does_not_wait() -> None:
    """It would be rejected, and everything under way sent again."""
    flow = replicating()
    flow.admit(0.0, "b", append(10, WINDOW_BYTES))
    flow.admit(0.0, "b", append(11, 5))
    assert not flow.may_wait(0.01, append(100), "b")
