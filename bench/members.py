"""Three members with settings of our choosing, for `bench.reliability`.

The files, ports and processes are those of `raftos dev` (`raftos_cli.devcluster`), so members are known and
ended by their record: id, start time and command line. This file adds the settings, the load clients, and
what the members' logs and status say.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.timeline import Strain
from raftos import Client, config
from raftos.consensus.snapshots import Header, read_header
from raftos.durable import write_json
from raftos_cli.devcluster import DevCluster, Member
from raftos_cli.devstart import CONTEXT, Leader, Status, ask, bring_up, is_ready

START_S = 60.0
WAIT_S = 900.0
POLL_S = 0.02


class Tuned(DevCluster):
    """A dev cluster whose members have other settings than `raftos dev` would give them."""

    def __init__(self, made: DevCluster, settings: dict[str, Any]) -> None:
        super().__init__(made.directory, made.record)
        self.settings = settings

    def assign_ports(self, first_port: int | None) -> None:
        super().assign_ports(first_port)
        for member in self.active:
            file = self.config_file(member)
            changed = config.validate(msgspec.structs.replace(config.load(file), **self.settings))
            write_json(file, changed)


class Line(msgspec.Struct, frozen=True):
    """One line of a member's log, with its time in seconds since 1970."""

    at_s: float
    event: str
    index: int = 0
    size_bytes: int = 0


class Fetch(msgspec.Struct, frozen=True):
    """One snapshot on its way to a member: from the first request until it was whole and durable."""

    began_s: float
    ended_s: float
    file_bytes: int
    state_bytes: int

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s


