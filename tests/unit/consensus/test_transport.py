"""Links between members on real sockets: when they stand, what becomes of frames, how faults end."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import closing

import pytest
import structlog

from raftos.consensus.link import MAX_FRAME_BYTES, Settings
from raftos.errors import StartupError
from tests.unit.consensus.peers import (
    NOWHERE,
    PATIENT,
    Member,
    Run,
    acceptor,
    linked_pair,
    started,
    stranger_at,
)


def test_two_members_are_linked_and_exchange_frames(run: Run) -> None:
    """Both ends are told the same generation once, and frames pass both ways in order."""

    async def scenario() -> None:
        async with linked_pair() as (a, b):
            assert a.links == [("linked", "b", a.generation)]
            assert b.links == [("linked", "a", a.generation)]
            assert (a.transport.connected, b.transport.connected) == (frozenset("b"), frozenset("a"))
            frames = [b"%d" % number for number in range(1000)]
            for frame in frames:
                assert a.send(frame)
            assert b.send(*frames)
            await asyncio.gather(
                a.until(lambda: len(a.frames) == 1000), b.until(lambda: len(b.frames) == 1000)
            )
            assert a.frames == b.frames == frames

    run(scenario())


def test_the_largest_frame_passes(run: Run) -> None:
    """16 MiB is allowed, and arrives between its neighbours."""

    async def scenario() -> None:
        async with linked_pair() as (a, b):
            large = b"x" * MAX_FRAME_BYTES
            assert a.send(b"before", large, b"after")
            await b.until(lambda: len(b.frames) == 3)
            assert b.frames == [b"before", large, b"after"]

    run(scenario())


def test_three_members_are_linked_pairwise(run: Run) -> None:
    """One link for each pair, whatever the order of starting."""

    async def scenario() -> None:
        ids = ("c", "a", "b")
        addresses = {member_id: f"127.0.0.1:{free_port()}" for member_id in ids}
        members = [Member(each, addresses, listen_address=addresses[each], settings=PATIENT) for each in ids]
        async with started(*members):
            for member in members:
                await member.until_told(2)
            assert {len(member.links) for member in members} == {2}
            assert {len(member.transport.connected) for member in members} == {2}

    run(scenario())


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_lost_link_returns_with_a_higher_generation(run: Run) -> None:
    """A member that restarts is linked again by itself; the old generation no longer sends."""

    async def scenario() -> None:
        async with acceptor() as b:
            address = b.transport.address
            a = Member("a", {"b": address})
            async with started(a):
                await a.until_told(1)
                old = a.generation
                await b.transport.stop()
                await a.until_told(2)
                assert a.links[1] == ("unlinked", "b", old)
                assert not a.transport.send("b", old, [b"to nobody"])
                again = Member("b", {"a": NOWHERE}, listen_address=address)
                async with started(again):
                    await a.until_told(3)
                    assert a.generation > old
                    assert not a.transport.send("b", old, [b"stale"])
                    assert a.send(b"fresh")
                    await again.until(lambda: bool(again.frames))
                    assert again.frames == [b"fresh"]

    run(scenario())


def test_a_newer_link_replaces_the_older_in_order(run: Run) -> None:
    """The listener hears the end of the old link before the beginning of the new."""

    async def scenario() -> None:
        async with acceptor() as b, stranger_at(b) as first, stranger_at(b) as second:
            old = await first.authenticate()
            new = await second.authenticate()
            await b.until_told(3)
            assert new > old
            assert b.links == [("linked", "a", old), ("unlinked", "a", old), ("linked", "a", new)]
            assert await first.is_closed()
            second.say(b"heard")
            await b.until(lambda: b.frames == [b"heard"])

    run(scenario())


def test_a_silent_peer_is_found(run: Run) -> None:
    """A half-open link, where nothing ever arrives, is closed although sending into it succeeds."""

    async def scenario() -> None:
        settings = Settings(ping_after_s=0.05, silent_after_s=0.3)
        async with acceptor(settings) as b, stranger_at(b) as member:
            await member.authenticate()
            await b.until_told(1)
            started_s = asyncio.get_running_loop().time()
            while len(b.links) == 1:
                b.send(b"anybody there?")
                await asyncio.sleep(0.02)
            assert asyncio.get_running_loop().time() - started_s > 0.2
            assert b.transport.connected == frozenset()

    run(scenario())


def test_an_idle_link_stands_and_pings_are_not_heard(run: Run) -> None:
    """Far longer than silence is allowed, pings keep an idle link, and no listener sees one."""

    async def scenario() -> None:
        settings = Settings(ping_after_s=0.05, silent_after_s=0.5)
        async with linked_pair(settings) as (a, b):
            await asyncio.sleep(1.2)
            assert len(a.links) == len(b.links) == 1
            assert a.frames == b.frames == []

    run(scenario())


def test_a_pause_of_ones_own_is_no_silence_of_the_peer(run: Run) -> None:
    """A process that did not run for longer than silence is allowed goes on with the links it had."""

    async def scenario() -> None:
        settings = Settings(ping_after_s=0.05, silent_after_s=0.3)
        async with linked_pair(settings) as (a, b):
            for _ in range(2):
                time.sleep(0.5)  # noqa: ASYNC251 - the pause of both
                await asyncio.sleep(0.2)
            assert len(a.links) == len(b.links) == 1

    run(scenario())


def test_a_peer_that_does_not_read_is_cut_off(run: Run) -> None:
    """Above the limit of waiting bytes the link is closed; the listener is told later, not within send."""

    async def scenario() -> None:
        settings = Settings(overflow_bytes=2**20)
        async with acceptor(settings) as b, stranger_at(b) as member:
            await member.authenticate()
            await b.until_told(1)
            member.writer.transport.pause_reading()  # type: ignore[attr-defined]
            sent = 0
            while b.send(bytes(2**18)):
                sent += 1
                assert sent < 400
                await asyncio.sleep(0)
            assert len(b.links) == 1
            assert b.transport.connected == frozenset()
            await b.until_told(2)
            assert b.links[1][0] == "unlinked"

    run(scenario())


def test_a_peer_may_change_its_address(run: Run) -> None:
    """set_peer dials the new address; the link that stands is used until it is replaced."""

    async def scenario() -> None:
        async with linked_pair() as (a, b):
            moved = Member("b", {"a": NOWHERE})
            async with started(moved):
                a.transport.set_peer("b", b.transport.address)
                assert a.send(b"still here")
                a.transport.set_peer("b", moved.transport.address)
                await a.until_told(3)
                assert a.links[1][0] == "unlinked"
                assert a.send(b"moved")
                await moved.until(lambda: moved.frames == [b"moved"])
                assert b.frames == [b"still here"]

    run(scenario())


def test_a_peer_can_be_added_and_dropped(run: Run) -> None:
    """A dropped peer's link is closed and it is not dialled until set again; if it dials, it is a guest."""

    async def scenario() -> None:
        async with acceptor() as b:
            a = Member("a", {})
            async with started(a):
                a.transport.set_peer("b", b.transport.address)
                await b.until_told(1)
                await a.until_told(1)
                a.transport.drop_peer("b")
                b.transport.drop_peer("a")
                await b.until_told(2)
                await a.until_told(2)
                await asyncio.sleep(0.2)
                assert (len(a.links), len(b.links)) == (2, 2)
                a.transport.set_peer("b", b.transport.address)
                await b.until_told(3)
                assert b.transport.connected == frozenset("a")
                assert b.transport.address_of("a") is None

    run(scenario())


