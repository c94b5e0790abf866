"""A network of our own: a switch and a machine for each member, as network namespaces. Needs root.

    root namespace        namespace of n1                     switch             namespace of n2
    clients  --API-->     127.0.0.1:API  (daemon)
                          127.0.0.1:PEER2 --.              bridge, nft        .-> 127.0.0.1:PEER2 (daemon)
                          (line of ours)     `--> eth0 ---------------- eth0 -'   (line of ours)

Members listen on loopback only, and each namespace has a loopback of its own. So lines of ours (`lines.py`)
carry what a member dials there over the switch to the loopback of its peer: the daemons and their
configurations are those of `raftos dev`, and what is dropped at the switch is real packets. A socket belongs
to the namespace in which it was made, so one process serves the lines of all of them. Clients are in the
root namespace, and reach each API by a line that crosses no switch: a member that is cut off from its
peers is still reached by its clients, which is what makes it dangerous.

Packets are dropped at the switch: a drop in a machine's own output would be an error that no real network
gives. The switch and its rules are in a namespace as well, so nothing of the host's network is touched.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Self, TypeVar

from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster
from tests.cluster.lines import Address, Exchange, Line, listening

CLONE_NEWNET = 0x4000_0000
LOOPBACK = "127.0.0.1"
TABLE = "table bridge part { chain drops { type filter hook forward priority 0; policy accept; }; }"
TOOLS = ("ip", "nft")

_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)
Made = TypeVar("Made")


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Within the block, this thread makes sockets and starts processes in a namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot enter a network namespace: {os.strerror(number)}")


def made_in(namespace: str, make: Callable[[], Made]) -> Made:
    with inside(namespace):
        return make()


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@cache
def cannot() -> str | None:
    """Why there can be no networks here; None where there can."""
    try:
        with Switch([]):
            return None
    except FileNotFoundError as error:
        return f"needs {error.filename}: apt-get install iproute2 nftables"
    except OSError as error:
        return f"needs the right to make network namespaces: run it as root ({error})"


class Switch:
    """A bridge and a machine on it for each name; `drop` and `heal` decide who hears whom."""

    def __init__(self, names: Sequence[str]) -> None:
        self._prefix = f"raftos{os.getpid()}x{next(_numbers)}"
        self._names = list(names)
        self._stack = ExitStack()

    def namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def address(self, name: str) -> str:
        return f"10.77.0.{self._names.index(name) + 1}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for name in ("switch", *self._names):
                self._make(stack, name)
            with inside(self.namespace("switch")):
                _run("ip", "link", "add", "bridge0", "type", "bridge")
                _run("ip", "link", "set", "bridge0", "up")
                _run("nft", TABLE)
            for name in self._names:
                self._plug_in(name)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make(self, stack: ExitStack, name: str) -> None:
        namespace = self.namespace(name)
        _run("ip", "netns", "add", namespace)
        stack.callback(_run, "ip", "netns", "del", namespace)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")

    def _plug_in(self, name: str) -> None:
        """A cable from the machine to the switch, both ends inside; it goes with either."""
        machine = self.namespace(name)
        with inside(self.namespace("switch")):
            _run(
                "ip", "link", "add", f"port-{name}", "type", "veth", "peer", "name", "eth0", "netns", machine
            )
            _run("ip", "link", "set", f"port-{name}", "master", "bridge0", "up")
        _run("ip", "-n", machine, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        _run("ip", "-n", machine, "link", "set", "eth0", "up")

    def drop(self, sender: str, receiver: str) -> None:
        """Nothing that one machine sends to the other arrives any more; one way only."""
        addresses = f"ip saddr {self.address(sender)} ip daddr {self.address(receiver)}"
        self._nft(f"add rule bridge part drops {addresses} counter drop")

    def heal(self) -> None:
        self._nft("flush chain bridge part drops")

    def _nft(self, rule: str) -> None:
        with inside(self.namespace("switch")):
            _run("nft", rule)


class NetworkCluster(Cluster):
    """A cluster of which every member is a machine of its own on a switch, and so is every guest."""

    def __init__(self, directory: Path, size: int, guests: int, exchange: Exchange, switch: Switch) -> None:
        super().__init__(directory, size, guests)
        self.switch = switch
        for member in self.dev.members:
            self._line(exchange, None, member.name, (LOOPBACK, member.api_port), (LOOPBACK, member.api_port))
            self._connect(exchange, member)

    def _connect(self, exchange: Exchange, member: Member) -> None:
        """The lines by which a member is reached: one into its machine, and one on each other machine."""
        inner, outer = (LOOPBACK, member.peer_port), (self.switch.address(member.name), member.peer_port)
        self._line(exchange, member.name, member.name, outer, inner)
        for peer in self.dev.members:
            if peer is not member:
                self._line(exchange, peer.name, peer.name, inner, outer)

    def _line(
        self, exchange: Exchange, listens: str | None, dials: str, address: Address, target: Address
    ) -> Line:
        listener = (
            listening(address)
            if listens is None
            else made_in(self.switch.namespace(listens), lambda: listening(address))
        )
        return exchange.line(listener, lambda: made_in(self.switch.namespace(dials), socket.socket), target)

    def _spawn(self, member: Member) -> None:
        with inside(self.switch.namespace(member.name)):
            super()._spawn(member)

    # Who hears whom.

    def drop(self, sender: Member, receiver: Member) -> None:
        self.switch.drop(sender.name, receiver.name)

    def cut(self, one: Member, other: Member) -> None:
        """Neither hears the other."""
        self.drop(one, other)
        self.drop(other, one)

    def heal(self) -> None:
        self.switch.heal()


@contextmanager
def network_cluster(directory: Path, size: int, guests: int = 0) -> Iterator[NetworkCluster]:
    """A cluster on a network of its own, not started yet, of which nothing is left afterwards."""
    names = [f"n{number}" for number in range(1, size + guests + 1)]
    with Switch(names) as switch, Exchange(1) as exchange:
        made = NetworkCluster(directory, size, guests, exchange, switch)
        try:
            yield made
            made.check_logs()
        finally:
            with suppress(OSError):
                made.heal()
            made.close()
