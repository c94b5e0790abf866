"""A whole API under test: a real machine, real sockets, agreement in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from raftos.api.app import App
from raftos.api.auth import Gate
from raftos.api.server import Server, listen
from raftos.config import Config, Voter
from raftos.consensus.memory import MemoryCluster, MemoryConsensus
from raftos.member import Member
from raftos.state.machine import Machine
from tests.unit.enabling import enabled

SECRET = bytes(range(32))
USUAL = {"authorization": f"Bearer {SECRET.hex()}", "content-type": "application/json"}


class Response:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error in its one shape; fails for any other answer."""
        error = self.json["error"]
        assert list(error) == ["code", "message", "retryable", "leader"]
        return str(error["code"])

    @property
    def sentence(self) -> str:
        return str(self.json["error"]["message"])


class Peer:
    """A client that writes bytes and reads whole responses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self) -> Response:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Response(int(first.split()[1]), headers, body)

    async def closed(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), 5) == b""


def members_config(directory: Path, names: list[str], name: str) -> Config:
    voters = tuple(Voter(f"id-{one}", one, "127.0.0.1:1", f"http://127.0.0.1/{one}") for one in names)
    return Config(
        cluster="test",
        cluster_id="c",
        member_id=f"id-{name}",
        name=name,
        data_dir=str(directory),
        secret_file="",
        voters=voters,
        peer_address="127.0.0.1:1",
        api_address="127.0.0.1:0",
        request_timeout_ms=2_000,
    )


class Api:
    """One member of a cluster in memory with its API on a real port: `async with Api(tmp_path) as api`."""

    def __init__(self, directory: Path, *, names: list[str] | None = None, young: bool = False) -> None:
        """`young`: the cluster has just begun, and has enabled no feature level."""
        names = names or ["n1"]
        age = (lambda machine: machine) if young else enabled
        self.sound = True
        """Whether the invariants have to hold in the end; a test that damages a state says no."""
        self.cluster = MemoryCluster()
        self.machines = {name: age(Machine(directory / name)) for name in names}
        self.members: dict[str, Member] = {}
        for name, machine in self.machines.items():
            consensus = self.cluster.join(f"id-{name}", machine)
            self.members[name] = Member(
                members_config(directory, names, name), consensus, machine, version="1"
            )
        self.member = self.members[names[0]]
        self.machine = self.machines[names[0]]
        assert isinstance(self.member.consensus, MemoryConsensus)
        self.consensus = self.member.consensus

    async def __aenter__(self) -> Self:
        listener = listen("127.0.0.1:0")
        host, self.port = listener.getsockname()
        self.app = App(self.member, Gate(SECRET, host, self.port))
        self._server = Server(self.app, listener)
        await self._server.start()
        self._peer = await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._peer.writer.close()
        await self._server.close()
        for name, member in self.members.items():
            member.close()
            if self.sound:
                self.machines[name].check()
            self.machines[name].close()

    async def connect(self) -> Peer:
        return Peer(*await asyncio.open_connection("127.0.0.1", self.port))

    async def request(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str | None] | None = None
    ) -> Response:
        """One request; `headers` replace the usual ones, None leaves one out."""
        wanted = {"host": f"127.0.0.1:{self.port}", **USUAL, **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in wanted.items() if value is not None)
        head = f"{method} {target} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        self._peer.send(head.encode() + body)
        response = await self._peer.response()
        if response.headers.get("connection") == "close":
            self._peer.writer.close()
            self._peer = await self.connect()
        return response

    async def get(self, target: str, **headers: str | None) -> Response:
        return await self.request("GET", target, headers=headers)

    async def post(self, target: str, value: Any, **headers: str | None) -> Response:
        return await self.request("POST", target, json.dumps(value).encode(), headers)

    async def batch(self, items: list[Any], **extra: Any) -> list[Any]:
        """A batch in msgpack; its results."""
        body = msgspec.msgpack.encode({"items": items, **extra})
        response = await self.request("POST", "/v1/batch", body, {"content-type": "application/msgpack"})
        assert response.status == 200, response.body
        assert response.headers["content-type"] == "application/msgpack"
        results: list[Any] = msgspec.msgpack.decode(response.body)["results"]
        return results


def run(
    directory: Path,
    scenario: Callable[[Api], Awaitable[None]],
    *,
    names: list[str] | None = None,
    young: bool = False,
) -> None:
    """Run a scenario against a fresh API."""

    async def whole() -> None:
        async with Api(directory, names=names, young=young) as api:
            await scenario(api)

    asyncio.run(whole())
