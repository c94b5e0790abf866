"""Claims about how concurrent calls share requests."""

from __future__ import annotations

import asyncio
import time

import pytest

from raftos.client import AsyncClient
from raftos.client.batcher import BATCH_BYTES, BATCH_ITEMS, FLIGHTS
from raftos.errors import InvalidInput, OutcomeUnknown, RaftosError, TooLarge
from raftos.state.domains.kv import Get, Put
from tests.unit.client.double import HANG, NO_QUORUM, members

pytestmark = pytest.mark.timeout(30)


async def test_a_call_alone_leaves_at_once() -> None:
    """Batching costs an idle client no waiting time: one call, one request."""
    async with members() as (member,), AsyncClient([member.endpoint]) as client:
        await client.kv.put("a", "1")
        await client.kv.put("a", "2")
        assert member.batches == [1, 1]


async def test_concurrent_calls_share_few_requests() -> None:
    """256 callers with four calls each need a handful of requests, not a thousand."""
    async with members() as (member,), AsyncClient([member.endpoint]) as client:
        member.delay_s = 0.01

        async def caller(name: int) -> None:
            for number in range(4):
                await client.kv.put(f"{name}/{number}", "1")

        await asyncio.gather(*(caller(name) for name in range(256)))
        assert sum(member.batches) == 1024
        assert len(member.batches) <= 12


async def test_one_callers_calls_happen_in_order() -> None:
    """Versions rise one by one for a caller who waits for each answer, whatever others do."""
    async with members() as (member,), AsyncClient([member.endpoint]) as client:

        async def caller(name: str) -> list[int]:
            return [(await client.kv.put(name, "1")).version for _ in range(20)]

        versions = await asyncio.gather(*(caller(name) for name in "abcdefgh"))
        assert versions == [list(range(1, 21))] * 8


async def test_reads_and_writes_share_requests() -> None:
    """One line for both; each caller gets the answer to its own question."""
    async with members() as (member,), AsyncClient([member.endpoint]) as client:
        await client.kv.put("a", "1")
        put, item = await asyncio.gather(client.kv.put("b", "2"), client.kv.get("a"))
        assert (put.key, item.value) == ("b", b"1")
        assert member.batches == [1, 2]


async def test_batches_are_bounded_by_items_and_by_bytes() -> None:
    """No request grows beyond what members accept."""
    async with members() as (member,), AsyncClient([member.endpoint]) as client:
        await asyncio.gather(*(client.kv.put(f"{number}", "1") for number in range(BATCH_ITEMS + 10)))
        assert sorted(member.batches) == [10, BATCH_ITEMS]
        member.batches.clear()
        large = b"x" * (BATCH_BYTES // 2 - 1000)
        await asyncio.gather(*(client.kv.put(f"{number}", large) for number in range(6)))
        assert member.batches == [2, 2, 2]


async def test_too_large_a_value_is_refused_here() -> None:
    """Nothing is sent for what no member would take; the largest that is allowed travels alone."""
    async with members() as (member,), AsyncClient([member.endpoint]) as client:
        with pytest.raises(TooLarge):
            await client.kv.put("a", b"x" * (1024 * 1024 + 1))
        with pytest.raises(InvalidInput):
            await client.kv.put("", "1")
        with pytest.raises(InvalidInput):
            await client.kv.put("a", "1", ttl_s=0)
        assert not member.batches
        await client.kv.put("a", b"x" * 1024 * 1024)
        assert member.batches == [1]


async def test_a_caller_that_gave_up_is_left_behind() -> None:
    """A cancelled call that still waits for its turn is never sent."""
    async with members() as (member,), AsyncClient([member.endpoint]) as client:
        member.delay_s = 0.05
        first = [asyncio.create_task(client.kv.put(f"first{number}", "1")) for number in range(FLIGHTS)]
        for _ in range(FLIGHTS):
            await asyncio.sleep(0.005)
        first += [asyncio.create_task(client.kv.put("filler", "1"))]
        await asyncio.sleep(0.005)
        given_up = asyncio.create_task(client.kv.put("given up", "1"))
        kept = asyncio.create_task(client.kv.put("kept", "1"))
        await asyncio.sleep(0.005)
        given_up.cancel()
        await asyncio.gather(*first, kept)
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert "kept" in member.cluster.values
        assert "given up" not in member.cluster.values


async def test_a_deadline_ends_calls_that_never_flew() -> None:
    """Waiting for a turn counts, too; such a call was certainly not applied."""
    async with members() as (member,), AsyncClient([member.endpoint], timeout_s=0.3) as client:
        member.always = HANG
        began = time.monotonic()
        calls = [client.kv.put(f"{number}", "1") for number in range(FLIGHTS * BATCH_ITEMS + 1)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - began < 5
        codes = [outcome.code for outcome in outcomes if isinstance(outcome, RaftosError)]
        assert codes[0] == "outcome_unknown"
        assert codes[-1] == "unreachable"
        assert len(codes) == len(calls)


async def test_a_batch_answers_each_request_by_itself() -> None:
    """Values and errors side by side, in order."""
    async with members() as (member,), AsyncClient([member.endpoint]) as client:
        outcomes = await client.batch([Put("a", b"1"), Get("a"), Get("b"), Put("", b"")])
        assert outcomes[0].version == 1
        assert outcomes[1].value == b"1"
        assert [outcome.code for outcome in outcomes[2:]] == ["not_found", "invalid"]
        assert member.batches == [3]


async def test_an_answer_that_makes_no_sense_ends_in_an_error() -> None:
    """A member of a later version may answer what this client cannot read; callers hear of it at once."""
    async with members() as (member,), AsyncClient([member.endpoint]) as client:
        await client.kv.put("a", "1")
        (request_id,) = member.cluster.results
        member.cluster.values["a"] = (b"1", "one")  # type: ignore[assignment]
        with pytest.raises(OutcomeUnknown, match="no sense"):
            await client.kv.get("a")
        assert member.cluster.sent[request_id] == 1


async def test_closing_ends_what_is_open_and_refuses_what_comes_later() -> None:
    """A call under way ends as at its deadline, and the client stays closed."""
    async with members() as (member,):
        client = AsyncClient([member.endpoint])
        member.faults = [HANG]
        write = asyncio.create_task(client.kv.put("a", "1"))
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(OutcomeUnknown, match="client was closed"):
            await write
        with pytest.raises(InvalidInput, match="closed"):
            await client.kv.put("a", "1")
        await client.close()


async def test_closing_while_retrying_leaves_no_task_behind() -> None:
    """Flights, pauses and probes all end with the client."""
    async with members(2) as listed:
        before = asyncio.all_tasks()
        async with AsyncClient([member.endpoint for member in listed], attempt_timeout_s=0.05) as client:
            listed[0].always = HANG
            listed[1].always = NO_QUORUM
            write = asyncio.create_task(client.kv.put("a", "1"))
            await asyncio.sleep(0.2)
        await asyncio.gather(write, return_exceptions=True)
        ours = {task for task in asyncio.all_tasks() - before if "client" in repr(task.get_coro())}
        assert not ours


def test_a_client_belongs_to_one_event_loop() -> None:
    """Use on a second loop is refused with a sentence, not with a hang."""
    client = AsyncClient(["127.0.0.1:9"], timeout_s=0.1)

    async def use() -> None:
        with pytest.raises(RaftosError):
            await client.kv.put("a", "1")

    async def use_again() -> None:
        with pytest.raises(InvalidInput, match="another event loop"):
            await client.kv.put("a", "1")

    asyncio.run(use())
    asyncio.run(use_again())