def test_no_callback_runs_after_stop(run: Run) -> None:
    """Whatever is under way when stop is called, the listener hears no more of it."""

    async def scenario() -> None:
        async with linked_pair() as (a, b):
            for _ in range(100):
                a.send(b"late")
            stopping = asyncio.create_task(b.transport.stop())
            await asyncio.sleep(0)
            links, frames = len(b.links), len(b.frames)
            await stopping
            await a.until_told(2)
            await asyncio.sleep(0.05)
            assert (len(b.links), len(b.frames)) == (links, frames)
            assert not b.send(b"nothing")
            await b.transport.stop()

    run(scenario())


def test_stop_ends_whatever_moment_of_dialling_it_meets(run: Run) -> None:
    """A connection whose making is cancelled half way neither lingers nor keeps stop waiting."""

    async def scenario() -> None:
        async with acceptor() as b:
            for half_milliseconds in range(40):
                other = Member("a", {"b": b.transport.address}, cluster_id="other")
                await other.transport.start()
                await asyncio.sleep(half_milliseconds / 2000)
                async with asyncio.timeout(5):
                    await other.transport.stop()
                assert not other.transport._links._open

    run(scenario())


class Clumsy(Member):
    """A listener with a bug in the callback that `fails` names."""

    fails = ""

    def linked(self, peer: str, generation: int, level: int) -> None:
        super().linked(peer, generation, level)
        self._fail("linked")

    def unlinked(self, peer: str, generation: int) -> None:
        super().unlinked(peer, generation)
        self._fail("unlinked")

    def received(self, peer: str, generation: int, frames: list[bytes]) -> None:
        super().received(peer, generation, frames)
        self._fail("received")

    def _fail(self, callback: str) -> None:
        if callback == self.fails:
            self.fails = ""
            raise RuntimeError(f"a bug in {callback}")


