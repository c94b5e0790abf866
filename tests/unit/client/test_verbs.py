"""Claims about each verb of the SDK, against the real API, service and state of three members."""

from __future__ import annotations

import asyncio

import pytest

from raftos.client import AsyncClient
from raftos.client.kv import Item
from raftos.errors import Conflict, NotFound, Unauthorized
from raftos.state.domains.kv import Compare, Put, TxnDelete, TxnDeleted, TxnPut, TxnWritten, Written

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("cluster")]


async def test_what_was_put_is_what_get_gives() -> None:
    """Text and bytes alike, with versions and revisions."""
    async with AsyncClient() as client:
        first = await client.kv.put("a", "grüße")
        second = await client.kv.put("a", b"\x00\xff")
        assert (first.version, second.version) == (1, 2)
        assert second.revision > first.revision
        assert await client.kv.get("a") == Item("a", 2, second.revision, b"\x00\xff")


async def test_versions_guard_writes() -> None:
    """A conditional write that does not meet its condition raises Conflict and changes nothing."""
    async with AsyncClient() as client:
        await client.kv.put("a", "1", expect_version=0)
        with pytest.raises(Conflict):
            await client.kv.put("a", "2", expect_version=0)
        with pytest.raises(Conflict):
            await client.kv.delete("a", expect_version=7)
        assert (await client.kv.get("a")).value == b"1"
        await client.kv.delete("a", expect_version=1)
        with pytest.raises(NotFound):
            await client.kv.get("a")


async def test_a_time_to_live_is_kept_with_the_key() -> None:
    """Seconds here, milliseconds of cluster time in the state."""
    async with AsyncClient() as client:
        await client.kv.put("a", "1", ttl_s=60)
        expires_ms = (await client.kv.get("a")).expires_ms
        assert expires_ms is not None


async def test_delete_prefix_takes_as_many_steps_as_it_needs() -> None:
    """More keys than one command may touch are still all deleted, and counted."""
    async with AsyncClient() as client:
        await client.batch([Put(f"many/{number}", b"") for number in range(2_100)])
        await client.kv.put("other", "1")
        assert await client.kv.delete_prefix("many/") == 2_100
        assert [item.key async for item in client.kv.list()] == ["other"]
        assert await client.kv.delete_prefix("many/") == 0


async def test_list_goes_through_all_pages_and_stops_at_its_limit() -> None:
    """In key order, whatever the page size of the members."""
    async with AsyncClient() as client:
        await client.batch([Put(f"k/{number:04}", b"v") for number in range(1_500)])
        keys = [item.key async for item in client.kv.list("k/", keys_only=True)]
        assert keys == [f"k/{number:04}" for number in range(1_500)]
        some = [item async for item in client.kv.list("k/", limit=1_201, stale=True)]
        assert (len(some), some[-1].key, some[-1].value) == (1_201, "k/1200", b"v")
        assert [item async for item in client.kv.list("k/", limit=0)] == []


async def test_txn_is_all_or_nothing() -> None:
    """All comparisons hold and all writes happen, or Conflict and none does."""
    async with AsyncClient() as client:
        await client.kv.put("a", "1")
        done = await client.kv.txn(
            compare=[Compare("a", 1), Compare("b", 0)], writes=[TxnPut("b", b"2"), TxnDelete("a")]
        )
        assert done.results == [TxnWritten("b", 1), TxnDeleted("a", deleted=True)]
        with pytest.raises(Conflict):
            await client.kv.txn(compare=[Compare("a", 1)], writes=[TxnPut("b", b"3")])
        assert (await client.kv.get("b")).value == b"2"


async def test_a_batch_of_commands_has_typed_values() -> None:
    """The outcome of a command looks like that of its verb."""
    async with AsyncClient() as client:
        (written,) = await client.batch([Put("a", b"1")])
        assert isinstance(written, Written)


async def test_the_cluster_describes_itself() -> None:
    """Members, status and leader agree with each other."""
    async with AsyncClient() as client:
        members, status, leader = await asyncio.gather(
            client.members.list(), client.status(), client.leader.show()
        )
        assert [member.name for member in members] == ["n1", "n2", "n3"]
        assert [node.name for node in status.nodes] == ["n1", "n2", "n3"]
        assert status.leader == leader.leader == "n1"


async def test_leadership_is_handed_over() -> None:
    """By name; a name that nobody has is refused."""
    async with AsyncClient() as client:
        assert (await client.leader.transfer("n2")).leader == "n2"
        assert (await client.leader.show()).leader == "n2"
        with pytest.raises(NotFound):
            await client.leader.transfer("nobody")


async def test_every_member_serves(cluster: list[str]) -> None:
    """Endpoints given, the credential still comes from the context."""
    for number, endpoint in enumerate(cluster):
        async with AsyncClient([endpoint]) as client:
            assert (await client.kv.put("a", "1")).version == number + 1


async def test_a_wrong_credential_is_refused_at_once(
    cluster: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unauthorized is not worth a second attempt."""
    monkeypatch.setenv("RAFTOS_HOME", "/nonexistent")
    async with AsyncClient(cluster) as client:
        with pytest.raises(Unauthorized):
            await client.kv.put("a", "1")
        with pytest.raises(Unauthorized):
            await client.status()
