"""What the API refuses: each with its status, in the one JSON shape, and nothing changed.

Every request goes to a follower of a real cluster over plain HTTP. A write before and a write after prove
that the refused one did not count: their revisions follow each other.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster, Response

Headers = dict[str, str | None]
PUT = b'{"key": "limits/never", "value": "x"}'
MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_VALUE_BYTES = 1024 * 1024


@pytest.fixture
def member(shared: Cluster) -> Iterator[Member]:
    """A follower that is asked; fails if the cluster has counted any write in between but its own two."""
    chosen = shared.followers()[0]
    before = revision(shared, chosen)
    yield chosen
    assert revision(shared, chosen) == before + 1, "a refused request was counted"
    keys = shared.request(chosen, "/v1/kv/list?prefix=limits/&keys_only=true").json["items"]
    assert [item["key"] for item in keys] == ["limits/witness"]


def revision(cluster: Cluster, member: Member) -> int:
    answer = cluster.request(member, "/v1/kv/put", b'{"key": "limits/witness", "value": "here"}')
    assert answer.status == 200, answer.body
    found: int = answer.json["revision"]
    return found


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def put(**fields: Any) -> bytes:
    return body(**{"key": "limits/never", "value": "x"} | fields)


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/", "GET", 404, "not_found"),
        ("/v1", "GET", 404, "not_found"),
        ("/v1/kv", "GET", 404, "not_found"),
        ("/v1/kv/burn", "POST", 404, "not_found"),
        ("/v1/nothing/put", "POST", 404, "not_found"),
        ("/v1/kv/put/", "POST", 404, "not_found"),
        ("/v1/kv/../kv/put", "POST", 404, "not_found"),
        ("/v2/kv/put", "POST", 404, "not_found"),
        ("/v1/kv/put", "GET", 405, "invalid"),
        ("/v1/kv/put", "PUT", 405, "invalid"),
        ("/v1/kv/get?key=limits/witness", "POST", 405, "invalid"),
        ("/v1/kv/get?key=limits/witness", "DELETE", 405, "invalid"),
        ("/v1/batch", "GET", 405, "invalid"),
        ("/livez", "POST", 405, "invalid"),
    ],
)
def test_a_route_that_does_not_exist(
    shared: Cluster, member: Member, path: str, method: str, status: int, code: str
) -> None:
    """404 for the path, 405 for the method."""
    answer = shared.request(member, path, None if method in {"GET", "DELETE"} else PUT, method=method)
    assert (answer.status, answer.error_code()) == (status, code)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"key"',
        b"{}",
        b"\xff\xfe",
        b'{"key": "limits/never"}',
        b'{"value": "x"}',
        put(key=1),
        put(key=None),
        put(value=1),
        put(value=None),
        put(value=["x"]),
        put(expect_version="1"),
        put(expect_version=-1),
        put(expect_version=1.5),
        put(expect_version=2**80),
        put(expect_version=True),
        put(ttl_ms=0),
        put(ttl_ms=-5),
        put(ttl_ms=2**62),
        put(ttl_s=5),
        put(type="kv.delete"),
        put(value_base64="eA=="),
        body(key="limits/never", value_base64="not base64!"),
        put(request_id="not a uuid"),
        put(request_id="9b2c1f0e-0000-4000-8000-000000000000"),
        put(request_id=7),
        put(key=""),
        put(key="k" * 1025),
        put(key="ü" * 513),
        put(key="with\x00nul"),
        put(key="with\nnewline"),
        put(key="with\x7fdelete"),
        b'{"key": "limits/\\ud800", "value": "x"}',
    ],
)
def test_a_put_that_is_wrong(shared: Cluster, member: Member, wrong: bytes) -> None:
    """400: not JSON, missing and unknown fields, wrong types, invalid keys and request ids."""
    answer = shared.request(member, "/v1/kv/put", wrong)
    assert (answer.status, answer.error_code()) in {(400, "invalid"), (413, "too_large")}, answer.body
    assert not answer.json["error"]["retryable"]


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/v1/kv/delete", body(key="")),
        ("/v1/kv/delete", body(key="limits/witness", expect_version="2")),
        ("/v1/kv/delete", body(keys=["limits/witness"])),
        ("/v1/kv/delete_prefix", body(prefix="limits/", limit=0)),
        ("/v1/kv/delete_prefix", body(prefix="limits/", limit=1001)),
        ("/v1/kv/delete_prefix", body(prefix=5)),
        ("/v1/kv/txn", body()),
        ("/v1/kv/txn", body(writes=[{"op": "burn", "key": "limits/witness"}])),
        ("/v1/kv/txn", body(writes=[{"op": "put", "key": "limits/never"}])),
        ("/v1/kv/txn", body(writes=[{"op": "delete", "key": "limits/witness"}] * 129)),
        ("/v1/kv/txn", body(writes=[], compare=[{"key": "limits/witness", "version": "1"}])),
        ("/v1/leader/transfer", body(target=5)),
        ("/v1/leader/transfer", body(to="n1")),
        ("/v1/batch", body()),
        ("/v1/batch", body(items={})),
        ("/v1/batch", body(items=[1])),
        ("/v1/batch", body(items=[], timeout_ms=0)),
        ("/v1/batch", body(items=[], timeout_ms=60_001)),
    ],
)
def test_other_commands_that_are_wrong(shared: Cluster, member: Member, path: str, wrong: bytes) -> None:
    """400 as well: each before anything is proposed."""
    answer = shared.request(member, path, wrong)
    assert (answer.status, answer.error_code()) == (400, "invalid"), answer.body


@pytest.mark.parametrize(
    "query",
    [
        "/v1/kv/get",
        "/v1/kv/get?key=",
        "/v1/kv/get?key=%00",
        "/v1/kv/get?key=%ff",
        "/v1/kv/get?key=a&key=b",
        "/v1/kv/get?key=a&nonsense=1",
        "/v1/kv/get?key=a&consistency=maybe",
        "/v1/kv/get?key=" + "k" * 1025,
        "/v1/kv/list?limit=0",
        "/v1/kv/list?limit=1001",
        "/v1/kv/list?limit=many",
        "/v1/kv/list?limit=-1",
        "/v1/kv/list?keys_only=perhaps",
        "/v1/kv/list?cursor=!",
        "/v1/kv/list?cursor=AAA",
        "/v1/kv/list?cursor=_w==",
        "/v1/kv/list?cursor=%00",
        "/v1/kv/list?prefix=limits/&cursor=b3RoZXI=",
        "/v1/members/get",
        "/v1/members/get?id=a&name=b",
        "/v1/kv/list?" + "&".join(f"p{number}=1" for number in range(40)),
    ],
)
def test_a_query_that_is_wrong(shared: Cluster, member: Member, query: str) -> None:
    """400: missing, double and unknown parameters, numbers that are none, malformed cursors."""
    answer = shared.request(member, query)
    assert (answer.status, answer.error_code()) in {(400, "invalid"), (413, "too_large")}, answer.body


@pytest.mark.parametrize("key", ["limits/missing", "limits/witness/", "LIMITS/WITNESS"])
def test_what_is_not_there(shared: Cluster, member: Member, key: str) -> None:
    """404 for the read and the delete of a key that does not exist."""
    answer = shared.request(member, f"/v1/kv/get?key={key}")
    assert (answer.status, answer.error_code()) == (404, "not_found")
    answer = shared.request(member, "/v1/kv/delete", body(key=key))
    assert (answer.status, answer.error_code()) == (404, "not_found")


def test_what_does_not_match(shared: Cluster, member: Member) -> None:
    """409 for another version, an existing key, an unmet comparison and a request id used before."""
    version = shared.request(member, "/v1/kv/get?key=limits/witness").json["version"]
    for path, wrong in (
        ("/v1/kv/put", put(key="limits/witness", expect_version=0)),
        ("/v1/kv/put", put(key="limits/witness", expect_version=version + 1)),
        ("/v1/kv/put", put(expect_version=1)),
        ("/v1/kv/delete", body(key="limits/witness", expect_version=version + 1)),
        (
            "/v1/kv/txn",
            body(
                compare=[{"key": "limits/witness", "version": version}, {"key": "limits/a", "version": 1}],
                writes=[{"op": "delete", "key": "limits/witness"}],
            ),
        ),
        ("/v1/kv/put", put(request_id="00000000-0001-7000-8000-000000000000")),
        ("/v1/kv/put", put(request_id="ffffffff-ffff-7000-8000-000000000000")),
    ):
        answer = shared.request(member, path, wrong)
        assert answer.status == 409, (wrong, answer.body)
        assert answer.error_code() in {"conflict", "expired"}


@pytest.mark.parametrize("as_json", [True, False])
def test_a_value_that_is_too_large(shared: Cluster, member: Member, as_json: bool) -> None:
    """413 at one byte more than 1 MiB, in JSON and in msgpack."""
    value = "x" * (MAX_VALUE_BYTES + 1)
    command = {"type": "kv.put", "key": "limits/never", "value": value if as_json else value.encode()}
    if as_json:
        answer = shared.request(member, "/v1/kv/put", put(value=value))
        assert (answer.status, answer.error_code()) == (413, "too_large")
        answer = shared.request(member, "/v1/batch", body(items=[{"command": command}]))
        [result] = answer.json["results"]
    else:
        packed = msgspec.msgpack.encode({"items": [{"command": command}]})
        answer = shared.request(member, "/v1/batch", packed, {"Content-Type": "application/msgpack"})
        [result] = msgspec.msgpack.decode(answer.body)["results"]
    assert answer.status == 200
    assert result["error"]["code"] == "too_large"


@pytest.mark.parametrize("path", ["/v1/kv/put", "/v1/batch", "/nowhere"])
def test_a_body_that_is_too_large(shared: Cluster, member: Member, path: str) -> None:
    """413 whether its length is announced, or found out while it is read; and the connection ends."""
    answer = shared.request(member, path, b" " * (MAX_BODY_BYTES + 1))
    assert (answer.status, answer.error_code()) == (413, "too_large")
    assert answer.headers["connection"] == "close"
    answer = chunked(shared, member, path, MAX_BODY_BYTES + 1)
    assert (answer.status, answer.error_code()) == (413, "too_large")


def chunked(cluster: Cluster, member: Member, path: str, size_bytes: int) -> Response:
    connection = http.client.HTTPConnection("127.0.0.1", member.api_port, timeout=15)
    chunks = (b" " * 65536 for _ in range(size_bytes // 65536 + 1))
    headers = {"Authorization": f"Bearer {cluster.dev.secret()}", "Content-Type": "application/json"}
    with suppress(ConnectionError):  # It need not read to the end what it has refused.
        connection.request("POST", path, chunks, headers, encode_chunked=True)
    return cluster.receive(connection)


def test_a_batch_with_too_many_items(shared: Cluster, member: Member) -> None:
    """413: none of them is applied."""
    items = [
        {"command": {"type": "kv.put", "key": f"limits/{number}", "value": ""}} for number in range(2001)
    ]
    answer = shared.request(member, "/v1/batch", body(items=items))
    assert (answer.status, answer.error_code()) == (413, "too_large")


def test_wrong_items_in_a_batch(shared: Cluster, member: Member) -> None:
    """Each gets its own error in its place."""
    items: list[dict[str, Any]] = [
        {"command": {"type": "kv.burn", "key": "a"}},
        {"command": {"type": "kv.put", "key": "", "value": "x"}},
        {"command": {"type": "kv.put", "key": "limits/never", "value": 5}},
        {"query": {"type": "kv.get", "key": "limits/missing"}},
        {"query": {"type": "kv.list", "cursor": "!"}},
        {"query": {"type": "kv.get", "key": "limits/witness"}, "consistency": "maybe"},
        {},
        {"query": {"type": "kv.get", "key": "limits/witness"}},
    ]
    answer = shared.request(member, "/v1/batch", body(items=items))
    assert answer.status == 200
    *wrong, right = answer.json["results"]
    codes = [each["error"]["code"] for each in wrong]
    assert codes == ["invalid"] * 3 + ["not_found"] + ["invalid"] * 3
    assert right["ok"]["value"] == "here"


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
@pytest.mark.parametrize("path", ["/v1/kv/put", "/v1/batch", "/v1/leader/transfer"])
def test_a_content_type_that_a_form_could_send(
    shared: Cluster, member: Member, path: str, kind: str | None
) -> None:
    """415: a page of another site can send these without asking first."""
    answer = shared.request(member, path, PUT, {"Content-Type": kind})
    assert (answer.status, answer.error_code()) == (415, "invalid")


@pytest.mark.parametrize(
    "credential", [None, "", "Bearer", "Bearer ", "Basic {}", "Bearer {}x", "bearer{}", "{}"]
)
@pytest.mark.parametrize(
    "path", ["/v1/kv/put", "/v1/kv/get?key=limits/witness", "/v1/status", "/metrics", "/nowhere"]
)
def test_a_missing_or_wrong_secret(
    shared: Cluster, member: Member, path: str, credential: str | None
) -> None:
    """401 before anything else is said, also about what exists."""
    sent = None if credential is None else credential.format(shared.dev.secret())
    is_post = path == "/v1/kv/put"
    answer = shared.request(member, path, PUT if is_post else None, {"Authorization": sent})
    assert (answer.status, answer.error_code()) == (401, "unauthorized")
    assert shared.dev.secret().encode() not in answer.body


def foreign(template: str) -> Callable[[Member], str]:
    return lambda member: template.format(port=member.api_port)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "192.0.2.1:{port}", "n1:{port}"],
)
@pytest.mark.parametrize("path", ["/v1/kv/put", "/v1/status", "/readyz"])
def test_a_foreign_host(shared: Cluster, member: Member, path: str, host: str) -> None:
    """403: a page that calls itself by our address is not us (DNS rebinding)."""
    named = foreign(host)(member)
    answer = shared.request(member, path, PUT if path == "/v1/kv/put" else None, {"Host": named})
    assert (answer.status, answer.error_code()) == (403, "denied")


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "https://127.0.0.1:{port}", "http://127.0.0.1:1"]
)
@pytest.mark.parametrize("path", ["/v1/kv/put", "/v1/status", "/readyz"])
def test_a_foreign_origin(shared: Cluster, member: Member, path: str, origin: str) -> None:
    """403 although the secret is right; the member's own origin is welcome."""
    named = foreign(origin)(member)
    answer = shared.request(member, path, PUT if path == "/v1/kv/put" else None, {"Origin": named})
    assert (answer.status, answer.error_code()) == (403, "denied")
    own = f"http://127.0.0.1:{member.api_port}"
    assert shared.request(member, "/v1/status", headers={"Origin": own}).status == 200


@pytest.mark.parametrize("timeout", ["0", "-1", "60001", "soon", "1.5", "", "9" * 30])
def test_a_timeout_out_of_range(shared: Cluster, member: Member, timeout: str) -> None:
    """400 before the write is proposed."""
    answer = shared.request(member, "/v1/kv/put", PUT, {"Raftos-Timeout-Ms": timeout})
    assert (answer.status, answer.error_code()) == (400, "invalid")


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nxxxxx",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nLong: " + b"x" * 1_000_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 100,
    ],
)
def test_what_is_not_http(shared: Cluster, member: Member, raw: bytes) -> None:
    """One answer that says so, and the end of the connection."""
    with socket.create_connection(("127.0.0.1", member.api_port), timeout=10) as stranger:
        stranger.sendall(raw)
        answer = b""
        while chunk := stranger.recv(65536):
            answer += chunk
    head, _, said = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) in {400, 403, 413}, answer
    assert json.loads(said)["error"]["code"] in {"invalid", "denied", "too_large"}
