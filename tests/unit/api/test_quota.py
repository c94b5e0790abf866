"""Quotas as operators meet them: set over HTTP, an alarm, gauges, and a member that stays ready."""

from __future__ import annotations

from pathlib import Path

from tests.unit.api.harness import Api, run

MIB = 1024 * 1024


async def fill(api: Api) -> None:
    """Allow 1 MiB and write a little more."""
    limited = await api.post("/v1/quota/set", {"name": "state.bytes", "most": MIB})
    assert limited.json == {"name": "state.bytes", "value": 0, "most": MIB}
    for number in range(2):
        assert (await api.post("/v1/kv/put", {"key": f"k{number}", "value": "v" * (MIB // 2)})).status == 200


def test_a_full_state_is_507_for_growing_writes_alone(tmp_path: Path) -> None:
    """Also in a batch, item by item; after a delete it is over."""

    async def scenario(api: Api) -> None:
        await fill(api)
        refused = await api.post("/v1/kv/put", {"key": "a", "value": ""})
        assert (refused.status, refused.code) == (507, "no_space")
        assert "delete something" in refused.sentence
        put = {"command": {"type": "kv.put", "key": "a", "value": b""}}
        delete = {"command": {"type": "kv.delete", "key": "k0"}}
        get = {"query": {"type": "kv.get", "key": "k1"}}
        first, deleted, second, got = await api.batch([put, delete, put, get])
        assert first["error"]["code"] == "no_space"
        assert not first["error"]["retryable"]
        assert "ok" in deleted
        assert "ok" in second
        assert got["ok"]["value"] == b"v" * (MIB // 2)

    run(tmp_path, scenario)


def test_the_status_raises_an_alarm_while_there_is_no_space(tmp_path: Path) -> None:
    """Every member says so, from its own state, and stays ready: reads and deletes work."""

    async def scenario(api: Api) -> None:
        assert (await api.get("/v1/status")).json["alarms"] == []
        await fill(api)
        [alarm] = (await api.get("/v1/status")).json["alarms"]
        assert alarm["alarm"] == "NOSPACE"
        assert "state.bytes" in alarm["message"]
        for member in api.members.values():
            assert [each.alarm for each in (await member.status()).alarms] == ["NOSPACE"]
        assert (await api.get("/readyz")).status == 200
        await api.post("/v1/kv/delete", {"key": "k0"})
        assert (await api.get("/v1/status")).json["alarms"] == []

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_quotas_are_gauges(tmp_path: Path) -> None:
    """How much there is and how much there may be, by name; no bookkeeping among them."""

    async def scenario(api: Api) -> None:
        await fill(api)
        lines = (await api.get("/metrics")).body.decode().splitlines()
        assert 'raftos_tally{name="kv.keys"} 2.0' in lines
        assert 'raftos_tally_limit{name="state.bytes"} 1.048576e+06' in lines
        assert not [line for line in lines if "events.dropped" in line]

    run(tmp_path, scenario)
