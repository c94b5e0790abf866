"""The API of one member, on a real port, over a real machine; agreement is in memory."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from raftos.api.app import OPEN_ROUTES
from raftos.api.domains import path_of
from raftos.state.command import format_request_id, new_request_id
from raftos.state.domains import COMMANDS, OFFERED
from tests.unit.api.harness import Api, run


def test_a_put_can_be_read_back(tmp_path: Path) -> None:
    """The first thing anybody tries; every answer carries cluster time."""

    async def scenario(api: Api) -> None:
        put = await api.post("/v1/kv/put", {"key": "a b/ü", "value": "one"})
        assert (put.status, put.json) == (200, {"key": "a b/ü", "version": 1, "revision": 1})
        got = await api.get("/v1/kv/get?key=a+b/%C3%BC")
        assert got.json == {"key": "a b/ü", "value": "one", "version": 1, "revision": 1}
        assert abs(int(got.headers["raftos-time"]) - time.time() * 1000) < 10_000
        listed = await api.get("/v1/kv/list?prefix=a&limit=10&keys_only=true")
        assert listed.json == {"items": [{"key": "a b/ü", "version": 1, "revision": 1}], "cursor": None}

    run(tmp_path, scenario)


def test_values_that_are_no_text_travel_as_base64(tmp_path: Path) -> None:
    """The same field both ways."""

    async def scenario(api: Api) -> None:
        await api.post("/v1/kv/put", {"key": "a", "value_base64": "/w=="})
        assert (await api.get("/v1/kv/get?key=a")).json["value_base64"] == "/w=="
        txn = {"writes": [{"op": "put", "key": "b", "value_base64": "/w=="}, {"op": "delete", "key": "a"}]}
        assert (await api.post("/v1/kv/txn", txn)).status == 200
        assert (await api.get("/v1/kv/get?key=b")).json["value_base64"] == "/w=="

    run(tmp_path, scenario)


def test_a_repeated_request_is_answered_as_the_first_time(tmp_path: Path) -> None:
    """The same id is applied once; with another body it is a conflict."""

    async def scenario(api: Api) -> None:
        request_id = format_request_id(new_request_id(time.time_ns() // 1_000_000))
        body = {"key": "a", "value": "1", "request_id": request_id}
        first = await api.post("/v1/kv/put", body)
        assert (await api.post("/v1/kv/put", body)).json == first.json
        other = await api.post("/v1/kv/put", {**body, "value": "2"})
        assert (other.status, other.code) == (409, "conflict")
        old = format_request_id(new_request_id(1))
        expired = await api.post("/v1/kv/put", {**body, "request_id": old})
        assert (expired.status, expired.code) == (409, "expired")

    run(tmp_path, scenario)


def test_a_first_write_at_a_member_whose_clock_stood_still(tmp_path: Path) -> None:
    """Nothing was written for ten minutes. The id was made here, so the caller hears nothing of it."""

    async def scenario(api: Api) -> None:
        api.consensus.behind_ms = 11 * 60_000
        put = await api.post("/v1/kv/put", {"key": "a", "value": "1"})
        assert (put.status, put.json["version"]) == (200, 1)
        api.consensus.behind_ms = 11 * 60_000
        own = format_request_id(api.member.new_request_id())
        refused = await api.post("/v1/kv/put", {"key": "a", "value": "1", "request_id": own})
        assert (refused.status, refused.code) == (409, "expired")

    run(tmp_path, scenario)


BAD_REQUESTS: list[tuple[str, str, dict[str, Any] | bytes, int, str, str]] = [
    ("GET", "/v1/kv/nothing", b"", 404, "not_found", "/v1/kv/nothing"),
    ("GET", "/", b"", 404, "not_found", ""),
    ("GET", "/v1/kv/put", b"", 405, "invalid", "POST"),
    ("DELETE", "/v1/kv/get", b"", 405, "invalid", "GET"),
    ("POST", "/v1/kv/put", b"{", 400, "invalid", "JSON"),
    ("POST", "/v1/kv/put", b"[1]", 400, "invalid", "object"),
    ("POST", "/v1/kv/put", {"key": "a"}, 400, "invalid", "`value`"),
    ("POST", "/v1/kv/put", {"key": "a", "value": "b", "colour": 1}, 400, "invalid", "`colour`"),
    ("POST", "/v1/kv/put", {"key": 1, "value": "b"}, 400, "invalid", "`key`"),
    ("POST", "/v1/kv/put", {"key": "a", "value": "b", "request_id": "x"}, 400, "invalid", "`request_id`"),
    ("POST", "/v1/kv/put", {"key": "", "value": "b"}, 400, "invalid", "key"),
    ("POST", "/v1/kv/put", {"key": "a\x00", "value": "b"}, 400, "invalid", "key"),
    ("POST", "/v1/kv/put", {"key": "a" * 1025, "value": "b"}, 413, "too_large", "1025"),
    ("POST", "/v1/kv/put", {"key": "a", "value": "b" * (2**20 + 1)}, 413, "too_large", "value"),
    ("POST", "/v1/kv/put", {"key": "a", "value": "b", "ttl_ms": 0}, 400, "invalid", "ttl_ms"),
    ("POST", "/v1/kv/delete", {"key": "missing"}, 404, "not_found", ""),
    ("POST", "/v1/kv/put", {"key": "kept", "value": "b", "expect_version": 7}, 409, "conflict", "version"),
    ("GET", "/v1/kv/get", b"", 400, "invalid", "`key`"),
    ("GET", "/v1/kv/get?key=missing", b"", 404, "not_found", ""),
    ("GET", "/v1/kv/get?key=a&key=b", b"", 400, "invalid", "twice"),
    ("GET", "/v1/kv/get?key=a&consistency=maybe", b"", 400, "invalid", "consistency"),
    ("GET", "/v1/kv/list?limit=many", b"", 400, "invalid", "`limit`"),
    ("GET", "/v1/kv/list?cursor=@@@", b"", 400, "invalid", "cursor"),
    ("POST", "/v1/leader/transfer", {"target": "nobody"}, 404, "not_found", "nobody"),
    ("POST", "/v1/leader/transfer", {"goal": "n1"}, 400, "invalid", "`goal`"),
    ("POST", "/v1/batch", {"items": "none"}, 400, "invalid", "`items`"),
    ("POST", "/v1/batch", {"items": [], "timeout_ms": 0}, 400, "invalid", "timeout"),
    ("POST", "/v1/batch", {"items": [{}] * 2001}, 413, "too_large", "2000"),
]


def test_bad_input_is_refused_by_name_and_changes_nothing(tmp_path: Path) -> None:
    """Each has its status, its code and a sentence that names what is wrong."""

    async def scenario(api: Api) -> None:
        await api.post("/v1/kv/put", {"key": "kept", "value": "as it is"})
        before = api.machine.revision
        for method, target, body, status, code, named in BAD_REQUESTS:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            response = await api.request(method, target, raw)
            assert (response.status, response.code) == (status, code), (target, response.body)
            assert named in response.sentence, (target, response.sentence)
        assert api.machine.revision == before

    run(tmp_path, scenario)


def test_a_wrong_method_says_which_are_allowed(tmp_path: Path) -> None:
    """RFC 9110 asks for the Allow header."""

    async def scenario(api: Api) -> None:
        assert (await api.request("PUT", "/v1/kv/put")).headers["allow"] == "POST"

    run(tmp_path, scenario)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_needs_a_content_type_no_browser_form_sends(tmp_path: Path, content_type: str | None) -> None:
    """Otherwise any web page could post without asking."""

    async def scenario(api: Api) -> None:
        for target in ("/v1/kv/put", "/v1/batch", "/v1/leader/transfer"):
            response = await api.post(target, {"key": "a", "value": "b"}, **{"content-type": content_type})
            assert (response.status, response.code) == (415, "invalid")

    run(tmp_path, scenario)


def test_strangers_get_nothing_but_health(tmp_path: Path) -> None:
    """Without the secret every route is 401, known or not, and only health checks answer."""

    async def scenario(api: Api) -> None:
        for target in [*api.app.routes, "/unknown"]:
            response = await api.get(target, authorization=None)
            if target in OPEN_ROUTES:
                assert response.status == 200
            else:
                assert (response.status, response.code) == (401, "unauthorized")
                assert "www-authenticate" in response.headers
        assert (await api.get("/livez", host="evil.example")).code == "denied"
        assert (await api.get("/v1/status", origin="http://evil.example")).code == "denied"

    run(tmp_path, scenario)


@pytest.mark.parametrize("timeout_ms", ["0", "-1", "60001", "soon", "1e3", ""])
def test_a_timeout_outside_its_limits_is_invalid(tmp_path: Path, timeout_ms: str) -> None:
    """1 ms to a minute."""

    async def scenario(api: Api) -> None:
        response = await api.get("/v1/kv/get?key=a", **{"raftos-timeout-ms": timeout_ms})
        assert (response.status, response.code) == (400, "invalid")

    run(tmp_path, scenario)


def test_failures_to_agree_have_their_codes_and_stale_reads_go_on(tmp_path: Path) -> None:
    """503 for what was never proposed, 504 for what may be applied, both retryable."""

    async def scenario(api: Api) -> None:
        put = {"key": "a", "value": "1"}
        await api.post("/v1/kv/put", put)
        api.cluster.outcome_unknown = True
        unknown = await api.post("/v1/kv/put", put)
        assert (unknown.status, unknown.code) == (504, "outcome_unknown")
        assert "request_id" in unknown.sentence
        api.cluster.outcome_unknown = False
        api.consensus.trouble = "the disk is full"
        full = await api.post("/v1/kv/put", put)
        assert (full.status, full.code, full.sentence) == (503, "not_ready", "the disk is full")
        api.consensus.trouble = None
        api.cluster.cut("id-n2")
        api.cluster.cut("id-n3")
        for response in (await api.post("/v1/kv/put", put), await api.get("/v1/kv/get?key=a")):
            assert (response.status, response.code) == (503, "no_quorum")
            assert response.json["error"]["retryable"] is True
        stale = await api.get("/v1/kv/get?key=a&consistency=stale")
        assert stale.json["value"] == "1"
        assert int(stale.headers["raftos-age-ms"]) >= 0

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_the_timeout_of_a_request_bounds_its_wait(tmp_path: Path) -> None:
    """Agreement that takes too long is given up in time."""

    async def scenario(api: Api) -> None:
        api.cluster.delay_s = 60
        started = time.monotonic()
        response = await api.post("/v1/kv/put", {"key": "a", "value": "1"}, **{"raftos-timeout-ms": "50"})
        assert (response.status, response.code) == (503, "no_quorum")
        assert time.monotonic() - started < 5

    run(tmp_path, scenario)


def test_readiness_tells_the_truth(tmp_path: Path) -> None:
    """Ready only with a quorum and without trouble; alive all the time."""

    async def scenario(api: Api) -> None:
        assert (await api.get("/readyz")).json == {"ready": True}
        api.consensus.trouble = "the disk is full"
        assert (await api.get("/readyz")).sentence == "the disk is full"
        api.consensus.trouble = None
        api.cluster.cut("id-n1")
        response = await api.get("/readyz")
        assert (response.status, response.code) == (503, "not_ready")
        assert (await api.get("/livez")).status == 200

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_status_lists_every_voter_reachable_or_not(tmp_path: Path) -> None:
    """The shape that scripts rely on; what an unreachable member did not say is null."""

    async def scenario(api: Api) -> None:
        await api.member.register()
        api.cluster.cut("id-n3")
        status = (await api.get("/v1/status")).json
        assert list(status) == ["cluster", "leader", "term", "commit_index", "nodes", "alarms", "level"]
        assert [alarm["alarm"] for alarm in status["alarms"]] == ["NO_SPARE"]
        assert (status["cluster"], status["leader"]) == ("test", "n1")
        rows = [
            (node["name"], node["role"], node["state"], node["applied_index"]) for node in status["nodes"]
        ]
        assert rows == [
            ("n1", "leader", "alive", 1),
            ("n2", "follower", "alive", 1),
            ("n3", "follower", "unreachable", None),
        ]
        first, second, third = status["nodes"]
        assert first["state_hash"] == second["state_hash"]
        assert third["load"] is None
        assert first["endpoint"] == "http://127.0.0.1/n1"

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_leadership_is_shown_and_handed_over_by_name(tmp_path: Path) -> None:
    """`leader show` and `leader transfer`."""

    async def scenario(api: Api) -> None:
        shown = (await api.get("/v1/leader")).json
        assert shown == {"leader": "n1", "id": "id-n1", "endpoint": "http://127.0.0.1/n1", "term": 1}
        assert (await api.post("/v1/leader/transfer", {"target": "n2"})).json == {"leader": "n2"}
        assert (await api.post("/v1/leader/transfer", {"target": None})).json != {"leader": "n2"}

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_a_member_that_cannot_lead_is_named(tmp_path: Path) -> None:
    """By the name that people know, though agreement knows it by its id."""

    async def scenario(api: Api) -> None:
        api.cluster.cut("id-n3")
        refused = await api.post("/v1/leader/transfer", {"target": "n3"})
        assert refused.code == "conflict"
        assert refused.sentence == "n3 is not connected; the leader is unchanged"

    run(tmp_path, scenario, names=["n1", "n2", "n3"])


def test_metrics_count_requests_by_route_and_status(tmp_path: Path) -> None:
    """In Prometheus' text format; paths that a client made up do not become series."""

    async def scenario(api: Api) -> None:
        await api.post("/v1/kv/put", {"key": "a", "value": "1"})
        await api.get("/v1/made/up")
        response = await api.get("/metrics")
        text = response.body.decode()
        assert response.headers["content-type"].startswith("text/plain")
        assert 'raftos_http_request_seconds_count{route="/v1/kv/put",status="200"} 1.0' in text
        assert 'raftos_http_request_seconds_count{route="unknown",status="404"} 1.0' in text
        assert "made" not in text
        for line in (
            "raftos_is_leader 1.0",
            "raftos_has_quorum 1.0",
            "raftos_ready 1.0",
            "raftos_revision 1.0",
        ):
            assert line in text
        assert "process_resident_memory_bytes" in text

    run(tmp_path, scenario)


