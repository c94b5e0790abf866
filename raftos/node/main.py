"""The composition root: the only place that wires the parts of a member together.

    python -m raftos --config FILE

(`offline.py` has the commands that work on files instead.)

Order of a start: data directory (lock, identity), API port, state, consensus, API. Everything that can
refuse early does so before a byte is written, with one sentence on stderr and exit code 1. A stop
(SIGTERM, SIGINT) is the reverse: background work, the requests at hand, leadership, consensus, state.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
import uvloop

from raftos.agent.probe import Probe
from raftos.api.app import App
from raftos.api.auth import Gate
from raftos.api.server import Server, listen
from raftos.config import Config, load
from raftos.consensus.base import Expelled, Role
from raftos.consensus.driver import Driver
from raftos.consensus.opening import open_data
from raftos.errors import Fault, RaftosError
from raftos.member import Member
from raftos.node import offline
from raftos.node.background import Background
from raftos.node.begun import Begun
from raftos.node.directory import DataDirectory, read_secret
from raftos.node.logs import configure_logs
from raftos.state.domains import members
from raftos.state.machine import Machine
from raftos.trust import Trust

HAND_OVER_S = 0.3
"""How long a leader that stops tries to hand over; without it the others wait for an election timeout."""
SWITCH_INTERVAL_S = 0.0005
"""The disk thread needs the interpreter after each sync; at 5 ms a busy loop would delay every write."""

_log = structlog.get_logger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run one member until it is told to stop, or work on its files. Returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in offline.WORDS:
        return offline.main(words)
    parser = argparse.ArgumentParser(
        prog="python -m raftos",
        description="Run one member of a raftos cluster.",
        epilog="Beside it: `python -m raftos snapshot --help`, `python -m raftos recover --help`.",
    )
    parser.add_argument("--config", required=True, type=Path, help="the member's configuration, a JSON file")
    try:
        file = parser.parse_args(words).config
        config = load(file)
        configure_logs(config.log_level, config.name)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        _allow_many_connections()
        uvloop.run(run(config, Begun(file, config)))
    except RaftosError as error:
        sys.stderr.write(f"raftos: {error.message}\n")
        if isinstance(error, Fault):
            # Not in good order: SQLite would move a log whose sync may have failed into the database.
            sys.stderr.flush()
            os._exit(error.exit_code)
        return error.exit_code
    return 0


def _allow_many_connections() -> None:
    """Every watcher holds a connection open; many systems allow 1 024 files until they are asked."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def run(config: Config, begun: Begun) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartupError, or Fault when this member may not go on."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    secret = read_secret(Path(config.secret_file))
    with DataDirectory(config) as directory, listen(config.api_address) as listener:
        directory.claim()
        async with running(config, secret, directory.path, listener, begun) as driver:
            gc.freeze()  # What the start made stays; the collector need not look at it again.
            _log.info("serving", api=config.api_address, peers=config.peer_address)
            try:
                await _until(stop, driver.failed)
            except Expelled as removed:
                directory.retire(removed.message)
                raise
            _log.info("stopping")


@asynccontextmanager
async def running(
    config: Config, secret: bytes, path: Path, listener: socket.socket, begun: Begun
) -> AsyncIterator[Driver]:
    """All parts of one member, started in order and stopped in reverse."""
    host, port = listener.getsockname()[:2]
    async with AsyncExitStack() as stack:
        opened = open_data(path, config.cluster_id, config.member_id, begun=begun.is_remembered())
        machine = opened.machine
        stack.callback(machine.close)
        begun.remember()
        driver = Driver(
            config, secret, opened, addresses=_addresses(machine), version=version("raftos-cluster")
        )
        probe = Probe()
        member = Member(
            config, driver, machine, version=version("raftos-cluster"), load=probe.load, trust=Trust(path)
        )
        stack.callback(member.close)
        background = Background(member, probe)
        await driver.start()
        stack.push_async_callback(driver.stop)
        stack.push_async_callback(_hand_over, member)
        server = Server(App(member, Gate(secret, host, port)), listener)
        await server.start()
        stack.push_async_callback(server.close)
        background.start()
        stack.push_async_callback(background.stop)
        yield driver


def _addresses(machine: Machine) -> dict[str, str]:
    """Where each member, by id, said last that its peers find it."""
    with closing(machine.reader()) as reader:
        known: members.Members = reader.query(members.List())
    return {member.id: member.peer_address for member in known.items if member.peer_address}


async def _until(stop: asyncio.Event, failed: asyncio.Future[None]) -> None:
    """Wait for either. Raises Fault when consensus found that going on could lose data."""
    stopped = asyncio.ensure_future(stop.wait())
    ends: list[asyncio.Future[Any]] = [stopped, failed]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if failed.done() and (failure := failed.exception()):
        if isinstance(failure, Expelled):
            raise failure
        raise Fault(f"this member stopped because going on could lose data: {failure}")


async def _hand_over(member: Member) -> None:
    if member.consensus.status().role == Role.LEADER:
        try:
            await member.consensus.transfer(None, time.monotonic() + HAND_OVER_S)
        except RaftosError as error:
            _log.info("stopping without handing over the leadership", reason=error.message)
