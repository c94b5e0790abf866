"""Claims about locks, against the real API, service and state of three members.

Nobody expires keys here, so that a lock ends only as a test says; `tests/cluster/test_lock.py` has real time.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from raftos.client import AsyncClient
from raftos.client.claim import now_s
from raftos.client.lock import AsyncLock
from raftos.consensus.memory import MemoryCluster
from raftos.errors import (
    Conflict,
    InvalidInput,
    NoQuorum,
    NotFound,
    OutcomeUnknown,
    RaftosError,
    TooLarge,
    Unreachable,
)
from raftos.state.domains.kv import Compare, TxnPut

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("cluster")]

KEY = "lock/a"


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 10
    while not await condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def is_free(client: AsyncClient, key: str = KEY) -> bool:
    try:
        await client.kv.get(key)
    except NotFound:
        return True
    return False


# Having and giving back.


async def test_a_lock_is_a_key_of_its_holder_while_it_is_held() -> None:
    """Who, where, which process; the token is the key's revision; afterwards there is no key."""
    async with AsyncClient() as client:
        async with client.lock("a", owner="me") as held:
            item = await client.kv.get(KEY)
            value = json.loads(item.value)
            assert (held.name, held.owner, held.token, held.lost) == ("a", "me", item.revision, False)
            assert (value["owner"], value["host"], value["pid"]) == ("me", socket.gethostname(), os.getpid())
            assert item.expires_ms is not None
        assert await is_free(client)
        assert not held.lost


async def test_one_at_a_time_and_each_with_a_greater_token() -> None:
    """Twenty tasks, two clients: what is protected is never entered twice, and tokens grow."""
    inside = 0
    tokens: list[int] = []

    async def work(client: AsyncClient) -> None:
        nonlocal inside
        async with client.lock("a") as held:
            inside += 1
            tokens.append(held.token)
            await asyncio.sleep(0.001)
            assert inside == 1
            inside -= 1

    async with AsyncClient() as one, AsyncClient() as other:
        await asyncio.gather(*(work(client) for client in (one, other) for _ in range(10)))
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 20


async def test_without_patience_a_taken_lock_is_a_conflict_that_names_its_holder() -> None:
    """At once, and the holder notices nothing."""
    async with AsyncClient() as client, client.lock("a", owner="somebody") as held:
        with pytest.raises(Conflict, match=rf"held by 'somebody' with token {held.token}"):
            await client.lock("a", wait_s=0).acquire()
        assert (await client.kv.get(KEY)).revision == held.token


async def test_patience_ends() -> None:
    """After `wait_s` seconds, not before and not much later."""
    async with AsyncClient() as client, client.lock("a"):
        began = time.monotonic()
        with pytest.raises(Conflict, match="held by"):
            await client.lock("a", wait_s=0.5).acquire()
        assert 0.5 <= time.monotonic() - began < 5


async def test_waiting_costs_the_cluster_nothing(agreement: MemoryCluster) -> None:
    """Who waits is told by events: no command and no look while nothing happens."""
    async with AsyncClient() as client, client.lock("a") as held:
        waiting = asyncio.create_task(client.lock("a").acquire())
        await asyncio.sleep(0.5)
        before = [(member.proposals, member.barriers) for member in agreement.members.values()]
        await asyncio.sleep(1.5)
        assert [(member.proposals, member.barriers) for member in agreement.members.values()] == before
        await held.release()
        second = await asyncio.wait_for(waiting, 5)
        assert second.token > held.token
        await second.release()


