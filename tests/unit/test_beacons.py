"""Beacons of three members: who knows what, for how long, and whom they believe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from raftos import beacons
from raftos.beacons import Beacons, Listed
from raftos.consensus.memory import MemoryCluster
from raftos.errors import InvalidInput, LimitReached, TooLarge, Unreachable
from raftos.state.machine import Machine

NAMES = ("m1", "m2", "m3")
MINUTE_MS = 60_000


class World:
    """Three members' beacons on one clock, which the test moves."""

    def __init__(self, directory: Path) -> None:
        self.now_s = 1_000.0
        self.cluster = MemoryCluster()
        self.machines = [Machine(directory / name) for name in NAMES]
        for name, machine in zip(NAMES, self.machines, strict=True):
            self.cluster.join(name, machine)
        self.messages = 0
        self.m1, self.m2, self.m3 = map(self.start, NAMES)

    def start(self, name: str) -> Beacons:
        """A member that knows nothing yet, in the place of one that did."""
        consensus = self.cluster.members[name]
        made = Beacons(name, consensus, now=lambda: self.now_s)

        async def answer(peer_id: str, body: bytes) -> bytes:
            self.messages += 1
            kind, _, content = body.partition(b" ")
            assert kind == beacons.ASK
            return await made.hear(peer_id, content)

        consensus.on_ask(answer)
        return made

    @property
    def members(self) -> list[Beacons]:
        return [self.m1, self.m2, self.m3]

    async def beat(self) -> None:
        for member in self.members:
            await member.beat()

    def states(self, topic: str = "t") -> list[dict[str, str]]:
        """What each member lists: name -> state."""
        return [{one.name: one.state for one in member.listed(topic)} for member in self.members]

    def close(self) -> None:
        for member in self.members:
            member.close()
        for machine in self.machines:
            machine.close()


