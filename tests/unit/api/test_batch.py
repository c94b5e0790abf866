"""`/v1/batch`: independent items, in order, one result each."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from raftos.state.command import format_request_id, new_request_id
from tests.unit.api.harness import Api, run


def put(key: str, value: Any = b"1") -> dict[str, Any]:
    return {"command": {"type": "kv.put", "key": key, "value": value}}


def get(key: str, **extra: Any) -> dict[str, Any]:
    return {"query": {"type": "kv.get", "key": key}, **extra}


def test_a_batch_answers_each_item_in_its_place(tmp_path: Path) -> None:
    """Commands first, then the queries of the same batch, which see them."""

    async def scenario(api: Api) -> None:
        results = await api.batch([get("a"), put("a", b"\xff"), get("a", consistency="stale"), put("b")])
        item = {"key": "a", "version": 1, "revision": 1, "value": b"\xff"}
        assert results == [
            {"ok": item},
            {"ok": {"key": "a", "version": 1, "revision": 1}},
            {"ok": item},
            {"ok": {"key": "b", "version": 1, "revision": 2}},
        ]

    run(tmp_path, scenario)


def test_the_writes_of_a_batch_are_one_proposal_and_its_reads_one_barrier(tmp_path: Path) -> None:
    """That is what makes batches fast."""

    async def scenario(api: Api) -> None:
        await api.batch([item for number in range(50) for item in (put(f"k{number}"), get(f"k{number}"))])
        assert (api.consensus.proposals, api.consensus.barriers) == (1, 1)

    run(tmp_path, scenario)


def test_json_and_msgpack_mean_the_same(tmp_path: Path) -> None:
    """The answer comes in the format of the question."""

    async def scenario(api: Api) -> None:
        request_id = format_request_id(new_request_id(time.time_ns() // 1_000_000))
        items = [{"request_id": request_id, **put("a", "text")}, put("b"), get("a"), get("missing")]
        items[1]["command"] = {"type": "kv.put", "key": "b", "value_base64": "/w=="}
        response = await api.post("/v1/batch", {"items": items, "timeout_ms": 1000})
        assert response.headers["content-type"] == "application/json"
        first, second, third, fourth = response.json["results"]
        assert first == {"ok": {"key": "a", "version": 1, "revision": 1}}
        assert second == {"ok": {"key": "b", "version": 1, "revision": 2}}
        assert third == {"ok": {"key": "a", "version": 1, "revision": 1, "value": "text"}}
        assert fourth["error"]["code"] == "not_found"

    run(tmp_path, scenario)


def test_a_batch_at_a_member_whose_clock_stood_still(tmp_path: Path) -> None:
    """Ids that were made here are made anew; one that the caller made is refused as it is."""

    async def scenario(api: Api) -> None:
        api.consensus.behind_ms = 11 * 60_000
        own = api.member.new_request_id()
        first, second, third = await api.batch([put("a"), put("b") | {"request_id": own}, put("c")])
        assert (first["ok"]["version"], third["ok"]["version"]) == (1, 1)
        assert second["error"]["code"] == "expired"
        assert api.consensus.proposals == 2

    run(tmp_path, scenario)


def test_a_wrong_item_gets_its_error_and_the_others_go_on(tmp_path: Path) -> None:
    """A batch is the work of callers who do not know of each other."""

    async def scenario(api: Api) -> None:
        for wrong in (
            {},
            put("a") | get("a"),
            put(""),
            put("a", 7),
            {"command": {"type": "kv.unheard_of"}},
            {"command": {"type": "kv.put", "key": "a"}},
            {"query": {"type": "kv.get", "colour": 1}},
            get("a", consistency="maybe"),
            put("a") | {"request_id": b"short"},
            put("a") | {"request_id": 7},
            {"colour": 1},
        ):
            before, bad, after = await api.batch([put("x"), wrong, get("x")])
            assert bad["error"]["code"] in {"invalid", "not_found"}, wrong
            assert bad["error"]["message"]
            assert "ok" in before
            assert "ok" in after

    run(tmp_path, scenario)


def test_refusals_of_the_domain_stay_in_their_place(tmp_path: Path) -> None:
    """A conflict of one is not the trouble of another."""

    async def scenario(api: Api) -> None:
        taken = {"command": {"type": "kv.put", "key": "a", "value": b"", "expect_version": 9}}
        refused, done = await api.batch([taken, put("a")])
        assert refused["error"]["code"] == "conflict"
        assert done["ok"]["version"] == 1

    run(tmp_path, scenario)


def test_without_a_quorum_only_the_stale_reads_answer(tmp_path: Path) -> None:
    """Each item that needed agreement carries the error."""

    async def scenario(api: Api) -> None:
        await api.batch([put("a")])
        api.cluster.cut("id-n2")
        api.cluster.cut("id-n3")
        write, read, stale = await api.batch([put("a"), get("a"), get("a", consistency="stale")])
        assert write["error"]["code"] == "no_quorum"
        assert read["error"]["code"] == "no_quorum"
        assert read["error"]["retryable"] is True
        assert stale["ok"]["value"] == b"1"

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_what_is_no_batch_is_refused_as_a_whole(tmp_path: Path) -> None:
    """Not msgpack, or msgpack of another shape."""

    async def scenario(api: Api) -> None:
        for body in (b"", b"\xc1", msgspec.msgpack.encode([1]), msgspec.msgpack.encode({"items": [1]})):
            response = await api.request("POST", "/v1/batch", body, {"content-type": "application/msgpack"})
            assert (response.status, response.code) == (400, "invalid"), body

    run(tmp_path, scenario)
