"""The loop around the planners: on the leader only, round after round, whatever a round meets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raftos.control.loop import ControlLoop
from raftos.control.view import LastHeard, View, gather
from raftos.errors import NoQuorum
from raftos.state.command import Command, Query
from raftos.state.domains import kv, members
from tests.unit.state.feeder import Feeder

INTERVAL_S = 0.002
LEASE_MS = 5_000
DOWN = members.Mark("m-1", state="down", expect_state="alive")


class World:
    """What the loop looks at and submits to; both can be told to fail."""

    def __init__(self) -> None:
        self.leading_ms: list[int] = []
        self.submitted: list[Command] = []
        self.failures: list[Exception] = []
        self.changed = asyncio.Event()

    async def view(self, leading_ms: int) -> View:
        self.leading_ms.append(leading_ms)
        self.changed.set()
        self._fail()
        return View(leading_ms=leading_ms, down_after_ms=LEASE_MS)

    async def submit(self, commands: Sequence[Command]) -> None:
        self._fail()
        self.submitted += commands

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    async def rounds(self, count: int) -> None:
        """Wait until this many more rounds have begun."""
        for _ in range(count):
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 5)

    def loop(self, planned: Sequence[Command] = (DOWN,)) -> ControlLoop:
        return ControlLoop(
            view=self.view, submit=self.submit, interval_s=INTERVAL_S, planners=[lambda _: list(planned)]
        )


def test_it_runs_on_the_leader_only() -> None:
    """Started and leading: both are needed, in either order."""

    async def scene() -> None:
        world = World()
        loop = world.loop()
        loop.start()
        await asyncio.sleep(INTERVAL_S * 5)
        assert not world.leading_ms
        loop.on_role(leading=True)
        await world.rounds(2)
        loop.on_role(leading=False)
        seen = len(world.leading_ms)
        await asyncio.sleep(INTERVAL_S * 5)
        assert len(world.leading_ms) == seen
        await loop.stop()

    asyncio.run(scene())


def test_a_new_term_as_leader_is_a_new_beginning() -> None:
    """The lease is waited for again."""

    async def scene() -> None:
        world = World()
        loop = world.loop()
        loop.on_role(leading=True)
        loop.start()
        await asyncio.sleep(0.05)
        await world.rounds(1)
        longest = world.leading_ms[-1]
        loop.on_role(leading=True)
        await world.rounds(1)
        assert longest >= 40
        assert world.leading_ms[-1] < longest
        await loop.stop()

    asyncio.run(scene())


@pytest.mark.parametrize(
    "failure", [NoQuorum("no majority"), TimeoutError(), ValueError("a bug"), KeyError("k")]
)
def test_a_round_that_fails_is_followed_by_one_that_does_not(failure: Exception) -> None:
    """Whether the view failed or the submit, and whatever it raised."""

    async def scene() -> None:
        world = World()
        loop = world.loop()
        world.failures = [failure, failure, failure]
        loop.start()
        loop.on_role(leading=True)
        await world.rounds(6)
        assert DOWN in world.submitted
        await loop.stop()

    asyncio.run(scene())


def test_a_planner_with_a_bug_does_not_end_the_loop() -> None:
    """The others' plans of that round are made again in the next."""

    async def scene() -> None:
        world = World()
        bugs = [ZeroDivisionError()]

        def plan(_: View) -> list[Command]:
            if bugs:
                raise bugs.pop()
            return [DOWN]

        loop = ControlLoop(view=world.view, submit=world.submit, interval_s=INTERVAL_S, planners=[plan])
        loop.start()
        loop.on_role(leading=True)
        await world.rounds(3)
        assert world.submitted
        await loop.stop()

    asyncio.run(scene())


def test_nothing_is_submitted_when_nothing_is_to_be_done() -> None:
    """An idle cluster's log stays still."""

    async def scene() -> None:
        world = World()
        loop = world.loop(planned=())
        world.failures = []
        loop.start()
        loop.on_role(leading=True)
        await world.rounds(3)
        assert not world.submitted
        await loop.stop()
        await loop.stop()

    asyncio.run(scene())


@pytest.fixture
def feeder(tmp_path: Path) -> Any:
    feeder = Feeder(tmp_path / "state")
    yield feeder
    feeder.close()


def test_the_loop_expires_keys_and_marks_members_on_a_real_machine(feeder: Feeder) -> None:
    """From the tables through the planners into the log: expired keys go, silent members are down."""
    for number in (1, 2):
        feeder.ok(members.Register(f"m-{number}", f"n{number}", "", "", ""))
    feeder.do(*(kv.Put(f"short/{number}", b"", ttl_ms=100) for number in range(1_500)), kv.Put("kept", b""))
    feeder.now_ms += 100
    heard = LastHeard()
    heard.note(["m-1"], 0.0)

    async def query(query: Query) -> Any:
        return feeder.ask(query)

    async def due(now_ms: int) -> list[Command]:
        return feeder.due(now_ms)

    async def view(leading_ms: int) -> View:
        return await gather(
            query,
            due,
            lambda member: heard.ms_ago(member, 1.0),
            now_ms=feeder.now_ms,
            leading_ms=leading_ms + LEASE_MS,
            down_after_ms=LEASE_MS,
        )

    done = asyncio.Event()

    async def submit(commands: Sequence[Command]) -> None:
        feeder.do(*commands)
        done.set()

    async def scene() -> None:
        loop = ControlLoop(view=view, submit=submit, interval_s=INTERVAL_S)
        loop.start()
        loop.on_role(leading=True)
        await asyncio.wait_for(done.wait(), 10)
        await loop.stop()

    asyncio.run(scene())
    assert [item.key for item in feeder.ask(kv.List()).items] == ["kept"]
    assert {member.id: member.state for member in feeder.ask(members.List()).items} == {
        "m-1": "alive",
        "m-2": "down",
    }
