"""Three raftos members as a user starts them: `raftos dev start --detach` in a RAFTOS_HOME of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.figures import Load
from bench.watchers import Crowd

WRK = Path(__file__).parent / "wrk"
SETTLE_TIMEOUT_S = 30.0


class Node(msgspec.Struct, frozen=True):
    """One member as `raftos dev status` lists it; `number` counts from 1, as the commands do."""

    number: int
    name: str
    pid: int
    endpoint: str


class Raftos:
    """A running cluster; `close()` stops every process it started."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._environment = {**os.environ, "RAFTOS_HOME": str(folder)}
        self._environment.pop("RAFTOS_ENDPOINTS", None)

    def cli(self, *arguments: str) -> str:
        """Run the command line and return what it printed. Raises with its messages when it fails."""
        command = [str(Path(sys.executable).with_name("raftos")), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=self._environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr}")
        return done.stdout

    def start(self) -> None:
        """Start three members and return after the first acknowledged write."""
        self.cli("dev", "start", "--nodes", "3", "--detach")
        self.cli("kv", "put", "first", "1")

    def _dev_status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.cli("dev", "status", "-o", "json"))
        return status

    def nodes(self) -> list[Node]:
        """All members, the leader first."""
        status = self._dev_status()
        nodes = [
            Node(number, node["name"], node["pid"], node["endpoint"])
            for number, node in enumerate(status["nodes"], 1)
        ]
        return sorted(nodes, key=lambda node: node.name != status["leader"])

    def pids(self) -> list[int]:
        return [node.pid for node in self.nodes()]

    def settle(self) -> None:
        """Wait until every member is alive and has applied as much as the others."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            members = json.loads(self.cli("status", "-o", "json"))["nodes"]
            if all(member["state"] == "alive" for member in members) and (
                len({member["applied_index"] for member in members}) == 1
            ):
                return
            time.sleep(0.1)
        raise TimeoutError(f"the members did not settle within {SETTLE_TIMEOUT_S:.0f} s")

    def _client(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "bench.client", *arguments]

    def _run_load(self, command: Sequence[str], environment: dict[str, str]) -> Load:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Load)

    def load(self, op: str, in_flight: int, seconds: float, *, follower: bool = False) -> Load:
        """One closed-loop run of `put` or `get` through the SDK, to the leader or to a follower."""
        node = self.nodes()[1 if follower else 0]
        command = self._client(
            op, "--endpoint", node.endpoint, "--in-flight", str(in_flight), "--seconds", str(seconds)
        )
        return self._run_load(command, self._environment)

    def wrk(self, script: str, connections: int, seconds: float) -> Load:
        """One run of plain HTTP/1.1 requests to the leader: `put` or `get`, one request an operation."""
        environment = {
            **self._environment, "RAFTOS_TOKEN": self.cli("token", "show").strip(), "BENCH_WRK": str(WRK)
        }  # fmt: skip
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds:.0f}s", "--timeout", "10s",
                   "-s", str(WRK / f"{script}.lua"), self.nodes()[0].endpoint]  # fmt: skip
        return self._run_load(command, environment)

    def watch(self, seconds: float) -> Load:
        """Writes to the leader, one at a time: from the start of each to its event at a follower."""
        leader, follower, *_ = self.nodes()
        command = self._client(
            "watch", "--endpoint", leader.endpoint, "--watch", follower.endpoint, "--seconds", str(seconds)
        )
        return self._run_load(command, self._environment)

    def watched_load(self, watchers: int, in_flight: int, seconds: float) -> tuple[Load, Crowd]:
        """Writes to the leader while a follower has many watchers, and what these got."""
        command = [sys.executable, "-m", "bench.watchers", "--watchers", str(watchers)]
        command += ["--endpoint", self.nodes()[1].endpoint]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment
        ) as crowd:
            assert crowd.stdin is not None
            assert crowd.stdout is not None
            crowd.stdout.readline()
            load = self.load("put", in_flight, seconds)
            crowd.stdin.close()
            return load, msgspec.json.decode(crowd.stdout.read(), type=Crowd)

    def chat_readings(self, messages: int) -> dict[str, Load]:
        """What reading costs among many messages, at a follower."""
        command = [sys.executable, "-m", "bench.chat", "--messages", str(messages)]
        command += ["--endpoint", self.nodes()[1].endpoint]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=self._environment)
        return msgspec.json.decode(done.stdout, type=dict[str, Load])

    def fill(self, keys: int) -> None:
        command = self._client("fill", "--endpoint", self.nodes()[0].endpoint, "--keys", str(keys))
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=self._environment)

    def failover_gap_ms(self, seconds: float, *, pause: bool = False) -> float:
        """The largest gap between acknowledgements while the leader is killed (or paused) after a second."""
        nodes = self.nodes()
        leader = nodes[0]
        endpoints = [part for node in nodes for part in ("--endpoint", node.endpoint)]
        command = self._client("failover", *endpoints, "--seconds", str(seconds))
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=self._environment) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(1)
            self.cli("dev", "pause" if pause else "kill", str(leader.number))
            gap = float(json.loads(writer.stdout.readline())["gap_ms"])
        self.cli("dev", "resume" if pause else "restart", str(leader.number))
        self.settle()
        return gap

    def close(self) -> None:
        self.cli("dev", "stop")
