"""Three etcd members on loopback: Debian's `etcd`, default timeouts, real fsync, data beside ours.

The native load generator (`peers/etcd_load.go`) is built once into the working folder.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.figures import Load

PEERS = Path(__file__).parent / "peers"
START_TIMEOUT_S = 30.0


class _Header(msgspec.Struct):
    member_id: str


class _Status(msgspec.Struct):
    """What `/v3/maintenance/status` says; ids are decimal text."""

    header: _Header
    leader: str = ""


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; all are held until the last is known."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


class Etcd:
    """A running cluster; `close()` ends every process it started."""

    def __init__(self, folder: Path, members: int = 3) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self._generator = folder.parent / "etcd_load"
        ports = free_ports(2 * members)
        self.endpoints = [f"http://127.0.0.1:{port}" for port in ports[:members]]
        self._peers = [f"http://127.0.0.1:{port}" for port in ports[members:]]
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start all members and return after the first acknowledged write."""
        self._processes = [self._spawn(number) for number in range(len(self.endpoints))]
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._write(self.endpoints[0]):
            if time.monotonic() > deadline:
                raise TimeoutError(f"etcd took no write within {START_TIMEOUT_S:.0f} s; see {self._folder}")
            time.sleep(0.005)

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        name, endpoint, peer = f"e{number}", self.endpoints[number], self._peers[number]
        cluster = ",".join(f"e{index}={address}" for index, address in enumerate(self._peers))
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                ["etcd", "--name", name, "--data-dir", str(self._folder / name),
                 "--listen-client-urls", endpoint, "--advertise-client-urls", endpoint,
                 "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                 "--initial-cluster", cluster, "--logger", "zap", "--log-level", "warn"],
                stdout=log, stderr=log,
            )  # fmt: skip

    @staticmethod
    def _post(endpoint: str, path: str, body: dict[str, Any]) -> bytes:
        request = urllib.request.Request(f"{endpoint}{path}", data=json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=0.5) as answer:
            return bytes(answer.read())

    def _write(self, endpoint: str) -> bool:
        try:
            self._post(endpoint, "/v3/kv/put", {"key": "YQ==", "value": "MQ=="})
        except OSError:
            return False
        return True

    def leader(self) -> int:
        """The leader's number, from 0."""
        for number, endpoint in enumerate(self.endpoints):
            try:
                body = self._post(endpoint, "/v3/maintenance/status", {})
            except OSError:
                continue
            status = msgspec.json.decode(body, type=_Status)
            if status.leader == status.header.member_id:
                return number
        raise LookupError("no etcd member says it leads")

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def kill(self, number: int) -> None:
        self._processes[number].send_signal(signal.SIGKILL)
        self._processes[number].wait()

    def restart(self, number: int) -> None:
        self._processes[number] = self._spawn(number)

    def _generate(self, endpoints: Sequence[str], op: str, *options: str) -> list[str]:
        if not self._generator.exists():
            subprocess.run([PEERS / "build.sh", self._generator], check=True)
        return [str(self._generator), "-op", op, "-endpoints", ",".join(endpoints), *options]

    def load(self, op: str, in_flight: int, seconds: float) -> Load:
        """One closed-loop run of `put` or `get` against the leader."""
        options = ("-in-flight", str(in_flight), "-duration", f"{seconds}s")
        command = self._generate([self.endpoints[self.leader()]], op, *options)
        return msgspec.json.decode(subprocess.run(command, check=True, capture_output=True).stdout, type=Load)

    def watch(self, seconds: float) -> Load:
        """Writes to the leader, one at a time: from the start of each to its event at a follower."""
        leader = self.endpoints[self.leader()]
        follower = next(endpoint for endpoint in self.endpoints if endpoint != leader)
        command = self._generate([leader, follower], "watch", "-duration", f"{seconds}s")
        return msgspec.json.decode(subprocess.run(command, check=True, capture_output=True).stdout, type=Load)

    def fill(self, keys: int) -> None:
        command = self._generate([self.endpoints[self.leader()]], "fill", "-fill", str(keys))
        subprocess.run(command, check=True, capture_output=True)

    def failover_gap_ms(self, seconds: float) -> float:
        """The largest gap between acknowledgements while the leader is killed after a second."""
        leader = self.leader()
        first = [self.endpoints[leader], *(e for e in self.endpoints if e != self.endpoints[leader])]
        command = self._generate(first, "failover", "-duration", f"{seconds}s")
        with (
            (self._folder / "failover.log").open("ab") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as writer,
        ):
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(1)
            self.kill(leader)
            gap = float(json.loads(writer.stdout.readline())["gap_ms"])
        self.restart(leader)
        while not self._write(self.endpoints[leader]):
            time.sleep(0.05)
        return gap

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
