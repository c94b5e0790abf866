"""Claims about beacons and quotas in the SDK, against the real API, service and state of three members."""

from __future__ import annotations

import pytest

from raftos.client import AsyncClient, Client
from raftos.client.beacons import Beacon
from raftos.errors import InvalidInput, NoSpace, NotFound, TooLarge
from raftos.state.domains.quota import Quota

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("cluster")]

MIB = 1024 * 1024


async def test_what_was_announced_is_listed() -> None:
    """With its state, age and member, whatever characters the topic has."""
    async with AsyncClient() as client:
        await client.beacons.announce("chat/a&b c=ü", "ada", "typing", ttl_s=5)
        await client.beacons.announce("chat/a&b c=ü", "bob")
        ada, bob = await client.beacons.list("chat/a&b c=ü")
        assert ada == Beacon("chat/a&b c=ü", "ada", "typing", "n1", ada.age_ms, 5_000)
        assert (bob.name, bob.state, bob.ttl_ms) == ("bob", "", 10_000)
        assert await client.beacons.list("nothing") == []


@pytest.mark.parametrize(
    ("topic", "ttl_s", "error"),
    [
        ("", 5, InvalidInput),
        ("a\n", 5, InvalidInput),
        ("a" * 257, 5, TooLarge),
        ("a", 0, InvalidInput),
        ("a", 61, InvalidInput),
    ],
)
async def test_a_wrong_announcement_is_an_error(topic: str, ttl_s: float, error: type[InvalidInput]) -> None:
    """At once, and the same as the API's."""
    async with AsyncClient() as client:
        with pytest.raises(error):
            await client.beacons.announce(topic, "ada", ttl_s=ttl_s)


async def test_quotas_are_set_listed_and_felt() -> None:
    """NoSpace for what would grow; after a delete it is over."""
    async with AsyncClient() as client:
        assert await client.quota.set("state.bytes", MIB) == Quota("state.bytes", 0, MIB)
        await client.kv.put("a", bytes(MIB))
        with pytest.raises(NoSpace):
            await client.kv.put("b", "")
        assert [alarm.alarm for alarm in (await client.status()).alarms] == ["NOSPACE"]
        items = {item.name: item for item in await client.quota.list()}
        assert items["state.bytes"].value > items["state.bytes"].most == MIB
        assert items["kv.keys"].value == 1
        await client.kv.delete("a")
        await client.kv.put("b", "")
        with pytest.raises(NotFound, match=r"state\.bytes"):
            await client.quota.set("nothing", 1)
        with pytest.raises(InvalidInput):
            await client.quota.set("state.bytes", 5)


def test_both_work_without_an_event_loop() -> None:
    """The same verbs, as plain calls."""
    with Client() as client:
        client.beacons.announce("t", "ada", "here", ttl_s=5)
        assert [beacon.state for beacon in client.beacons.list("t")] == ["here"]
        client.quota.set("kv.keys", 7)
        assert Quota("kv.keys", 0, 7) in client.quota.list()
