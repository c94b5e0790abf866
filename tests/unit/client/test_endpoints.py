"""Claims about which member is asked next; time is a number here."""

from __future__ import annotations

import asyncio

import pytest

from raftos.client.endpoints import GONE_S, PROBE_EVERY_S, Endpoint, Endpoints

A, B, C = (f"http://127.0.0.1:{port}" for port in (1, 2, 3))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def never_live(endpoint: Endpoint) -> bool:
    return False


def known(clock: Clock) -> Endpoints:
    return Endpoints([A, B, C], never_live, clock)


def test_the_first_listed_is_asked_first() -> None:
    """The order of the endpoints is the user's preference."""
    assert known(Clock()).pick().address.url == A


def test_a_failed_member_comes_after_the_others_until_its_time_is_over() -> None:
    """Set aside, and then a candidate again."""
    clock = Clock()
    endpoints = known(clock)
    endpoints.set_aside(endpoints.pick(), 0.05)
    assert endpoints.pick().address.url == B
    clock.now += 0.06
    assert endpoints.pick().address.url == A


def test_the_member_that_answered_last_is_asked_again() -> None:
    """After a failover the client stays where it was served."""
    clock = Clock()
    endpoints = known(clock)
    endpoints.answered(endpoints.pick())
    endpoints.set_aside(endpoints.pick(), 0.05)
    clock.now += 0.01
    endpoints.answered(endpoints.pick())
    clock.now += 1
    assert endpoints.pick().address.url == B


def test_with_all_set_aside_they_take_turns() -> None:
    """A cluster without a leader is searched round and round."""
    clock = Clock()
    endpoints = known(clock)
    order = []
    for _ in range(6):
        endpoint = endpoints.pick()
        order.append(endpoint.address.url)
        endpoints.set_aside(endpoint, 0.05)
        clock.now += 0.001
    assert order == [A, B, C, A, B, C]
    assert not endpoints.any_ready()


@pytest.mark.timeout(10)
def test_a_member_gone_silent_is_back_as_soon_as_it_answers_a_probe() -> None:
    """No call has to pay for finding out that a member returned."""
    asked: list[str] = []

    async def live_the_second_time(endpoint: Endpoint) -> bool:
        asked.append(endpoint.address.url)
        return len(asked) == 2

    async def scenario() -> None:
        endpoints = Endpoints([A, B], live_the_second_time)
        endpoints.set_aside(endpoints.pick(), GONE_S)
        assert endpoints.pick().address.url == B
        await asyncio.sleep(PROBE_EVERY_S * 1.5)
        assert endpoints.pick().address.url == B
        await asyncio.sleep(PROBE_EVERY_S)
        assert endpoints.pick().address.url == A
        await endpoints.close()

    asyncio.run(scenario())
    assert asked == [A, A]