def run(directory: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def whole() -> None:
        world = World(directory)
        try:
            await scenario(world)
        finally:
            world.close()

    asyncio.run(whole())


async def soon(condition: Callable[[], bool]) -> None:
    """Wait for what timers do by themselves."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("not within 5 s")


def test_what_is_announced_anywhere_is_known_everywhere(tmp_path: Path) -> None:
    """A moment later, by itself, with the member it came in by; each topic apart, by name."""

    async def scenario(world: World) -> None:
        world.m1.announce("t", "bob", "typing", 5_000)
        world.m2.announce("t", "ada", "", 10_000)
        world.m3.announce("other", "ada", "away", 5_000)
        assert world.m1.listed("t") == [Listed("t", "bob", "typing", "m1", 0, 5_000)]
        await soon(lambda: world.states() == [{"ada": "", "bob": "typing"}] * 3)
        assert [one.name for one in world.m3.listed("t")] == ["ada", "bob"]
        assert world.m3.listed("t")[0] == Listed("t", "ada", "", "m2", 0, 10_000)
        await soon(lambda: world.states("other") == [{"ada": "away"}] * 3)
        assert world.states("nothing") == [{}] * 3

    run(tmp_path, scenario)


def test_changes_of_a_moment_go_together(tmp_path: Path) -> None:
    """A hundred announcements cost one message for each peer, not a hundred."""

    async def scenario(world: World) -> None:
        for number in range(100):
            world.m1.announce("t", f"n{number}", "", 5_000)
        await soon(lambda: all(len(listed) == 100 for listed in world.states()))
        assert world.messages == 2

    run(tmp_path, scenario)


def test_many_are_told_in_several_messages(tmp_path: Path) -> None:
    """None is large, and nothing is left out."""

    async def scenario(world: World) -> None:
        for number in range(2 * beacons.MAX_TOLD + 1):
            world.m1.announce("t", f"n{number}", "", 5_000)
        await soon(lambda: world.states()[1:] == world.states()[:1] * 2)
        assert world.messages == 2 * 3

    run(tmp_path, scenario)


def test_a_beacon_fades_at_the_same_age_everywhere(tmp_path: Path) -> None:
    """Until its time to live is over it is listed with its age; announced again it lives on."""

    async def scenario(world: World) -> None:
        world.m1.announce("t", "ada", "here", 5_000)
        world.now_s += 1
        await world.beat()
        world.now_s += 3.999
        assert [member.listed("t")[0].age_ms for member in world.members] == [4_999] * 3
        world.m2.announce("t", "ada", "here", 5_000)
        await world.beat()
        world.now_s += 4.999
        assert world.states() == [{"ada": "here"}] * 3
        world.now_s += 0.002
        assert world.states() == [{}] * 3

    run(tmp_path, scenario)


def test_what_faded_takes_no_room_after_a_minute(tmp_path: Path) -> None:
    """It is kept until then, so that an older one of the name does not come back."""

    async def scenario(world: World) -> None:
        world.m1.announce("t", "ada", "", 1)
        await world.beat()
        world.now_s += 59.9
        await world.beat()
        assert [len(member) for member in world.members] == [1] * 3
        world.now_s += 0.2
        await world.beat()
        assert [len(member) for member in world.members] == [0] * 3

    run(tmp_path, scenario)


def test_the_last_announcement_of_a_name_counts(tmp_path: Path) -> None:
    """Also when its client moved to another member, and came back."""

    async def scenario(world: World) -> None:
        for member, state in [(world.m1, "a"), (world.m3, "b"), (world.m1, "c"), (world.m2, "d")]:
            member.announce("t", "ada", state, MINUTE_MS)
            await world.beat()
            assert world.states() == [{"ada": state}] * 3
        assert {one.member for member in world.members for one in member.listed("t")} == {"m2"}

    run(tmp_path, scenario)


def test_members_that_heard_two_at_once_agree_on_one(tmp_path: Path) -> None:
    """Whichever of them it is."""

    async def scenario(world: World) -> None:
        world.m1.announce("t", "ada", "a", MINUTE_MS)
        world.m2.announce("t", "ada", "b", MINUTE_MS)
        await world.beat()
        await world.beat()
        assert world.states() in ([{"ada": "a"}] * 3, [{"ada": "b"}] * 3)

    run(tmp_path, scenario)


def test_a_short_life_ends_a_long_one(tmp_path: Path) -> None:
    """Announcing for a millisecond is how to leave, wherever one was announced before."""

    async def scenario(world: World) -> None:
        world.m1.announce("t", "ada", "here", MINUTE_MS)
        await world.beat()
        world.m2.announce("t", "ada", "", 1)
        world.now_s += 0.1
        await world.beat()
        assert world.states() == [{}] * 3

    run(tmp_path, scenario)


def test_a_member_heard_again_learns_what_it_missed(tmp_path: Path) -> None:
    """Each side of a partition keeps its own; after it both know both, and what faded stays away."""

    async def scenario(world: World) -> None:
        world.m1.announce("t", "left", "here", MINUTE_MS)
        await world.beat()
        world.cluster.cut("m3")
        world.m1.announce("t", "left", "", 1)
        world.m1.announce("t", "ada", "", 30_000)
        world.m3.announce("t", "bob", "", 30_000)
        world.now_s += 1
        await world.beat()
        assert [set(states) for states in world.states()] == [{"ada"}, {"ada"}, {"bob", "left"}]
        world.cluster.heal("m3")
        await world.beat()
        assert [set(states) for states in world.states()] == [{"ada", "bob"}] * 3

    run(tmp_path, scenario)


def test_a_restarted_member_is_told_everything_again(tmp_path: Path) -> None:
    """What its own clients announced before fades by its time to live; what they announce now is believed."""

    async def scenario(world: World) -> None:
        world.m1.announce("t", "ada", "", MINUTE_MS)
        world.m3.announce("t", "bob", "", 10_000)
        world.m3.announce("t", "cyd", "old", MINUTE_MS)
        await world.beat()
        world.m3.close()
        world.m3 = world.start("m3")
        assert world.m3.listed("t") == []
        await world.beat()
        await soon(lambda: "ada" in world.states()[2])
        world.m3.announce("t", "cyd", "new", MINUTE_MS)
        await world.beat()
        assert world.states()[0] == {"ada": "", "bob": "", "cyd": "new"}
        world.now_s += 10
        assert world.states() == [{"ada": "", "cyd": "new"}] * 3

    run(tmp_path, scenario)


def test_a_member_whose_clock_was_set_back_is_believed_at_the_second_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its counter starts below what its peers know of its earlier life, and they say so."""

    async def scenario(world: World) -> None:
        world.m3.announce("t", "ada", "old", MINUTE_MS)
        await world.beat()
        world.m3.close()
        monkeypatch.setattr("raftos.beacons.time.time_ns", lambda: 0)
        world.m3 = world.start("m3")
        world.m3.announce("t", "ada", "new", MINUTE_MS)
        await world.beat()
        assert world.states() == [{"ada": "old"}, {"ada": "old"}, {"ada": "new"}]
        world.m3.announce("t", "ada", "new", MINUTE_MS)
        await world.beat()
        assert world.states() == [{"ada": "new"}] * 3

    run(tmp_path, scenario)


def test_a_peer_that_does_not_answer_holds_nobody_up(tmp_path: Path) -> None:
    """One message at a time waits for it, and the others know everything meanwhile."""

    async def scenario(world: World) -> None:
        asked = 0

        async def hang(_peer_id: str, _body: bytes) -> bytes:
            nonlocal asked
            asked += 1
            await asyncio.sleep(5)
            raise Unreachable("too late")

        world.cluster.members["m3"].on_ask(hang)
        for number in range(5):
            world.m1.announce("t", f"n{number}", "", 5_000)
            await soon(lambda number=number: f"n{number}" in world.states()[1])  # type: ignore[misc]
        assert asked == 1

    run(tmp_path, scenario)


def test_idle_members_send_nothing(tmp_path: Path) -> None:
    """A cluster without beacons does not pay for them."""

    async def scenario(world: World) -> None:
        await world.beat()
        assert world.messages == 0

    run(tmp_path, scenario)


# Limits.

TOO_LONG = "ä" * 129
WRONG: list[tuple[tuple[str, str, str, int], type[InvalidInput], str]] = [
    (("", "n", "s", 1), InvalidInput, "topic"),
    (("t", "", "s", 1), InvalidInput, "name"),
    (("t\n", "n", "s", 1), InvalidInput, "topic"),
    (("t", "n\x00", "s", 1), InvalidInput, "name"),
    (("t", "n", "\x1b[2J", 1), InvalidInput, "state"),
    ((TOO_LONG, "n", "s", 1), TooLarge, "topic"),
    (("t", TOO_LONG, "s", 1), TooLarge, "name"),
    (("t", "n", TOO_LONG, 1), TooLarge, "state"),
    (("t", "n", "s", 0), InvalidInput, "ttl_ms"),
    (("t", "n", "s", 60_001), InvalidInput, "ttl_ms"),
]


@pytest.mark.parametrize(("given", "error", "word"), WRONG)
def test_what_cannot_be_announced(
    tmp_path: Path, given: tuple[str, str, str, int], error: type[InvalidInput], word: str
) -> None:
    """Refused with the name of the field, and nothing is shown."""

    async def scenario(world: World) -> None:
        with pytest.raises(error, match=word):
            world.m1.announce(*given)
        assert len(world.m1) == 0

    run(tmp_path, scenario)


def test_a_topic_has_a_limited_number_of_names(tmp_path: Path) -> None:
    """One more is refused, one that is there is not; after a minute there is room again."""

    async def scenario(world: World) -> None:
        for number in range(beacons.MAX_NAMES):
            world.m1.announce("t", f"n{number}", "", 10)
        with pytest.raises(LimitReached):
            world.m1.announce("t", "one more", "", 10)
        world.m1.announce("t", "n0", "again", 10)
        world.m1.announce("another", "one more", "", 10)
        assert len(world.m1.listed("t")) == beacons.MAX_NAMES
        world.now_s += 61
        await world.beat()
        world.m1.announce("t", "one more", "", 10)

    run(tmp_path, scenario)


def test_the_limit_on_all_beacons_holds_for_what_peers_say_too(tmp_path: Path) -> None:
    """A full table takes nothing in, and says so to its own clients."""

    async def scenario(world: World) -> None:
        for number in range(beacons.MAX_BEACONS - 1):
            world.m1.announce(f"t{number // 500}", f"n{number}", "", MINUTE_MS)
        world.m2.announce("t", "ada", "", MINUTE_MS)
        world.m2.announce("t", "bob", "", MINUTE_MS)
        await world.m2.beat()
        assert len(world.m1) == beacons.MAX_BEACONS
        assert world.states()[0] == {"ada": ""}
        with pytest.raises(LimitReached):
            world.m1.announce("t", "cyd", "", MINUTE_MS)

    run(tmp_path, scenario)


def test_what_no_member_would_say_is_refused(tmp_path: Path) -> None:
    """A message that cannot be read is an error of the one who asks, and changes nothing."""

    async def scenario(world: World) -> None:
        for body in (b"", b"\xc1", b"\x91\x91\xa1t", b"\x80"):
            with pytest.raises(InvalidInput):
                await world.m1.hear("m2", body)
        assert len(world.m1) == 0

    run(tmp_path, scenario)