def test_a_bug_is_a_fault_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes on, and nothing of the inside is shown."""

    async def scenario(api: Api) -> None:
        def broken() -> bytes:
            raise RuntimeError("inside")

        monkeypatch.setattr(api.member, "new_request_id", broken)
        response = await api.post("/v1/kv/put", {"key": "a", "value": "1"})
        assert (response.status, response.code) == (500, "fault")
        assert "inside" not in response.sentence
        assert (await api.get("/livez")).status == 200

    run(tmp_path, scenario)


def test_a_bug_in_a_query_is_a_fault_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries are answered together, in a task of their own; each caller hears of it."""

    async def scenario(api: Api) -> None:
        def broken(_query: object) -> object:
            raise RuntimeError("inside")

        monkeypatch.setattr(api.member._loop_reader, "query", broken)
        fault = await asyncio.wait_for(api.get("/v1/kv/get?key=a"), 5)
        assert (fault.status, fault.code) == (500, "fault")
        assert "inside" not in fault.sentence
        assert fault.headers.get("connection") != "close"

    run(tmp_path, scenario)


def test_what_members_alone_propose_is_no_route(tmp_path: Path) -> None:
    """A caller could let the cluster forget a member that lives; `/v1/cluster/remove` looks first."""
    internal = COMMANDS.keys() - OFFERED.keys()
    assert internal == {
        "members.announce", "members.register", "members.mark", "members.forget", "cluster.enable",
        "kv.expire", "chat.trim", "chat.index",
    }  # fmt: skip

    async def scenario(api: Api) -> None:
        await api.member.register()
        for tag in internal:
            refused = await api.post(path_of(tag), {"id": "id-n1"})
            assert (refused.status, refused.code) == (404, "not_found")
            alone = (await api.batch([{"command": {"type": tag, "id": "id-n1"}}]))[0]
            assert alone["error"]["code"] == "invalid"
        forget = {"command": {"type": "members.forget", "id": "id-n1"}}
        put = {"command": {"type": "kv.put", "key": "a", "value": "1"}}
        in_msgpack = await api.batch([forget, put])
        in_json = (await api.post("/v1/batch", {"items": [forget, put]})).json["results"]
        for first, second in (in_msgpack, in_json):
            assert first["error"]["code"] == "invalid"
            assert "ok" in second
        assert "id-n1" in api.member.records()

    run(tmp_path, scenario)