async def test_where_nobody_tells_one_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that take no more watchers do not keep anybody from getting a lock."""
    monkeypatch.setattr("raftos.api.streams.MAX_WATCHERS", 0)
    async with AsyncClient() as client, client.lock("a") as held:
        waiting = asyncio.create_task(client.lock("a").acquire())
        await asyncio.sleep(0.3)
        await held.release()
        await (await asyncio.wait_for(waiting, 5)).release()


async def test_what_the_block_raises_passes_through_and_the_lock_is_free() -> None:
    """Also when it is cancelled."""
    async with AsyncClient() as client:
        with pytest.raises(ZeroDivisionError):
            async with client.lock("a"):
                raise ZeroDivisionError
        assert await is_free(client)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), client.lock("a"):
                await asyncio.sleep(10)
        assert await is_free(client)


async def test_one_object_is_held_once_at_a_time() -> None:
    """A second use is a mistake, told at once, that takes nothing away; after release it is free again."""
    async with AsyncClient() as client:
        lock = client.lock("a")
        await lock.acquire()
        first = lock.token
        with pytest.raises(InvalidInput, match="make one for each use"):
            await lock.acquire()
        assert await lock.release()
        assert not await lock.release()
        async with lock:
            assert lock.token > first


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": ""}, InvalidInput),
        ({"name": "a\nb"}, InvalidInput),
        ({"name": "n" * 501}, TooLarge),
        ({"name": "é" * 251}, TooLarge),
        ({"ttl_s": 0.9}, InvalidInput),
        ({"ttl_s": 86_401}, InvalidInput),
        ({"ttl_s": math.nan}, InvalidInput),
        ({"wait_s": -1}, InvalidInput),
        ({"wait_s": math.nan}, InvalidInput),
        ({"owner": ""}, InvalidInput),
        ({"owner": "\x1b[31m"}, InvalidInput),
        ({"owner": "o" * 201}, TooLarge),
    ],
)
async def test_what_can_be_no_lock_is_refused(arguments: dict[str, object], error: type[RaftosError]) -> None:
    """When the lock is named, before anything is sent, by a lock to hold and by the verb alike."""
    wanted: dict[str, object] = {"name": "a"} | arguments
    async with AsyncClient() as client:
        with pytest.raises(error):
            client.lock(**wanted)  # type: ignore[arg-type]
        with pytest.raises(error):
            await client.lock.acquire(**wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["n" * 500, "ключ 🗝", "a/b"])
async def test_names_up_to_500_bytes_are_locks(name: str) -> None:
    """Slashes and all of Unicode included."""
    async with AsyncClient() as client, client.lock(name):
        assert (await client.lock.show(name)).name == name


# Keeping and losing.


async def test_a_held_lock_is_renewed_and_keeps_its_token() -> None:
    """Its time-to-live moves on, its version and its revision do not."""
    async with AsyncClient() as client, client.lock("a", ttl_s=1) as held:
        first = await client.kv.get(KEY)
        await asyncio.sleep(1.5)
        later = await client.kv.get(KEY)
        assert not held.lost
        assert (later.version, later.revision) == (1, held.token)
        assert first.expires_ms is not None
        assert later.expires_ms is not None
        assert later.expires_ms >= first.expires_ms + 900


async def test_a_lock_that_is_gone_is_lost_and_the_next_holder_is_left_alone() -> None:
    """Noticed at the next renewal; leaving the block deletes nothing of others, and raises nothing."""
    async with AsyncClient() as client:
        async with client.lock("a", ttl_s=1) as held:
            await client.kv.delete(KEY)
            other = await client.lock.acquire("a", owner="other")
            reason = await asyncio.wait_for(held.until_lost(), 5)
            assert held.lost
            assert reason == f"lock 'a' is not held with token {held.token} any more"
        assert (await client.lock.show("a")).token == other.token > held.token


async def test_the_lease_ends_by_the_clock_of_its_holder(agreement: MemoryCluster) -> None:
    """Without a quorum the lock is kept for as long as the last confirmed renewal is good, and no longer."""
    async with AsyncClient(timeout_s=0.5) as client, client.lock("a", ttl_s=2) as held:
        began = now_s()
        agreement.delay_s = 1_000
        reason = await asyncio.wait_for(held.until_lost(), 5)
        assert 1.5 < now_s() - began < 4
        assert reason == "lock 'a' was not renewed before its lease was over"
        agreement.delay_s = 0


async def test_trouble_shorter_than_the_lease_loses_nothing(agreement: MemoryCluster) -> None:
    """Renewing goes on until it is confirmed."""
    async with AsyncClient(timeout_s=0.3) as client, client.lock("a", ttl_s=2) as held:
        agreement.delay_s = 1_000
        await asyncio.sleep(1.3)
        agreement.delay_s = 0
        await asyncio.sleep(1.5)
        assert not held.lost
        assert (await client.kv.get(KEY)).revision == held.token


async def test_an_event_loop_that_slept_finds_its_lock_lost() -> None:
    """Before anything had time to notice, and without reviving what others may have by now."""
    async with AsyncClient() as client:
        async with client.lock("a", ttl_s=1) as held:
            before = await client.kv.get(KEY)
            time.sleep(1.2)  # noqa: ASYNC251 - that is what is tested
            assert held.lost
            await held.until_lost()
            assert await client.kv.get(KEY) == before
        assert held.lost


async def test_a_fenced_write_of_a_holder_that_lost_its_lock_is_refused() -> None:
    """The same transaction is made while the lock is held."""
    async with AsyncClient() as client, client.lock("a") as held:
        fence = [Compare(KEY, revision=held.token)]
        await client.kv.txn(compare=fence, writes=[TxnPut("data", b"first")])
        await client.kv.delete(KEY)
        async with client.lock("a"):
            with pytest.raises(Conflict):
                await client.kv.txn(compare=fence, writes=[TxnPut("data", b"from the past")])
        assert (await client.kv.get("data")).value == b"first"


async def test_closing_the_client_loses_its_locks() -> None:
    """Whoever waits for that is told; the key is left to run out."""
    client = AsyncClient()
    held = await client.lock("a").acquire()
    lost = asyncio.create_task(held.until_lost())
    await client.close()
    assert await asyncio.wait_for(lost, 5) == "the client was closed"
    assert held.lost
    async with AsyncClient() as other:
        assert (await other.lock.show("a")).token == held.token


async def test_a_release_that_cannot_be_told_leaves_the_lock_to_run_out(agreement: MemoryCluster) -> None:
    """The end of the block raises nothing; `release` itself says so; neither renews any more."""
    async with AsyncClient(timeout_s=1) as client:
        async with client.lock("a", ttl_s=2):
            agreement.delay_s = 1_000
        agreement.delay_s = 0
        await client.kv.delete(KEY)
        held = await client.lock("a", ttl_s=2).acquire()
        agreement.delay_s = 1_000
        with pytest.raises(NoQuorum):
            await held.release()
        agreement.delay_s = 0
        expires_ms = (await client.kv.get(KEY)).expires_ms
        await asyncio.sleep(1)
        assert (await client.kv.get(KEY)).expires_ms == expires_ms


async def test_a_release_whose_answer_is_lost_has_released(agreement: MemoryCluster) -> None:
    """The key is gone, whatever was heard of it."""
    async with AsyncClient(timeout_s=0.3) as client:
        async with client.lock("a"):
            agreement.outcome_unknown = True
        agreement.outcome_unknown = False
        assert await is_free(client)


# Claims in doubt.


async def test_a_claim_whose_answer_was_lost_is_found_to_have_won(agreement: MemoryCluster) -> None:
    """With patience left it looks, sees its own key, and holds the lock."""
    agreement.outcome_unknown = True
    async with AsyncClient(timeout_s=0.3) as client:
        waiting = asyncio.create_task(client.lock("a").acquire())
        await asyncio.sleep(0.6)
        agreement.outcome_unknown = False
        held = await asyncio.wait_for(waiting, 5)
        item = await client.kv.get(KEY)
        assert (item.version, item.revision) == (1, held.token)
        await held.release()


async def test_a_claim_that_ends_in_doubt_says_so_and_is_withdrawn(agreement: MemoryCluster) -> None:
    """The key that was written without an answer does not lock everybody out."""
    agreement.outcome_unknown = True
    async with AsyncClient(timeout_s=0.3) as client:
        with pytest.raises(OutcomeUnknown, match="given back as soon as possible, and runs out 15 s later"):
            await client.lock("a", wait_s=0).acquire()
        agreement.outcome_unknown = False
        await until("the claim is withdrawn", lambda: is_free(client))


async def test_a_claim_that_is_cancelled_on_its_way_is_withdrawn(agreement: MemoryCluster) -> None:
    """Its put was sent, so its answer is awaited in the background and the lock given back."""
    agreement.delay_s = 1.5
    async with AsyncClient() as client:
        claiming = asyncio.create_task(client.lock("a").acquire())

        async def is_under_way() -> bool:
            return any(member.proposals for member in agreement.members.values())

        await until("the put is under way", is_under_way)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        agreement.delay_s = 0
        assert await is_free(client), "the put was not under way any more: the test shows nothing"
        revision = (await client.kv.put("b", "1")).revision
        machine = next(iter(agreement.members.values())).machine

        async def is_over() -> bool:
            return machine.revision >= revision + 2

        await until("the put and its withdrawal are over", is_over)
        assert await is_free(client)
        assert (await client.kv.put("b", "2")).revision == revision + 3, "put and deleted"


async def test_closing_the_client_waits_for_a_withdrawal_but_not_for_long(agreement: MemoryCluster) -> None:
    """A claim in doubt is given back where that is quick, and left to run out where it is not."""
    for delay_s, is_withdrawn in ((0.2, True), (1_000, False)):
        agreement.outcome_unknown = True
        client = AsyncClient(timeout_s=0.5)
        with pytest.raises(OutcomeUnknown):
            await client.lock("a", wait_s=0).acquire()
        agreement.outcome_unknown, agreement.delay_s = False, delay_s
        began = time.monotonic()
        await client.close()
        assert time.monotonic() - began < 5
        agreement.delay_s = 0
        async with AsyncClient() as other:
            assert await is_free(other) is is_withdrawn


async def test_a_withdrawal_takes_nothing_from_others(agreement: MemoryCluster) -> None:
    """The lock that somebody else got meanwhile is not of the claim in doubt."""
    async with AsyncClient(timeout_s=0.3) as client, AsyncClient() as elsewhere:
        agreement.outcome_unknown = True
        with pytest.raises(OutcomeUnknown):
            await client.lock("a", wait_s=0).acquire()
        agreement.outcome_unknown = False
        async with elsewhere.lock("a") as held:
            await asyncio.sleep(0.6)
            assert (await elsewhere.kv.get(KEY)).revision == held.token


async def test_who_stops_waiting_in_line_leaves_no_trace() -> None:
    """The holder stays, and nobody is next."""
    async with AsyncClient() as client, client.lock("a") as held:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.lock("a").acquire()
        await held.release()
        await asyncio.sleep(0.3)
        assert await is_free(client)


async def test_who_waits_in_line_waits_out_an_outage(agreement: MemoryCluster) -> None:
    """A first attempt fails with the cluster; one that has begun to wait has the patience it was given."""
    async with AsyncClient(timeout_s=0.3) as client:
        held = await client.lock("a").acquire()
        waiting = asyncio.create_task(client.lock("a", wait_s=10).acquire())
        await asyncio.sleep(0.3)
        agreement.delay_s = 1_000
        with pytest.raises(NoQuorum):
            await client.lock("b", wait_s=10).acquire()
        agreement.delay_s = 0
        await held.release()
        await (await asyncio.wait_for(waiting, 5)).release()


async def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    """Patience is for other holders."""
    async with AsyncClient(["127.0.0.1:9"], timeout_s=0.2) as client:
        with pytest.raises(Unreachable):
            await client.lock("a").acquire()


# The verbs.


async def test_a_lease_goes_by_its_token() -> None:
    """Taken, renewed and given back without an object that holds it."""
    async with AsyncClient() as client:
        taken = await client.lock.acquire("a", ttl_s=5, owner="script")
        assert (taken.name, taken.owner, taken.host, taken.pid) == ("a", "script", socket.gethostname(), None)
        assert taken.expires_in_s is not None
        assert 4 < taken.expires_in_s <= 5
        renewed = await client.lock.renew("a", taken.token, ttl_s=60)
        assert (renewed.name, renewed.token) == ("a", taken.token)
        assert 58 < renewed.expires_in_s <= 60
        shown = await client.lock.show("a")
        assert (shown.token, shown.owner) == (taken.token, "script")
        assert shown.expires_in_s is not None
        assert 55 < shown.expires_in_s <= 61
        await client.lock.release("a", taken.token)
        assert await client.lock.list() == []


async def test_a_lease_that_is_over_is_said_in_the_words_of_locks() -> None:
    """Nobody has it: not found. Somebody has it: a conflict, with whom."""
    async with AsyncClient() as client:
        with pytest.raises(NotFound, match="nobody holds lock 'a'"):
            await client.lock.show("a")
        with pytest.raises(NotFound, match="nobody holds lock 'a'"):
            await client.lock.renew("a", 1)
        with pytest.raises(NotFound, match="nobody holds lock 'a'"):
            await client.lock.release("a", 1)
        taken = await client.lock.acquire("a", owner="other")
        sentence = f"held by 'other' with token {taken.token}, not 1"
        with pytest.raises(Conflict, match=sentence):
            await client.lock.renew("a", 1)
        with pytest.raises(Conflict, match=sentence):
            await client.lock.release("a", 1)
        assert (await client.lock.show("a")).token == taken.token


async def test_locks_are_listed_by_name_with_keys_that_others_wrote() -> None:
    """A key under lock/ that is no lock of ours keeps everybody out as well, so it is shown."""
    async with AsyncClient() as client:
        await client.kv.put("lock/by hand", "me")
        for name in ("b", "a"):
            await client.lock.acquire(name, owner=name)
        listed = await client.lock.list()
        assert [(lock.name, lock.owner) for lock in listed] == [
            ("a", "a"),
            ("b", "b"),
            ("by hand", "unknown"),
        ]
        assert listed[-1].expires_in_s is None
        with pytest.raises(Conflict, match="held by 'unknown'"):
            await client.lock.acquire("by hand", wait_s=0)


async def test_the_owner_is_a_user_of_a_host_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the user has no name."""
    async with AsyncClient() as client:
        monkeypatch.setenv("LOGNAME", "ada")
        assert isinstance(lock := client.lock("a"), AsyncLock)
        assert lock.owner == f"ada@{socket.gethostname()}"
        for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("os.getuid", lambda: 54_321)
        assert client.lock("a").owner == f"54321@{socket.gethostname()}"
