"""A cluster of real daemons under test: what can be done to it, and what it says of itself.

The files, ports and processes are those of `raftos dev` (`raftos_cli.devcluster`), so that what is tested
is what users start. This file adds what a test needs: waiting for conditions, raw requests, clients and
command lines of this cluster, and two claims that are checked whenever a test looks:

* members that have applied the same index have the same state hash, at every look and for ever;
* no daemon logged a traceback, or anything critical, unless the test expects it (`forgive`).
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from raftos.client import AsyncClient, Client, contexts
from raftos.config import Config
from raftos.durable import write_json
from raftos.levels import LEVEL
from raftos_cli.devcluster import DevCluster, Member
from raftos_cli.main import root

CONTEXT = "test"
LIMIT_S = 30.0
POLL_S = 0.02
REQUEST_TIMEOUT_S = 15.0
LOG_TAIL_LINES = 60
EXPELLED = "was removed from the cluster"
"""A daemon's last words, once it was told."""


def wait_until(what: str, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Return as soon as the condition holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(POLL_S)


@dataclass(frozen=True)
class Response:
    """One answer of a member's API."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def error_code(self) -> str:
        """The code of an error in the one JSON shape; fails for any other answer."""
        error = self.json["error"]
        assert self.json.keys() == {"error"}, self.body
        assert error.keys() == {"code", "message", "retryable", "leader"}, self.body
        assert isinstance(error["code"], str)
        assert isinstance(error["retryable"], bool)
        assert error["message"], self.body
        assert "Traceback" not in error["message"]
        code: str = error["code"]
        return code


class Cluster:
    """`size` daemons in a directory. Nothing runs until `start`; `close` ends everything.

    `guests` more are on record, with folders and ports: they do not belong to it until they are let in
    (`changes.py`). `members` are those that belong to it.
    """

    members: Sequence[Member]

    def __init__(self, directory: Path, size: int = 3, guests: int = 0) -> None:
        dev = DevCluster.create(directory / "cluster", size + guests)
        for guest in dev.members[size:]:
            guest.joined = True
        self.take(directory, dev)
        self.members = self.members[:size]

    def take(self, directory: Path, dev: DevCluster) -> None:
        """Be the cluster that is in a directory."""
        self.directory = directory
        self.dev = dev
        self.dev.assign_ports(None)
        self.members = self.dev.members
        self._spawning, self._home = threading.Lock(), threading.RLock()
        self._hashes: dict[int, str] = {}
        self._forgiven: tuple[str, ...] = ()
        with self.environment():
            endpoints = tuple(self.dev.endpoints)
            contexts.put(CONTEXT, contexts.Context(endpoints, self.dev.secret(), CONTEXT))

    def configure(self, member: Member, **settings: object) -> None:
        """Change settings of a member (`raftos.config`), which it reads when it starts."""
        file = self.dev.config_file(member)
        config = msgspec.json.decode(file.read_bytes(), type=Config)
        write_json(file, msgspec.structs.replace(config, **settings))

    # Processes.

    def start(self, *members: Member) -> None:
        """Start the members named, or all, and wait until each is ready."""
        self.spawn(*members)
        self.wait_ready(*members)

    def spawn(self, *members: Member) -> None:
        for member in members or self.members:
            with self._spawning:  # What is on record is written by one at a time.
                self._spawn(member)

    def _spawn(self, member: Member) -> None:
        self.dev.spawn(member)

    def kill(self, *members: Member) -> None:
        """SIGKILL, all at the same moment; returns when their ports and locks are free again."""
        self.dev.kill(members)
        pids = {member.pid for member in members}
        for child in self.dev._children:
            if child.pid in pids:
                child.wait(LIMIT_S)

    def stop(self, *members: Member) -> None:
        self.dev.stop(members or self.members)

    def close(self) -> None:
        self.kill(*self.dev.members)

    def pause(self, member: Member) -> None:
        self.dev.pause(member)

    def resume(self, member: Member) -> None:
        self.dev.resume(member)

    def is_running(self, member: Member) -> bool:
        return self.dev.process(member) is not None

    # What members say.

    def send(
        self,
        member: Member,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str | None] | None = None,
        method: str | None = None,
    ) -> http.client.HTTPConnection:
        """Send one HTTP request to one member, a POST where there is a body; `receive` reads its answer.

        `headers` replace the usual ones; None leaves one out. Raises OSError where nobody listens.
        """
        usual: dict[str, str | None] = {
            "Host": f"127.0.0.1:{member.api_port}",
            "Authorization": f"Bearer {self.dev.secret()}",
            "Content-Type": None if body is None else "application/json",
            "Content-Length": None if body is None else str(len(body)),
        }
        connection = http.client.HTTPConnection("127.0.0.1", member.api_port, timeout=REQUEST_TIMEOUT_S)
        try:
            connection.putrequest(method or ("GET" if body is None else "POST"), path, skip_host=True)
            for name, value in (usual | (headers or {})).items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body)
        except BaseException:
            connection.close()
            raise
        return connection

    def receive(self, connection: http.client.HTTPConnection) -> Response:
        """The answer to what was sent; closes the connection."""
        try:
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, headers, answer.read())
        finally:
            connection.close()

    def request(
        self,
        member: Member,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str | None] | None = None,
        method: str | None = None,
    ) -> Response:
        """`send`, then `receive`. Raises OSError where nobody answers."""
        return self.receive(self.send(member, path, body, headers, method))

    def ask(self, member: Member, path: str) -> Response | None:
        """The answer to a GET, or None where nobody answers."""
        try:
            return self.request(member, path)
        except (OSError, http.client.HTTPException):
            return None

    def is_ready(self, member: Member) -> bool:
        answer = self.ask(member, "/readyz")
        return answer is not None and answer.status == 200

    def wait_ready(self, *members: Member) -> None:
        for member in members or self.members:
            wait_until(f"{member.name} is ready", lambda member=member: self._ready_or_gone(member))  # type: ignore[misc]

    def _ready_or_gone(self, member: Member) -> bool:
        if self.is_running(member):
            return self.is_ready(member)
        # One that was sent away is told so when it starts, and ends.
        assert self.dev.is_removed(member), f"{member.name} ended: {self.log(member)[-2000:]}"
        return True

    def belongs(self, member: Member) -> bool:
        """Whether it is a member as far as the test knows: guests come and go."""
        return member.name in {each.name for each in self.members}

    def wait_expelled(self, member: Member) -> None:
        """Wait until a removed member has ended by itself, and see that it said why."""
        wait_until(f"{member.name}, which was removed, has ended", lambda: not self.is_running(member))
        assert EXPELLED in self.log(member).splitlines()[-1]

    def status(self, member: Member) -> dict[str, Any]:
        """`/v1/status` as one member gives it; every hash in it is compared with all seen before."""
        answer = self.request(member, "/v1/status")
        assert answer.status == 200, answer.body
        status: dict[str, Any] = answer.json
        for node in status["nodes"]:
            if stamp := node["state_hash"]:
                known = self._hashes.setdefault(stamp["index"], stamp["hash"])
                assert known == stamp["hash"], f"members differ at index {stamp['index']}: {status}"
        return status

    def node(self, member: Member, *, seen_by: Member | None = None) -> dict[str, Any]:
        """One member's line of the status, by its own account or another's."""
        nodes = self.status(seen_by or member)["nodes"]
        found: dict[str, Any] = next(node for node in nodes if node["id"] == member.id)
        return found

    def leader(self) -> Member:
        """The present leader, by its own account; waits for one."""
        found: list[Member] = []

        def somebody_leads() -> bool:
            found[:] = [member for member in self.members if self.leads(member)]
            return len(found) == 1

        wait_until("one member leads", somebody_leads)
        return found[0]

    def leads(self, member: Member) -> bool:
        """Whether a member believes that it leads."""
        if self.dev.state(member) != "running":
            return False
        answer = self.ask(member, "/v1/leader")
        return answer is not None and answer.status == 200 and answer.json["id"] == member.id

    def followers(self) -> list[Member]:
        leader = self.leader()
        return [member for member in self.members if member is not leader]

    def settle(self) -> dict[str, Any]:
        """Wait until all members are alive with everything applied, at one index, hash and feature level."""
        status: dict[str, Any] = {}

        def settled() -> bool:
            status.update(self.status(self.members[0]))
            nodes = status["nodes"]
            return status["level"] == LEVEL and all(
                node["state"] == "alive" and node["state_hash"]["index"] == status["commit_index"]
                for node in nodes
            )

        wait_until("all members have applied everything", settled)
        assert len({node["state_hash"]["hash"] for node in status["nodes"]}) == 1, status
        return status

    # Clients.

    @contextmanager
    def environment(self) -> Iterator[None]:
        """RAFTOS_HOME is this cluster's, for what is created within; for one thread at a time."""
        with self._home, pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAFTOS_HOME", str(self.directory / "home"))
            patch.delenv("RAFTOS_ENDPOINTS", raising=False)
            yield

    def endpoints(self, first: Member) -> list[str]:
        """The endpoints of all members, and of guests, going round from `first`."""
        known = self.dev.members
        at = known.index(first)
        return [member.endpoint for member in (*known[at:], *known[:at])]

    def async_client(self, endpoints: Sequence[str], timeout_s: float = 10.0) -> AsyncClient:
        with self.environment():
            return AsyncClient(endpoints, timeout_s=timeout_s)

    def client(self, *members: Member, timeout_s: float = 10.0) -> Client:
        """A client of these members only, or of all."""
        with self.environment():
            return Client([member.endpoint for member in members or self.members], timeout_s=timeout_s)

    def cli(self, *arguments: str, stdin: bytes | None = None) -> Result:
        """A command line in this process, with this cluster's context as the current one."""
        with self.environment():
            return CliRunner().invoke(root, list(arguments), input=stdin)

    # Logs.

    def log(self, member: Member) -> str:
        file = self.dev.log_file(member)
        return file.read_text(errors="replace") if file.exists() else ""

    def log_tails(self) -> Iterator[tuple[str, str]]:
        """(title, last lines) of each member's log, for the report of a failure."""
        for member in self.dev.members:
            lines = self.log(member).splitlines()[-LOG_TAIL_LINES:]
            yield f"log of {member.name} ({self.dev.state(member)})", "\n".join(lines)

    def forgive(self, *words: str) -> None:
        """Alarming log lines with any of these words are part of the test."""
        self._forgiven += words

    def check_logs(self) -> None:
        """Fail if a daemon logged something that nobody should ever see."""
        lines = [line for member in self.dev.members for line in self.log(member).splitlines()]
        alarming = [line for line in lines if _is_alarming(line)]
        unexpected = [line for line in alarming if not any(word in line for word in self._forgiven)]
        assert not unexpected, "daemons logged what needs an explanation:\n" + "\n".join(unexpected)


@contextmanager
def running_cluster(directory: Path, size: int, guests: int = 0) -> Iterator[Cluster]:
    """A cluster of which nothing is left running afterwards, and whose logs have to be clean."""
    made = Cluster(directory, size, guests)
    try:
        yield made
        made.check_logs()
    finally:
        made.close()


def _is_alarming(line: str) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return True
    return "exception" in entry or entry.get("level") == "critical"
