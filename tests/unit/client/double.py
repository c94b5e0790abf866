"""A member that fails on request: a stand-in for a remote system, over real sockets.

Only for faults that a healthy member cannot be made to show. It keeps `kv.put` and `kv.get` in a
dictionary and, like the machine, applies a request id once and answers it again from memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from raftos.errors import ErrorBody, NoQuorum, OutcomeUnknown, RaftosError

HANG, RESET, GARBAGE = "hang", "reset", "garbage"
NO_QUORUM, UNKNOWN = NoQuorum("there is no leader"), OutcomeUnknown("the leader is gone")
Fault = str | RaftosError


class Cluster:
    """What all members share: the entries, and how often each request id was sent and applied."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, int]] = {}
        self.results: dict[bytes, Any] = {}
        self.sent: Counter[bytes] = Counter()
        self.time_ms = int(time.time() * 1000)

    def apply(self, request_id: bytes, command: dict[str, Any]) -> Any:
        self.sent[request_id] += 1
        if int.from_bytes(request_id[:6], "big") < self.time_ms - 600_000:
            return {"error": ErrorBody("expired", "the request id is too old")}
        if request_id not in self.results:
            version = self.values.get(command["key"], (b"", 0))[1] + 1
            self.values[command["key"]] = command["value"], version
            revision = len(self.results) + 1
            self.results[request_id] = {
                "ok": {"key": command["key"], "version": version, "revision": revision}
            }
        return self.results[request_id]

    def get(self, query: dict[str, Any]) -> Any:
        if query["key"] not in self.values:
            return {"error": ErrorBody("not_found", "no such key")}
        value, version = self.values[query["key"]]
        return {"ok": {"key": query["key"], "value": value, "version": version, "revision": 1}}


class Member:
    """One member. `faults` are met one a request, in order; `always` by every request."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.applies_first = False
        """Whether a fault hides an answer (the request was applied) or prevents it."""
        self.item_errors: dict[str, RaftosError] = {}
        """Met once by the item with this key, in a batch that otherwise succeeds."""
        self.batches: list[int] = []
        self.probes = 0
        self.delay_s = 0.0
        self.endpoint = ""
        self.runner: web.ServerRunner

    async def start(self, port: int = 0) -> None:
        self.runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", port)
        await site.start()
        self.endpoint = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self.runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = self.always or (self.faults.pop(0) if self.faults and request.path == "/v1/batch" else None)
        if request.path == "/livez":
            self.probes += 1
        results = await self._results(request, apply=fault is None or self.applies_first)
        await asyncio.sleep(3600 if fault == HANG else self.delay_s)
        if fault == RESET:
            assert request.transport is not None
            request.transport.abort()
        if fault == GARBAGE:
            return web.Response(text="<html>")
        if isinstance(fault, RaftosError):
            return self._answer({"error": fault.body()}, fault.http_status)
        return self._answer({"results": results}, 200)

    async def _results(self, request: web.BaseRequest, *, apply: bool) -> list[Any]:
        body = await request.content.read()
        if request.path != "/v1/batch":
            return []
        items = msgspec.msgpack.decode(body)["items"]
        self.batches.append(len(items))
        return [self._result(item) for item in items] if apply else []

    def _result(self, item: dict[str, Any]) -> Any:
        key = (item.get("command") or item["query"])["key"]
        if key in self.item_errors:
            return {"error": self.item_errors.pop(key).body()}
        if "query" in item:
            return self.cluster.get(item["query"])
        return self.cluster.apply(item["request_id"], item["command"])

    def _answer(self, content: Any, status: int) -> web.Response:
        return web.Response(
            status=status,
            body=msgspec.msgpack.encode(content),
            content_type="application/msgpack",
            headers={"Raftos-Time": str(self.cluster.time_ms)},
        )


@asynccontextmanager
async def members(count: int = 1) -> AsyncIterator[list[Member]]:
    """Members of one cluster, listening; stopped at the end."""
    cluster = Cluster()
    started = [Member(cluster) for _ in range(count)]
    for member in started:
        await member.start()
    try:
        yield started
    finally:
        await asyncio.gather(*(member.stop() for member in started))