@pytest.mark.parametrize("callback", ["linked", "received", "unlinked"])
def test_a_failing_listener_is_logged_and_loses_the_link(run: Run, callback: str) -> None:
    """A bug above is loud and costs one link, which comes back; the transport goes on."""

    async def scenario() -> None:
        b = Clumsy("b", {"a": NOWHERE})
        b.fails = callback
        async with started(b):
            a = Member("a", {"b": b.transport.address})
            async with started(a):
                await b.until_told(1)
                await a.until_told(1)
                a.send(b"frame")
                if callback == "unlinked":
                    await b.until(lambda: bool(b.frames))
                    b.transport.drop_peer("a")
                    b.transport.set_peer("a", NOWHERE)
                await b.until_told(3)
                assert [told for told, _, _ in b.links[:3]] == ["linked", "unlinked", "linked"]

    with structlog.testing.capture_logs() as logs:
        run(scenario())
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    assert [entry["event"] for entry in errors] == ["the listener of peer links failed"]


@pytest.mark.parametrize(
    ("taken", "reason"), [(True, "is in use"), (False, "is not an address of this machine")]
)
def test_an_address_that_cannot_be_listened_on_is_one_sentence(run: Run, taken: bool, reason: str) -> None:
    """The daemon refuses to start and says what to change."""

    async def scenario() -> None:
        async with acceptor() as b:
            address = b.transport.address if taken else "192.0.2.1:4001"
            other = Member("c", {}, listen_address=address)
            with pytest.raises(StartupError, match=reason):
                await other.transport.start()
            await other.transport.stop()

    run(scenario())


def test_an_address_that_is_none_is_refused() -> None:
    """A peer without a port is found before anything is opened, as is what no peer would accept."""

    async def scenario() -> None:
        with pytest.raises(StartupError, match="is not host:port"):
            Member("a", {"b": "localhost"})
        with pytest.raises(StartupError, match="an address, as host:port"):
            Member("a", {}, advertise_address="localhost")
        with pytest.raises(StartupError, match="visible ASCII"):
            Member("a", {"b" * 65: NOWHERE})
        member = Member("a", {})
        with pytest.raises(StartupError, match="longer than 256"):
            member.transport.set_peer("b", "h" * 252 + ":4001")
        with pytest.raises(StartupError, match="a level is 1 to 65535"):
            Member("a", {}, level=0)

    asyncio.run(scenario())


def test_the_bytes_of_a_link_are_counted_at_both_ends(run: Run) -> None:
    """What one end has sent the other has received, handshake and pings included; a new link counts anew."""

    async def scenario() -> None:
        async with linked_pair(Settings()) as (a, b):
            before = a.traffic
            a.send(b"x" * 100_000, b"y")
            await b.until(lambda: len(b.frames) == 2)
            assert a.traffic.sent_bytes - before.sent_bytes == 100_001 + 2 * 4
            assert a.traffic == tuple(reversed(b.traffic))
            a.transport.drop_peer("b")
            assert a.transport.traffic("b") is None

    run(scenario())


def test_small_frames_are_not_delayed_by_the_kernel(run: Run) -> None:
    """Nagle's algorithm is off on both ends: an acknowledgement never waits for company."""

    async def scenario() -> None:
        async with linked_pair() as (a, b):
            for member in (a, b):
                (link,) = member.transport._links.current.values()
                connection = link._socket.get_extra_info("socket")
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(scenario())