class Running:
    """A load client that writes until it is told to finish."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self.line()

    def line(self) -> bytes:
        """The next thing it says. Raises RuntimeError where it ended instead."""
        said: bytes = self._stdout.readline()
        if not said:
            raise RuntimeError("a load client ended without its figures; its words are above")
        return said

    def result(self) -> bytes:
        self._stdin.close()
        return self.line()

    def finish(self) -> Strain:
        """Let it finish; a run with failed requests is no figure and raises."""
        strain = msgspec.json.decode(self.result(), type=Strain)
        strain.load.check()
        return strain


class Members:
    """A cluster of three; `close` ends every process and leaves the folder to whoever made it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir(parents=True)
        self._home = folder / "home"
        self.dev = Tuned(DevCluster.create(folder / "cluster", 3), settings)

    @property
    def members(self) -> list[Member]:
        return self.dev.members

    # Processes.

    def start(self) -> None:
        """Start all, and return once the cluster takes writes and every member is ready."""
        with self._environment():
            bring_up(self.dev, None, START_S)
        self.wait_ready(*self.members)

    def close(self) -> None:
        self.dev.kill(self.members)

    def spawn(self, *members: Member) -> None:
        for member in members:
            self.dev.spawn(member)

    # What they say.

    def wait_ready(self, *members: Member) -> None:
        for member in members:
            wait(f"{member.name} is ready", lambda member=member: self._ready_or_dead(member))  # type: ignore[misc]

    def _ready_or_dead(self, member: Member) -> bool:
        if self.dev.process(member) is None:
            raise RuntimeError(f"{member.name} ended; the end of its log: {self._log(member)[-2000:]}")
        return is_ready(self.dev, member)

    def leadership(self) -> Leader:
        """Who leads in which term, as the members see it; waits for one."""
        seen: list[Leader] = []

        def is_led() -> bool:
            answers = [ask(self.dev, member, "/v1/leader") for member in self.dev.living()]
            views = [msgspec.json.decode(answer, type=Leader) for answer in answers if answer is not None]
            seen[:] = sorted(views, key=lambda view: view.term)
            return bool(seen)

        wait("a member leads", is_led)
        return seen[-1]

    def leader_first(self) -> list[Member]:
        leader = self.leadership().leader
        return sorted(self.members, key=lambda member: member.name != leader)

    def status(self, member: Member) -> Status | None:
        answer = ask(self.dev, member, "/v1/status")
        return None if answer is None else msgspec.json.decode(answer, type=Status)

    def is_caught_up(self, member: Member, leader: Member) -> bool:
        """Whether a member has applied what was committed a moment ago, each by its own account."""
        ahead, own = self.status(leader), self.status(member)
        if ahead is None or own is None:
            return False
        applied = next((node.applied_index for node in own.nodes if node.id == member.id), None)
        return (applied or 0) >= ahead.commit_index

    def folder_bytes(self, member: Member, name: str) -> int:
        """The sizes of all files in one folder of a member's data."""
        found = 0
        for file in (self.dev.data_dir(member) / name).rglob("*"):
            try:
                found += file.stat().st_size
            except FileNotFoundError:  # Segments and snapshots go while we look.
                continue
        return found

    def lines(
        self, member: Member, event: str, since_s: float = 0.0, until_s: float = math.inf
    ) -> list[Line]:
        """The lines of one kind in a member's log within a time."""
        parsed = (_line(text) for text in self._log(member).splitlines() if event in text)
        return [each for each in parsed if each and each.event == event and since_s <= each.at_s <= until_s]

    def count(self, event: str, since_s: float, until_s: float) -> int:
        """How often something was logged, by all members."""
        return sum(len(self.lines(member, event, since_s, until_s)) for member in self.members)

    def _log(self, member: Member) -> str:
        return self.dev.log_file(member).read_text(errors="replace")

    def fetch(self, member: Member, since_s: float) -> Fetch:
        """The first snapshot that a member fetched since then. Raises RuntimeError where it fetched none."""
        began = self.lines(member, "fetching a snapshot", since_s)
        ended = self.lines(member, "fetched a snapshot", since_s)
        if not began or not ended:
            raise RuntimeError(
                f"{member.name} fetched no snapshot: the leader's log still had what it lacked"
            )
        header = self._header(ended[0].index)
        return Fetch(began[0].at_s, ended[0].at_s, ended[0].size_bytes, header.raw_bytes)

    def _header(self, index: int) -> Header:
        files = list(self.dev.directory.rglob(f"{index:020d}-*.snapshot"))
        if not files:
            raise RuntimeError(f"no member keeps the snapshot of index {index} any more")
        return read_header(files[0])

    # Clients.

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """RAFTOS_HOME is this cluster's, for what is created within."""
        before = os.environ.get("RAFTOS_HOME")
        os.environ["RAFTOS_HOME"] = str(self._home)
        try:
            yield
        finally:
            os.environ.pop("RAFTOS_HOME")
            if before is not None:
                os.environ["RAFTOS_HOME"] = before

    def sdk(self) -> Client:
        """A client in this process."""
        with self._environment():
            return Client(self.dev.endpoints, context=CONTEXT)

    @contextmanager
    def running(self, module: str, *arguments: str, to: list[Member]) -> Iterator[Running]:
        """A client process that is ready, talking to these members; it is ended in any case."""
        command = [sys.executable, "-m", f"bench.{module}", *arguments]
        for member in to:
            command += ["--endpoint", member.endpoint]
        environment = {**os.environ, "RAFTOS_HOME": str(self._home)}
        environment.pop("RAFTOS_ENDPOINTS", None)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        ) as process:
            try:
                yield Running(process)
            except BaseException:  # Also Ctrl-C: a member without its bench would run on.
                process.kill()
                raise

    def fill(self, keys: int, value_bytes: int, in_flight: int) -> None:
        """Write each of so many keys once, to the leader."""
        what = ("--keys", str(keys), "--value-bytes", str(value_bytes), "--in-flight", str(in_flight))
        with self.running("strain", "fill", *what, to=self.leader_first()[:1]) as client:
            client.result()

    def load(self, in_flight: int, keys: int, seconds: float) -> Strain:
        """Writes to the leader for some time."""
        what = ("--in-flight", str(in_flight), "--keys", str(keys), "--seconds", str(seconds))
        with self.running("strain", "load", *what, to=self.leader_first()[:1]) as client:
            return client.finish()

    def gap_ms(self, seconds: float, act: Callable[[], object] | None = None) -> float:
        """The largest gap between two acknowledgements of a client that writes every 5 ms.

        `act` is done in the middle of it.
        """
        with self.running("client", "failover", "--seconds", str(seconds), to=self.leader_first()) as writer:
            if act is not None:
                time.sleep(seconds / 2)
                act()
            return float(json.loads(writer.result())["gap_ms"])


@contextmanager
def started(folder: Path, **settings: Any) -> Iterator[Members]:
    """A cluster that runs, of which nothing is left running afterwards."""
    members = Members(folder, **settings)
    try:
        members.start()
        yield members
    finally:
        members.close()


def wait(what: str, condition: Callable[[], bool], poll_s: float = POLL_S) -> None:
    """Return as soon as the condition holds. Raises TimeoutError after a quarter of an hour."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {WAIT_S:g} s: {what}")
        time.sleep(poll_s)


def _line(text: str) -> Line | None:
    """One line of a log; None for what is not one of ours."""
    try:
        found = json.loads(text)
        at_s = datetime.fromisoformat(found["timestamp"]).timestamp()
        return Line(at_s, found["event"], found.get("index", 0), found.get("size_bytes", 0))
    except (ValueError, KeyError, TypeError):
        return None
