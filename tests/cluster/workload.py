"""Clients that do everything at once through all members, and a history of what they were told.

Half of the clients know one member only, so that every member is read from and written through; the others
know all and go on elsewhere when theirs fails. Some give up early, so that faults really produce unknown
outcomes. They put, read, compare and swap, delete, write two keys in one transaction and read both in one
look, post to a room and read it. A seed decides what each of them does.

    `with Workload(cluster, seed) as load:`   works until the block ends
    `load.during("leader killed")`            notes when a fault was there, for the picture
    `load.check()`                            judges the whole history (tests/history)

What cannot be ordered is drawn into `history.svg` beside the cluster; the failure names the file.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from raftos.client import AsyncClient
from raftos.errors import Conflict as ConflictError
from raftos.errors import Expired, NoQuorum, NotReady, OutcomeUnknown, Unreachable
from raftos.errors import NotFound as NotFoundError
from raftos.state.domains.kv import Compare, TxnDelete, TxnDeleted, TxnPut, TxnWritten
from raftos_cli.devcluster import Member
from tests.cluster.daemons import Cluster
from tests.cluster.load import Load
from tests.history.linearizability import Verdict
from tests.history.operations import (
    ABSENT,
    NEVER,
    Cell,
    Outcome,
    Read,
    Violation,
    Window,
    Write,
    groups,
    keys_of,
)
from tests.history.picture import draw
from tests.history.registers import State, judge
from tests.history.revisions import check_revisions
from tests.history.rooms import Look, Post, check_room

KEYS = ("key/0", "key/1", "key/2")
PAIRS = ("pair/0/", "pair/1/")
SIDES = ("left", "right")
ROOM = "lobby"
PATIENT_S, IMPATIENT_S = 10.0, 0.6
REST_S = 0.004
"""Between two operations of one client: faults are the test, not the load."""
OUTAGE_REST_S = 0.05
"""After one that failed: a client that cannot reach its member shall not fill the history with that."""
REFUSALS = (NoQuorum, NotReady, Unreachable)
ACTIONS = {
    "read": 5,
    "swap": 4,
    "put": 2,
    "delete": 1,
    "pair": 3,
    "look at pair": 2,
    "post": 2,
    "read room": 2,
}


class Workload(Load):
    """Its counts may be read while it works; the history is complete once the block has ended."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        super().__init__(cluster)
        self._random = random.Random(seed)
        self._began_s = time.monotonic()
        self.operations: list[Read | Write] = []
        self.room: list[Post | Look] = []
        self.windows: list[Window] = []
        self.counts: Counter[str] = Counter()
        """How many operations ended how."""
        self.failed_reads = 0

    def now(self) -> float:
        return time.monotonic() - self._began_s

    def __enter__(self) -> Self:
        with self._cluster.client() as client:
            client.chat.create(ROOM)
        return super().__enter__()

    @property
    def acknowledgements(self) -> int:
        return self.counts["done"]

    @property
    def failures(self) -> int:
        return self.counts["unknown"] + self.counts["refused"]

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Note when a fault is there."""
        began = self.now()
        try:
            yield
        finally:
            self.windows.append(Window(name, began, self.now()))

    # The clients.

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number, member in enumerate(self._cluster.dev.members):
                patience_s = (PATIENT_S, IMPATIENT_S)[number % 2]
                alone = self._user(f"only {member.name}", [member.endpoint], IMPATIENT_S)
                roaming = self._user(f"first {member.name}", self._cluster.endpoints(member), patience_s)
                group.create_task(self._act(alone, member))
                group.create_task(self._act(roaming))

    def _user(self, name: str, endpoints: Sequence[str], patience_s: float) -> User:
        return User(self, name, self._cluster.async_client(endpoints, patience_s), self._random.random())

    async def _act(self, user: User, only: Member | None = None) -> None:
        """Until the end; a user of one member `only`, whenever that belongs to the cluster."""
        async with user.client:
            while not self._stop.is_set():
                if only is not None and not self._cluster.belongs(only):
                    await asyncio.sleep(OUTAGE_REST_S)  # Its failures would not be those of a fault.
                    continue
                failures = self.failures + self.failed_reads
                await user.act()
                failed = self.failures + self.failed_reads > failures
                await asyncio.sleep(OUTAGE_REST_S if failed else REST_S)

    # The reckoning.

    def check(self) -> None:
        """Settle the cluster, read everything from every member, and judge the history. Raises Violation."""
        self._cluster.settle()
        asyncio.run(self._read_everything())
        self._check_order()
        check_revisions(self.operations)
        check_room(self.room)
        print(f"history: {self}")

    def __str__(self) -> str:
        reads = sum(isinstance(each, Read) for each in self.operations)
        looks = sum(isinstance(each, Look) for each in self.room)
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.counts.items()))
        faults = ", ".join(f"{window.name} {window.ended - window.began:.1f} s" for window in self.windows)
        return f"{reads + looks} reads; writes and posts: {told}; faults: {faults}; in all {self.now():.1f} s"

    async def _read_everything(self) -> None:
        failed = self.failed_reads
        for member in self._cluster.members:
            user = self._user(f"end {member.name}", [member.endpoint], PATIENT_S)
            async with user.client:
                for key in KEYS:
                    await user.read(key)
                for pair in PAIRS:
                    await user.look_at_pair(pair)
                await user.read_room(since=0)
        assert self.failed_reads == failed, "a settled cluster does not answer"

    def _check_order(self) -> None:
        verdicts = judge(self.operations)
        for group, verdict in zip(_groups_judged(self.operations), verdicts, strict=True):
            if verdict.accepted:
                continue
            concerned = [each for each in self.operations if keys_of(each) & group]
            title = f"{', '.join(sorted(group))}: {_complaint(verdict)}"
            file = self._cluster.directory / "history.svg"
            file.write_text(draw(title, concerned, self.windows, verdict))
            raise Violation(f"{title}; a picture of it is {file}")


def _complaint(verdict: Verdict[Read | Write, State]) -> str:
    found = "no order was found before the search was given up" if verdict.undecided else "there is no order"
    return (
        found
        if verdict.blamed is None
        else f"{found} with {verdict.blamed.item} ({verdict.blamed.item.client})"
    )


def _groups_judged(operations: Sequence[Read | Write]) -> list[set[str]]:
    return groups(
        each for each in operations if isinstance(each, Read) or each.outcome is not Outcome.REFUSED
    )


class User:
    """One client, which does one thing at a time and notes what it was told."""

    def __init__(self, load: Workload, name: str, client: AsyncClient, seed: float) -> None:
        self.client = client
        self._load = load
        self._name = name
        self._random = random.Random(seed)
        self._values = 0
        self._known: dict[str, Cell] = {}
        """What it saw last."""
        self._heard = 0

    async def act(self) -> None:
        """One action by lot."""
        action = self._random.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        key, pair = self._random.choice(KEYS), self._random.choice(PAIRS)
        if action == "read":
            await self.read(key)
        elif action == "put":
            await self._write({key: self._value()})
        elif action == "swap":
            await self.read(key)
            await self._write({key: self._value()}, {key: self._known.get(key, ABSENT).version})
        elif action == "delete":
            await self._delete(key)
        elif action == "pair":
            await self.look_at_pair(pair)
            await self._write_pair(pair)
        elif action == "look at pair":
            await self.look_at_pair(pair)
        elif action == "post":
            await self._post()
        else:
            await self.read_room(self._heard)

    def _value(self) -> str:
        self._values += 1
        return f"{self._name} {self._values}"

    # Reads. What could not be read is not in the history: nothing follows from it.

    async def read(self, key: str) -> None:
        invoked = self._load.now()
        try:
            item = await self.client.kv.get(key)
        except NotFoundError:
            self._saw(invoked, {key: ABSENT}, {})
        except (*REFUSALS, OutcomeUnknown):
            self._load.failed_reads += 1
        else:
            self._saw(invoked, {key: Cell(item.version, item.value.decode())}, {key: item.revision})

    async def look_at_pair(self, pair: str) -> None:
        """Both keys of a pair, as of one moment: a page of a listing is one."""
        invoked = self._load.now()
        found = {pair + side: ABSENT for side in SIDES}
        revisions = {}
        try:
            async for item in self.client.kv.list(pair):
                found[item.key] = Cell(item.version, item.value.decode())
                revisions[item.key] = item.revision
        except (*REFUSALS, OutcomeUnknown):
            self._load.failed_reads += 1
        else:
            self._saw(invoked, found, revisions)

    def _saw(self, invoked: float, found: Mapping[str, Cell], revisions: Mapping[str, int]) -> None:
        self._known |= found
        read = Read(
            client=self._name, invoked=invoked, returned=self._load.now(), found=found, revisions=revisions
        )
        self._load.operations.append(read)

    async def read_room(self, since: int) -> None:
        invoked = self._load.now()
        found: list[tuple[int, str]] = []
        try:
            async for message in self.client.chat.history(ROOM, since=since):
                found.append((message.sequence, message.text))  # noqa: PERF401 - kept where reading fails
        except (*REFUSALS, OutcomeUnknown):
            self._load.failed_reads += 1
            return
        look = Look(
            client=self._name,
            invoked=invoked,
            returned=self._load.now(),
            room=ROOM,
            since=since,
            found=tuple(found),
        )
        self._heard = look.last
        self._load.room.append(look)

    # Writes. Each is in the history, whatever became of it.

    async def _outcome(self, call: Awaitable[None]) -> Outcome:
        try:
            await call
        except OutcomeUnknown:
            outcome = Outcome.UNKNOWN
        except Expired:
            raise  # A conflict of another kind, which no client that asks for the time ever meets.
        except ConflictError:
            outcome = Outcome.CONFLICT
        except REFUSALS:
            outcome = Outcome.REFUSED
        else:
            outcome = Outcome.DONE
        self._load.counts[outcome.value] += 1
        return outcome

    async def _write(
        self, writes: Mapping[str, str | None], compare: Mapping[str, int] | None = None
    ) -> None:
        told = _Told()
        await self._note(writes, compare or {}, told, self._call(writes, compare or {}, told))

    async def _note(
        self,
        writes: Mapping[str, str | None],
        compare: Mapping[str, int],
        told: _Told,
        call: Awaitable[None],
    ) -> None:
        invoked = self._load.now()
        outcome = await self._outcome(call)
        returned = NEVER if outcome is Outcome.UNKNOWN else self._load.now()
        write = Write(
            client=self._name,
            invoked=invoked,
            returned=returned,
            writes=writes,
            compare=compare,
            outcome=outcome,
            versions=told.versions,
            missing=told.missing,
            revision=told.revision,
        )
        self._load.operations.append(write)

    async def _call(self, writes: Mapping[str, str | None], compare: Mapping[str, int], told: _Told) -> None:
        if len(writes) == 1:
            [(key, value)] = writes.items()
            assert value is not None
            done = await self.client.kv.put(key, value, expect_version=compare.get(key))
            told.versions[key], told.revision = done.version, done.revision
            return
        answer = await self.client.kv.txn(
            compare=[Compare(key, version) for key, version in compare.items()],
            writes=[
                TxnDelete(key) if value is None else TxnPut(key, value.encode())
                for key, value in writes.items()
            ],
        )
        told.revision = answer.revision
        for result in answer.results:
            told.note(result)

    async def _delete(self, key: str) -> None:
        told = _Told()

        async def call() -> None:
            try:
                told.revision = (await self.client.kv.delete(key)).revision
                told.missing[key] = False
            except NotFoundError:
                told.missing[key] = True

        await self._note({key: None}, {}, told, call())

    async def _write_pair(self, pair: str) -> None:
        left, right = (pair + side for side in SIDES)
        writes = {left: self._value(), right: None if self._random.random() < 0.2 else self._value()}
        compare = {key: self._known.get(key, ABSENT).version for key in (left, right)}
        await self._write(writes, compare)

    async def _post(self) -> None:
        text, invoked = self._value(), self._load.now()
        sequence: list[int] = []

        async def call() -> None:
            sequence.append((await self.client.chat.send(ROOM, text, sender=self._name)).sequence)

        outcome = await self._outcome(call())
        post = Post(
            client=self._name,
            invoked=invoked,
            returned=NEVER if outcome is Outcome.UNKNOWN else self._load.now(),
            room=ROOM,
            text=text,
            outcome=outcome,
            sequence=sequence[0] if sequence else None,
        )
        self._load.room.append(post)


class _Told:
    """What the answer to a write says; empty where there was none."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self.missing: dict[str, bool] = {}
        self.revision: int | None = None

    def note(self, result: TxnWritten | TxnDeleted) -> None:
        if isinstance(result, TxnWritten):
            self.versions[result.key] = result.version
        else:
            self.missing[result.key] = not result.deleted
