"""Claims about the client's idea of cluster time and the request ids it mints from it."""

from __future__ import annotations

import time

from raftos.client.pool import ClusterClock
from raftos.state.command import created_ms, format_request_id, parse_request_id


def test_request_ids_are_distinct_version_7_and_carry_cluster_time() -> None:
    """What an edge would accept from anybody, from the first id to the ten thousandth."""
    clock = ClusterClock()
    ids = [clock.mint() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert all(
        parse_request_id(format_request_id(request_id)) == request_id for request_id in (ids[0], ids[-1])
    )
    assert abs(created_ms(ids[0]) - time.time() * 1000) < 1_000


def test_an_answer_sets_the_clock() -> None:
    """Cluster time is the members', however wrong this machine's clock is."""
    clock = ClusterClock()
    clock.observe(1_000_000)
    assert 1_000_000 <= created_ms(clock.mint()) < 1_001_000


def test_two_clients_never_mint_the_same_id() -> None:
    """Each starts from its own random bits."""
    one, other = ClusterClock(), ClusterClock()
    assert one.mint()[6:] != other.mint()[6:]
