"""Tests that are coroutines run on an event loop of their own; `cluster` is the real API for them."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from raftos.api.app import App
from raftos.api.auth import Gate
from raftos.api.server import Server, listen
from raftos.client import contexts
from raftos.config import Config, Voter
from raftos.consensus.memory import MemoryCluster
from raftos.levels import LEVEL
from raftos.member import Member
from raftos.state.command import encode_request, new_request_id
from raftos.state.domains.members import Register
from raftos.state.machine import Machine
from tests.unit.enabling import enabled

SECRET = b"s" * 32
NAMES = ("n1", "n2", "n3")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A RAFTOS_HOME of this test alone, and no endpoints from outside."""
    monkeypatch.setenv("RAFTOS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAFTOS_ENDPOINTS", raising=False)
    return tmp_path / "home"


@pytest.fixture
def agreement() -> MemoryCluster:
    """What the members of `cluster` agree through, to be disturbed by a test."""
    return MemoryCluster()


@pytest.fixture
def cluster(home: Path, agreement: MemoryCluster) -> Iterator[list[str]]:
    """Three members with the real API, state and service; their endpoints, also the current context."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    serving = AsyncExitStack()
    endpoints = asyncio.run_coroutine_threadsafe(_serve(home.parent, serving, agreement), loop).result(10)
    contexts.put("test", contexts.Context(tuple(endpoints), SECRET.hex(), "test"))
    yield endpoints
    asyncio.run_coroutine_threadsafe(serving.aclose(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _serve(path: Path, stack: AsyncExitStack, agreement: MemoryCluster) -> list[str]:
    listeners = [listen("127.0.0.1:0") for _ in NAMES]
    ports = [listener.getsockname()[1] for listener in listeners]
    endpoints = [f"http://127.0.0.1:{port}" for port in ports]
    voters = tuple(map(Voter, NAMES, NAMES, ["127.0.0.1:0"] * len(NAMES), endpoints))
    for voter, listener, port in zip(voters, listeners, ports, strict=True):
        machine = enabled(Machine(path / voter.name))
        stack.callback(machine.close)
        consensus = agreement.join(voter.id, machine)
        member = Member(_config(voter.id, voters), consensus, machine, version="0.1.0")
        stack.callback(member.close)
        server = Server(App(member, Gate(SECRET, "127.0.0.1", port)), listener)
        await server.start()
        stack.push_async_callback(server.close)
    agreement.agree([_registration(voter) for voter in voters], 1)
    return endpoints


def _registration(voter: Voter) -> bytes:
    command = Register(voter.id, voter.name, voter.endpoint, voter.peer_address, "0.1.0", LEVEL)
    return encode_request(new_request_id(1), command)


def _config(name: str, voters: tuple[Voter, ...]) -> Config:
    return Config(
        cluster="test",
        cluster_id="c1",
        member_id=name,
        name=name,
        data_dir="",
        secret_file="",
        voters=voters,
        peer_address="127.0.0.1:0",
        api_address="127.0.0.1:0",
    )
