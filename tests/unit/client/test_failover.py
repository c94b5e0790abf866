"""Claims about what a client does when members fail, each fault on real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from raftos.client import AsyncClient
from raftos.errors import (
    Conflict,
    NoQuorum,
    NotFound,
    NotReady,
    OutcomeUnknown,
    RaftosError,
    Unauthorized,
    Unreachable,
)
from tests.unit.client.double import GARBAGE, HANG, NO_QUORUM, RESET, UNKNOWN, Fault, Member, members

pytestmark = pytest.mark.timeout(30)


@asynccontextmanager
async def client_of(
    listed: list[Member], *, timeout_s: float = 5.0, attempt_timeout_s: float = 0.5
) -> AsyncIterator[AsyncClient]:
    endpoints = [member.endpoint for member in listed]
    async with AsyncClient(endpoints, timeout_s=timeout_s, attempt_timeout_s=attempt_timeout_s) as client:
        yield client


def applied_once(member: Member) -> bool:
    return all(version == 1 for _, version in member.cluster.values.values())


@pytest.mark.parametrize("applies_first", [False, True])
@pytest.mark.parametrize("fault", [HANG, RESET, GARBAGE, NO_QUORUM, UNKNOWN, NotReady("the disk is full")])
async def test_a_write_survives_each_fault_and_happens_once(fault: Fault, applies_first: bool) -> None:
    """Whether the failing member applied it or not, the next one answers and nothing is doubled."""
    async with members(3) as listed, client_of(listed) as client:
        listed[0].faults = [fault]
        listed[0].applies_first = applies_first
        written = await client.kv.put("a", "1")
        assert written.version == 1
        assert applied_once(listed[0])
        assert [len(member.batches) for member in listed] == [1, 1, 0]


async def test_a_dead_first_endpoint_costs_almost_nothing() -> None:
    """Refused connections lead to the next member at once, and only for the first call."""
    async with members(2) as listed:
        await listed[0].stop()
        async with client_of(listed) as client:
            began = time.monotonic()
            for number in range(20):
                await client.kv.put(f"{number}", "1")
            assert time.monotonic() - began < 3


async def test_a_hanging_member_is_paid_for_once_and_returns_after_a_probe() -> None:
    """The attempt timeout once; then others serve, /livez is asked, and the member is a candidate again."""
    async with members(2) as listed, client_of(listed) as client:
        listed[0].always = HANG
        began = time.monotonic()
        await client.kv.put("a", "1")
        assert time.monotonic() - began >= 0.5
        await asyncio.gather(*(client.kv.put(f"b{number}", "1") for number in range(50)))
        assert len(listed[0].batches) == 1
        listed[0].always = None
        await asyncio.sleep(2)
        await listed[1].stop()
        await client.kv.put("c", "1")
        assert listed[0].probes >= 1


async def test_the_client_stays_with_the_member_that_served_it() -> None:
    """A member that recovered is not returned to while another serves well."""
    async with members(2) as listed, client_of(listed) as client:
        listed[0].faults = [NO_QUORUM]
        for number in range(10):
            await client.kv.put(f"{number}", "1")
            await asyncio.sleep(0.01)
        assert (len(listed[0].batches), len(listed[1].batches)) == (1, 10)


async def test_an_election_is_waited_out() -> None:
    """While no member knows a leader, all are asked in turn, not too often, until one can serve."""
    async with members(3) as listed, client_of(listed) as client:
        for member in listed:
            member.always = NO_QUORUM
        write = asyncio.create_task(client.kv.put("a", "1"))
        await asyncio.sleep(0.6)
        asked = [len(member.batches) for member in listed]
        for member in listed:
            member.always = None
        healed = time.monotonic()
        await write
        assert time.monotonic() - healed < 3
        assert all(2 <= count <= 10 for count in asked)


@pytest.mark.parametrize(
    ("fault", "write_error"),
    [(NO_QUORUM, NoQuorum), (HANG, OutcomeUnknown), (UNKNOWN, OutcomeUnknown), (RESET, OutcomeUnknown)],
)
async def test_at_the_deadline_the_error_says_what_may_have_happened(
    fault: Fault, write_error: type[RaftosError]
) -> None:
    """Certainly not applied is NoQuorum, anything else is unknown; a read never changed anything."""
    async with members(2) as listed, client_of(listed, timeout_s=0.5, attempt_timeout_s=0.2) as client:
        for member in listed:
            member.always = fault
        began = time.monotonic()
        outcomes = await asyncio.gather(client.kv.put("a", "1"), client.kv.get("a"), return_exceptions=True)
        assert 0.4 < time.monotonic() - began < 3
        assert [type(outcome) for outcome in outcomes] == [write_error, NoQuorum]
        assert "nothing was changed" not in str(outcomes[1])


async def test_one_uncertain_attempt_makes_the_outcome_unknown() -> None:
    """A later certain failure does not undo what an earlier attempt may have done."""
    async with members(1) as listed, client_of(listed, timeout_s=0.4) as client:
        listed[0].faults = [RESET]
        listed[0].faults += [NO_QUORUM] * 100
        with pytest.raises(OutcomeUnknown, match="may have been applied") as caught:
            await client.kv.put("a", "1")
        assert NO_QUORUM.message not in caught.value.message


async def test_what_is_unknown_is_explained_by_the_trouble_that_left_it_open() -> None:
    """Not by a later one that is certain nothing happened: to read both would be a contradiction."""
    async with members(1) as listed, client_of(listed, timeout_s=0.4) as client:
        listed[0].faults = [UNKNOWN]
        listed[0].faults += [NO_QUORUM] * 100
        with pytest.raises(OutcomeUnknown, match=rf"\(last: {UNKNOWN.message}\)"):
            await client.kv.put("a", "1")


async def test_a_cluster_that_is_not_there_is_unreachable() -> None:
    """No connection at all is an error of its own, with what to look at."""
    async with members(2) as listed:
        for member in listed:
            await member.stop()
        async with client_of(listed, timeout_s=0.4) as client:
            with pytest.raises(Unreachable, match="is the cluster running"):
                await client.kv.put("a", "1")


async def test_a_refusal_is_final() -> None:
    """What is wrong stays wrong: not found, conflict and unauthorized are never sent again."""
    async with members(2) as listed, client_of(listed) as client:
        listed[0].item_errors = {"a": Conflict("the key is at version 3")}
        with pytest.raises(Conflict, match="version 3"):
            await client.kv.put("a", "1")
        with pytest.raises(NotFound):
            await client.kv.get("nothing")
        listed[0].faults = [Unauthorized("the secret is wrong")]
        with pytest.raises(Unauthorized):
            await client.kv.put("a", "1")
        assert (len(listed[0].batches), len(listed[1].batches)) == (3, 0)


async def test_only_what_may_be_retried_is_sent_again() -> None:
    """Items of one batch are answered one by one."""
    async with members(2) as listed, client_of(listed) as client:
        listed[0].item_errors = {"b": UNKNOWN, "c": Conflict("no")}
        outcomes = await asyncio.gather(*(client.kv.put(key, "1") for key in "abc"), return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == ["Written", "Written", "Conflict"]
        assert [member.batches for member in listed] == [[3], [1]]


async def test_an_expired_first_request_is_minted_again_with_the_clusters_time() -> None:
    """A client whose clock is wrong learns the time from the refusal; its second id is accepted."""
    async with members(1) as listed, client_of(listed) as client:
        listed[0].cluster.time_ms += 3_600_000
        assert (await client.kv.put("a", "1")).version == 1
        assert (await client.kv.put("b", "1")).version == 1
        assert listed[0].batches == [1, 1, 1]


async def test_an_expired_retry_is_not_minted_again() -> None:
    """An id that may have been applied once must not become a second write."""
    async with members(1) as listed, client_of(listed) as client:
        listed[0].cluster.time_ms += 3_600_000
        listed[0].faults = [RESET]
        with pytest.raises(OutcomeUnknown, match="earlier attempt"):
            await client.kv.put("a", "1")
        assert not listed[0].cluster.values


async def test_stale_reads_are_answered_while_writes_wait() -> None:
    """They have a line of their own: a cluster without quorum still shows what it knows."""
    async with members(1) as listed, client_of(listed) as client:
        await client.kv.put("a", "1")
        listed[0].item_errors = {"b": NO_QUORUM}
        listed[0].faults = [HANG, HANG]
        writes = [asyncio.create_task(client.kv.put("b", "1")), asyncio.create_task(client.kv.get("a"))]
        await asyncio.sleep(0.1)
        listed[0].faults = []
        assert (await asyncio.wait_for(client.kv.get("a", stale=True), 0.3)).value == b"1"
        await asyncio.gather(*writes)
